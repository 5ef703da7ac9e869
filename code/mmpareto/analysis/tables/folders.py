"""Which folder under runs/ holds a cell's run, how far it is, and who is at it.

A run is recognised by its identity, whatever its folder is called. Folders that the grid makes bear the name that
`run_name` gives, and only of these is an unfinished run taken up; their logs and locks lie in runs/tables/logs.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmpareto.analysis.tables.cells import PROTOCOLS, Cell, Identity, identity, recorded_identity, run_name
from mmpareto.analysis.tables.stand_in import how_to_prepare
from mmpareto.errors import InputError
from mmpareto.training.run_folder import BEST, CONFIG, GRADIENTS, LAST, METRICS, SUMMARY, read_config

THERE, RESUME, RUN, IMPOSSIBLE, HELD = "there already", "to resume", "to run", "impossible", "held"
HEADER = "$ "  # begins the line of a log that shows a command
_ERROR = re.compile(r"^(?:[\w.]+: )?error: (.+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a cell's run is, or will be.

    Attributes:
        state: one of the five above.
        name: of its lock and log; that of its folder where the grid makes it.
        folder: of the run, there or to be made; None where it is impossible.
        reason: why there is no result; None where there is one.
        log: what its training printed, if the grid began it.
    """

    state: str
    name: str
    folder: Path | None
    reason: str | None
    log: Path | None = None


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A run that is in the folder."""

    folder: Path
    identity: Identity
    data: str
    finished: bool


class RunsFolder:
    """The runs in a folder, as they were when this was made or last `read`."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.logs = runs / "tables" / "logs"
        self._fingerprints: dict[str, str | None] = {}
        self.read()

    def read(self) -> None:
        """Look again at what is there."""
        found = (recorded(path.parent) for path in sorted(self.runs.glob(f"*/{CONFIG}")))
        self.recorded = [run for run in found if run is not None]

    def fingerprint(self, data: str) -> str | None:
        """Of prepared data; where they are gone, of the runs on them, if these agree. None where there is none."""
        if data not in self._fingerprints:
            from mmpareto.data.loading.layout import fingerprint  # imports torch

            if (Path(data) / "stat.csv").is_file():
                self._fingerprints[data] = fingerprint(Path(data))
            else:
                there = {run.identity["fingerprint"] for run in self.recorded if run.data == data}
                self._fingerprints[data] = there.pop() if len(there) == 1 else None
        return self._fingerprints[data]

    def place(self, cell: Cell) -> Place:
        """Where the cell's run is, whatever another process may be doing to it."""
        data = cell.settings.data
        fingerprint = self.fingerprint(data)
        if fingerprint is None:
            how = how_to_prepare(cell.settings.dataset, data)
            return Place(IMPOSSIBLE, cell.label, None, f"{data} is not there; prepare it with `{how}`")
        wanted = identity(cell.settings, fingerprint)
        name = self._free(run_name(wanted), wanted)
        own, log = self.runs / name, self.logs / f"{name}.txt"
        log_there = log if log.is_file() else None
        same = [run for run in self.recorded if run.identity == wanted]
        done = [run.folder for run in same if run.finished]
        if done:
            return Place(THERE, name, own if own in done else done[0], None, log_there)
        if not (Path(data) / "stat.csv").is_file():
            how = how_to_prepare(cell.settings.dataset, data)
            return Place(IMPOSSIBLE, name, None, f"{data} is not there; prepare it with `{how}`", log_there)
        foreign = [run.folder for run in same if run.folder != own]
        reason = _how_far(own)
        if foreign and not (own / CONFIG).exists():
            reason = f"unfinished in {foreign[0]}, which this command has not begun: {_how_far(foreign[0])}"
        state = RESUME if (own / LAST).is_file() else RUN
        return Place(state, name, own, _failure(log_there) or reason, log_there)

    def _free(self, name: str, wanted: Identity) -> str:
        """The name, or with -2, -3 … where its folder holds what the grid can neither use nor remove."""
        number, free = 1, name
        while self._taken(free, wanted):
            number += 1
            free = f"{name}-{number}"
        return free

    def _taken(self, name: str, wanted: Identity) -> bool:
        folder = self.runs / name
        run = next((run for run in self.recorded if run.folder == folder), None)
        if run is not None and (run.finished or run.identity != wanted):
            return run.identity != wanted  # one that was resumed by hand, with other settings
        begun_here = (self.logs / f"{name}.txt").is_file() and not (folder / SUMMARY).exists()
        return (folder / CONFIG).exists() and not (folder / LAST).is_file() and not begun_here

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[int | None]:
        """Hold the lock of a run; yields None where another process does, else the lock's file descriptor.

        A process that inherits the descriptor holds it, too: training goes on being locked if this process is killed.
        """
        handle = self.lock(name)
        try:
            yield handle
        finally:
            if handle is not None:
                os.close(handle)

    def lock(self, name: str) -> int | None:
        """Take the lock of a run: its descriptor, for `os.close`; None where another process has it."""
        self.logs.mkdir(parents=True, exist_ok=True)
        # For writing: file systems that are shared between machines refuse an exclusive lock otherwise.
        handle = os.open(self.logs / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            os.close(handle)
            raise InputError(f"cannot lock {self.logs}/{name}.lock ({error.strerror}); give another --runs.") from error
        return handle

    def is_held(self, name: str) -> bool:
        """Whether another process is at the run now."""
        if not (self.logs / f"{name}.lock").exists():
            return False
        with self.held(name) as handle:
            return handle is None


def recorded(folder: Path) -> Recorded | None:
    """The run in a folder; None where its config.json is damaged or of another version."""
    try:
        config = read_config(folder)
        return Recorded(folder, recorded_identity(config), config["data"]["folder"], is_finished(folder, config))
    except (InputError, KeyError, TypeError):
        return None


def is_finished(folder: Path, config: dict[str, Any]) -> bool:
    """Whether the run's summary is that of its last epoch; after --resume --epochs 100 it is not, for a while."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return summary["last"]["epoch"] == config["arguments"]["epochs"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def accuracy_text(folder: Path, protocol: str) -> str:
    """The accuracy of a finished run, for a line of progress."""
    line = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))[PROTOCOLS[protocol]]
    return f"{100 * line['acc']:.2f}%" if line else "no accuracy by this protocol"


def clear(folder: Path) -> None:
    """Remove what a training that never came to its first checkpoint left; nothing that train.py did not write."""
    if (folder / LAST).exists() or (folder / SUMMARY).exists():
        raise ValueError(f"{folder} holds a run that can be resumed")
    for path in [folder / name for name in (CONFIG, METRICS, GRADIENTS, BEST)] + [*folder.glob("events.out.tfevents*")]:
        path.unlink(missing_ok=True)


def last_error(text: str) -> str | None:
    """The error that the last command of a log ended with, as train.py says it."""
    found = _ERROR.findall(f"\n{text}".rpartition(f"\n{HEADER}")[2])
    return found[-1] if found else None


def _failure(log: Path | None) -> str | None:
    error = last_error(log.read_text(encoding="utf-8", errors="replace")) if log else None
    return f"failed: {error}" if error else None


def _how_far(folder: Path) -> str:
    if not (folder / CONFIG).exists():
        return "not run"
    try:
        epochs = len((folder / METRICS).read_text(encoding="utf-8").splitlines())
    except OSError:
        epochs = 0
    return f"interrupted in epoch {epochs + 1}"
