"""Result of a replay: differences of the two networks and of their decisions, step by step."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mmpareto.analysis.replay.repositories import Decisions, ReleasedRepository

SHOWN = {1, 2, 5, 10, 20, 50}


@dataclasses.dataclass(frozen=True)
class Difference:
    """Largest difference over all tensors, and the released code's name of the tensor."""

    size: float
    where: str


@dataclasses.dataclass(frozen=True)
class StepComparison:
    """The two networks after a step, parameters and statistics of BatchNorm, and the decisions in the step.

    Attributes:
        step: from 1.
        absolute: largest difference of two elements.
        relative: largest difference of a tensor: of two elements, over the tensor's largest element.
        theirs, ours: decision → whether it was taken.
    """

    step: int
    absolute: Difference
    relative: Difference
    theirs: Decisions
    ours: Decisions


@dataclasses.dataclass
class ReplayResult:
    """Result of a replay.

    Attributes:
        repository: that was replayed.
        tolerance: see `ReplayConditions`.
        settings: hyper-parameter → (theirs, ours).
        rates: learning rates of all epochs of the whole training, theirs and ours, and after them those of the epochs
            that were replayed.
        steps: of the replay; fewer than asked for if values were no longer finite.
    """

    repository: ReleasedRepository
    tolerance: float
    settings: dict[str, tuple[Any, Any]]
    rates: list[tuple[str, float, float]]
    steps: list[StepComparison] = dataclasses.field(default_factory=list)

    @property
    def different_settings(self) -> list[str]:
        """The hyper-parameters that differ, with both values."""
        return [f"{name} {theirs} / {ours}" for name, (theirs, ours) in self.settings.items() if theirs != ours]

    @property
    def different_rates(self) -> list[str]:
        """The epochs whose learning rates differ, with both values."""
        return [
            f"{epoch} {theirs:g} / {ours:g}"
            for epoch, theirs, ours in self.rates
            if not math.isclose(theirs, ours, rel_tol=1e-9)
        ]

    @property
    def first_decision(self) -> tuple[int, str] | None:
        """The first step at which a decision differs, and the decision; None where all agree."""
        different = ((s.step, name) for s in self.steps for name in s.theirs if s.theirs[name] != s.ours.get(name))
        return next(different, None)

    @property
    def first_above(self) -> StepComparison | None:
        """The first step after which the relative difference is above the tolerance."""
        return next((s for s in self.steps if not s.relative.size <= self.tolerance), None)

    @property
    def agrees(self) -> bool:
        """True if parameters agree within the tolerance after every step, and everything else agrees exactly."""
        differs = self.different_settings or self.different_rates or self.first_decision or self.first_above
        return bool(self.steps) and not differs


def largest(sizes: Mapping[str, float]) -> Difference:
    """The largest of the named sizes; NaN counts as the largest."""
    where = max(sizes, key=lambda name: _nan_last(sizes[name]))
    return Difference(sizes[where], where)


def _nan_last(size: float) -> float:
    return math.inf if math.isnan(size) else size


def result_text(result: ReplayResult) -> str:
    """Settings, differences after some of the steps, decisions, and the verdict."""
    repository, steps = result.repository, result.steps
    lines = [
        f"theirs: {repository.title}, {repository.path.name} {repository.arguments}",
        f"ours: train.py {repository.our_arguments}",
        f"hyper-parameters ({', '.join(result.settings)}) that differ, theirs / ours: "
        f"{_listed(result.different_settings)}",
        "learning rates (of all epochs of the training, and of the replay's) that differ, theirs / ours: "
        f"{_listed(result.different_rates)}",
    ]
    if repository.note:
        lines.append(f"known difference: {repository.note}")
    lines.append(f"{'step':>6}  {'absolute':>8}  {'relative':>8}  tensor of the largest relative difference")
    lines += [_line(step) for step in steps if step.step in SHOWN or step is steps[-1] or step.step % 100 == 0]
    lines += [_decision(name, result) for name in steps[0].theirs]
    first = result.first_decision
    lines.append(f"first step at which a decision differs: {'none' if first is None else f'{first[0]}, {first[1]}'}")
    lines.append(_verdict(result))
    return "\n".join(lines)


def _line(step: StepComparison) -> str:
    return f"{step.step:6}  {step.absolute.size:8.1e}  {step.relative.size:8.1e}  {step.relative.where}"


def _decision(name: str, result: ReplayResult) -> str:
    steps = result.steps
    count = sum(step.theirs[name] for step in steps)
    ours = sum(step.ours.get(name, False) for step in steps)
    warning = "" if 0 < count < len(steps) else "; WARNING: only one of the two cases was compared"
    return f"{name}: in {count} of {len(steps)} steps, ours in {ours}{warning}"


def _verdict(result: ReplayResult) -> str:
    largest = max((step.absolute for step in result.steps), key=lambda difference: _nan_last(difference.size))
    where = f"largest difference of all steps {largest.size:.1e} in {largest.where}"
    if result.agrees:
        return f"agree within a relative {result.tolerance:g} after every step; {where}"
    first = result.first_above
    when = f", first above {result.tolerance:g} after step {first.step}" if first else ""
    return f"DIFFER; {where}{when}"


def _listed(items: list[str]) -> str:
    shown = ", ".join(items[:4])
    return (shown + (f" and {len(items) - 4} more" if len(items) > 4 else "")) or "none"
