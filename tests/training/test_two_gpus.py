"""Training on two GPUs compared with one: DataParallel, and two processes of torchrun with NCCL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from prepared_clips import write_prepared
from tiny_runs import arguments, metrics, read, run, untimed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
# Without BatchNorm, which has statistics per GPU under DataParallel. TF32 is off, and sums are in another order only.
PLAIN = ("--encoder", "plain", "--batch_size", "7")
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
DRIVER = """
import sys
sys.path[:0] = {path!r}
import tiny_runs
from mmpareto.cli import run
from train import main
run(main)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=18, test=7, prepared={})


def assert_same_training(ours: Path, theirs: Path) -> None:
    """Check that weights and losses are the same but for rounding."""
    torch.testing.assert_close(read(ours / "last.pt")["model"], read(theirs / "last.pt")["model"], **CLOSE)
    for one, other in zip(untimed(metrics(ours)), untimed(metrics(theirs)), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


MBT = "--encoder mbt-tiny --learning_rate 0.001 --method uniform"


@pytest.mark.parametrize(
    "line", ["--method uniform", "--method joint", "--variant per_tensor", "--variant released", MBT]
)
def test_data_parallel_trains_like_one_gpu(line: str, data: Path, tmp_path: Path) -> None:
    for name, gpu_ids in (("one", "0"), ("two", "0,1")):
        assert run(data, tmp_path / name, *PLAIN, *line.split(), "--gpu_ids", gpu_ids) == 0
    assert_same_training(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("more", [PLAIN, ("--encoder", "tiny", "--batch_size", "6")], ids=["plain", "batch_norm"])
def test_two_processes_train_like_one_gpu(more: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    """With NCCL; the tiny encoder has BatchNorm, synchronised over the processes."""
    assert_two_processes_train_like_one(data, tmp_path, "0", "0,1", *more)


def assert_two_processes_train_like_one(data: Path, folder: Path, one: str, two: str, *more: str) -> None:
    assert run(data, folder / "one", *more, "--gpu_ids", one) == 0
    tests = Path(__file__).resolve().parents[1]
    driver = folder / "driver.py"
    driver.write_text(DRIVER.format(path=[str(tests.parent / "code"), str(tests), str(tests / "training")]))
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    subprocess.run(
        [*torchrun, str(driver), *arguments(data, folder / "two", *more, "--gpu_ids", two)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=120,
    )
    assert_same_training(folder / "two", folder / "one")
