"""Noise of mini-batch gradients at a fixed checkpoint: their covariance, for the joint and the unimodal loss.

Stochastic gradient descent follows g^S = g + ε, the gradient over a batch S in place of that over the training set.
The paper (Wei & Hu, ICML 2024) models ε as Gaussian with the covariance of g^S over the choice of S, and observes that
in the encoders the joint loss's covariance is smaller than the unimodal one's. Here it is estimated in every encoder
from N batches of the run's own batch size:

- A batch is drawn without replacement from the samples that the run was trained on, as in a training step, and
  independently of the others. Batches of one epoch's partition are not independent (their sum is fixed), and an
  estimate that divides by N − 1 is unbiased only for independent ones.
- The samples are read without augmentation: the noise is that of the choice of samples alone, as in the paper. Random
  crops and flips would add their own.
- BatchNorm is frozen: it normalises by its running statistics, so that a sample's gradient does not depend on its
  batch.
- The losses are those of `training.losses`, differentiated as in a training step, in the precision of the training.
  Weights and integration of a method do not enter.

Weight decay adds the same to every gradient, and so nothing to their covariance. The trace is estimated without bias;
the largest eigenvalue of so few vectors is above the true one: compare values of the same N only.
"""

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots import style
from mmpareto.analysis.plots.groups import banner_of, group_runs, title_of
from mmpareto.analysis.plots.measured import (
    ROW,
    Measurement,
    Measurements,
    Subject,
    draw_dots,
    flat,
    mean_text,
    measure_runs,
)
from mmpareto.data.loading.batches import Batch, make_loader, to_device
from mmpareto.errors import InputError
from mmpareto.integration.differentiation import differentiate, separate_passes
from mmpareto.integration.objectives import JOINT, collect
from mmpareto.progress import progress
from mmpareto.training.losses import losses
from mmpareto.training.schema import Count, Number
from mmpareto.training.settings import Settings

NAME = "covariance"
METRICS = {"trace": "trace of the covariance", "largest_eigenvalue": "largest eigenvalue"}
SAME = {"checkpoint": "--checkpoint", "batches": "--batches", "batch_size": "--batch_size"}
UNIMODAL = "unimodal"
SEED = 0  # of the batches
PIECE = 4096
COLUMNS = 1 << 20  # of all vectors, in memory at once: 256 MiB for 64 vectors in float32


class CovarianceOfLoss(TypedDict):
    """Of the gradients of a loss in an encoder."""

    trace: Number
    largest_eigenvalue: Number
    mean_norm: Number


class CovarianceFile(Measurement):
    """Entries of covariance.json."""

    batches: Count
    batch_size: Count
    encoders: dict[str, dict[str, CovarianceOfLoss]]


def draw_covariance(out: Path, runs: Sequence[FinishedRun], options: argparse.Namespace) -> str:
    """Measure the runs that have not been measured, draw `covariance_plot`, and return the values as text."""
    group_runs(runs)  # raises before anything is measured

    def asked(settings: Settings) -> dict[str, Any]:
        return {"batches": options.batches, "batch_size": options.batch_size or settings.batch_size}

    measure_runs(NAME, runs, options, asked, lambda subject: measure(subject, options.batches, options.batch_size))
    style.save(covariance_plot(runs), out)
    return covariance_text(runs)


