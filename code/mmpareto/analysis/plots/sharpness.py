"""Sharpness of a minimum: the largest eigenvalue of the Hessian of a loss at a checkpoint.

It is measured for the joint loss and for every unimodal loss, each a mean over the same samples of the training set
(read without augmentation), with respect to all trainable parameters that the loss reaches. The eigenvalue is the
algebraically largest: at a minimum none is negative; elsewhere one with a larger magnitude may be negative, a direction
in which the loss falls, and it is not what is reported. BatchNorm normalises by its running statistics. The arithmetic
is float32, whatever that of the training was, with inner products in float64.

The value depends on the samples: over fewer of them it is larger (the largest eigenvalue of a mean is at most the mean
of the largest). Compare values over the same number only. It also changes when a layer of ReLUs is scaled up and the
next one down, which changes no output (Dinh et al., "Sharp minima can generalize for deep nets", ICML 2017).
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
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
from mmpareto.data.loading.batches import Batch, to_device
from mmpareto.errors import InputError
from mmpareto.integration.objectives import JOINT, graph_leaves
from mmpareto.progress import progress
from mmpareto.training.losses import losses
from mmpareto.training.schema import Count, Number

Vector = NDArray[np.float64]

NAME = "sharpness"
SAME = {"checkpoint": "--checkpoint", "samples": "--samples"}
GRAPH_BYTES = 2 << 30  # of a gradient's graph in memory at once; a product takes as much again
TOLERANCE = 0.02
MAX_PRODUCTS = 60


class SharpnessOfLoss(TypedDict):
    """Of the Hessian of a loss."""

    largest_eigenvalue: Number
    residual: Number
    iterations: Count


class SharpnessFile(Measurement):
    """Entries of sharpness.json."""

    samples: Count
    losses: Annotated[dict[str, SharpnessOfLoss], Field(min_length=1)]


def draw_sharpness(out: Path, runs: Sequence[FinishedRun], options: argparse.Namespace) -> str:
    """Measure the runs that have not been measured, draw `sharpness_plot`, and return the values as text."""
    group_runs(runs)  # raises before anything is measured
    asked = {"samples": options.samples}
    measure_runs(NAME, runs, options, lambda settings: asked, lambda subject: measure(subject, options.samples))
    style.save(sharpness_plot(runs), out)
    return sharpness_text(runs)


def sharpness_plot(runs: Sequence[FinishedRun]) -> Figure:
    """Largest eigenvalue of every loss's Hessian: one panel per loss, one row per group.

    Raises:
        InputError: see `Measurements`.
    """
    measured = Measurements(NAME, runs, SAME, SharpnessFile)
    names = _losses(measured)
    with style.paper():
        figure = style.new_figure(style.WIDTH, ROW * len(measured.labels) + 0.7)
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            line = style.OBJECTIVES[JOINT if name == JOINT else "unimodal"]
            values = {g.label: measured.values(g, "losses", name, "largest_eigenvalue") for g in measured.groups}
            draw_dots(axes, measured.labels, {name: (line, values)})
            axes.set_title("joint loss" if name == JOINT else f"unimodal loss, {name}")
            axes.set_xlabel("largest eigenvalue")
        every = [loss for g in measured.groups for run in g.runs for loss in measured.of(run)["losses"].values()]
        worst = max(loss["residual"] / max(abs(loss["largest_eigenvalue"]), 1e-300) for loss in every)
        notes = measured.notes(
            "Algebraically largest eigenvalue λ of the loss's Hessian with respect to all parameters that it reaches, "
            f"over {measured.first['samples']} training samples; no augmentation, BatchNorm frozen. Lanczos' method; "
            f"‖Hv − λv‖/|λ| ≤ {worst:.1g}.{measured.dots_note}"
        )
        style.finish(figure, f"Sharpness: {title_of(measured.groups)}", notes, banner_of(measured.groups))
    return figure


def sharpness_text(runs: Sequence[FinishedRun]) -> str:
    """One line per group: the largest eigenvalue of every loss, means over seeds."""
    measured = Measurements(NAME, runs, SAME, SharpnessFile)
    names = _losses(measured)
    lines = [
        f"largest Hessian eigenvalue over {measured.first['samples']} training samples; means over seeds",
        f"{'':24}" + "".join(f"{name:>14}" for name in names),
    ]
    for group in measured.groups:
        cells = [mean_text(measured.values(group, "losses", name, "largest_eigenvalue"), 14) for name in names]
        lines.append(f"{group.label:24}" + "".join(cells))
    return "\n".join(lines)


def _losses(measured: Measurements) -> list[str]:
    """All losses that were measured for any run, the joint one first."""
    return [*dict.fromkeys(name for g in measured.groups for run in g.runs for name in measured.of(run)["losses"])]


def measure(subject: Subject, samples: int) -> dict[str, Any]:
    """Measure the sharpness of every meaningful loss; see the module.

    Memory: the graph of the gradient of as many samples as fit into 2 GiB, as much for a product, and one float64
    vector per product. Where all samples fit, the graph is kept, and products are cheaper.

    Returns:
        {"losses": {"joint" and every modality: {"largest_eigenvalue", "residual", "iterations"}}}. The residual is
        ‖H v − λ v‖ for the unit vector v of the eigenvalue; an iteration is a product with H.

    Raises:
        InputError: the training set is smaller, or Lanczos' method did not converge.
    """
    drawn = subject.sample(samples, _batch_size(subject, samples))
    batches = [to_device(batch, subject.device, subject.samples.normalisation) for batch in drawn]
    measured = {}
    for name in subject.losses:
        parts = [_part(subject, name, batch, len(batch.labels) / samples) for batch in batches]
        hessian = Hessian(parts, reached(subject, parts[0]))
        with progress(desc=f"sharpness of {subject.folder.name}, {name}", unit=" products", leave=False) as bar:
            try:
                best = largest_eigenvalue(hessian.product, hessian.size, step=bar.update)
            except ValueError as error:
                raise InputError(f"{subject.folder}, {name} loss: {error}; try other --samples.") from error
        measured[name] = {
            "largest_eigenvalue": best.value,
            "residual": best.residual,
            "iterations": best.products,
        }
    return {"losses": measured}


def reached(subject: Subject, loss: Callable[[], Tensor]) -> list[Tensor]:
    """The trainable parameters that a loss reaches, in the network's order."""
    ends = {id(leaf) for leaf in graph_leaves([loss()])}
    return [p for p in subject.network.parameters() if id(p) in ends]


