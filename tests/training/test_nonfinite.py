import math
from pathlib import Path
from typing import Any

import mmpareto.training.loop as loop
import pytest
import torch
from mmpareto.data.loading.batches import EpochOrder
from mmpareto.integration.report import Report
from mmpareto.training.data import open_data
from mmpareto.training.meters import FiniteMonitor, NonFiniteError
from mmpareto.training.settings import parse
from prepared_clips import write_prepared
from tiny_runs import acting, arguments, metrics, read, resume, run, send_signal, trainer_of
from torch import Tensor

OK, BAD_JOINT, BAD_AUDIO = (torch.tensor(flags) for flags in ([True, True], [False, True], [True, False]))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_prepared(tmp_path / "cremad", train=12, test=4)


def spoil(data: Path, clip: str, value: float = math.nan) -> None:
    path = data / "audio" / f"{clip}.pt"
    feature = torch.load(path, weights_only=True)
    feature[3, 5] = value
    torch.save(feature, path)


def step_of(data: Path, clip: str, epoch: int) -> int:
    """Number, from 1, of the step in an epoch whose batch of 4 contains the clip."""
    clips = open_data(parse(arguments(data, None)).settings).train.names
    order = EpochOrder(len(clips), seed=0)
    order.set_epoch(epoch)
    return [index for _, index in order].index(clips.index(clip)) // 4 + 1


def assert_finite(value: Any, where: str) -> None:
    if isinstance(value, Tensor):
        assert value.isfinite().all(), where
    elif isinstance(value, float):
        assert math.isfinite(value), where
    elif isinstance(value, dict):
        for key, inner in value.items():
            assert_finite(inner, f"{where}/{key}")
    elif isinstance(value, list):
        for inner in value:
            assert_finite(inner, where)


def a_training_clip(data: Path) -> str:
    return open_data(parse(arguments(data, None)).settings).train.names[0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("method", "named"), [("mmpareto", "joint and audio"), ("uniform", "joint and audio"), ("joint", "joint")]
)
def test_the_run_stops_and_names_the_nonfinite_step(
    method: str, named: str, value: float, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(data, folder, "--method", method, "--epochs", 1) == 0
    clip = a_training_clip(data)
    spoil(data, clip, value)
    capsys.readouterr()
    assert resume(folder, "--epochs", 3) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert f"error: epoch 2, step {step_of(data, clip, 2)}: the {named} loss" in error
    assert f"because the input audio of {clip} is; " in error and "learning_rate" not in error
    assert f"{folder / 'last.pt'} is from before" in error
    for name in ("last.pt", "best.pt"):
        content = read(folder / name)
        assert content["epoch"] == {"last.pt": 2, "best.pt": 1}[name]
        assert_finite(content, name)
    assert len(metrics(folder)) == 1


def test_a_nonfinite_first_epoch_saves_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(data, a_training_clip(data))
    assert run(data, tmp_path / "run") == 1
    assert "nothing was saved" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.pt"))


def test_a_signal_at_a_nonfinite_step_saves_only_finite_values(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(data, folder, "--epochs", 1) == 0
    clip = a_training_clip(data)
    spoil(data, clip)
    with acting(loop.Trainer, "step", step_of(data, clip, 2), send_signal):
        assert resume(folder, "--epochs", 3) == 1
    assert_finite(read(folder / "last.pt"), "last.pt")


def test_a_nonfinite_loss_in_evaluation_stops_the_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(data, folder, "--epochs", 1) == 0
    spoil(data, "clip_013")  # of the test set
    assert resume(folder, "--epochs", 3) == 1
    error = capsys.readouterr().err
    assert "epoch 2" in error and "loss" in error and "NaN" in error and "audio of clip_013" in error
    assert len(metrics(folder)) == 1 and read(folder / "last.pt")["epoch"] == 2


def test_weights_that_overflow_are_never_saved(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, tmp_path / "run", "--learning_rate", 1e30, "--method", "uniform", "--protocol", "paper") == 1
    assert "A smaller --learning_rate may help" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.pt"))


class Flags:
    """Counts how often the monitor reads its flags."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0
        original = FiniteMonitor.check

        def counted(monitor: FiniteMonitor) -> None:
            self.reads += 1
            original(monitor)

        monkeypatch.setattr(FiniteMonitor, "check", counted)


def report(finite: torch.Tensor) -> Report:
    return Report({}, finite, ["joint", "audio"])


def test_flags_are_read_at_most_twenty_steps_late(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = Flags(monkeypatch)
    for bad in range(1, 41):
        monitor = FiniteMonitor(smallest_scale=1.0)
        with pytest.raises(NonFiniteError, match=rf"epoch 4, step {bad}: the audio loss"):
            for step in range(1, bad + 21):
                monitor.add(4, step, report(BAD_AUDIO if step == bad else OK), None)
                assert step < bad + 20
    assert flags.reads == 20 * 1 + 20 * 2  # and not at every step


def test_the_first_bad_step_is_named_with_all_its_losses() -> None:
    monitor = FiniteMonitor(smallest_scale=1.0)
    for step, finite in ((1, OK), (2, BAD_JOINT & BAD_AUDIO), (3, BAD_JOINT)):
        monitor.add(1, step, report(finite), None)
    with pytest.raises(NonFiniteError, match="step 2: the joint and audio loss"):
        monitor.check()
    monitor.check()  # raised only once


def test_overflow_is_an_error_only_at_the_smallest_loss_scale() -> None:
    monitor = FiniteMonitor(smallest_scale=1.0)
    for step, scale in enumerate((65536.0, 2.0, 1.0001), start=1):
        monitor.add(1, step, report(BAD_JOINT), torch.tensor(scale))
    monitor.check()
    monitor.add(1, 4, report(OK), torch.tensor(1.0))
    monitor.add(1, 5, report(BAD_JOINT), torch.tensor(1.0))
    with pytest.raises(NonFiniteError, match="step 5: the joint loss"):
        monitor.check()
    monitor.add(1, 6, report(BAD_JOINT), torch.tensor(0.5))
    with pytest.raises(NonFiniteError, match="step 6"):
        monitor.check()


def test_flags_are_read_before_every_checkpoint(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer than twenty steps per epoch, pending flags must be read before the weights are written."""
    unread: list[int] = []
    trainer = trainer_of(data, tmp_path / "run", "--epochs", 2)
    monkeypatch.setattr(
        loop, "save_checkpoint", lambda path, content: unread.append(len(trainer.finite_monitor._pending))
    )
    trainer.fit()
    assert unread and set(unread) == {0}
