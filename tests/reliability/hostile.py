"""Read many hostile and broken files, each in a child process, with bounds of time and memory.

    python tests/reliability/hostile.py --inputs 10000

An input is a function of its kind and its number: `--kind pickle --number 12` reads one again. Every other number is
one of the files made by hand (`kinds`), as long as there are any; the others are damaged ones (`damage`). The numbers
in kept.txt once failed, and are always read.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported: a fork of a process with OpenMP's threads would hang
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "code"), str(HERE.parent), str(HERE)]

from damage import damaged  # noqa: E402
from kinds import KINDS  # noqa: E402
from mmpareto.errors import InputError  # noqa: E402

SECONDS = 20  # of processor time
SOUND = -1  # number of a file without damage
PATIENCE = 120  # seconds until a process that does not answer is ended
MEGABYTES = 1024  # above what the process has before it reads the file
ADDRESSES = 4096  # megabytes of address space above that, so that a failure does not bring down the machine
LONGEST = 1000  # characters of a message
CALLS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "pty.spawn")
BESIDE = "beside"  # folder of what lies beside the files
OUTSIDE = Path("/tmp/reliability_x")  # where some archives would write
context = multiprocessing.get_context("fork")  # of a process that has imported everything, and used nothing of it


class Outcome(NamedTuple):
    """What came of an input: "result", "error" (a clean one), or a failure."""

    kind: str
    number: int
    verdict: str
    seconds: float
    megabytes: float
    text: str = ""


def content_of(kind: str, number: int, examples: Path) -> bytes:
    """The file of a number."""
    hostile = KINDS[kind].hostile
    if number == SOUND:
        return min((examples / kind).iterdir()).read_bytes()
    if number % 2 and number // 2 < len(hostile):
        return hostile[number // 2]
    files = [path.read_bytes() for path in sorted((examples / kind).iterdir())]
    draw, alter = random.Random(f"{kind} {number}"), KINDS[kind].alter
    if alter is not None and draw.random() < 0.75:
        return alter(draw, draw.choice(files))
    return damaged(draw, files)


# --- the process that reads ---


def serve(pipe: Connection, examples: Path, scratch: Path) -> None:
    """Read the inputs whose kinds and numbers arrive, until the other end closes."""
    executed: list[str] = []
    sys.addaudithook(lambda event, _: executed.append(event) if event in CALLS else None)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    (scratch / "cwd").mkdir(parents=True, exist_ok=True)
    os.chdir(scratch / "cwd")
    limit = _status("VmSize") + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (int(limit) << 20, int(limit) << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError):
        while True:
            kind, number = pipe.recv()
            executed.clear()
            outcome = read(kind, number, examples, scratch)
            others = (path for path in scratch.iterdir() if path.name not in ("cwd", "input"))
            outside = [*(scratch / "cwd").iterdir(), *others]
            if executed or outside or OUTSIDE.exists():
                outcome = outcome._replace(verdict="failure", text=f"it ran {executed}, or wrote {outside}")
                for path in (*outside, OUTSIDE):
                    path.unlink(missing_ok=True)
            pipe.send(outcome)


def read(kind: str, number: int, examples: Path, scratch: Path) -> Outcome:
    """Read an input with all readers of its kind."""
    content = content_of(kind, number, examples)
    verdict, text, seconds, megabytes = "error", "", 0.0, 0.0
    for reader in KINDS[kind].readers:
        shutil.rmtree(scratch / "input", ignore_errors=True)
        path = scratch / "input" / KINDS[kind].name
        if KINDS[kind].beside is not None:
            shutil.copytree(examples / BESIDE / kind, scratch / "input")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, started = _status("VmRSS"), time.process_time()
        try:
            reader(path)
            verdict = "result"
        except InputError as error:
            text = str(error)
            if path.name not in text and str(path.parent) not in text:
                return Outcome(kind, number, "failure", 0, 0, f"its message does not name the file: {text[:200]}")
            if len(text) > LONGEST or "\n" in text:
                return Outcome(kind, number, "failure", 0, 0, f"its message has {len(text)} characters")
        except Exception as error:
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else ""
            text = f"{type(error).__name__} in {place}: {str(error)[:200]}"
            return Outcome(kind, number, "failure", 0, 0, text)
        seconds = max(seconds, time.process_time() - started)
        megabytes = max(megabytes, _status("VmHWM") - before)
    if megabytes > MEGABYTES:
        verdict, text = "failure", f"it takes {megabytes:.0f} MB"
    if number == SOUND and verdict != "result":
        verdict, text = "failure", f"it is sound, and refused: {text}"
    if seconds > SECONDS:
        verdict, text = "failure", f"it takes {seconds:.0f} s"
    return Outcome(kind, number, verdict, seconds, megabytes, text)


def _status(entry: str) -> float:
    """An entry of /proc/self/status, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{entry}:"))


