"""benchmark.py measures every method on a network of the real shape."""

import json
from pathlib import Path

import benchmark
import pytest
import torch
from mmpareto import METHODS
from mmpareto.errors import InputError

TINY = ["--gpu_ids", "cpu", "--batch_size", "2", "--image_size", "33", "--audio_frames", "32", "--rounds", "1"]


def test_every_method_is_measured_beside_uniform(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([*TINY, "--out", str(tmp_path / "cost.json")]) == 0
    found = json.loads((tmp_path / "cost.json").read_text())
    assert set(found["methods"]) == set(METHODS)
    assert found["sizes"] == {"batch_size": 2, "image_size": 33, "audio_frames": 32} and found["rounds"] == 1
    for figures in found["methods"].values():
        for spread in (figures["seconds"], figures["ratio"]):
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    assert found["methods"]["uniform"]["ratio"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    printed = capsys.readouterr().out
    for name in METHODS:
        assert f"\n{name} " in printed


def test_some_methods_are_measured_and_uniform_always(tmp_path: Path) -> None:
    pytest.importorskip("torchjd")
    names = ["MM-Pareto", "torchjd:Mean"]
    assert benchmark.main([*TINY, "--methods", *names, "--out", str(tmp_path / "cost.json")]) == 0
    measured = list(json.loads((tmp_path / "cost.json").read_text())["methods"])
    assert measured == ["uniform", "mmpareto", "torchjd:Mean"]


def test_an_unknown_name_brings_the_near_miss() -> None:
    with pytest.raises(InputError, match=r"unknown method 'unifrom'.*'uniform'"):
        benchmark.main([*TINY, "--methods", "unifrom"])


def test_loading_is_measured_beside_the_released_loader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    words = ["loading", "--clips", "4", "--rounds", "1", "--out", str(tmp_path / "loading.json")]
    assert benchmark.main(words) == 0
    torch.set_num_threads(threads)
    found = json.loads((tmp_path / "loading.json").read_text())
    assert set(found["seconds"]) == set(found["speed"]) == {"released loader", "this loader", "this loader, --cache"}
    assert found["speed"]["released loader"] == 1 and all(seconds > 0 for seconds in found["seconds"].values())
    assert "released loader" in capsys.readouterr().out
