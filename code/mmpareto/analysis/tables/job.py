"""One run of the grid: train.py, then evaluate.py for each checkpoint, as one process after the other."""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.tables.cells import Cell
from mmpareto.analysis.tables.runs_folder import COMMAND_MARK, FINISHED, RESUME, RunStatus, clear, last_error
from mmpareto.training.run_folder import BEST, LAST

CODE = Path(__file__).resolve().parents[3]
Process = subprocess.Popen[bytes]


@dataclasses.dataclass(frozen=True)
class Programs:
    """The commands that a job runs, without their arguments."""

    train: tuple[str, ...] = (sys.executable, str(CODE / "train.py"))
    evaluate: tuple[str, ...] = (sys.executable, str(CODE / "evaluate.py"))


class Job:
    """A run while its processes run; creating the job starts the first of them.

    Arguments:
        status: of the run, which is trained, resumed, or only evaluated.
        lock: descriptor of the run's lock, which the processes inherit: if this process is killed, the run stays locked
            until they end.
        slot: value of --gpu_ids.
        log: file for the output of the processes.
        threads: per process, unless OMP_NUM_THREADS is set.

    Attributes:
        is_training: whether `process` is train.py; otherwise it is evaluate.py.
    """

    def __init__(
        self, cell: Cell, status: RunStatus, lock: int, slot: str, log: Path, threads: int, programs: Programs
    ) -> None:
        assert status.folder is not None
        self.cell, self.status, self.folder, self.slot, self.log = cell, status, status.folder, slot, log
        self._lock, self._threads, self._programs = lock, threads, programs
        self._start_time = time.monotonic()
        self._evaluated: list[Path] = []
        self.is_training = status.state != FINISHED
        self.process = self._train() if self.is_training else self._evaluate()

    @property
    def seconds(self) -> float:
        """Seconds since the job started."""
        return time.monotonic() - self._start_time

    @property
    def is_finished(self) -> bool:
        """True if the training is finished."""
        return FinishedRun(self.folder).is_finished

    def start_next(self) -> bool:
        """Start the next evaluation; return whether there was one."""
        if not self._remaining():
            return False
        self.is_training = False
        self.process = self._evaluate()
        return True

    def close(self) -> None:
        """Unlock the run."""
        os.close(self._lock)

    def log_cause(self) -> None:
        """Append to the log why training failed, unless it printed an error itself."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        if last_error(text):
            return
        status, lines = self.process.returncode, text.rpartition(COMMAND_MARK)[2].splitlines()[1:]
        if status < 0:
            names = {s.value: s.name for s in signal.Signals}
            cause = f"killed by {names.get(-status, f'signal {-status}')}"
            cause += ", perhaps because memory ran out" if -status == signal.SIGKILL else ""
        else:
            cause = f"exit status {status}: {lines[-1] if lines else 'no output'}"
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\nerror: {cause}\n")

    def _train(self) -> Process:
        data, words = self.cell.settings.data, self.cell.words
        where = ["--gpu_ids", self.slot]
        if self.slot != "cpu" and "--workers" not in words:
            where += ["--workers", str(min(self._threads, 16))]  # train.py's default is for a machine of its own
        if self.status.state == RESUME:
            return self._start((*self._programs.train, "--resume", str(self.folder), "--data", data, *where), "ab")
        clear(self.folder)
        return self._start((*self._programs.train, *words, "--ckpt_path", str(self.folder), *where), "wb")

    def _evaluate(self) -> Process:
        checkpoint = self._remaining()[0]
        self._evaluated.append(checkpoint)
        where = ("--gpu_ids", self.slot, "--data", self.cell.settings.data)
        return self._start((*self._programs.evaluate, str(checkpoint), *where), "ab")

    def _remaining(self) -> list[Path]:
        return [path for path in to_evaluate(self.folder) if path not in self._evaluated]

    def _start(self, command: tuple[str, ...], log_mode: str) -> Process:
        """Start a process, in a process group of its own so that it gets Ctrl-C only once, from the grid."""
        with self.log.open(log_mode) as log:
            log.write(f"{COMMAND_MARK}{shlex.join(command)}\n".encode())
            log.flush()
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": str(self._threads)} | os.environ,
                pass_fds=[self._lock],
                process_group=0,
            )


def to_evaluate(folder: Path) -> list[Path]:
    """The checkpoints of a finished run that have not been evaluated clip by clip."""
    run = FinishedRun(folder)
    tables = {BEST: run.clip_table(run.protocol), LAST: run.clip_table("last")}
    return [
        folder / name
        for name, table in tables.items()
        if table is not None and (folder / name).is_file() and not table.is_file()
    ]
