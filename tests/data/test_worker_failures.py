"""Loader workers that hang, die, or run out of shared memory: one sentence that names the samples."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from mmpareto.data.loading.batches import EpochOrder, make_loader, stop_workers
from mmpareto.data.loading.samples import Sample
from mmpareto.errors import InputError, process_failure, worker_failure


def hang() -> None:
    time.sleep(60)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Failing(torch.utils.data.Dataset[Sample]):
    """Twelve samples, of which the one at index 7 does not come."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act, self.names = act, [f"clip {index}" for index in range(12)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        index = key[1] if isinstance(key, tuple) else key
        if index == 7:
            self.act()
        return Sample({"audio": torch.zeros(2)}, 0, index, {})


@pytest.mark.parametrize("ordered", [False, True])
def test_a_worker_that_hangs_is_told_with_its_batch(ordered: bool) -> None:
    order = EpochOrder(12, seed=3) if ordered else None
    loader = make_loader(Failing(hang), batch_size=2, order=order, workers=1, timeout=2)
    received: list[int] = []
    with pytest.raises(InputError, match=r"nothing for 2 s, while reading .*clip 7\b"):
        for batch in loader:
            received += batch.indices.tolist()
    assert 7 not in received
    stop_workers(loader)


def test_a_worker_that_dies_is_one_sentence() -> None:
    """In a process of its own: PyTorch raises the error wherever the process is when the signal arrives."""
    program = """
from mmpareto.cli import run
from mmpareto.data.loading.batches import make_loader
from test_worker_failures import Failing, die

run(lambda arguments: len(list(make_loader(Failing(die), batch_size=2, workers=1))))
"""
    path = os.pathsep.join(["code", "tests/data"])
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert done.stderr.startswith("error: a loader worker died while reading") and done.stderr.count("\n") == 1


def test_the_start_of_workers_may_take_several_timeouts() -> None:
    class SlowAtFirst(Failing):
        def __getitem__(self, key: int | tuple[int, int]) -> Sample:
            if key == 0:
                time.sleep(1.5)
            return super().__getitem__(key)

    loader = make_loader(SlowAtFirst(lambda: None), batch_size=2, workers=1, timeout=1)
    assert sum(len(batch.labels) for batch in loader) == 12
    stop_workers(loader)


SHARED_MEMORY = (
    "unable to allocate shared memory(shm) for file </torch_12_34>: No space left on device (28)",
    "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit.",
)


@pytest.mark.parametrize("text", SHARED_MEMORY)
def test_exhausted_shared_memory_names_the_remedies(text: str) -> None:
    sentence = worker_failure(RuntimeError(text))
    assert sentence is not None and "--workers 0" in sentence and "--shm-size" in sentence


def test_other_errors_keep_their_traceback() -> None:
    for text in ("mat1 and mat2 shapes cannot be multiplied", "CUDA out of memory", "unexpected type"):
        assert worker_failure(RuntimeError(text)) is None and process_failure(RuntimeError(text)) is None
