"""Cosines, norms and weights of gradients over training, over the seeds of a label, from what runs recorded.

A run with --record-gradients N has them of every Nth step, layer by layer (gradients.npz); a run of a method that looks
at gradients has means over the steps of every epoch, too (metrics.jsonl). A figure takes the former if all of its
runs have them, else means over epochs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmpareto.analysis.gradient_records import EncoderRecords, GradientRecords, read_run
from mmpareto.analysis.pictures.groups import Group
from mmpareto.analysis.pictures.runs import Array, Run, class_of
from mmpareto.errors import InputError
from mmpareto.training.recorder import OBJECTIVES
from mmpareto.training.run_folder import GRADIENTS

MOST_POINTS = 100  # of a line


@dataclasses.dataclass(frozen=True)
class Measure:
    """A figure of a step and an encoder.

    Attributes:
        key: in metrics.jsonl, before "_<modality>".
        of: the same from records, (R,); None where they lack it.
        without: what is so of a method that has no such figure.
    """

    key: str
    of: Callable[[EncoderRecords], Array | None]
    without: str


def _cosine(seen: EncoderRecords) -> Array | None:
    return None if seen.cosine is None else seen.whole_cosine()


def _conflict(seen: EncoderRecords) -> Array | None:
    return None if seen.cosine is None else np.where(np.isnan(seen.cosine), np.nan, seen.cosine < 0).mean(axis=1)


def _norm(objective: str) -> Callable[[EncoderRecords], Array | None]:
    return lambda seen: seen.whole_norm(objective) if objective in seen.norms else None


_ONE_LOSS = "does not descend a joint and a unimodal loss together"
COSINE = Measure("cosine", _cosine, _ONE_LOSS)
CONFLICT = Measure("conflict_rate", _conflict, _ONE_LOSS)
NORMS = {name: Measure(f"norm_{name}", _norm(name), f"descends no {name} loss") for name in OBJECTIVES}
ANY_NORM = Measure("norm_joint", lambda seen: next((seen.whole_norm(name) for name in seen.norms), None), "has no loss")
WEIGHTS = Measure("no means over epochs", lambda seen: seen.weights, "weighs no gradients")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the numbers of a figure come from, the same for all of its runs.

    Attributes:
        records: from gradients.npz; else means over epochs.
        bundle: how many successive records make a point.
    """

    records: bool
    bundle: int = 1

    @property
    def xlabel(self) -> str:
        """Of the axis along training."""
        return "training step" if self.records else "epoch"

    @property
    def text(self) -> str:
        """What a point is, for a note."""
        if not self.records:
            return "A point is the mean over an epoch's steps."
        return "A point is a recorded step." if self.bundle == 1 else f"A point is {self.bundle} recorded steps."


def of_groups(groups: Sequence[Group], measure: Measure) -> tuple[list[Group], Source, list[str]]:
    """The groups whose method has the measure, what all of their runs have of it, and a note on the others.

    Raises:
        InputError: no group's method has it, a run did not record it, or a file is damaged.
    """
    kept = [group for group in groups if any(_can_have(run, measure) for run in group.runs)]
    why = "their method " + measure.without
    if not kept:
        raise InputError(f"{groups[0].runs[0].folder} and all others cannot be drawn, as {why}; give other runs.")
    left = [group.label for group in groups if group not in kept]
    notes = [f"Left out, as {why}: {', '.join(left)}."] if left else []
    runs = [run for group in kept for run in group.runs]
    recorded = [_has_records(run, measure) for run in runs]
    for run, there in zip(runs, recorded, strict=True):
        if not there and not _has_epochs(run, measure):
            raise InputError(
                f"{run.folder} recorded nothing of its gradients: train with --record-gradients N, or leave it out."
            )
    if not all(recorded):
        return kept, Source(records=False), notes
    longest = max(len(_records(run).steps) for run in runs)
    return kept, Source(records=True, bundle=math.ceil(longest / MOST_POINTS)), notes


