"""The runs that a table would start, and how long they would take: `--dry_run`."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpareto.analysis.finished_run import Identity, identity
from mmpareto.analysis.tables.cells import Cell
from mmpareto.analysis.tables.runs_folder import (
    FINISHED,
    IMPOSSIBLE,
    LOCKED,
    RESUME,
    RUN,
    RunsFolder,
    RunStatus,
    history_of,
)
from mmpareto.training.settings import to_config

# The part of an identity that an epoch's duration does not depend on.
IRRELEVANT = (
    *("random_seed", "epochs", "protocol", "val_fraction", "fingerprint", "recipe"),
    *("learning_rate", "momentum", "weight_decay", "scheduler", "lr_decay_step", "lr_decay_ratio"),
    *("encoder_learning_rate", "warmup_epochs", "patience"),
)
UNKNOWN = "unknown until a first run is finished"


class Estimates:
    """Duration of runs, estimated from the finished runs in the folder."""

    def __init__(self, folder: RunsFolder) -> None:
        self._measured = [
            (_conditions(known), statistics.median(seconds))
            for run, known in folder.runs
            if run.is_finished
            and (seconds := [line["seconds"] for line in history_of(run.folder) if "seconds" in line])
        ]

    def seconds(self, cell: Cell) -> float | None:
        """Seconds of all training epochs; None if no finished run has the same method, data set and size."""
        wanted = _conditions(identity(to_config(cell.settings), ""))
        same = [seconds for conditions, seconds in self._measured if conditions == wanted]
        return statistics.median(same) * cell.settings.epochs if same else None


def plan_text(cells: Sequence[Cell], runs: Path, slots: int, to_prepare: Sequence[str] = ()) -> str:
    """Text of what would be done for each run, one per line, and the total time with this many slots.

    Times are those of the training epochs, without start-up and evaluation.

    Arguments:
        to_prepare: folders of the stand-in that would be prepared first; all runs on them are still to run.
    """
    folder = RunsFolder(runs)
    estimates = Estimates(folder)
    lines, total, unknown, names = [], 0.0, 0, set()
    counts = dict.fromkeys((FINISHED, RESUME, RUN, LOCKED, IMPOSSIBLE), 0)
    for cell in cells:
        if cell.settings.data in to_prepare:
            status = RunStatus(RUN, cell.label, None, "its data is prepared first")
        else:
            status = folder.status(cell)
            if status.state != IMPOSSIBLE and status.name in names:
                lines.append(f"{'shared':14} {cell.label}: has the run of another cell")
                continue
            names.add(status.name)
        counts[status.state] += 1
        seconds = None
        if status.state in (RUN, RESUME):
            seconds = _remaining(estimates.seconds(cell), cell, status)
            total, unknown = total + (seconds or 0.0), unknown + (seconds is None)
        lines.append(_line(cell, status, seconds))
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    if counts[RUN] + counts[RESUME]:
        summary += f"; {_total_text(total, unknown, slots)}"
    return "\n".join([*lines, summary])


def duration(seconds: float) -> str:
    """A duration such as "40 s", "12 min", "3.5 h" or "2.1 days"."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def _total_text(seconds: float, unknown: int, slots: int) -> str:
    if unknown and not seconds:
        return f"time {UNKNOWN}"
    text = f"about {duration(seconds / slots)} of training epochs in {slots} slot{'s' * (slots > 1)}"
    return f"{text}, and {unknown} of unknown duration" if unknown else text


def _line(cell: Cell, status: RunStatus, seconds: float | None) -> str:
    line = f"{status.state:14} {cell.label}"
    if status.state == FINISHED:
        return f"{line}: {status.folder}"
    if status.state in (RUN, RESUME):
        line += f" ({'time unknown' if seconds is None else duration(seconds)})"
    return line if status.reason in (None, "not run") else f"{line}: {status.reason}"


def _remaining(seconds: float | None, cell: Cell, status: RunStatus) -> float | None:
    """The part of a run's seconds that is left."""
    if seconds is None or status.state != RESUME or status.folder is None:
        return seconds
    return seconds * (1 - min(len(history_of(status.folder)) / cell.settings.epochs, 1))


def _conditions(known: Identity) -> dict[str, Any]:
    return {key: value for key, value in known.items() if key not in IRRELEVANT}
