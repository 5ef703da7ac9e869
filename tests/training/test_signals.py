"""Training in a separate process, stopped by a signal."""

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
from tiny_runs import arguments, resume

# train.py, with the small encoders of the tests.
TRAIN = "import tiny_runs, train; from mmpareto.cli import run; run(train.main)"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
EPOCHS = 100_000  # longer than anyone waits


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=8, test=2, frames=1)


def process_ids(word: str) -> list[int]:
    """Ids of the processes with `word` in their command line; forked ones have their parent's command line."""
    ids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (folder / "cmdline").read_bytes():
                ids.append(int(folder.name))
    return ids


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("sent", "to_group", "status"),
    [(signal.SIGINT, True, 130), pytest.param(signal.SIGTERM, False, 143, marks=pytest.mark.slow)],
    ids=["Ctrl-C in a terminal", "kill"],
)
def test_a_signal_finishes_the_step_saves_and_leaves_no_process(
    sent: signal.Signals, to_group: bool, status: int, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = arguments(data, folder, "--protocol", "paper", "--workers", 2, "--epochs", EPOCHS)
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=ENVIRONMENT,
    )
    try:
        wait_until(lambda: (folder / "metrics.jsonl").exists() or process.poll() is not None)
        assert len(process_ids(str(folder))) >= 3  # itself and the loader's two
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
    assert last.startswith(f"stopped by {sent.name} ") and f"--resume {folder}" in last
    wait_until(lambda: not process_ids(str(folder)), 10)
    content = torch.load(folder / "last.pt", weights_only=True)
    epoch, steps = content["epoch"], content["steps"]
    assert f" in epoch {epoch} after step {steps}," in last if steps else " between epochs," in last

    if to_group:  # one of the two runs is resumed to its end
        assert resume(folder, "--epochs", epoch) == 0
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["last"]["epoch"] == epoch
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == epoch
