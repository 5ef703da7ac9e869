"""The folder under which a grid's runs are: which of them is a cell's run, its state, and its lock.

A run is recognised by its identity, whatever its folder is called. The grid calls its own folders as `run_name` does,
and resumes unfinished runs only in these; their logs and locks are in runs/tables/logs.
"""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from mmpareto.analysis.finished_run import FinishedRun, Identity, identity
from mmpareto.analysis.tables.cells import Cell, run_name
from mmpareto.analysis.tables.stand_in import how_to_prepare
from mmpareto.errors import InputError
from mmpareto.files import acquire_lock
from mmpareto.training.run_folder import BEST, CONFIG, GRADIENTS, LAST, METRICS, SUMMARY
from mmpareto.training.settings import to_config

FINISHED, RESUME, RUN, IMPOSSIBLE, LOCKED = "finished", "to resume", "to run", "impossible", "running"
BY_ANOTHER = "being run by another process"
COMMAND_MARK = "$ "  # precedes each command line in a log
_ERROR = re.compile(r"^(?:[\w.]+: )?error: (.+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """State of a cell's run.

    Attributes:
        state: one of the five above.
        name: of its lock and its log, and of its folder if the grid creates it.
        folder: of the run, which may not exist yet; None if the run is impossible.
        reason: why there is no result; None if there is one.
        log: output of the training, if the grid started it.
    """

    state: str
    name: str
    folder: Path | None
    reason: str | None
    log: Path | None = None


class RunsFolder:
    """The runs in a folder, as they were when this object was created or last called `read`.

    Attributes:
        runs: all readable runs, finished or not, each with its identity.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "tables" / "logs"
        self._fingerprints: dict[str, str | None] = {}
        self.read()

    def read(self) -> None:
        """Read the folder again. Runs that are damaged or of another version of the code are left out."""
        self.runs: list[tuple[FinishedRun, Identity]] = []
        for path in sorted(self.folder.glob(f"*/{CONFIG}")):
            run = FinishedRun(path.parent)
            try:
                self.runs.append((run, run.identity))
            except InputError:
                continue

    def fingerprint(self, data: str) -> str | None:
        """Fingerprint of prepared data; if they are gone, that of all runs on them; None if it cannot be told."""
        if data not in self._fingerprints:
            from mmpareto.data.loading.layout import fingerprint  # imports torch

            if _is_prepared(data):
                self._fingerprints[data] = fingerprint(Path(data))
            else:
                recorded = {run.fingerprint for run, _ in self.runs if run.config["data"].get("folder") == data}
                self._fingerprints[data] = recorded.pop() if len(recorded) == 1 else None
        return self._fingerprints[data]

    def status(self, cell: Cell) -> RunStatus:
        """State of the cell's run."""
        status = self.unlocked_status(cell)
        if status.state in (FINISHED, IMPOSSIBLE) or not self.is_locked(status.name):
            return status
        return dataclasses.replace(status, state=LOCKED, reason=BY_ANOTHER)

    def unlocked_status(self, cell: Cell) -> RunStatus:
        """State of the cell's run, regardless of whether another process is running it."""
        data = cell.settings.data
        unprepared = f"{data} does not exist; prepare it with `{how_to_prepare(cell.settings.dataset, data)}`"
        fingerprint = self.fingerprint(data)
        if fingerprint is None:
            return RunStatus(IMPOSSIBLE, cell.label, None, unprepared)
        wanted = identity(to_config(cell.settings), fingerprint)
        name = self._free_name(run_name(wanted), wanted)
        folder = self.folder / name
        log = self.log_of(name) if self.log_of(name).is_file() else None
        same = [run for run, known in self.runs if known == wanted]
        finished = [run.folder for run in same if run.is_finished]
        if finished:
            return RunStatus(FINISHED, name, folder if folder in finished else finished[0], None, log)
        if not _is_prepared(data):
            return RunStatus(IMPOSSIBLE, name, None, unprepared, log)
        reason = _failure(log) or _progress(folder)
        foreign = [run.folder for run in same if run.folder != folder]
        if foreign and not (folder / CONFIG).exists() and not _failure(log):
            reason = f"unfinished in {foreign[0]}, which this command did not start: {_progress(foreign[0])}"
        return RunStatus(RESUME if (folder / LAST).is_file() else RUN, name, folder, reason, log)

    def log_of(self, name: str) -> Path:
        """Path of a run's log."""
        return self.logs / f"{name}.txt"

    def lock(self, name: str) -> int | None:
        """Lock a run; see `acquire_lock`. None if another process holds the lock."""
        path = self.logs / f"{name}.lock"
        try:
            return acquire_lock(path, wait=False)
        except OSError as error:
            raise InputError(f"cannot lock {path} ({error.strerror}); give another --runs.") from error

    def is_locked(self, name: str) -> bool:
        """Return whether another process is running the run."""
        if not (self.logs / f"{name}.lock").exists():
            return False
        descriptor = self.lock(name)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None

    def _free_name(self, name: str, wanted: Identity) -> str:
        """`name`, or with -2, -3 … appended if its folder has something that the grid may neither use nor remove."""
        number, free = 1, name
        while self._is_taken(free, wanted):
            number += 1
            free = f"{name}-{number}"
        return free

    def _is_taken(self, name: str, wanted: Identity) -> bool:
        folder = self.folder / name
        for run, known in self.runs:
            if run.folder == folder and (run.is_finished or known != wanted):
                return known != wanted  # someone has resumed it with other settings
        started_here = self.log_of(name).is_file() and not (folder / SUMMARY).exists()
        return (folder / CONFIG).exists() and not (folder / LAST).is_file() and not started_here


def clear(folder: Path) -> None:
    """Remove what a training left that ended before its first checkpoint, and nothing that train.py did not write."""
    if (folder / LAST).exists() or (folder / SUMMARY).exists():
        raise ValueError(f"{folder} has a run that can be resumed")
    for path in [folder / name for name in (CONFIG, METRICS, GRADIENTS, BEST)] + [*folder.glob("events.out.tfevents*")]:
        path.unlink(missing_ok=True)


def last_error(log: str) -> str | None:
    """The error message with which the last command in a log ended, if any."""
    errors = _ERROR.findall(f"\n{log}".rpartition(f"\n{COMMAND_MARK}")[2])
    return errors[-1] if errors else None


def history_of(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run's finished epochs; empty if they are absent or damaged."""
    try:
        return FinishedRun(folder).history
    except InputError:
        return []


def _is_prepared(data: str) -> bool:
    return (Path(data) / "stat.csv").is_file()


def _failure(log: Path | None) -> str | None:
    error = last_error(log.read_text(encoding="utf-8", errors="replace")) if log else None
    return f"failed: {error}" if error else None


def _progress(folder: Path) -> str:
    return f"interrupted in epoch {len(history_of(folder)) + 1}" if (folder / CONFIG).exists() else "not run"
