"""Measurements of runs at a checkpoint, kept in <run>/<name>.json, and what their plots share."""

import argparse
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from mmpareto.analysis.finished_run import Array, FinishedRun
from mmpareto.analysis.plots.groups import SeedGroup, group_runs, mean_and_deviation, notes_on
from mmpareto.analysis.plots.style import LineStyle
from mmpareto.analysis.trained import Trained, load
from mmpareto.data.loading.batches import Batch, make_loader
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.integration.objectives import JOINT
from mmpareto.models.network import MultimodalNetwork
from mmpareto.training.data import open_data
from mmpareto.training.devices import choose_devices
from mmpareto.training.schema import ALLOW, Count
from mmpareto.training.settings import Settings

HEADS = {
    "a linear probe": "Unimodal losses by a linear probe on the encoder",
    "untrained: left out": "No unimodal loss",
}
ROW = 0.24  # inches per label
SHIFT = 0.3  # of a row, between two series


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run's network at a checkpoint, and the samples that it was trained on.

    Attributes:
        network: on `device`, in evaluation mode (BatchNorm normalises by its running statistics), every parameter
            trainable. A linear probe replaces unimodal heads that the method does not train.
        samples: the training set without what was held out for validation, read as in a test: without random crops,
            flips or frames.
        losses: names of the meaningful losses: "joint", and the modalities unless their heads are untrained.
        epoch: the number of finished epochs.
    """

    folder: Path
    settings: Settings
    trained: Trained
    network: MultimodalNetwork
    samples: PreparedDataset
    device: torch.device
    losses: list[str]
    epoch: int

    def sample(self, count: int, batch_size: int, seed: int = 0) -> list[Batch]:
        """`count` random samples of the training set, without replacement, in batches on the CPU.

        Raises:
            InputError: the training set has fewer.
        """
        available = len(self.samples)
        if count > available:
            raise InputError(f"--samples is {count}, but {self.folder} was trained on {available} samples; give fewer.")
        return self.batches(np.random.default_rng(seed).permutation(available)[:count].tolist(), batch_size)

    def batches(self, indices: Sequence[int], batch_size: int) -> list[Batch]:
        """These samples of the training set, in batches on the CPU."""
        return list(make_loader(torch.utils.data.Subset(self.samples, indices), batch_size=batch_size))


def flat(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """(P,): the tensors as one vector; zeros in the shape of `like` in place of None."""
    pairs = zip(tensors, like, strict=True)
    return torch.cat([(torch.zeros_like(other) if one is None else one).detach().reshape(-1) for one, other in pairs])


def measure_runs(
    name: str,
    runs: Sequence[FinishedRun],
    flags: argparse.Namespace,
    options: Callable[[Settings], dict[str, Any]],
    measure: Callable[[Subject], dict[str, Any]],
) -> None:
    """Measure every run that has not been measured with these options, into <run>/<name>.json.

    The file contains what the measurement is of (`about`), the options, and what `measure` returns.

    Arguments:
        flags: those of `entries.COMMON`: checkpoint, data, gpu_ids, anew.
        options: of the measurement, given the run's settings. A run whose file has the same options and the same
            checkpoint is not measured again, unless `flags.anew`.

    Raises:
        InputError: a folder has no run or no such checkpoint, the data are missing or different, or a result is not
            finite.
    """
    device, _ = choose_devices(flags.gpu_ids)
    paths = [_checkpoint_path(run, flags.checkpoint) for run in runs]  # all of them, before the first is measured
    for run, path in zip(runs, paths, strict=True):
        asked = {"checkpoint": flags.checkpoint, "checkpoint_sha256": _digest(path), **options(run.settings)}
        if not flags.anew and _has(run, name, asked):
            continue
        subject = open_run(run, flags.checkpoint, device, flags.data)
        content = asked | about(subject) | measure(subject)
        if not all(math.isfinite(value) for value in _numbers(content)):
            raise InputError(f"{name} of {run.folder} is NaN or infinite at {flags.checkpoint}: its training diverged.")
        write_text(run.folder / f"{name}.json", json.dumps(content, indent=1) + "\n")


def open_run(run: FinishedRun, checkpoint: str, device: torch.device, data: Path | None = None) -> Subject:
    """Open a run at a checkpoint.

    Arguments:
        checkpoint: name of the file in the run's folder.
        data: the prepared data set, where it is no longer in the folder of the training.

    Raises:
        InputError: see `measure_runs`.
    """
    path = _checkpoint_path(run, checkpoint)
    settings = run.settings if data is None else dataclasses.replace(run.settings, data=str(data))
    trained = load(path)
    if trained.tasks:
        raise InputError(f"{run.folder} has the tasks {', '.join(trained.tasks)} and no joint loss, which is measured.")
    if trained.joint_probe:
        raise InputError(
            f"{run.folder} was pre-trained without labels, so that it has no joint loss of labels, which is measured."
        )
    opened = open_data(settings, trained.modalities)
    if opened.record["fingerprint"] != run.fingerprint:
        raise InputError(f"{settings.data} is not what {run.folder} was trained on; give its folder by --data DIR.")
    assert trained.epoch is not None  # a checkpoint of train.py
    return Subject(
        folder=run.folder,
        settings=settings,
        trained=trained,
        network=trained.model.to(device),
        samples=opened.train_fixed,
        device=device,
        losses=[JOINT, *(trained.modalities if trained.unimodal_heads != "untrained" else [])],
        epoch=trained.epoch,
    )


def about(subject: Subject) -> dict[str, Any]:
    """The keys of the JSON file that all measurements share."""
    heads = {"trained": "trained", "probe": "a linear probe", "untrained": "untrained: left out"}
    return {
        "epoch": subject.epoch,
        "dataset": subject.settings.dataset,
        "method": subject.settings.method,
        "variant": subject.settings.variant,
        "seed": subject.settings.random_seed,
        "banner": subject.trained.banner,
        "unimodal_heads": heads[subject.trained.unimodal_heads],
    }


def _checkpoint_path(run: FinishedRun, checkpoint: str) -> Path:
    _ = run.config  # raises where the folder is not a run's
    path = run.folder / checkpoint
    if not path.is_file():
        names = ", ".join(sorted(file.name for file in run.folder.glob("*.pt"))) or "none"
        raise InputError(f"{run.folder} has no checkpoint {checkpoint} (it has: {names}); choose one by --checkpoint.")
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has(run: FinishedRun, name: str, asked: dict[str, Any]) -> bool:
    """True if the run has been measured with these options; a damaged file is measured again."""
    try:
        known = run.measurement(name)
    except InputError:
        return False
    return known is not None and all(known.get(key) == value for key, value in asked.items())


def _numbers(content: Any) -> list[float]:
    """All numbers of a JSON value, at any depth."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [number for value in content for number in _numbers(value)]
    return [content] if isinstance(content, int | float) else []