# --- the process that watches it ---


def watched(inputs: Sequence[tuple[str, int]], examples: Path, scratch: Path) -> Iterator[Outcome]:
    """Yield the outcomes of inputs; a reader that crashes or hangs is replaced."""
    process = pipe = None
    for kind, number in inputs:
        if process is None or pipe is None:
            pipe, other = context.Pipe()
            process = context.Process(target=serve, args=(other, examples, scratch), daemon=True)
            process.start()
            other.close()
        try:
            pipe.send((kind, number))
            if pipe.poll(PATIENCE):
                yield pipe.recv()
                continue
            text = f"it hangs: no answer within {PATIENCE} s"
        except (EOFError, OSError):
            process.join()
            text = f"it ends the process with status {process.exitcode}"
        process.kill()
        process.join()
        process = None
        yield Outcome(kind, number, "failure", 0, 0, text)
    if process is not None and pipe is not None:
        pipe.close()
        process.kill()
        process.join()


def main(argv: list[str] | None = None) -> int:
    """Read the inputs and print a table; return 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=500, help="about how many (default: %(default)s)")
    parser.add_argument("--kind", nargs="+", choices=[*KINDS], help="these kinds only")
    parser.add_argument("--number", type=int, help="of --kind, this input only")
    parser.add_argument("--first", type=int, default=0, help="first number of each kind (default: %(default)s)")
    given = parser.parse_args(argv)
    kinds = given.kind or [*KINDS]
    kept = [line.split("\t") for line in (HERE / "kept.txt").read_text().splitlines() if line and line[0] != "#"]
    inputs = []
    for kind in kinds:
        count = max(given.inputs // len(kinds) // (1 if given.kind else KINDS[kind].slowness), 1)
        numbers = range(given.first, given.first + count)
        others = [int(number) for name, number in kept if name == kind and int(number) not in numbers]
        inputs += [(kind, number) for number in (SOUND, *numbers, *others)]
    if given.number is not None:
        inputs = [(kind, given.number) for kind in kinds]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        maker = context.Process(target=_write_examples, args=(scratch / "examples", kinds))
        maker.start()
        maker.join()
        if maker.exitcode:
            return 1
        outcomes, failures = [], []
        for outcome in watched(inputs, scratch / "examples", scratch / "reader"):
            outcomes.append(outcome)
            if outcome.verdict == "failure":
                failures.append(outcome)
                print(f"--kind '{outcome.kind}' --number {outcome.number}: {outcome.text}", flush=True)
    _print_table(outcomes)
    if given.number is not None and not failures:
        print(outcomes[0].text or "it was read")
    print(f"{len(outcomes)} inputs, {len(failures)} failures, {time.monotonic() - started:.0f} s")
    return 1 if failures else 0


def _write_examples(target: Path, kinds: Sequence[str]) -> None:
    for kind in kinds:
        (target / kind).mkdir(parents=True)
        KINDS[kind].examples(target / kind)
        if (beside := KINDS[kind].beside) is not None:
            beside(target / BESIDE / kind)


def _print_table(outcomes: Sequence[Outcome]) -> None:
    print(f"{'kind':16}{'inputs':>8}{'read':>8}{'refused':>8}{'failed':>8}{'most s':>8}{'most MB':>9}")
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.kind == kind]
        counts = [sum(outcome.verdict == verdict for outcome in own) for verdict in ("result", "error", "failure")]
        slowest, largest = max(outcome.seconds for outcome in own), max(outcome.megabytes for outcome in own)
        print(f"{kind:16}{len(own):8}" + "".join(f"{count:8}" for count in counts) + f"{slowest:8.1f}{largest:9.0f}")


if __name__ == "__main__":
    sys.exit(main())
