"""Cosines, norms and weights of gradients over training, over the seeds of a group.

A run with --record_gradients N has them for every Nth step, layer by layer (gradients.npz); a run of a method that
reports on gradients also has means over the steps of every epoch (metrics.jsonl). A plot uses the records if all of its
runs have them, and the means over epochs otherwise.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mmpareto.analysis.finished_run import Array, FinishedRun
from mmpareto.analysis.gradient_records import EncoderRecords
from mmpareto.analysis.plots.groups import SeedGroup
from mmpareto.errors import InputError

MAX_POINTS = 100  # per line


@dataclasses.dataclass(frozen=True)
class GradientMetric:
    """A metric of one encoder in one step.

    Attributes:
        key: in metrics.jsonl, before "_<modality>".
        recorded: the metric from records, (R, …); None where they lack it.
    """

    key: str
    recorded: Callable[[EncoderRecords], Array | None]


def _norm(objective: str) -> Callable[[EncoderRecords], Array | None]:
    return lambda records: records.whole_norm(objective) if objective in records.norms else None


COSINE = GradientMetric("cosine", lambda r: None if r.cosine is None else r.whole_cosine())
CONFLICT = GradientMetric("conflict_rate", lambda r: None if r.cosine is None else r.conflict_share())
WEIGHTS = GradientMetric("not in metrics.jsonl", lambda r: r.weights)


def norm_of(objective: str) -> GradientMetric:
    """Norm of an objective's gradient."""
    return GradientMetric(f"norm_{objective}", _norm(objective))


def any_norm(objectives: Sequence[str]) -> GradientMetric:
    """Norm of the first gradient that was recorded; of means over epochs, of the first of these objectives."""
    return GradientMetric(f"norm_{objectives[0]}", lambda r: next((r.whole_norm(name) for name in r.norms), None))


@dataclasses.dataclass(frozen=True)
class GradientSource:
    """Origin of the values of a plot, the same for all of its runs.

    Attributes:
        records: from gradients.npz; else means over epochs.
        bundle: number of successive records per point.
    """

    records: bool
    bundle: int = 1

    @property
    def xlabel(self) -> str:
        """Label of the horizontal axis."""
        return "training step" if self.records else "epoch"

    @property
    def note(self) -> str:
        """Meaning of a point."""
        if not self.records:
            return "A point is the mean over an epoch's steps."
        return "A point is a recorded step." if self.bundle == 1 else f"A point is {self.bundle} recorded steps."


def select(groups: Sequence[SeedGroup], metric: GradientMetric) -> tuple[list[SeedGroup], GradientSource, list[str]]:
    """The groups that recorded the metric, the source that all of their runs have, and a note on the other groups.

    Raises:
        InputError: no group recorded it, one seed of a group did not, or a file is damaged.
    """
    kept = [group for group in groups if any(_has(run, metric) for run in group.runs)]
    if not kept:
        raise InputError(
            f"{groups[0].runs[0].folder} and all others recorded no such gradients: train with --record_gradients N, "
            "by a method that descends both losses (and, for weights, weights their gradients)."
        )
    omitted = [group.label for group in groups if group not in kept]
    notes = [f"Left out, as no such gradients were recorded: {', '.join(omitted)}."] if omitted else []
    runs = [run for group in kept for run in group.runs]
    for run in runs:
        if not _has(run, metric):
            raise InputError(
                f"{run.folder} has no record of its gradients: train with --record_gradients N, or leave it out."
            )
    if not all(_has_records(run, metric) for run in runs):
        return kept, GradientSource(records=False), notes
    longest = max(len(run.recorded_gradients().steps) for run in runs)
    return kept, GradientSource(records=True, bundle=math.ceil(longest / MAX_POINTS)), notes


