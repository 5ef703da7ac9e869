"""The text around a table: how its numbers are computed, how its runs differ, what is missing, and the commands."""

import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mmpareto.analysis.report.results import CellResults, Results, RunResult
from mmpareto.analysis.report.statistics import MIN_SEEDS
from mmpareto.analysis.tables.definitions import Table


def notes(table: Table, results: Results) -> list[str]:
    """Sentences under the table."""
    others = len(table.rows) - 1
    return [
        "Accuracy is the mean ± sample standard deviation over seeds (with one seed, the accuracy alone). Seeds: "
        f"{_numbers({seed for cell in results.values() for seed in cell.seeds})}.",
        f"Differences from {table.baseline} are paired by seed, with t intervals corrected by Holm's step-down "
        f"procedure over the {others} other row{'s' if others != 1 else ''} of each column: an interval excludes zero "
        "exactly where Holm's test rejects at a family-wise 5%. This holds for the decisions; the widths follow from "
        "them, and the intervals need not jointly cover with 95%. p is not corrected. With fewer than "
        f"{MIN_SEEDS} paired seeds there is no interval.",
        f"Bold: the largest mean of its column, if the interval of its difference from {table.baseline} is above zero. "
        "It says nothing about the second best. Accuracies of one modality alone are shown without tests.",
        *_unimodal(results),
        *_same_runs(results),
        *_commits(_runs(results)),
        *_data(results),
    ]


def _runs(results: Results) -> list[RunResult]:
    return [result for cell in results.values() for result in cell.results.values()]


def _unimodal(results: Results) -> list[str]:
    """Notes of the runs on their unimodal accuracies."""
    rows: dict[str, list[str]] = {}
    for cell in results.values():
        for result in cell.results.values():
            if note := str(result.run.summary.get("unimodal_note", "")):
                rows.setdefault(note, []).append(cell.row)
    return [
        f"{', '.join(dict.fromkeys(labels))}: {note.replace('acc_<modality>', 'that accuracy')}."
        for note, labels in rows.items()
    ]


def _same_runs(results: Results) -> list[str]:
    """The rows of a column that are the same runs."""
    rows: dict[tuple[str, tuple[Path, ...]], list[str]] = {}
    for cell in results.values():
        folders = tuple(result.run.folder for result in cell.results.values())
        rows.setdefault((cell.column, folders), []).append(cell.row)
    same = [" = ".join(labels) for (_, folders), labels in rows.items() if folders and len(labels) > 1]
    return [f"The same runs, because their settings are the same here: {names}." for names in dict.fromkeys(same)]


def _commits(runs: Iterable[RunResult]) -> list[str]:
    counts = Counter(_commit_text(result.run.commit) for result in runs)
    if len(counts) > 1:
        texts = ", ".join(f"{name} ({count} run{'s' if count > 1 else ''})" for name, count in counts.items())
        return [f"The runs are of different versions of the code: {texts}."]
    return [f"Code of all runs: {name}." for name in counts]


def _commit_text(commit: str | None) -> str:
    if commit is None:
        return "no known commit"
    return f"commit {commit.rstrip('+')[:10]}" + (" with later changes" if commit.endswith("+") else "")


def _data(results: Results) -> list[str]:
    """One sentence for each column whose runs are on different data."""
    columns: dict[str, dict[str, list[str]]] = {}
    for cell in results.values():
        for seed, result in cell.results.items():
            groups = columns.setdefault(cell.column, {})
            groups.setdefault(result.run.fingerprint[:10], []).append(f"{cell.row} seed {seed}")
    sentences = []
    for column, groups in columns.items():
        usual = max(groups, key=lambda name: len(groups[name]))
        odd = "; ".join(f"{name}…: {', '.join(runs)}" for name, runs in groups.items() if name != usual)
        if odd:
            sentences.append(
                f"{column}: not all runs are on the same data; its fingerprint is {usual}…, but {odd}. Differences "
                "between these runs may be due to the data."
            )
    return sentences


def missing_runs(table: Table, results: Results) -> list[str]:
    """One sentence for each cell that lacks runs, and for each reason."""
    sentences = []
    for column in table.columns:
        for row in table.rows:
            cell = results.get((row.label, column.label))
            seeds: dict[str, set[int]] = {}
            for seed, reason in cell.missing.items() if cell else ():
                seeds.setdefault(reason, set()).add(seed)
            sentences += [
                f"{row.label}, {column.label}, seed{'s' if len(some) > 1 else ''} {_numbers(some)}: {reason}"
                for reason, some in seeds.items()
            ]
    return sentences


def commands(results: Results) -> list[str]:
    """For each cell, the command line that trains it, in a loop over its seeds."""
    return [
        f"for seed in {' '.join(map(str, cell.seeds))}; do python code/train.py {_words(cell)} "
        "--random_seed $seed; done"
        for cell in results.values()
    ]


def _words(cell: CellResults) -> str:
    """The flags of a cell; those of its first seed name the run of that seed where each starts from another run."""
    return shlex.join(cell.words).replace(f"-seed{min(cell.seeds)}/last.pt", "-seed$seed/last.pt")


def _numbers(seeds: set[int]) -> str:
    """Seeds such as "0–4" or "0, 2, 5"."""
    ordered = sorted(seeds)
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]}–{ordered[-1]}"
    return ", ".join(map(str, ordered)) or "none"
