"""One run of the grid on its way: train.py, then evaluate.py on what it left, as processes one after the other."""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from mmpareto.analysis.tables import folders
from mmpareto.analysis.tables.cells import Cell
from mmpareto.analysis.tables.folders import HEADER, RESUME, THERE, Place
from mmpareto.training.run_folder import BEST, LAST

CODE = Path(__file__).resolve().parents[3]
PER_CLIP = "per_clip.csv"


@dataclasses.dataclass(frozen=True)
class Programs:
    """What is started: the first words of a command line."""

    train: tuple[str, ...] = (sys.executable, str(CODE / "train.py"))
    evaluate: tuple[str, ...] = (sys.executable, str(CODE / "evaluate.py"))


class Job:
    """A run on its way.

    Arguments:
        place: of the run; its training begins, goes on, or is there already.
        lock: file descriptor of the run's lock, which the processes inherit: if this one is killed, what it started is
            still known to be at the run.
        slot: for --gpu_ids.
        log: where the processes' output goes.
        threads: of a process, unless OMP_NUM_THREADS says otherwise.

    Attributes:
        training: whether train.py runs; if not, evaluate.py does.
    """

    def __init__(
        self, cell: Cell, place: Place, lock: int, slot: str, log: Path, threads: int, programs: Programs
    ) -> None:
        assert place.folder is not None
        self.cell, self.place, self.folder, self.slot, self.log = cell, place, place.folder, slot, log
        self._lock, self._threads, self._programs = lock, threads, programs
        self._began = time.monotonic()
        self.training = place.state != THERE
        self._tried: list[Path] = []
        self.process = self._start(self._training_command(), place.state) if self.training else self._evaluate()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    @property
    def finished(self) -> bool:
        """Whether the training has come to its end."""
        run = folders.recorded(self.folder)
        return run is not None and run.finished

    def go_on(self) -> bool:
        """Start the next evaluation; False where there is none."""
        if not set(to_evaluate(self.folder)) - set(self._tried):
            return False
        self.training = False
        self.process = self._evaluate()
        return True

    def close(self) -> None:
        """Let the run go."""
        os.close(self._lock)

    def explain(self) -> None:
        """Write into the log why training ended, where it did not say it itself."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        if folders.last_error(text):
            return
        status, lines = self.process.returncode, text.rpartition(HEADER)[2].splitlines()[1:]
        if status < 0:
            known = {s.value: s.name for s in signal.Signals}
            why = f"killed by {known.get(-status, f'signal {-status}')}"
            why += ", as a system does that has no memory left" if -status == signal.SIGKILL else ""
        else:
            why = f"exit status {status}: {lines[-1] if lines else 'it printed nothing'}"
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\nerror: {why}\n")

    def _training_command(self) -> tuple[str, ...]:
        where = ["--gpu_ids", self.slot]
        if self.slot != "cpu" and "--workers" not in self.cell.words:
            where += ["--workers", str(min(self._threads, 16))]  # train.py's own number is for a machine to itself
        if self.place.state == RESUME:
            what = ["--resume", str(self.folder), "--data", self.cell.settings.data]
        else:
            folders.clear(self.folder)
            what = [*self.cell.words, "--ckpt_path", str(self.folder)]
        return (*self._programs.train, *what, *where)

    def _evaluate(self) -> "subprocess.Popen[bytes]":
        path = next(path for path in to_evaluate(self.folder) if path not in self._tried)
        self._tried.append(path)
        where = ("--gpu_ids", self.slot, "--data", self.cell.settings.data)
        return self._start((*self._programs.evaluate, str(path), *where))

    def _start(self, command: tuple[str, ...], state: str = THERE) -> "subprocess.Popen[bytes]":
        """In a process group of its own, so that Ctrl-C reaches it through this process alone, and once."""
        begins = state not in (THERE, RESUME)
        with self.log.open("wb" if begins else "ab") as log:
            log.write(f"{HEADER}{shlex.join(command)}\n".encode())
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
    """The checkpoints of a finished run whose test clips nobody has listed."""
    listed = {name: folder / f"evaluation-test-{Path(name).stem}" / PER_CLIP for name in (BEST, LAST)}
    return [folder / name for name, table in listed.items() if (folder / name).is_file() and not table.is_file()]
