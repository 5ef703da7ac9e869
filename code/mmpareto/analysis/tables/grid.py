"""Runs what a table's cells lack, so many at a time as there are slots."""

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmpareto.analysis.tables import folders
from mmpareto.analysis.tables.cells import Cell, Outcome
from mmpareto.analysis.tables.folders import HELD, IMPOSSIBLE, RESUME, THERE, Place, RunsFolder
from mmpareto.analysis.tables.jobs import Job, Programs, to_evaluate
from mmpareto.data.workers import available_cores
from mmpareto.training.stop import StopSignals

BY_ANOTHER = "being run by another process"
PATIENCE = 0.05  # seconds between two looks at the running processes
GRACE = 10.0  # seconds to end in, after a second signal


def find_runs(cells: Sequence[Cell], runs: Path) -> list[Outcome]:
    """What there is of the cells; runs nothing."""
    return _outcomes(RunsFolder(runs), cells)


def placed(there: RunsFolder, cell: Cell) -> Place:
    """Where the cell's run is, and whether another process is at it."""
    place = there.place(cell)
    if place.state in (THERE, IMPOSSIBLE) or not there.is_held(place.name):
        return place
    return dataclasses.replace(place, state=HELD, reason=BY_ANOTHER)


def run_grid(
    cells: Sequence[Cell],
    runs: Path,
    slots: Sequence[str],
    protocol: str = "validation",
    *,
    signals: StopSignals | None = None,
    programs: Programs | None = None,
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Run what is missing, resume what was interrupted, evaluate what is trained; an outcome a cell, in their order.

    Cells of one identity share a run. One that another process is at is passed over and looked at again at the end. A
    failure is its cell's reason, and the rest goes on. SIGINT and SIGTERM are sent on to what runs, which saves and is
    waited for; the rest is not begun.

    Arguments:
        runs: the folder of the runs; is made.
        slots: what to give to --gpu_ids, one for each process that may run at a time: "0", "1", … or "cpu".
        protocol: whose accuracy the lines that `say` is told have.
        signals: entered by the caller, who then sees in it whether the grid was stopped.
        programs: in place of train.py and evaluate.py.
        say: is told a line when a run begins, and when it ends.
    """
    there = RunsFolder(runs)
    grid = _Grid(there, list(slots), protocol, signals or StopSignals(), programs or Programs(), say)
    grid.run(cells)
    there.read()
    return _outcomes(there, cells)


def incomplete(outcomes: Sequence[Outcome]) -> bool:
    """Whether a finished run lacks a table of its test clips, as evaluate.py failed."""
    return any(to_evaluate(outcome.folder) for outcome in outcomes if outcome.folder is not None)


class _Grid:
    """The grid at work."""

    def __init__(
        self,
        there: RunsFolder,
        slots: list[str],
        protocol: str,
        signals: StopSignals,
        programs: Programs,
        say: Callable[[str], None],
    ) -> None:
        self.there, self.slots, self.protocol, self.signals = there, slots, protocol, signals
        self.programs, self.say = programs, say
        self.threads = max(1, available_cores() // len(slots))
        self.running: list[Job] = []
        self.number: dict[str, str] = {}  # name of a run → "[3/20]"

    def run(self, cells: Sequence[Cell]) -> None:
        """Until there is nothing left to do, or a signal came."""
        queue = self._to_do(cells)
        with self._none_left_behind():
            for last_look in (False, True):
                held: list[Cell] = []
                while (queue or self.running) and not self.signals.signum:
                    while queue and len(self.running) < len(self.slots):
                        cell = queue.pop(0)
                        if not self._begin(cell):
                            held.append(cell)
                    self._look()
                queue = held if not last_look else []
            if self.signals.signum:
                self._pass_on(self.signals.signum)

    def _to_do(self, cells: Sequence[Cell]) -> list[Cell]:
        """One cell a run, of those where something is to be done and can be; numbers them."""
        first: dict[str, Cell] = {}
        for cell in cells:
            place = self.there.place(cell)
            if place.state != IMPOSSIBLE and _unfinished(place):
                first.setdefault(place.name, cell)
        self.number = {name: f"[{number}/{len(first)}]" for number, name in enumerate(first, start=1)}
        return list(first.values())

    def _begin(self, cell: Cell) -> bool:
        """Begin the cell's run, unless it has been done meanwhile; False where another process is at it."""
        lock = self.there.lock(self.there.place(cell).name)
        if lock is None:
            return False
        try:
            self.there.read()  # another process may have let it go just now
            place = self.there.place(cell)
            if not _unfinished(place):
                os.close(lock)
                return True
            free = next(slot for slot in self.slots if self.slots.count(slot) > self._busy(slot))
            log = self.there.logs / f"{place.name}.txt"
            job = Job(cell, place, lock, free, log, self.threads, self.programs)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(lock)
            raise
        self.running.append(job)
        does = "evaluates" if place.state == THERE else "resumes" if place.state == RESUME else "begins in"
        self._tell(job, f"{does} {place.folder}")
        return True

    def _busy(self, slot: str) -> int:
        return sum(job.slot == slot for job in self.running)

    def _tell(self, job: Job, what: str) -> None:
        self.say(f"{self.number.get(job.place.name, '')} {job.cell.label}: {what}".lstrip())

    def _look(self) -> None:
        """See, after a moment, which processes have ended, and begin what follows."""
        time.sleep(PATIENCE)
        for job in list(self.running):
            if job.process.poll() is not None and not (self._ended(job) and not self.signals.signum and job.go_on()):
                self.running.remove(job)
                job.close()

    def _ended(self, job: Job) -> bool:
        """Say what came of a process; whether the job can go on."""
        status = job.process.returncode
        if not job.training:
            if status and not self.signals.signum:
                self._tell(job, f"evaluate.py failed, see {job.log}")
            return not status
        if job.finished:
            accuracy = folders.accuracy_text(job.folder, self.protocol)
            self._tell(job, f"{accuracy} after {job.seconds:.0f} s")
            return True
        if not self.signals.signum and status not in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            job.explain()
        self.there.read()
        self._tell(job, f"{self.there.place(job.cell).reason} after {job.seconds:.0f} s, see {job.log}")
        return False

    def _pass_on(self, signum: int) -> None:
        """Send the signal on, and wait for what runs: it saves itself."""
        if self.running:
            self.say(f"{signal.Signals(signum).name}: waiting for {len(self.running)} to save themselves")
        for job in self.running:
            job.process.send_signal(signum)
        while self.running:
            self._look()

    @contextlib.contextmanager
    def _none_left_behind(self) -> Iterator[None]:
        """Whatever is raised inside (by a second signal, say), every process is ended."""
        try:
            yield
        except BaseException:
            for job in self.running:
                job.process.terminate()
            until = time.monotonic() + GRACE
            while any(job.process.poll() is None for job in self.running) and time.monotonic() < until:
                time.sleep(PATIENCE)
            for job in self.running:
                job.process.kill()
                job.process.wait()
            raise


def _outcomes(there: RunsFolder, cells: Sequence[Cell]) -> list[Outcome]:
    found = [(cell, placed(there, cell)) for cell in cells]
    return [Outcome(c, p.folder if p.state == THERE else None, p.reason, p.log) for c, p in found]


def _unfinished(place: Place) -> bool:
    return place.state != THERE or (place.folder is not None and bool(to_evaluate(place.folder)))