class Measurement(TypedDict):
    """Entries that all measurements share (`about`); each kind has its own besides."""

    __pydantic_config__ = ALLOW  # type: ignore[misc]
    checkpoint: str
    epoch: Count
    unimodal_heads: str


class Measurements:
    """The measurements that a plot compares, and the groups of their runs.

    Arguments:
        name: of the measurement: <run>/<name>.json.
        runs: of one data set.
        same: keys that must be equal in all files, with the flags that set them.
        kind: types of the files' entries.

    Raises:
        InputError: a run has not been measured, or not in the same way as the others; and see `group_runs`.
    """

    def __init__(self, name: str, runs: Sequence[FinishedRun], same: Mapping[str, str], kind: Any) -> None:
        self.groups = group_runs(runs)
        self._contents = {run.folder: _measured(run, name, kind) for run in runs}
        (first, content), *others = self._contents.items()
        self.first = content
        for folder, other in others:
            for key, flag in same.items():
                if other.get(key) != content.get(key):
                    raise InputError(
                        f"{first} and {folder} were measured with {flag} {content.get(key)} and {other.get(key)}: run "
                        f"`python code/figures.py {name}` on both with one {flag}."
                    )

    @property
    def labels(self) -> list[str]:
        """The groups' labels."""
        return [group.label for group in self.groups]

    def of(self, run: FinishedRun) -> dict[str, Any]:
        """The content of the run's file."""
        return self._contents[run.folder]

    def values(self, group: SeedGroup, *keys: str) -> Array:
        """(S, …) values at these nested keys, one row per seed; (0,) where a seed lacks them."""
        rows = []
        for run in group.runs:
            value: Any = self.of(run)
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if value is None:
                return np.empty(0)
            rows.append(value)
        return np.array(rows, dtype=np.float64)

    def notes(self, text: str, *, heads: bool = True) -> list[str]:
        """Paragraphs below a plot: `text`, checkpoint, data set, seeds and protocol.

        Arguments:
            heads: whether it shows unimodal losses; then also which runs have a linear probe, or no such loss.
        """
        epochs = {self.of(run)["epoch"] for group in self.groups for run in group.runs}
        shown = f"epoch {next(iter(epochs))}" if len(epochs) == 1 else f"epochs {min(epochs)} to {max(epochs)}"
        notes = [f"{text} Weights: {self.first['checkpoint']}, after {shown}.", *notes_on(self.groups)]
        for kind, sentence in HEADS.items() if heads else ():
            labels = [g.label for g in self.groups if any(self.of(run)["unimodal_heads"] == kind for run in g.runs)]
            if labels:
                notes.append(f"{sentence}, as the heads are untrained: {', '.join(labels)}.")
        return notes

    @property
    def dots_note(self) -> str:
        """Meaning of the marks of `draw_dots`; "" where there is one seed."""
        if all(len(group.runs) == 1 for group in self.groups):
            return ""
        return " Large marks: mean over seeds, line: ± one sample standard deviation; small: seeds."


