"""The results of a table's runs, grouped by cell: seed by seed, at the epoch that the protocol chooses."""

import dataclasses
from collections.abc import Mapping, Sequence

from mmpareto.analysis.finished_run import ClipResults, FinishedRun
from mmpareto.analysis.tables.cells import Outcome
from mmpareto.errors import InputError
from mmpareto.training.settings import Settings


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The result of one run.

    Attributes:
        accuracies: "acc" and "acc_<modality>", fractions of the test set; without those that were not measured.
        test_clips: which test clips it classified correctly; empty if it has not been evaluated clip by clip.
    """

    run: FinishedRun
    accuracies: dict[str, float]
    test_clips: ClipResults


@dataclasses.dataclass(frozen=True)
class CellResults:
    """The results of a row and a column.

    Attributes:
        row, column: their labels.
        settings: of the first seed.
        words: the command line of train.py, without the seed.
        results: by seed, ascending.
        missing: seed → why there is no result; ascending.
    """

    row: str
    column: str
    settings: Settings
    words: tuple[str, ...]
    results: dict[int, RunResult]
    missing: dict[int, str]

    @property
    def seeds(self) -> list[int]:
        """All seeds that were requested, ascending."""
        return sorted({*self.results, *self.missing})

    @property
    def task(self) -> str | None:
        """The task of single-task training; None for all others."""
        return self.settings.options.get("task") if self.settings.options else None

    @property
    def tasks(self) -> list[str]:
        """The tasks of the runs, where the data has several; else []."""
        return next((result.run.tasks for result in self.results.values()), [])

    @property
    def modalities(self) -> list[str]:
        """The modalities whose accuracy alone any run measured; or the tasks."""
        keys = dict.fromkeys(key for result in self.results.values() for key in result.accuracies)
        return [key.removeprefix("acc_") for key in keys if key != "acc"]

    def accuracies(self, key: str = "acc") -> dict[int, float]:
        """Seed → accuracy "acc" or "acc_<modality>" of the runs that measured it; ascending."""
        return {seed: result.accuracies[key] for seed, result in self.results.items() if key in result.accuracies}


Results = Mapping[tuple[str, str], CellResults]
"""(label of the row, label of the column) → the results."""


def gather(outcomes: Sequence[Outcome], protocol: str) -> dict[tuple[str, str], CellResults]:
    """Read the results of all outcomes; a run that cannot be read is missing.

    Arguments:
        protocol: "last" epoch, "validation" (best on the validation set) or "paper" (best on the test set), for rows
            without a protocol of their own.
    """
    cells: dict[tuple[str, str], CellResults] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.cell.seed):
        cell = outcome.cell
        key = (cell.row.label, cell.column.label)
        entry = cells.setdefault(key, CellResults(*key, cell.settings, _without_seed(cell.words), {}, {}))
        if outcome.folder is None:
            entry.missing[cell.seed] = outcome.reason or "not run"
            continue
        run, chosen_by = FinishedRun(outcome.folder), cell.row.protocol or protocol
        try:
            entry.results[cell.seed] = RunResult(run, run.accuracies(chosen_by), run.clip_results(chosen_by))
        except InputError as error:
            entry.missing[cell.seed] = str(error)
    return cells


def paired_differences(method: CellResults, baseline: CellResults) -> list[float]:
    """Accuracy of the method minus that of the baseline, for each seed that both have.

    Of single-task training, both are accuracies of its task.
    """
    key = f"acc_{method.task}" if method.task else "acc"
    accuracies, base = method.accuracies(key), baseline.accuracies(key)
    return [accuracies[seed] - base[seed] for seed in accuracies if seed in base]


def _without_seed(words: tuple[str, ...]) -> tuple[str, ...]:
    if "--random_seed" not in words:
        return words
    index = words.index("--random_seed")
    return words[:index] + words[index + 2 :]