def series_of(
    group: Group, measure: Measure, modality: str, source: Source, transformed: Callable[[Array], Array] = lambda x: x
) -> tuple[Array, Array] | None:
    """The measure over training: x (P,), and (S, P), a row a seed; None where the runs have no such encoder or measure.

    Arguments:
        transformed: applied to every figure before means are taken; where it is not finite, there is no figure.
    """
    if any(modality not in run.modalities for run in group.runs):
        return None
    if not source.records:
        values = group.stacked(lambda run: _of_epochs(run, measure, modality, transformed))
        return np.arange(1.0, values.shape[1] + 1), values
    steps = common_steps(group)
    rows = []
    for run in group.runs:
        found = _records(run)
        recorded = measure.of(found.encoders[modality]) if modality in found.encoders else None
        if recorded is None:
            return None
        rows.append(_bundled(_finite(transformed, recorded[np.isin(found.steps, steps)]), source.bundle))
    return _bundled(steps.astype(np.float64), source.bundle), np.stack(rows)


def weights_of(group: Group, modality: str, source: Source) -> tuple[Array, list[Array]] | None:
    """The weights α over training: x (P,), and a point each (…, n) of its steps, all seeds and groups of parameters.

    None where the runs have no such encoder.
    """
    steps = common_steps(group)
    kept = []
    for run in group.runs:
        found = _records(run)
        weights = found.encoders[modality].weights if modality in found.encoders else None
        if weights is None:
            return None
        kept.append(weights[np.isin(found.steps, steps)])
    pooled = np.stack(kept, axis=1)  # (R, S, G, n)
    starts = range(0, len(steps), source.bundle)
    points = [pooled[start : start + source.bundle].reshape(-1, pooled.shape[-1]) for start in starts]
    return _bundled(steps.astype(np.float64), source.bundle), points


def common_steps(group: Group) -> NDArray[np.int64]:
    """(R,) the steps that all runs recorded.

    Raises:
        InputError: there is none.
    """
    steps = functools.reduce(np.intersect1d, [_records(run).steps for run in group.runs])
    if not len(steps):
        folders = ", ".join(str(run.folder) for run in group.runs)
        raise InputError(f"{folders} recorded no step in common: train with the same --record-gradients N.")
    return steps


def records_of(run: Run) -> GradientRecords | None:
    """What the run recorded of its gradients; None where it recorded none.

    Raises:
        InputError: the file is damaged.
    """
    path = run.folder / GRADIENTS
    return _read(run.folder, path.stat().st_mtime_ns) if path.is_file() else None


@functools.lru_cache(maxsize=64)
def _read(folder: Path, changed: int) -> GradientRecords:
    return read_run(folder)


def _records(run: Run) -> GradientRecords:
    found = records_of(run)
    assert found is not None  # the figure's source says so
    return found


def _has_records(run: Run, measure: Measure) -> bool:
    found = records_of(run)
    return found is not None and all(measure.of(seen) is not None for seen in found.encoders.values())


def _has_epochs(run: Run, measure: Measure) -> bool:
    return all(not np.isnan(run.series(f"{measure.key}_{modality}")).all() for modality in run.modalities)


def _can_have(run: Run, measure: Measure) -> bool:
    """Whether a run of this method can have recorded the measure, as far as can be told."""
    if records_of(run) is not None:
        return _has_records(run, measure)
    kind = class_of(run.method)
    both = kind is None or (kind.descends_joint and kind.descends_unimodal)
    return both or measure not in (COSINE, CONFLICT, WEIGHTS)


def _of_epochs(run: Run, measure: Measure, modality: str, transformed: Callable[[Array], Array]) -> Array:
    """(E,) from metrics.jsonl, else the means over what was recorded in every epoch."""
    values = _finite(transformed, run.series(f"{measure.key}_{modality}"))
    if not np.isnan(values).all() or not _has_records(run, measure):
        return values
    found = _records(run)
    recorded = measure.of(found.encoders[modality]) if modality in found.encoders else None
    if recorded is None:
        return values
    recorded = _finite(transformed, recorded)
    return np.array([_mean(recorded[found.epochs == epoch]) for epoch in range(1, len(run.history) + 1)])


def _finite(transformed: Callable[[Array], Array], values: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = transformed(values)
    return np.where(np.isfinite(found), found, np.nan)


def _bundled(values: Array, bundle: int) -> Array:
    return np.array([_mean(values[start : start + bundle]) for start in range(0, len(values), bundle)])


def _mean(values: Array) -> float:
    """Of what is there; NaN of nothing."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else math.nan
