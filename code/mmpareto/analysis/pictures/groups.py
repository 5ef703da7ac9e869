"""Runs of one label: what they have in common, over their seeds."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mmpareto.analysis.pictures.runs import Array, Run
from mmpareto.errors import InputError


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds."""

    label: str
    runs: list[Run]

    @property
    def seeds(self) -> list[int]:
        """In ascending order, as the runs are."""
        return [run.seed for run in self.runs]

    @property
    def epochs(self) -> int:
        """How many epochs all of them have finished."""
        return min(len(run.history) for run in self.runs)

    def stacked(self, of: Callable[[Run], Array]) -> Array:
        """(S, E): a figure of every seed and common epoch, from (E or more,) a run."""
        return np.stack([of(run)[: self.epochs] for run in self.runs])


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The runs by label, in the order in which labels first occur.

    Raises:
        InputError: there is no run, or they are of different data sets.
    """
    if not runs:
        raise InputError("there is no run to draw: give folders by --run.")
    for run in runs[1:]:
        if run.dataset != runs[0].dataset:
            raise InputError(
                f"{runs[0].folder} is of data set {runs[0].dataset} and {run.folder} of {run.dataset}: draw one figure "
                "a data set."
            )
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.label, []).append(run)
    return [Group(label, sorted(members, key=lambda run: run.seed)) for label, members in found.items()]


def mean_and_spread(values: Array) -> tuple[Array, Array]:
    """Mean and sample standard deviation over the first axis; NaN where a seed lacks a figure.

    The spread of one seed is NaN. Where a seed has no figure, the mean over the others would be one of other runs.
    """
    mean = values.mean(axis=0)
    return mean, values.std(axis=0, ddof=1) if len(values) > 1 else np.full_like(mean, np.nan)
