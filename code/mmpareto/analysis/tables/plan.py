"""What a table would run, and how long that would take: `--dry-run`."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpareto.analysis.tables.cells import Cell, Identity, identity
from mmpareto.analysis.tables.folders import HELD, IMPOSSIBLE, RESUME, RUN, THERE, Place, RunsFolder
from mmpareto.analysis.tables.grid import placed
from mmpareto.training.run_folder import METRICS

# A step's seconds, in those of `uniform`: the README's table. G-Blending's measuring trains a copy on each loss alone,
# so that a run is about three trainings' work with any number of modalities: itself, the joint loss, all the others.
RATIOS = {
    "uniform": 1.00,
    "joint": 0.97,
    "pareto": 1.66,
    "mmpareto": 1.64,
    "dgl": 0.96,
    "ogm": 0.96,
    "ogm_ge": 1.08,
    "gblending": 3.00,
    "greedy": 1.02,
    "pmr": 2.29,
    "agm": 1.88,
    "unimodal": 0.59,
    "pretrain_finetune": 0.96,
    "gradnorm": 1.71,
    "pcgrad": 1.60,
    "metabalance": 1.67,
}
# What of a run's identity says nothing of an epoch's seconds, or is known to change them by a ratio.
_METHOD = ("method", "variant", "options")
_OF_THE_LENGTH = ("random_seed", "epochs", "protocol", "val_fraction", "fingerprint")
_OF_THE_STEP = ("learning_rate", "momentum", "weight_decay", "scheduler", "lr_decay_step", "lr_decay_ratio", "recipe")


class Estimates:
    """Seconds that runs take here, by those that are in the folder."""

    def __init__(self, there: RunsFolder) -> None:
        self._measured = [(run.identity, seconds) for run in there.recorded if (seconds := _epoch(run.folder))]

    def seconds(self, cell: Cell) -> float | None:
        """Of the whole training; None where no run here is like it."""
        wanted = identity(cell.settings, "")
        like = [(own, taken) for own, taken in self._measured if _conditions(own) == _conditions(wanted)]
        same = [taken for own, taken in like if all(own[key] == wanted[key] for key in _METHOD)]
        others = [
            taken * RATIOS[wanted["method"]] / RATIOS[own["method"]]
            for own, taken in like
            if own["method"] in RATIOS and wanted["method"] in RATIOS
        ]
        found = same or others
        return statistics.median(found) * cell.settings.epochs if found else None


def plan_text(cells: Sequence[Cell], runs: Path, slots: int, to_make: Sequence[str] = ()) -> str:
    """A line a run: what would be done, and for how long; and the time for all, by so many at once.

    Times are those of training epochs alone, without start-up and evaluation.

    Arguments:
        to_make: stand-ins that would be made first, and whose runs are therefore to be run.
    """
    there = RunsFolder(runs)
    estimates = Estimates(there)
    lines, left, unknown, seen = [], 0.0, 0, set()
    counts = dict.fromkeys((THERE, RESUME, RUN, HELD, IMPOSSIBLE), 0)
    for cell in cells:
        made = cell.settings.data in to_make
        place = Place(RUN, cell.label, None, "its data are made first") if made else placed(there, cell)
        if not made and place.state != IMPOSSIBLE and place.name in seen:
            lines.append(f"{'shared':14} {cell.label}: the run of another cell")
            continue
        seen.add(place.name)
        counts[place.state] += 1
        seconds = _left(estimates.seconds(cell), cell, place) if place.state in (RUN, RESUME) else None
        if place.state in (RUN, RESUME):
            left, unknown = left + (seconds or 0.0), unknown + (seconds is None)
        lines.append(_line(cell, place, seconds))
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    total = f"about {duration(left / slots)} of training epochs in {slots} slot{'s' * (slots > 1)}"
    if unknown:
        total = f"{total}, and {unknown} of unknown length" if left else "time unknown: no run here is like these"
    return "\n".join([*lines, told + (f"; {total}" if counts[RUN] + counts[RESUME] else "")])


def duration(seconds: float) -> str:
    """For people: "40 s", "12 min", "3.5 h", "2.1 days"."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def _line(cell: Cell, place: Place, seconds: float | None) -> str:
    line = f"{place.state:14} {cell.label}"
    if place.state == THERE:
        return f"{line}: {place.folder}"
    if place.state in (RUN, RESUME):
        line += f" ({duration(seconds)})" if seconds is not None else " (time unknown)"
    return line if place.reason in (None, "not run") else f"{line}: {place.reason}"


def _left(seconds: float | None, cell: Cell, place: Place) -> float | None:
    """What is left of it."""
    if seconds is None or place.state != RESUME or place.folder is None:
        return seconds
    return seconds * (1 - min(len(_lines(place.folder)) / cell.settings.epochs, 1))


def _conditions(found: Identity) -> dict[str, Any]:
    apart = (*_METHOD, *_OF_THE_LENGTH, *_OF_THE_STEP)
    return {key: value for key, value in found.items() if key not in apart}


def _epoch(folder: Path) -> float | None:
    """Seconds of an epoch of a run, the median; None where it has not ended one."""
    seconds = [line["seconds"] for line in _lines(folder) if "seconds" in line]
    return statistics.median(seconds) if seconds else None


def _lines(folder: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
