"""The outcomes of a grid, put together: what is known of a method on a data set, seed by seed."""

import dataclasses
from collections.abc import Sequence

from mmpareto.analysis.report.results import RunResult, read_result
from mmpareto.analysis.tables.cells import Outcome
from mmpareto.errors import InputError
from mmpareto.training.settings import Settings


@dataclasses.dataclass(frozen=True)
class Measured:
    """A cell of the table over its seeds.

    Attributes:
        row, column: labels.
        settings: of its first seed.
        words: the command line of train.py, without its seed.
        results: seed → what its run came to; ascending.
        missing: seed → why there is no such run; ascending.
    """

    row: str
    column: str
    settings: Settings
    words: tuple[str, ...]
    results: dict[int, RunResult]
    missing: dict[int, str]

    @property
    def seeds(self) -> list[int]:
        """All seeds that were asked for, ascending."""
        return sorted({*self.results, *self.missing})

    def figures(self, key: str) -> dict[int, float]:
        """Seed → accuracy "acc" or "acc_<modality>", of the runs that measured it; ascending."""
        return {seed: result.accuracies[key] for seed, result in self.results.items() if key in result.accuracies}

    @property
    def modalities(self) -> list[str]:
        """Those whose own accuracy any run measured, in the runs' order."""
        keys = dict.fromkeys(key for result in self.results.values() for key in result.accuracies)
        return [key.removeprefix("acc_") for key in keys if key != "acc"]


def gather(outcomes: Sequence[Outcome], protocol: str) -> dict[tuple[str, str], Measured]:
    """(row's label, column's label) → what is known of it; a run that cannot be read is missing, with its reason.

    Arguments:
        protocol: see `read_result`.
    """
    found: dict[tuple[str, str], Measured] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.cell.seed):
        cell = outcome.cell
        place = (cell.row.label, cell.column.label)
        into = found.setdefault(place, Measured(*place, cell.settings, _without_seed(cell.words), {}, {}))
        if outcome.folder is None:
            into.missing[cell.seed] = outcome.reason or "not run"
            continue
        try:
            into.results[cell.seed] = read_result(outcome.folder, protocol)
        except InputError as error:
            into.missing[cell.seed] = str(error)
    return found


def paired(method: Measured, baseline: Measured, key: str = "acc") -> dict[int, float]:
    """Seed → figure of the method minus that of the baseline, of the seeds that both have; ascending."""
    own, base = method.figures(key), baseline.figures(key)
    return {seed: own[seed] - base[seed] for seed in own if seed in base}


def _without_seed(words: tuple[str, ...]) -> tuple[str, ...]:
    if "--random_seed" not in words:
        return words
    place = words.index("--random_seed")
    return words[:place] + words[place + 2 :]