def covariance_plot(runs: Sequence[FinishedRun]) -> Figure:
    """Trace and largest eigenvalue of the gradients' covariance in every encoder, one row per group.

    Raises:
        InputError: see `Measurements`.
    """
    measured = Measurements(NAME, runs, SAME, CovarianceFile)
    modalities = [*measured.first["encoders"]]
    with style.paper():
        figure = style.new_figure(style.WIDTH, len(METRICS) * (ROW * len(measured.labels) + 0.62))
        grid = figure.subplots(len(METRICS), len(modalities), sharey=True, sharex="row", squeeze=False)
        for (key, text), panels in zip(METRICS.items(), grid, strict=True):
            for axes, modality in zip(panels, modalities, strict=True):
                series = {
                    f"{name} gradient": (
                        line,
                        {g.label: measured.values(g, "encoders", modality, name, key) for g in measured.groups},
                    )
                    for name, line in style.OBJECTIVES.items()
                }
                draw_dots(axes, measured.labels, series)
                axes.set_xlabel(text)
        for axes, modality in zip(grid[0], modalities, strict=True):
            axes.set_title(f"{modality} encoder")
        style.legend(grid[0, -1])
        notes = measured.notes(
            f"Covariance of the losses' gradients over N = {measured.first['batches']} independent batches of "
            f"{measured.first['batch_size']} training samples, in each encoder; no augmentation, BatchNorm frozen, "
            f"divided by N − 1.{measured.dots_note}"
        )
        style.finish(figure, f"Gradient noise: {title_of(measured.groups)}", notes, banner_of(measured.groups))
    return figure


def covariance_text(runs: Sequence[FinishedRun]) -> str:
    """One line per group and encoder: trace and largest eigenvalue of both losses, means over seeds."""
    measured = Measurements(NAME, runs, SAME, CovarianceFile)
    columns = [(name, key) for name in style.OBJECTIVES for key in METRICS]
    lines = [
        f"N = {measured.first['batches']} batches of {measured.first['batch_size']}; means over seeds",
        f"{'':32}" + "".join(f"{name + ' ' + key.replace('_', ' '):>30}" for name, key in columns),
    ]
    for group in measured.groups:
        for modality in measured.first["encoders"]:
            cells = [mean_text(measured.values(group, "encoders", modality, *column), 30) for column in columns]
            lines.append(f"{group.label + ', ' + modality:32}" + "".join(cells))
    return "\n".join(lines)


def measure(subject: Subject, batches: int = 64, batch_size: int | None = None) -> dict[str, Any]:
    """Measure the covariance of N batches' gradients in every encoder; N forward and two backward passes each.

    Disk (TMPDIR): N · P numbers for each loss of an encoder with P parameters: 2.9 GB for ResNet-18 and N = 64. Memory:
    three vectors for each.

    Arguments:
        batches: N ≥ 2.
        batch_size: that of the training if None.

    Returns:
        {"encoders": {modality: {"joint" and "unimodal": {"trace", "largest_eigenvalue", "mean_norm"}}}}; without
        "unimodal" where the heads are untrained. mean_norm is the mean of the gradients' norms.

    Raises:
        InputError: a batch is the whole training set, or the disk is full.
    """
    size = batch_size or subject.settings.batch_size
    samples = len(subject.samples)
    if size >= samples:
        raise InputError(
            f"a batch of {size} is all that {subject.folder} was trained on ({samples} samples) and has no noise: give "
            "a smaller --batch_size."
        )
    names = [JOINT, UNIMODAL] if len(subject.losses) > 1 else [JOINT]
    spreads = {modality: {name: VectorCovariance() for name in names} for modality in subject.network.modalities}
    try:
        generator = np.random.default_rng(SEED)
        indices = [generator.choice(samples, size, replace=False).tolist() for _ in range(batches)]
        chosen = torch.utils.data.Subset(subject.samples, [index for batch in indices for index in batch])
        loader = make_loader(chosen, batch_size=size)
        for batch in progress(loader, desc=f"covariance of {subject.folder.name}", unit=" batches", leave=False):
            for modality, gradients in gradients_of(subject, batch).items():
                for name, vector in zip(names, gradients, strict=True):
                    spreads[modality][name].add(vector)
        return {"encoders": {m: {name: spread.metrics() for name, spread in s.items()} for m, s in spreads.items()}}
    finally:
        for by_loss in spreads.values():
            for spread in by_loss.values():
                spread.close()


