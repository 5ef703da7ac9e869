"""Settings that all tests share."""

import gc
import os
from pathlib import Path

import hypothesis
import pytest
import torch

# The workers of xdist share the cores, so each has one thread. Property tests must not depend on the machine's speed.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):  # not `keywords`, which have the names of folders, too
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Exclude objects created by collection from garbage collection, which makes the tests about 10% faster."""
    gc.collect()
    gc.freeze()
