"""Warnings about data with which a run's results would mislead."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmpareto.training.data_warnings import data_warnings
from prepared_clips import write_prepared
from tiny_runs import run


def data(train: list[Any], test: list[Any], val: int | None, classes: str = "abc") -> Any:
    parts = {"train": SimpleNamespace(classes=[*classes], labels=train), "test": SimpleNamespace(labels=test)}
    return SimpleNamespace(**parts, val=None if val is None else range(val))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (data([0, 1, 2], [0, 2], None), []),
        (data([0, 1, 2], [0, 2], 30), []),
        (data([0, 1, 2], [0, 2], 29), ["only 29 samples"]),
        (data([0, 0, 2], [0, 2], None), ["no training sample is of class b"]),
        (data([0, 1, 2], [2, 2], None), ["all test samples are of class c"]),
        (data([1], [1], 3), ["only 3", "of class a, c", "of class b"]),
        (data([0.5, -1.0], [0.5, 0.5], None, classes="s"), []),  # scores of a regression
        (data([(1, 1, 0), (0, 1, 0)], [(1, 1, 0)], None), ["no training sample is of class c"]),  # several labels each
    ],
)
def test_warnings(given: Any, said: list[str]) -> None:
    warnings = data_warnings(given)
    assert len(warnings) == len(said) and all(part in text for part, text in zip(said, warnings, strict=True))


def test_a_run_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_prepared(tmp_path / "cremad", train=9, test=3)
    assert run(folder, tmp_path / "run", "--epochs", 1, "--encoder", "plain") == 0
    assert "warning: the validation set has only 3 samples" in capsys.readouterr().err
