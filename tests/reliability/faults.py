"""The programs of code/ as forked children, which have nothing to import, and faults that befall them.

A fault strikes at a file operation of a given number: the creation, opening for writing, or renaming of a file or
folder in the current folder. An audit hook counts them. What is written is not seen by the hook, but the kernel takes
its part: a limit on the size of files refuses a write in its middle, or ends the process there.
"""

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported: a fork of a process with OpenMP's threads would hang
HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
sys.path[:0] = [str(TESTS.parent / "code"), str(TESTS), str(TESTS / "training"), str(TESTS / "data"), str(HERE)]

import evaluate  # noqa: E402
import export  # noqa: E402
import figures  # noqa: E402
import filelock  # noqa: E402, F401
import mmpareto.analysis.checkpoint_evaluation  # noqa: E402
import mmpareto.analysis.export  # noqa: E402
import mmpareto.analysis.plots.training_curves  # noqa: E402
import mmpareto.analysis.report.run_sheet  # noqa: E402
import mmpareto.analysis.report.writers  # noqa: E402
import mmpareto.analysis.tables.command  # noqa: E402
import mmpareto.data.cremad  # noqa: E402
import mmpareto.data.features  # noqa: E402
import mmpareto.data.preparation.archives  # noqa: E402
import mmpareto.data.synthetic  # noqa: E402
import mmpareto.training.run  # noqa: E402, F401
import numpy as np  # noqa: E402
import prepare  # noqa: E402
import safetensors.torch  # noqa: E402, F401
import sklearn.metrics  # noqa: E402, F401
import tables  # noqa: E402
import tiny_encoder  # noqa: E402, F401
import torch  # noqa: E402
import train  # noqa: E402
from mmpareto import cli  # noqa: E402
from mmpareto.analysis.tables import job  # noqa: E402
from mmpareto.training import run_folder  # noqa: E402
from tiny_runs import untimed  # noqa: E402

MAINS = {module.__name__: module.main for module in (evaluate, export, figures, prepare, tables, train)}
EVENTS = {"open": 0, "os.mkdir": 0, "os.rename": 1}  # audit event → which of its arguments is the path
RUN_FILES = ("config.json", "metrics.jsonl", "summary.json", "last.pt", "best.pt", "gradients.npz")
PATIENCE = 600  # seconds until a program that does not end is killed
context = multiprocessing.get_context("fork")


class Fault(NamedTuple):
    """What befalls a program at a file operation.

    Attributes:
        kind: "kill" ends the program and all that it started; "interrupt" is Ctrl-C at this operation and the next;
            "tear" ends a process in the middle of a write; "full" refuses writes; "closed" refuses the operation, too.
        operation: its number, from 1.
        bytes: that a file may have from then on, for the last three.
    """

    kind: str
    operation: int
    bytes: int = 0


class Ended(NamedTuple):
    """How a program ended: its exit status, or minus a signal; what it printed; and the file operations it made."""

    status: int
    output: str
    operations: int


class Program:
    """A program that runs in `folder`.

    Arguments:
        name: such as "train"; `words` are its command line.
        folder: in which it runs.
        fault: that befalls it, if any.
    """

    def __init__(self, name: str, words: Sequence[object], folder: Path, fault: Fault | None = None) -> None:
        self._pipe, other = os.pipe()
        self._count = context.Value("i", 0)
        arguments = (name, [*map(str, words)], other, folder, self._count, fault)
        self.process = context.Process(target=_run_leading, args=arguments)
        self.process.start()
        os.close(other)

    def kill(self, *, group: bool) -> None:
        """SIGKILL, for the program alone or with all that it started."""
        pid = self.process.pid
        assert pid is not None
        if self.process.is_alive():
            try:
                (os.killpg if group else os.kill)(pid, signal.SIGKILL)
            except ProcessLookupError:  # it does not lead its group yet
                os.kill(pid, signal.SIGKILL)

    def wait(self) -> Ended:
        """Wait until it, and what it started, has ended."""
        parts = []
        deadline = time.monotonic() + PATIENCE
        os.set_blocking(self._pipe, False)
        while True:
            try:
                part = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self.kill(group=True)
                time.sleep(0.005)
                continue
            if not part:
                break
            parts.append(part)
        os.close(self._pipe)
        self.process.join()
        text = b"".join(parts).decode(errors="replace")
        return Ended(self.process.exitcode or 0, text, self._count.value)