def series_of(
    group: SeedGroup,
    metric: GradientMetric,
    modality: str,
    source: GradientSource,
    transform: Callable[[Array], Array] = lambda values: values,
) -> tuple[Array, Array] | None:
    """The metric over training: x (P,), and (S, P), one row per seed; None where a run lacks the encoder or the metric.

    Arguments:
        transform: applied to every value before means are taken; NaN where its result is not finite.
    """
    if any(modality not in run.modalities for run in group.runs):
        return None
    if not source.records:
        values = group.stacked(lambda run: _epoch_means(run, metric, modality, transform))
        return np.arange(1.0, values.shape[1] + 1), values
    steps = common_steps(group)
    rows = []
    for run in group.runs:
        recorded = _recorded(run, metric, modality)
        if recorded is None:
            return None
        chosen = recorded[np.isin(run.recorded_gradients().steps, steps)]
        rows.append(_bundle_means(_finite(transform, chosen), source.bundle))
    return _bundle_means(steps.astype(np.float64), source.bundle), np.stack(rows)


def weights_of(group: SeedGroup, modality: str, source: GradientSource) -> tuple[Array, list[Array]] | None:
    """The weights α over training: x (P,), and P arrays (…, n) over all steps of a point, seeds and parameter groups.

    None where a run lacks the encoder.
    """
    steps = common_steps(group)
    kept = []
    for run in group.runs:
        weights = _recorded(run, WEIGHTS, modality)
        if weights is None:
            return None
        kept.append(weights[np.isin(run.recorded_gradients().steps, steps)])
    pooled = np.stack(kept, axis=1)  # (R, S, G, n)
    starts = range(0, len(steps), source.bundle)
    points = [pooled[start : start + source.bundle].reshape(-1, pooled.shape[-1]) for start in starts]
    return _bundle_means(steps.astype(np.float64), source.bundle), points


def common_steps(group: SeedGroup) -> NDArray[np.int64]:
    """(R,) the steps that all runs recorded.

    Raises:
        InputError: there is none.
    """
    steps = functools.reduce(np.intersect1d, [run.recorded_gradients().steps for run in group.runs])
    if not len(steps):
        folders = ", ".join(str(run.folder) for run in group.runs)
        raise InputError(f"{folders} recorded no step in common: train with the same --record_gradients N.")
    return steps


def _has(run: FinishedRun, metric: GradientMetric) -> bool:
    """True if the run has the metric for every encoder, from records or as means over epochs."""
    series = [run.series(f"{metric.key}_{modality}") for modality in run.modalities]
    return _has_records(run, metric) or not any(np.isnan(values).all() for values in series)


def _has_records(run: FinishedRun, metric: GradientMetric) -> bool:
    return run.gradients is not None and all(
        metric.recorded(records) is not None for records in run.gradients.encoders.values()
    )


def _recorded(run: FinishedRun, metric: GradientMetric, modality: str) -> Array | None:
    encoders = run.recorded_gradients().encoders
    return metric.recorded(encoders[modality]) if modality in encoders else None


def _epoch_means(run: FinishedRun, metric: GradientMetric, modality: str, transform: Callable[[Array], Array]) -> Array:
    """(E,) from metrics.jsonl, or else the means over the records of every epoch."""
    values = _finite(transform, run.series(f"{metric.key}_{modality}"))
    if not np.isnan(values).all() or not _has_records(run, metric):
        return values
    recorded = _recorded(run, metric, modality)
    if recorded is None:
        return values
    recorded, epochs = _finite(transform, recorded), run.recorded_gradients().epochs
    return np.array([_mean(recorded[epochs == epoch]) for epoch in range(1, len(run.history) + 1)])


def _finite(transform: Callable[[Array], Array], values: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        transformed = transform(values)
    return np.where(np.isfinite(transformed), transformed, np.nan)


def _bundle_means(values: Array, bundle: int) -> Array:
    return np.array([_mean(values[start : start + bundle]) for start in range(0, len(values), bundle)])


def _mean(values: Array) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else math.nan