def _measured(run: FinishedRun, name: str, kind: Any) -> dict[str, Any]:
    content = run.measurement(name, kind)
    if content is None:
        raise InputError(f"{run.folder} has no {name}.json: run `python code/figures.py {name} --run {run.folder}`.")
    return content


def mean_text(values: Array, width: int) -> str:
    """The mean over seeds in a column of this width; a dash where there is none."""
    return f"{np.mean(values):{width}.5g}" if len(values) else f"{'–':>{width}}"


def draw_dots(axes: Axes, labels: Sequence[str], series: Mapping[str, tuple[LineStyle, Mapping[str, Array]]]) -> None:
    """Draw one row per label, from top to bottom; on a logarithmic axis if all values are > 0 and span a factor of 8.

    A large mark is the mean over seeds, its line ± one sample standard deviation, a small pale mark a seed.

    Arguments:
        series: name → its colour and marker, and label → (S,) values of the seeds; (0,) draws nothing.
    """
    shifts = np.linspace(-SHIFT / 2, SHIFT / 2, len(series)) if len(series) > 1 else [0.0]
    for shift, (name, (line, values)) in zip(shifts, series.items(), strict=True):
        legend_label = name
        for row, label in enumerate(labels):
            seeds = values[label]
            if not len(seeds):
                continue
            mean, deviation = mean_and_deviation(seeds)
            y = row + shift
            if len(seeds) > 1:
                axes.plot(seeds, np.full(len(seeds), y), line.marker, ms=2.2, color=line.colour, alpha=0.35, mew=0)
                axes.plot([mean - deviation, mean + deviation], [y, y], color=line.colour, lw=1.0)
            axes.plot([mean], [y], line.marker, ms=4.2, color=line.colour, mec="white", mew=0.4, label=legend_label)
            legend_label = "_again"  # which the legend leaves out
    every = np.concatenate([values[label] for _, values in series.values() for label in labels] or [np.empty(0)])
    if len(every) and every.min() > 0 and every.max() > 8 * every.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(every) and every.min() >= 0:
        axes.set_xlim(left=0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="both", color="0.9", lw=0.5)
    axes.set_axisbelow(True)
