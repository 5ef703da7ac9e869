"""Loader processes: how long training waits for them, and their lifetime, which ends with the run."""

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmpareto.training.loop as loop
import pytest
import torch
from mmpareto.training.epoch_line import epoch_text
from mmpareto.training.meters import WaitTimer
from prepared_clips import write_prepared
from tiny_runs import acting, metrics, read, run, send_signal

LOADING, COMPUTING = 3.0, 5.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=9, test=3, prepared={})


@pytest.fixture(autouse=True)
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[loop.Trainer]:
    """Every trainer that a run creates, referenced so that garbage collection does not end its processes."""
    held: list[loop.Trainer] = []
    original = loop.Trainer.__init__

    def init(trainer: loop.Trainer, *given: Any) -> None:
        held.append(trainer)
        original(trainer, *given)

    monkeypatch.setattr(loop.Trainer, "__init__", init)
    return held


class Clock:
    """A clock that advances only when `now` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_the_timer_counts_loading_but_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def items() -> Iterator[int]:
        for number in range(4):
            clock.now += LOADING
            yield number
        clock.now += 1  # time until the end of the iterator

    timer = WaitTimer()
    for expected, number in enumerate(timer.time(items())):
        assert number == expected
        assert timer.seconds == LOADING * (number + 1)
        clock.now += COMPUTING
    assert timer.seconds == 4 * LOADING + 1
    list(timer.time(items()))
    assert timer.seconds == 2 * (4 * LOADING + 1)


def test_waiting_is_recorded_even_if_the_epoch_is_interrupted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 6 clips in 3 batches of 2, each taking 3 s to load and 5 s to train: 9/24 of the time."""
    clock = Clock(monkeypatch)
    original = loop.Trainer.step

    def step(*given: Any) -> Any:
        clock.now += COMPUTING
        return original(*given)

    monkeypatch.setattr(loop.Trainer, "step", step)
    fetch = torch.utils.data._utils.fetch._MapDatasetFetcher
    load = fetch.fetch

    def slow(fetcher: object, keys: list[object]) -> object:
        clock.now += LOADING
        return load(fetcher, keys)

    monkeypatch.setattr(fetch, "fetch", slow)
    more = ("--batch_size", "2", "--epochs", "2", "--encoder", "plain")
    assert run(data, tmp_path / "whole", *more) == 0
    with acting(loop.Trainer, "step", 5, send_signal):
        assert run(data, tmp_path / "run", *more) == 143
    assert read(tmp_path / "run" / "last.pt")["waited"] == 2 * LOADING
    assert [line["data_wait"] for line in metrics(tmp_path / "whole")] == pytest.approx([9 / 24, 9 / 24])


@pytest.mark.parametrize(("share", "expected"), [(0.05, ""), (0.051, "5% of it waiting for data"), (0.5, "50% of it")])
def test_waiting_is_printed_above_five_percent(share: float, expected: str) -> None:
    line = {"epoch": 1, "train_loss": 1.0, "acc": 0.5, "seconds": 9.0, "samples_per_second": 3.0, "data_wait": share}
    text = epoch_text(line, 2, [])
    assert expected in text and ("waiting" in text) is bool(expected)


def children() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


def test_loader_processes_persist_between_epochs_and_end_with_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[set[int]] = []
    original = loop.Trainer._finish_epoch

    def recorded(trainer: loop.Trainer, line: dict[str, object]) -> None:
        pids.append(children())
        original(trainer, line)

    monkeypatch.setattr(loop.Trainer, "_finish_epoch", recorded)
    before = children()
    assert run(data, tmp_path / "run", "--workers", "1", "--epochs", "3", "--method", "joint") == 0
    assert pids[0] == pids[1] == pids[2] and len(pids[0] - before) == 3  # train, test, validation
    assert children() == before  # those of the probe, too


class BrokenError(Exception):
    """Simulates an unexpected error."""


def breakdown() -> None:
    raise BrokenError


@pytest.mark.parametrize("call", [2, 3], ids=["in the first evaluation", "in the second epoch"])
def test_loader_processes_end_with_an_error_or_a_signal(call: int, data: Path, tmp_path: Path) -> None:
    before = children()
    owner, name = (loop, "predict") if call == 2 else (loop.Trainer, "step")
    more = ("--workers", "1", "--batch_size", "8", "--epochs", "3")
    with acting(owner, name, call, breakdown), pytest.raises(BrokenError):
        run(data, tmp_path / "broken", *more)
    assert children() == before
    with acting(owner, name, call, send_signal):
        assert run(data, tmp_path / "stopped", *more) == 143
    assert children() == before
