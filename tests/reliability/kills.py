"""Kill training, preparing and tables again and again, resume them each time, and compare with undisturbed ones.

    python tests/reliability/kills.py --kills 60

They are stopped in four ways, drawn at random: by SIGKILL at a random moment, from outside; by SIGKILL at a file
operation of random number, so that temporary files exist; in the middle of a write, where the kernel ends the process
at a random byte of a file (SIGXFSZ, which nothing handles); and by Ctrl-C twice, of which the second one comes while
the first one's checkpoint is written. After each, no file may be half-written but temporary ones. The draws are kept;
where a random moment falls depends on the machine.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from faults import Ended, Fault, Program, contents, differences, fresh, leftovers  # before the others: sets paths

# isort: split
import raw_clips
from prepared_clips import write_prepared
from tiny_runs import SMALL

INTERRUPTED = 128 + signal.SIGINT
SPAN = 4  # a program is killed within the first of so many parts of the time, or of the operations, that it would take
HOW = ("at a moment", "at an operation", "within a write", "by Ctrl-C twice")
SIZE = f"{SMALL} --audio spectrogram --record_gradients 2"
TRAIN = f"{SIZE} --data data/cremad --ckpt_path run --epochs 6 --allow_unused"
OF_TABLE = SIZE.replace("--dataset cremad", "").replace("--gpu_ids cpu", "")
TABLE = f"main --dataset cremad --methods mmpareto:per_tensor --seeds 0 --slots 2 -- {OF_TABLE}"
PREPARE = "cremad --raw raw --out out --workers 1 --allow_missing"


class Disturbed(NamedTuple):
    """A program that is killed.

    Attributes:
        program: its name.
        make: writes what it needs to a folder.
        words: returns its command line in a folder.
        partly: its exit status where a process that it started was killed; 0 if it starts none.
    """

    program: str
    make: Callable[[Path], None]
    words: Callable[[Path, random.Random], list[str]]
    partly: int = 0


def write_data(folder: Path) -> None:
    """Write a prepared set."""
    write_prepared(folder / "data" / "cremad", train=18, test=6, frames=1, size=(18, 24), audio=["spectrogram"])


def write_raw(folder: Path) -> None:
    """Write raw clips."""
    raw_clips.write_clips(folder / "raw", raw_clips.names(actors=4, sentences=("IEO",)))


def train_or_resume(folder: Path, chance: random.Random) -> list[str]:
    """The command that begins a run, or resumes it; while it has saved nothing, one of the two."""
    run = folder / "run"
    saved, begun = (run / "last.pt").exists(), (run / "config.json").exists()
    return ["--resume", "run"] if saved or (begun and chance.random() < 0.5) else TRAIN.split()


DISTURBED = {
    "training": Disturbed("train", write_data, train_or_resume),
    "preparing": Disturbed("prepare", write_raw, lambda *_: PREPARE.split()),
    "tables": Disturbed("tables", write_data, lambda *_: TABLE.split(), partly=1),
}


def kill_one(
    disturbed: Disturbed, folder: Path, chance: random.Random, seconds: float, operations: int
) -> tuple[str, Ended]:
    """Start a program and kill it within these seconds, or operations; return how, and how it ended."""
    how, number, group = chance.choice(HOW), chance.randint(1, operations), chance.random() < 0.5
    moment, size = chance.uniform(0, seconds), int(2 ** chance.uniform(3, 16))
    faults = {"at an operation": Fault("kill", number), "within a write": Fault("tear", number, size)}
    faults["by Ctrl-C twice"] = Fault("interrupt", number)
    program = Program(disturbed.program, disturbed.words(folder, chance), folder, faults.get(how))
    if how == "at a moment":
        time.sleep(moment)
        program.kill(group=group)
    return how, program.wait()


def half_written(folder: Path) -> list[str]:
    """What cannot be read, in a sentence."""
    try:
        contents(folder)
    except Exception as error:
        return [f"it leaves half a file: {error}"]
    return []


def told(output: str, left: Collection[str]) -> list[str]:
    """What is wrong after Ctrl-C twice: a traceback, no word on how to go on with a run, or temporary files."""
    wrong = [f"it leaves {', '.join(left)}"] if left else []
    if "Traceback" in output or (", into run" in output and "--resume run" not in output):
        wrong.append(f"it prints {output}")
    return wrong


def disturb(name: str, kills: int, scratch: Path) -> list[str]:
    """Kill a program so many times, print what happened, and return the failures."""
    disturbed, chance, origin, whole = DISTURBED[name], random.Random(name), scratch / "origin", scratch / "whole"
    disturbed.make(origin)
    started = time.monotonic()
    ended = Program(disturbed.program, disturbed.words(fresh(whole, origin), chance), whole).wait()
    if ended.status:
        return [f"{name}: undisturbed, it ends with {ended.status}: {ended.output}"]
    seconds, operations, wanted = time.monotonic() - started, ended.operations, contents(whole)
    counts, failures, folder = Counter[str](), list[str](), fresh(scratch / "killed", origin)
    while not failures and counts["finished"] < 20 * kills:
        left_before = leftovers(folder, wanted)
        if counts["killed"] < kills:
            how, ended = kill_one(disturbed, folder, chance, seconds / SPAN, operations // SPAN)
        else:
            how, ended = "never", Program(disturbed.program, disturbed.words(folder, chance), folder).wait()
        where = f"{name}, after {counts['killed']} kills"
        if ended.status == 0:
            wrong = [*differences(folder, wanted), *leftovers(folder, wanted)]
            failures += [f"{where}: finished, but not as the undisturbed one: {', '.join(wrong)}"] if wrong else []
            counts["finished"] += 1
            if counts["killed"] >= kills:
                break
            fresh(folder, origin)
        elif ended.status in (-signal.SIGKILL, -signal.SIGXFSZ, disturbed.partly, INTERRUPTED) and how != "never":
            left = leftovers(folder, wanted)
            counts.update([how, *["killed"] * (how != HOW[-1]), *["temporary"] * bool(left)])
            counts.update({"checkpoint" for path in left if "/.last.pt" in path or "/.best.pt" in path})
            failures += [f"{where}: {text}" for text in half_written(folder)]
            if ended.status == INTERRUPTED:
                failures += [f"{where}: {text}" for text in told(ended.output, {*left} - {*left_before})]
        else:
            failures.append(f"{where}: killed {how}, it ends with {ended.status}: {ended.output}")
    kinds = ", ".join(f"{counts[how]} {how}" for how in HOW)
    print(
        f"{name}: {counts['killed']} kills ({kinds}); temporary files left by {counts['temporary']}, of a checkpoint "
        f"by {counts['checkpoint']}; {counts['finished']} finished and compared; {time.monotonic() - started:.0f} s",
        flush=True,
    )
    return failures


def main(argv: list[str] | None = None) -> int:
    """Disturb the programs; return 1 if one does not finish as if undisturbed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="of each program (default: %(default)s)")
    parser.add_argument("--of", choices=[*DISTURBED], nargs="+", default=[*DISTURBED], help="default: all")
    given = parser.parse_args(argv)
    failures = []
    for name in given.of:
        with tempfile.TemporaryDirectory() as scratch:
            failures += disturb(name, given.kills, Path(scratch))
    print(*failures, sep="\n", end="\n" if failures else "")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
