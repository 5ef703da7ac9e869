"""Let the disk fill up at any file that a program writes, and look at what it says and leaves.

    python tests/reliability/disk.py --most 20

For every file or folder that a program creates, opens for writing or renames, it is run three times: with no room for
it, with no room for its content, and with room for a random part of that. The room does not come back while it runs.
It must end with status 2 and one sentence that names a file, and leave what was there before, and no temporary file.
Then the same command, or --resume, must give what an undisturbed run gives.
"""

import argparse
import random
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from faults import RUN_FILES, Fault, Program, contents, differences, fresh, leftovers  # first: sets the paths

# isort: split
import numpy as np
import raw_clips
from kills import SIZE, TABLE, write_data

RUN = f"{SIZE} --data data/cremad --ckpt_path run --epochs 2 --allow_unused"
ROOM = ("No space left on device", "File too large")


def write_raw(folder: Path) -> None:
    """Write raw clips."""
    raw_clips.write_clips(folder / "raw", raw_clips.names(actors=2, sentences=("IEO",)))


def write_archive(folder: Path) -> None:
    """Write raw clips in an archive."""
    raw_clips.write_clips(folder / "unpacked", raw_clips.names(actors=2, sentences=("IEO",)))
    with tarfile.open(folder / "raw.tar.gz", "w:gz") as archive:
        archive.add(folder / "unpacked", "raw")


def write_features(folder: Path) -> None:
    """Write features."""
    chance = np.random.default_rng(0)
    labels, tones, words = np.arange(40) % 2, chance.normal(size=(40, 3)), chance.normal(size=(40, 5))
    np.savez(folder / "mine.npz", tones=tones, words=words, labels=labels)


def write_run(folder: Path) -> None:
    """Write a finished run."""
    write_data(folder)
    _succeed("train", RUN, folder)


def write_stopped_run(folder: Path) -> None:
    """Write a run of one epoch, which is resumed for two more."""
    write_data(folder)
    _succeed("train", RUN.replace("--epochs 2", "--epochs 1"), folder)


def write_table(folder: Path) -> None:
    """Write the runs of a table, and a report of before."""
    write_data(folder)
    _succeed("tables", TABLE, folder)
    (folder / "runs" / "tables" / "main-cremad" / "table.md").write_text("an earlier report")


def _succeed(program: str, words: str, folder: Path) -> None:
    ended = Program(program, words.split(), folder).wait()
    assert ended.status == 0, ended.output


class Filled(NamedTuple):
    """A program that finds the disk full.

    Attributes:
        program: its name.
        words: its command line.
        make: writes what it needs to a folder.
        again: the command line once there is a last.pt to continue from; None for the same.
    """

    program: str
    words: str
    make: Callable[[Path], None]
    again: str | None = None


FILLED = {
    "preparing clips": Filled("prepare", "cremad --raw raw --out out --workers 1 --allow_missing", write_raw),
    "preparing arrays": Filled("prepare", "features --raw mine.npz --out out", write_features),
    "unpacking": Filled("prepare", "cremad --raw raw.tar.gz --out out --workers 1 --allow_missing", write_archive),
    "making the stand-in": Filled("prepare", "synthetic --clips 12 --actors 1 --out out --workers 1", Path.mkdir),
    "training": Filled("train", RUN, write_data, "--resume run"),
    "training, with TensorBoard": Filled(
        "train", RUN.replace("--use_tensorboard false", "--use_tensorboard true"), write_data, "--resume run"
    ),
    "resuming": Filled("train", "--resume run --epochs 3", write_stopped_run),
    "caching": Filled("train", f"{RUN} --cache", write_data, "--resume run"),
    "evaluating": Filled("evaluate", "run/best.pt --gpu_ids cpu", write_run),
    "exporting": Filled("export", "run/best.pt --to safetensors", write_run),
    "plotting": Filled("figures", "accuracy --run run", write_run),
    "reporting": Filled("tables", TABLE.replace("--slots 2", "--report_only"), write_table),
}


def fill(name: str, most: int, scratch: Path) -> list[str]:
    """Fill the disk under a program at most so many times, print what happened, and return the failures."""
    filled, origin, whole, started = FILLED[name], scratch / "origin", scratch / "whole", time.monotonic()
    origin.mkdir() if filled.make is not Path.mkdir else None
    filled.make(origin)
    before, chance = contents(origin), random.Random(name)
    undisturbed = Program(filled.program, filled.words.split(), fresh(whole, origin)).wait()
    if undisturbed.status:
        return [f"{name}: undisturbed, it ends with {undisturbed.status}: {undisturbed.output}"]
    wanted, folder = contents(whole), scratch / "filled"
    operations = range(1, undisturbed.operations + 1)
    faults = [Fault("closed", number) for number in operations] + [Fault("full", number) for number in operations]
    faults += [Fault("full", number, int(2 ** chance.uniform(0, 15))) for number in operations]
    refused, failures = 0, list[str]()
    for fault in chance.sample(faults, min(most, len(faults))):
        ended = Program(filled.program, filled.words.split(), fresh(folder, origin), fault).wait()
        if ended.status:
            refused += 1
            wrong = judge(ended.status, ended.output, folder, before, wanted)
        else:  # everything was smaller than the room
            wrong = differences(folder, wanted)
        failures += [f"{name}, {fault}: {text}" for text in wrong]
        saved = filled.again is not None and (folder / "run" / "last.pt").exists()
        words = filled.again if saved and filled.again else filled.words
        again = Program(filled.program, words.split(), folder).wait()
        if ended.status and (again.status or differences(folder, wanted)):
            differing = ", ".join(differences(folder, wanted))
            failures.append(f"{name}, {fault}: afterwards, {again.status}: {again.output[-500:]}; differs: {differing}")
    print(
        f"{name}: {undisturbed.operations} file operations, {min(most, len(faults))} of {len(faults)} faults, "
        f"{refused} without room, {len(failures)} failures; {time.monotonic() - started:.0f} s",
        flush=True,
    )
    return failures


def judge(status: int, output: str, folder: Path, before: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What is wrong with how a program ended without room."""
    found = contents(folder)
    lines = output.strip().splitlines()
    last = lines[-1] if lines else ""
    wrong = [] if status == 2 else [f"status {status}"]
    if not last.startswith("error: ") or not any(text in last for text in ROOM) or "Traceback" in output:
        wrong.append(f"no sentence: {output[-1500:]}")
    elif not any(name in last for path in (*found, *wanted) for name in Path(path).parts):
        wrong.append(f"its sentence names no file or folder: {last}")
    wrong += [f"it leaves {path}" for path in leftovers(folder, wanted)]
    for path, content in before.items():
        if path not in found:
            wrong.append(f"{path} is gone")
        elif found[path] not in (content, wanted.get(path)) and Path(path).name not in RUN_FILES:
            wrong.append(f"{path} has changed")
    return wrong


def main(argv: list[str] | None = None) -> int:
    """Fill the disk under the programs; return 1 if one fails otherwise than it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=20, help="faults per program, all if fewer (default: %(default)s)")
    parser.add_argument("--of", choices=[*FILLED], nargs="+", default=[*FILLED], metavar="NAME", help="default: all")
    given = parser.parse_args(argv)
    failures = []
    for name in given.of:
        with tempfile.TemporaryDirectory() as scratch:
            failures += fill(name, given.most, Path(scratch))
    print(*failures, sep="\n", end="\n" if failures else "")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
