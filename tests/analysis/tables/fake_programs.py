"""Stands in for train.py and evaluate.py in tests of the grid: `python fake_programs.py train|evaluate STAGE …`.

STAGE is a folder: `<run's name>.json` holds the run's config.json; what the run is to do stands in `<run's name>.do`, a
word for each attempt (finish, where there are no more); calls.txt gets a line a call. Imports nothing that takes long.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

WAIT = 60.0  # seconds that a run waits for a signal


def main(program: str, stage: Path, words: list[str]) -> int:
    """Do what is wanted; the exit status."""
    place = Path(words[0] if program == "evaluate" else words[words.index(_where(words)) + 1])
    folder = place.parent if program == "evaluate" else place
    gpu, threads = words[words.index("--gpu_ids") + 1], os.environ.get("OMP_NUM_THREADS")
    _note(stage, f"{program} {place.name} {_where(words)} gpu {gpu} threads {threads} pid {os.getpid()}")
    if program == "evaluate":
        if (stage / "evaluation fails").exists():
            print("error: no evaluation today")
            return 2
        out = folder / f"evaluation-test-{place.stem}"
        out.mkdir()
        (out / "per_clip.csv").write_text("clip,class\n")
        return 0
    return _train(stage, folder)


def _train(stage: Path, folder: Path) -> int:
    script = stage / f"{folder.name}.do"
    todo = script.read_text().split() if script.exists() else []
    script.write_text(" ".join(todo[1:]))
    what = todo[0] if todo else "finish"
    if what == "refuse":
        print("train.py: error: data/x is not there; prepare it.", file=sys.stderr)
        return 2
    if what == "silent":
        print("Traceback\nRuntimeError: out of memory")
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((stage / f"{folder.name}.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    if what == "crash":  # before the first checkpoint
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "last.pt").touch()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"seconds": 1.0}\n')
    if what == "nan":
        print("error: epoch 2, step 3: the loss is NaN; the run stops here.")
        return 1
    if what == "wait":
        return _wait(stage, folder)
    if what == "slow":
        time.sleep(0.5)
    (folder / "best.pt").touch()
    line = {"epoch": config["arguments"]["epochs"], "acc": 0.5}
    (folder / "summary.json").write_text(json.dumps({"last": line, "best_val": line, "best_test": line}))
    _note(stage, f"trained {folder.name}")
    return 0


def _wait(stage: Path, folder: Path) -> int:
    """For a signal, which is noted, and then a little longer, as saving takes; or for a file named "go"."""
    came: list[int] = []
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda got, frame: came.append(got))
    _note(stage, f"waiting {folder.name} pid {os.getpid()}")
    until = time.monotonic() + WAIT
    while not came and time.monotonic() < until and not (stage / "go").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    for signum in came:
        _note(stage, f"signal {signum} {folder.name}")
    return 128 + came[0] if came else 3


def _where(words: list[str]) -> str:
    with contextlib.suppress(ValueError):
        return words[words.index("--resume")]
    return "--ckpt_path"


def _note(stage: Path, line: str) -> None:
    with (stage / "calls.txt").open("a") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