def gradients_of(subject: Subject, batch: Batch) -> dict[str, list[Tensor]]:
    """Modality → gradients of a batch's joint loss and, unless its head is untrained, unimodal loss, (P,) each."""
    network = subject.network
    batch = to_device(batch, subject.device, subject.samples.normalisation)
    with subject.trained.precision(subject.device).autocast():
        joint, unimodal = losses(network(batch.inputs), batch.labels)
    heads = len(subject.losses) > 1
    encoders = {name: (encoder, [name] if heads else []) for name, encoder in network.encoders.items()}
    objectives = collect(joint, unimodal if heads else {}, encoders)
    objectives.interaction = network.interaction
    passes = [dataclasses.replace(run, outside=False) for run in separate_passes(objectives)]
    gradients = differentiate(objectives, passes)
    return {
        name: [flat(one, objectives.encoders[name].parameters) for one in gradients.encoders[name]]
        for name in network.modalities
    }


class VectorCovariance:
    """Sample covariance C = Σᵢ (gᵢ − ḡ)(gᵢ − ḡ)ᵀ / (N − 1) of N vectors of P numbers, without its P × P entries.

    Its trace is computed from the stream of vectors, by Welford's update (Technometrics 1962) of the mean and of
    M = Σᵢ ‖gᵢ − ḡ‖²: tr C = M / (N − 1). Its largest eigenvalue is that of the N × N Gramian of the centred vectors,
    divided by N − 1, as X Xᵀ and Xᵀ X have the same eigenvalues except zeros; the Gramian is summed over blocks of
    columns.

    Memory: three vectors, and `COLUMNS` numbers of each of the N. Disk: all N · P numbers, in an unnamed temporary file
    (TMPDIR) that disappears with this object.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object, see `close`)
        self._mean: Tensor | None = None
        self._step: Tensor | None = None  # kept: fresh memory costs more than the subtraction
        self._squares = 0.0
        self._norms = 0.0
        self.count = 0

    def add(self, vector: Tensor) -> None:
        """Add one more vector, (P,) of any floating-point type.

        Raises:
            InputError: the disk is full.
        """
        self.count += 1
        if self._mean is None or self._step is None:
            self._mean, self._step = torch.zeros_like(vector), torch.empty_like(vector)
        torch.sub(vector, self._mean, out=self._step)
        self._mean.add_(self._step, alpha=1 / self.count)
        # ⟨g − old mean, g − new mean⟩, as the latter is the former times (N − 1) / N.
        self._squares += _square(self._step) * (self.count - 1) / self.count
        self._norms += math.sqrt(_square(vector))
        try:
            self._file.write(vector.cpu().numpy().data)
        except OSError as error:
            raise InputError(
                f"the gradients do not fit into {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a folder "
                "with more room, or give fewer --batches."
            ) from error

    def metrics(self) -> dict[str, float]:
        """Trace and largest eigenvalue of the covariance, and the mean of the vectors' norms; needs N ≥ 2.

        The largest eigenvalue, the variance along the direction in which it is largest, is NaN for vectors that are not
        finite.
        """
        gramian = self.gramian()
        largest = float(np.linalg.eigvalsh(gramian)[-1]) / (self.count - 1) if np.isfinite(gramian).all() else math.nan
        return {
            "trace": self._squares / (self.count - 1),
            "largest_eigenvalue": largest,
            "mean_norm": self._norms / self.count,
        }

    def gramian(self) -> np.ndarray:
        """(N, N) inner products of the centred vectors, float64; each block is multiplied in the vectors' own type."""
        assert self._mean is not None
        self._file.flush()
        size, dtype = len(self._mean), self._mean[:0].cpu().numpy().dtype
        rows = np.memmap(self._file, dtype=dtype, mode="r", shape=(self.count, size))
        total = torch.zeros(self.count, self.count, dtype=torch.float64)
        for start in range(0, size, COLUMNS):
            block = torch.from_numpy(np.array(rows[:, start : start + COLUMNS]))
            block -= block.mean(0)
            total += block @ block.T
        return total.numpy()

    def close(self) -> None:
        """Free the disk space."""
        self._file.close()


def _square(vector: Tensor) -> float:
    """‖x‖², summed in float64 over pieces: over millions of numbers, float32 is wrong by a thousandth."""
    whole = len(vector) // PIECE * PIECE
    pieces = torch.linalg.vector_norm(vector[:whole].view(-1, PIECE), dim=1).double().square().sum()
    return (pieces + torch.linalg.vector_norm(vector[whole:]).double().square()).item()