class Forked:
    """`subprocess.Popen` for the programs that tables.py starts."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        output = options["stdout"].fileno()
        self.process: ForkProcess = context.Process(target=_run, args=(Path(command[1]).stem, command[2:], output))
        self.process.start()

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus a signal; None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self.process.exitcode

    def wait(self) -> int | None:
        """Wait for the end."""
        self.process.join()
        return self.process.exitcode

    def send_signal(self, signum: int) -> None:
        """Send a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signum)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()


def _run_leading(
    name: str, words: list[str], output: int, folder: Path, count: "Synchronized[int]", fault: Fault | None
) -> None:
    """Run a program as the leader of a session, with a fault."""
    os.setsid()
    os.chdir(folder)
    run_folder.git_commit = lambda: None  # it may change while a check runs
    job.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": Forked})  # type: ignore[assignment]
    inside = str(folder) + os.sep
    if fault is not None and fault.kind == "tear":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, so that a write fails instead

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        path = arguments[EVENTS[event]]
        if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(inside):  # noqa: PTH100
            return
        count.value += 1
        if fault is not None and count.value >= fault.operation:
            _strike(fault, count.value - fault.operation, str(path))

    sys.addaudithook(hook)
    _run(name, words, output)


def _strike(fault: Fault, later: int, path: str) -> None:
    if fault.kind == "interrupt":
        if later < 2:
            os.kill(os.getpid(), signal.SIGINT)
        return
    if fault.kind == "kill":
        os.killpg(0, signal.SIGKILL)
        time.sleep(PATIENCE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (fault.bytes, resource.RLIM_INFINITY))
    if fault.kind == "closed":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _run(name: str, words: Sequence[str], output: int) -> None:
    """Run a program as its file does when it is started."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = [f"{name}.py", *words]
    cli.run(MAINS[name])


# --- what programs leave ---


def contents(folder: Path) -> dict[str, Any]:
    """What the files in a folder hold, by their paths, so that equal means bit-identical.

    Of the files of a run, times are left out, and by whom it was resumed. Logs, locks and TensorBoard's files, which
    tell what happened, are left out whole.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        left_out = path.name.endswith(".lock") or "tfevents" in path.name or path.parent.name == "logs"
        if path.is_file() and not left_out:
            found[str(path.relative_to(folder))] = _content(path)
    return found


def _content(path: Path) -> Any:
    if path.name not in RUN_FILES:
        return path.read_bytes()
    if path.suffix == ".pt":
        return _plain(untimed(torch.load(path, weights_only=True)))
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}
    if path.suffix == ".jsonl":
        return [untimed(json.loads(line)) for line in path.read_text().splitlines()]
    given = untimed(json.loads(path.read_text()))
    return {name: value for name, value in given.items() if name != "resumed"}


def _plain(value: Any) -> Any:
    """The value with tensors as bytes."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def differences(folder: Path, wanted: dict[str, Any]) -> list[str]:
    """Paths that are absent, unexpected, or hold something else than wanted."""
    found = contents(folder)
    return sorted(path for path in {*found, *wanted} if path not in found or found[path] != wanted.get(path))


def leftovers(folder: Path, wanted: Mapping[str, Any]) -> list[str]:
    """Temporary files: hidden ones that are not wanted."""
    hidden = [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".lock"]
    return [path for path in hidden if path not in wanted]


def fresh(folder: Path, origin: Path) -> Path:
    """A new copy of a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(origin, folder))
