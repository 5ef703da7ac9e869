"""Fake train.py and evaluate.py for tests of the grid: `python fake_programs.py train|evaluate STAGE …`.

STAGE is a folder: `<run's name>.json` is the run's config.json; `<run's name>.do` has one word for each attempt (with
no words left, the run finishes); each call appends a line to calls.txt. No slow module is imported.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

WAIT = 60.0  # seconds that a run waits for a signal


def main(program: str, stage: Path, words: list[str]) -> int:
    """Run the fake program; return the exit status."""
    path = Path(words[0] if program == "evaluate" else words[words.index(_flag(words)) + 1])
    folder = path.parent if program == "evaluate" else path
    gpu, threads = words[words.index("--gpu_ids") + 1], os.environ.get("OMP_NUM_THREADS")
    _note(stage, f"{program} {path.name} {_flag(words)} gpu {gpu} threads {threads} pid {os.getpid()}")
    if program == "evaluate":
        if (stage / "evaluation fails").exists():
            print("error: no evaluation today")
            return 2
        out = folder / f"evaluation-test-{path.stem}"
        out.mkdir()
        (out / "per_clip.csv").write_text("clip,class\n")
        return 0
    return _train(stage, folder)


def _train(stage: Path, folder: Path) -> int:
    script = stage / f"{folder.name}.do"
    actions = script.read_text().split() if script.exists() else []
    script.write_text(" ".join(actions[1:]))
    what = actions[0] if actions else "finish"
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
    metrics = folder / "metrics.jsonl"
    epoch = len(metrics.read_text().splitlines()) + 1 if metrics.exists() else 1
    with metrics.open("a") as file:
        file.write(json.dumps({"epoch": epoch, "seconds": 1.0}) + "\n")
    if what == "nan":
        print("error: epoch 2, step 3: the loss is NaN; the run stops here.")
        return 1
    if what == "wait":
        return _wait(stage, folder)
    if what == "slow":
        time.sleep(0.3)
    (folder / "best.pt").touch()
    line = {"epoch": config["arguments"]["epochs"], "acc": 0.5}
    summary = {"last": line, "best_val": line, "best_test": line}
    if what == "unvalidated":
        summary |= {"best_val": None, "best_val_reason": "no validation set"}
    (folder / "summary.json").write_text(json.dumps(summary))
    _note(stage, f"trained {folder.name}")
    return 0


def _wait(stage: Path, folder: Path) -> int:
    """Wait for a signal or a file named "go", and then 0.2 s, as if saving."""
    received: list[int] = []
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda got, frame: received.append(got))
    _note(stage, f"waiting {folder.name} pid {os.getpid()}")
    until = time.monotonic() + WAIT
    while not received and time.monotonic() < until and not (stage / "go").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    for signum in received:
        _note(stage, f"signal {signum} {folder.name}")
    return 128 + received[0] if received else 3


def _flag(words: list[str]) -> str:
    return "--resume" if "--resume" in words else "--ckpt_path"


def _note(stage: Path, line: str) -> None:
    with (stage / "calls.txt").open("a") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