def _part(subject: Subject, name: str, batch: Batch, share: float) -> Callable[[], Tensor]:
    """A function that computes the loss of a batch times its share of the samples."""

    def compute() -> Tensor:
        joint, unimodal = losses(subject.network(batch.inputs), batch.labels, share)
        chosen = joint if name == JOINT else unimodal[name]
        assert chosen is not None  # `open_run` refuses several tasks
        return chosen

    return compute


def _batch_size(subject: Subject, samples: int) -> int:
    """Number of samples whose graph fits into `GRAPH_BYTES`, estimated from the graph of two samples."""
    (two,) = subject.sample(min(2, samples), 2)
    part = _part(subject, JOINT, to_device(two, subject.device, subject.samples.normalisation), 1.0)
    parameters = reached(subject, part)

    def gradient() -> Sequence[Tensor]:
        return torch.autograd.grad(part(), parameters, create_graph=True)

    each = saved_bytes(gradient, list(subject.network.parameters())) / len(two.labels)
    return max(1, min(samples, int(GRAPH_BYTES / max(each, 1))))


class Hessian:
    """∇²L of a loss that is a sum of parts, never formed, as products H v: the gradient of ⟨∇L, v⟩ (Pearlmutter 1994).

    With a single part, the graph of the gradient is kept, and a product costs one backward pass over it. With several,
    each product goes through them one after the other, so that memory holds one part's graph.

    Arguments:
        parts: each computes its share of the loss, a () tensor with a graph.
        parameters: with respect to which the Hessian is taken; the loss reaches all of them.
    """

    def __init__(self, parts: Sequence[Callable[[], Tensor]], parameters: Sequence[Tensor]) -> None:
        self._parts, self.parameters = parts, list(parameters)
        self._kept = self._gradient(parts[0]) if len(parts) == 1 else None
        self.size = sum(p.numel() for p in self.parameters)

    def product(self, vector: Vector) -> Vector:
        """H v, (P,) float64; computed in the parameters' own type."""
        sizes = [p.numel() for p in self.parameters]
        whole = torch.from_numpy(np.ascontiguousarray(vector).reshape(-1))
        pieces = [x.view_as(p).to(p) for x, p in zip(whole.split(sizes), self.parameters, strict=True)]
        total = np.zeros(self.size)
        for part in self._parts:
            gradient = self._gradient(part) if self._kept is None else self._kept
            linear = [(g, v) for g, v in zip(gradient, pieces, strict=True) if g.requires_grad]
            if linear:  # otherwise the loss is linear in all parameters
                products = torch.autograd.grad(
                    [g for g, _ in linear],
                    self.parameters,
                    [v for _, v in linear],
                    retain_graph=self._kept is not None,
                    allow_unused=True,
                )
                total += flat(products, self.parameters).cpu().double().numpy()
        return total

    def _gradient(self, part: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention cannot be differentiated twice
            return torch.autograd.grad(part(), self.parameters, create_graph=True)


@dataclasses.dataclass(frozen=True)
class Eigenvalue:
    """An eigenvalue λ, its unit vector v, the norm of H v − λ v, and the number of products with H."""

    value: float
    vector: Vector
    residual: float
    products: int


def largest_eigenvalue(
    product: Callable[[Vector], Vector],
    size: int,
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    step: Callable[[], object] = lambda: None,
) -> Eigenvalue:
    """Algebraically largest eigenvalue of a symmetric matrix, by Lanczos' method with full reorthogonalisation.

    It starts from a random vector given by the seed. ARPACK would check the residual only after a fixed number of
    products: a network's Hessian needs four or five, and each costs as much as several training steps. Vectors are kept
    in float64: inner products of millions of float32 numbers are wrong by a thousandth.

    Memory: one vector per product, and three.

    Arguments:
        product: H v for v (size,).
        tolerance: it ends when ‖H v − λ v‖ is below this share of |λ|. The error of the eigenvalue itself is far
            smaller: at most residual² over the distance to the next one.
        step: called before every product.

    Returns:
        The eigenvalue, NaN where a product is not finite.

    Raises:
        ValueError: it has not converged after `MAX_PRODUCTS`.
    """
    start = np.random.default_rng(seed).standard_normal(size)
    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for count in range(1, MAX_PRODUCTS + 1):
        step()
        rest = product(basis[-1])
        if not np.isfinite(rest).all():
            return Eigenvalue(math.nan, basis[-1], math.nan, count)
        diagonal.append(float(basis[-1] @ rest))
        for vector in [*basis, *basis]:  # twice is enough (Parlett, The symmetric eigenvalue problem, 6.9)
            rest = rest - (vector @ rest) * vector
        off_diagonal.append(float(np.linalg.norm(rest)))
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off_diagonal[:-1], -1))  # reads the lower half
        residual = off_diagonal[-1] * abs(float(vectors[-1, -1]))
        if residual <= tolerance * abs(values[-1]) or count == size:
            combined = sum(share * vector for share, vector in zip(vectors[:, -1], basis, strict=True))
            return Eigenvalue(float(values[-1]), np.asarray(combined), residual, count)
        basis.append(rest / off_diagonal[-1])
    raise ValueError(f"the largest eigenvalue has not converged after {MAX_PRODUCTS} products with the Hessian")


def saved_bytes(compute: Callable[[], object], parameters: Sequence[Tensor]) -> int:
    """Number of bytes that autograd saves for the graph of `compute`, apart from the parameters themselves."""
    storages = {p.untyped_storage().data_ptr() for p in parameters}
    total = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in storages:
            storages.add(storage.data_ptr())
            total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = compute()
    del held
    return total
