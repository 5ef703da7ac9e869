"""What is said around a table: how its figures are made, what differs between its runs, what is missing."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from mmpareto.analysis.report.gather import Measured
from mmpareto.analysis.report.statistics import FEWEST_SEEDS
from mmpareto.analysis.tables.definitions import Table

Found = Mapping[tuple[str, str], Measured]


def notes(table: Table, found: Found) -> list[str]:
    """Sentences under the table."""
    others = len(table.rows) - 1
    said = [
        "Accuracy is mean ± sample standard deviation over seeds (of one seed, the bare figure). Seeds: "
        f"{_numbers({seed for cell in found.values() for seed in cell.seeds})}.",
        f"Differences to {table.baseline} are paired by seed, with t intervals corrected by Holm's step-down over the "
        f"{others} other row{'s' if others != 1 else ''} of each column: an interval excludes zero exactly where "
        "Holm's test rejects at a family-wise 5%. That holds for the decisions; the widths follow from them, and all "
        "intervals together need not cover with 95%. p is not corrected. "
        f"Below {FEWEST_SEEDS} paired seeds there is no interval.",
        f"Bold: the largest mean of its column, where its interval to {table.baseline} lies above zero. It says "
        "nothing about the next best. Accuracies of a modality alone are shown without tests.",
    ]
    by_note: dict[str, list[str]] = {}
    for cell in found.values():
        for text in dict.fromkeys(result.note for result in cell.results.values() if result.note):
            by_note.setdefault(text, []).append(cell.row)
    said += [
        f"{', '.join(dict.fromkeys(rows))}: {text.replace('acc_<modality>', 'that accuracy')}."
        for text, rows in by_note.items()
    ]
    return said + _shared(found) + _commits(found) + _data(found)


def _shared(found: Found) -> list[str]:
    """A sentence for rows of a column that are the very same runs."""
    rows: dict[tuple[str, tuple[Path, ...]], list[str]] = {}
    for cell in found.values():
        folders = tuple(result.folder for result in cell.results.values())
        rows.setdefault((cell.column, folders), []).append(cell.row)
    same = [" = ".join(labels) for (_, folders), labels in rows.items() if folders and len(labels) > 1]
    return [f"The very same runs, as their settings are the same here: {names}." for names in dict.fromkeys(same)]


def _commits(found: Found) -> list[str]:
    commits: dict[str, int] = {}
    for cell in found.values():
        for result in cell.results.values():
            name = _short(result.commit)
            commits[name] = commits.get(name, 0) + 1
    if not commits:
        return []
    if len(commits) == 1:
        return [f"Code of all runs: {next(iter(commits))}."]
    counts = ", ".join(f"{name} ({count} run{'s' if count > 1 else ''})" for name, count in commits.items())
    return [f"The runs are of different states of the code: {counts}."]


def _short(commit: str | None) -> str:
    if commit is None:
        return "no known commit"
    return f"commit {commit.rstrip('+')[:10]}" + (" with changes since" if commit.endswith("+") else "")


def _data(found: Found) -> list[str]:
    """A sentence a column of whose runs the data differ."""
    prints: dict[str, dict[str, list[str]]] = {}
    for cell in found.values():
        for seed, result in cell.results.items():
            here = prints.setdefault(cell.column, {})
            here.setdefault(result.fingerprint[:10], []).append(f"{cell.row} seed {seed}")
    said = []
    for column, groups in prints.items():
        if len(groups) > 1:
            usual = max(groups, key=lambda name: len(groups[name]))
            odd = "; ".join(f"{name}…: {', '.join(runs)}" for name, runs in groups.items() if name != usual)
            said.append(
                f"{column}: the runs were not all made on the same data; their fingerprint is {usual}…, but {odd}. "
                "Differences between them may be the data's."
            )
    return said


def holes(table: Table, found: Found) -> list[str]:
    """A sentence for every cell that lacks a run, the seeds of one reason together."""
    said = []
    for column in table.columns:
        for row in table.rows:
            cell = found.get((row.label, column.label))
            by_reason: dict[str, list[int]] = {}
            for seed, reason in cell.missing.items() if cell else ():
                by_reason.setdefault(reason, []).append(seed)
            for reason, seeds in by_reason.items():
                said.append(
                    f"{row.label}, {column.label}, seed{'s' if len(seeds) > 1 else ''} {_numbers(set(seeds))}: {reason}"
                )
    return said


def commands(found: Found) -> list[str]:
    """For every cell, the command line that trains it, its seeds in a loop."""
    return [
        f"for seed in {' '.join(map(str, cell.seeds))}; do python code/train.py {shlex.join(cell.words)} "
        "--random_seed $seed; done"
        for cell in found.values()
    ]


def _numbers(seeds: set[int]) -> str:
    """Such as "0–4", or "0, 2, 5"."""
    ordered = sorted(seeds)
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]}–{ordered[-1]}"
    return ", ".join(map(str, ordered)) or "none"
