"""The grid: trains the runs that a table's cells lack, as many at a time as there are slots."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.tables.cells import Cell, Outcome
from mmpareto.analysis.tables.job import Job, Programs, to_evaluate
from mmpareto.analysis.tables.runs_folder import FINISHED, IMPOSSIBLE, RESUME, RunsFolder, RunStatus
from mmpareto.data.workers import available_cores
from mmpareto.errors import InputError
from mmpareto.training.stop import StopSignals

POLL_SECONDS = 0.05
GRACE_SECONDS = 10.0  # before processes are killed after a second signal


def find_runs(cells: Sequence[Cell], runs: Path) -> list[Outcome]:
    """The cells' outcomes as they are now; nothing is run."""
    return _outcomes(RunsFolder(runs), cells)


def run_grid(
    cells: Sequence[Cell],
    runs: Path,
    slots: Sequence[str],
    protocol: str = "validation",
    *,
    signals: StopSignals | None = None,
    programs: Programs | None = None,
    report: Callable[[str], None] = print,
) -> list[Outcome]:
    """Train what is missing, resume what was interrupted, evaluate what is trained; return one outcome per cell.

    Cells of the same identity share a run. A run that another process is running is skipped and tried again at the
    end. The failure of a run is its cells' reason, and the other runs continue. SIGINT and SIGTERM are passed on to the
    running processes, which save their state and are waited for; no other run is started.

    Arguments:
        runs: the folder of the runs; is created.
        slots: one value of --gpu_ids for each process that may run at a time: "0", "1", … or "cpu".
        protocol: of the accuracy that is reported when a run ends, for rows without a protocol of their own.
        signals: entered by the caller, who can tell from it whether the grid was stopped.
        programs: instead of train.py and evaluate.py.
        report: called with one line when a run starts and when it ends.
    """
    folder = RunsFolder(runs)
    grid = _Grid(folder, list(slots), protocol, signals or StopSignals(), programs or Programs(), report)
    grid.run(cells)
    folder.read()
    return _outcomes(folder, cells)


def is_incomplete(outcomes: Sequence[Outcome]) -> bool:
    """Return whether a finished run has not been evaluated clip by clip, because evaluate.py failed."""
    return any(to_evaluate(outcome.folder) for outcome in outcomes if outcome.folder is not None)


class _Grid:
    """State of a running grid."""

    def __init__(
        self,
        folder: RunsFolder,
        slots: list[str],
        protocol: str,
        signals: StopSignals,
        programs: Programs,
        report: Callable[[str], None],
    ) -> None:
        self.folder, self.slots, self.protocol, self.signals = folder, slots, protocol, signals
        self.programs, self.report = programs, report
        self.threads = max(1, available_cores() // len(slots))
        self.jobs: list[Job] = []
        self.numbers: dict[str, str] = {}  # name of a run → "[3/20]"

    def run(self, cells: Sequence[Cell]) -> None:
        """Return when nothing is left to do, or after a signal."""
        queue = self._queue(cells)
        with self._no_orphans():
            for is_retry in (False, True):
                locked: list[Cell] = []
                while (queue or self.jobs) and not self.signals.signum:
                    while queue and len(self.jobs) < len(self.slots):
                        cell = queue.pop(0)
                        if not self._start(cell):
                            locked.append(cell)
                    self._poll()
                queue = [] if is_retry else locked
            if self.signals.signum:
                self._pass_on(self.signals.signum)

    def _queue(self, cells: Sequence[Cell]) -> list[Cell]:
        """One cell for each run that is possible and incomplete; numbers these runs."""
        first: dict[str, Cell] = {}
        for cell in cells:
            status = self.folder.unlocked_status(cell)
            if status.state != IMPOSSIBLE and _has_work(status):
                first.setdefault(status.name, cell)
        self.numbers = {name: f"[{number}/{len(first)}]" for number, name in enumerate(first, start=1)}
        return list(first.values())

    def _start(self, cell: Cell) -> bool:
        """Start the cell's run, unless it has been completed meanwhile; return False if another process runs it."""
        lock = self.folder.lock(self.folder.unlocked_status(cell).name)
        if lock is None:
            return False
        try:
            self.folder.read()  # another process may have worked on the run until just now
            status = self.folder.unlocked_status(cell)
            if not _has_work(status):
                os.close(lock)
                return True
            busy = [job.slot for job in self.jobs]
            slot = next(slot for slot in self.slots if self.slots.count(slot) > busy.count(slot))
            job = Job(cell, status, lock, slot, self.folder.log_of(status.name), self.threads, self.programs)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(lock)
            raise
        self.jobs.append(job)
        action = {FINISHED: "evaluates", RESUME: "resumes"}.get(status.state, "starts in")
        self._report(job, f"{action} {status.folder}")
        return True

    def _report(self, job: Job, text: str) -> None:
        self.report(f"{self.numbers.get(job.status.name, '')} {job.cell.label}: {text}".lstrip())

    def _poll(self) -> None:
        """Wait a moment, then let each job whose process has ended start its next one, or close the job."""
        time.sleep(POLL_SECONDS)
        for job in list(self.jobs):
            if job.process.poll() is None:
                continue
            if not (self._succeeded(job) and not self.signals.signum and job.start_next()):
                self.jobs.remove(job)
                job.close()

    def _succeeded(self, job: Job) -> bool:
        """Report how a job's process ended; return whether the job can continue."""
        exit_status = job.process.returncode
        if not job.is_training:
            if exit_status and not self.signals.signum:
                self._report(job, f"evaluate.py failed, see {job.log}")
            return not exit_status
        if job.is_finished:
            self._report(
                job, f"{_accuracy_text(job.folder, job.cell.row.protocol or self.protocol)} after {job.seconds:.0f} s"
            )
            return True
        if not self.signals.signum and exit_status not in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            job.log_cause()
        self.folder.read()
        reason = self.folder.unlocked_status(job.cell).reason
        self._report(job, f"{reason} after {job.seconds:.0f} s, see {job.log}")
        return False

    def _pass_on(self, signum: int) -> None:
        """Send the signal to the running processes and wait until they have saved their state."""
        if self.jobs:
            self.report(f"{signal.Signals(signum).name}: waiting for {len(self.jobs)} to save their state")
        for job in self.jobs:
            job.process.send_signal(signum)
        while self.jobs:
            self._poll()

    @contextlib.contextmanager
    def _no_orphans(self) -> Iterator[None]:
        """End all processes if anything is raised inside, for example because of a second signal."""
        try:
            yield
        except BaseException:
            for job in self.jobs:
                job.process.terminate()
            deadline = time.monotonic() + GRACE_SECONDS
            while any(job.process.poll() is None for job in self.jobs) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            for job in self.jobs:
                job.process.kill()
                job.process.wait()
            raise


def _accuracy_text(folder: Path, protocol: str) -> str:
    try:
        return f"{100 * FinishedRun(folder).accuracies(protocol)['acc']:.2f}%"
    except InputError:
        return f"no accuracy by protocol {protocol}"


def _outcomes(folder: RunsFolder, cells: Sequence[Cell]) -> list[Outcome]:
    statuses = [(cell, folder.status(cell)) for cell in cells]
    return [Outcome(c, s.folder if s.state == FINISHED else None, s.reason, s.log) for c, s in statuses]


def _has_work(status: RunStatus) -> bool:
    return status.state != FINISHED or (status.folder is not None and bool(to_evaluate(status.folder)))
