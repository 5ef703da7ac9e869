"""train.py as a process of its own, stopped from outside."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from prepared_clips import write_prepared

TRAIN = Path(__file__).resolve().parents[2] / "code" / "train.py"
EPOCHS = 60  # longer than anyone waits
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=8, test=2, frames=1)


def command(*more: object) -> list[str]:
    return [sys.executable, str(TRAIN), *map(str, more)]


def processes_that_name(word: str) -> list[int]:
    """Every process with `word` on its command line; those that were forked have their parent's."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("sent", "to_group", "status"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)],
    ids=["Ctrl-C in a terminal", "kill"],
)
def test_a_signal_ends_the_step_saves_and_leaves_no_process(
    sent: signal.Signals, to_group: bool, status: int, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    line = "--dataset cremad --protocol paper --workers 2 --gpu_ids cpu --batch_size 4 --frames 1 --image_size 32"
    line += f" --audio_frames 64 --audio_pool 2 2 --epochs {EPOCHS} --use_tensorboard false"
    process = subprocess.Popen(
        command("--data", data, "--ckpt_path", folder, *line.split()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=ONE_THREAD,
    )
    try:
        wait_until(lambda: (folder / "metrics.jsonl").exists() or process.poll() is not None)
        assert len(processes_that_name(str(folder))) >= 3  # itself and the loader's two
        if to_group:
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
        output, errors = process.communicate(timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status, errors
    assert "Traceback" not in errors and "Error" not in errors
    last = output.splitlines()[-1]
    assert last.startswith(f"stopped by {sent.name} in epoch ") and f"--resume {folder}" in last
    wait_until(lambda: not processes_that_name(str(folder)), 10)
    content = torch.load(folder / "last.pt", weights_only=True)
    assert f"in epoch {content['epoch']} after step {content['steps']}," in last

    if to_group:  # one of the two goes on, to its end
        done = subprocess.run(
            command("--resume", folder, "--epochs", content["epoch"]), capture_output=True, text=True, env=ONE_THREAD
        )
        assert done.returncode == 0, done.stderr
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["last"]["epoch"] == content["epoch"]
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == content["epoch"]
