"""Schedules compared with torch.optim.lr_scheduler, and the optimiser's parameter groups."""

import dataclasses
from pathlib import Path

import mmpareto.training.loop as loop
import pytest
import torch
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.errors import InputError
from mmpareto.training.optimisation import learning_rate
from mmpareto.training.run import make_trainer
from mmpareto.training.settings import Settings, parse
from prepared_clips import write_prepared
from tiny_runs import acting, arguments, assert_same_run, metrics, read, resume, run, send_signal, trainer_of
from torch.optim import lr_scheduler

STEPS, EPOCHS, RATE = 5, 6, 0.3


def settings(line: str) -> Settings:
    return parse(f"--dataset cremad --epochs {EPOCHS} --learning_rate {RATE} {line}".split()).settings


def optimizer_of() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)


def stepped(schedule: lr_scheduler.LRScheduler, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """The learning rate of every step, by PyTorch's scheduler that is stepped after each."""
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def ours(given: Settings) -> list[float]:
    return [learning_rate(given, epoch, step, STEPS) for epoch in range(1, EPOCHS + 1) for step in range(STEPS)]


def test_cosine_is_pytorchs_over_all_steps() -> None:
    optimizer = optimizer_of()
    theirs = stepped(lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * STEPS), optimizer, EPOCHS * STEPS)
    assert ours(settings("--scheduler cosine")) == pytest.approx(theirs, rel=1e-9)
    assert theirs[0] == RATE and 0 < theirs[-1] < 0.01 * RATE


@pytest.mark.parametrize(("epochs", "steps"), [("2", 10), ("0.5", 2)])
def test_cosine_follows_the_warm_up(epochs: str, steps: int) -> None:
    optimizer = optimizer_of()
    warmup = lr_scheduler.LinearLR(optimizer, start_factor=1 / steps, total_iters=steps - 1)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * STEPS - steps)
    schedule = lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[steps])
    theirs = stepped(schedule, optimizer, EPOCHS * STEPS)
    assert ours(settings(f"--scheduler cosine --warmup_epochs {epochs}")) == pytest.approx(theirs, rel=1e-9)


def test_warm_up_goes_with_the_step_schedule_which_counts_from_the_first_epoch() -> None:
    optimizer = optimizer_of()
    warmup = lr_scheduler.LinearLR(optimizer, start_factor=1 / STEPS, total_iters=STEPS - 1)
    decay = lr_scheduler.StepLR(optimizer, 2 * STEPS, gamma=0.1)
    theirs = stepped(lr_scheduler.ChainedScheduler([warmup, decay]), optimizer, EPOCHS * STEPS)  # type: ignore[arg-type]
    given = settings("--scheduler step --lr_decay_step 2 --lr_decay_ratio 0.1 --warmup_epochs 1")
    assert ours(given) == pytest.approx(theirs, rel=1e-9)
    assert ours(dataclasses.replace(given, warmup_epochs=0.0)) == pytest.approx([*[RATE] * 10, *theirs[10:]])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=18, test=6)


def test_the_loop_takes_every_step_at_the_rate_of_the_schedule(data: Path, tmp_path: Path) -> None:
    line = "--scheduler cosine --warmup_epochs 1 --learning_rate 0.4 --encoder_learning_rate 0.1 --protocol paper"
    trainer = trainer_of(data, tmp_path, *line.split())
    rates: list[list[float]] = []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *rest: rates.append([group["lr"] for group in optimizer.param_groups])
    )
    history = trainer.fit()
    # 18 samples in batches of 4: five steps of warm-up, then half a cosine over five.
    cosine = optimizer_of()
    factors = [k / 5 for k in range(1, 6)]
    factors += [rate / RATE for rate in stepped(lr_scheduler.CosineAnnealingLR(cosine, 5), cosine, 5)]
    assert [encoders for encoders, _ in rates] == pytest.approx([0.1 * factor for factor in factors])
    assert [others for _, others in rates] == pytest.approx([0.4 * factor for factor in factors])
    assert [line["learning_rate"] for line in history] == pytest.approx([0.08, 0.4])  # of the first step
    assert [line["encoder_learning_rate"] for line in history] == pytest.approx([0.02, 0.1])


def test_encoders_and_everything_else_are_groups(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path, "--encoder_learning_rate", "1e-12", "--method", "dgl", "--momentum", "0")
    before = {name: tensor.clone() for name, tensor in trainer.network.named_parameters()}
    trainer.fit()
    names = {id(parameter): name for name, parameter in trainer.network.named_parameters()}
    groups = [{names[id(p)] for p in group["params"]} for group in trainer.optimizer.param_groups]
    assert groups[0] == {name for name in names.values() if name.startswith("encoders.")}
    assert groups[0] | groups[1] == set(names.values()) and not groups[0] & groups[1]
    for name, parameter in trainer.network.named_parameters():
        if name.startswith("encoders."):  # rates of 1e-12 do not move them
            torch.testing.assert_close(parameter, before[name], rtol=0, atol=1e-6)
    assert not torch.allclose(trainer.network.fusion.fc_out.weight, before["fusion.fc_out.weight"], atol=1e-4)


def test_equal_rates_of_encoders_and_others_change_nothing(data: Path, tmp_path: Path) -> None:
    for name, more in (("one", ()), ("two", ("--encoder_learning_rate", "0.05"))):  # 0.05 is the tiny runs' rate
        assert run(data, tmp_path / name, "--epochs", 1, "--clip_grad", "0.5", *more) == 0
    one, two = (read(tmp_path / name / "last.pt")["model"] for name in ("one", "two"))
    torch.testing.assert_close(one, two)


def test_a_stopped_run_continues_its_schedule_bit_identically(data: Path, tmp_path: Path) -> None:
    line = "--epochs 3 --scheduler cosine --warmup_epochs 1.5 --encoder_learning_rate 0.01 --optimizer adamw"
    assert run(data, tmp_path / "whole", *line.split()) == 0
    with acting(loop.Trainer, "step", 6, send_signal):
        assert run(data, tmp_path / "run", *line.split()) == 143
    with pytest.raises(InputError, match="--epochs 3: leave --epochs out"):
        resume(tmp_path / "run", "--epochs", "5")  # the cosine ends with the last epoch
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# Early stopping


@pytest.mark.parametrize(
    ("accuracies", "patience", "last"),
    [
        ([0.1, 0.5, 0.4, 0.5, 0.3, 0.9], 2, 4),  # a tie is no improvement
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 1, 2),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 6),
    ],
)
def test_a_run_stops_when_patience_runs_out(
    accuracies: list[float], patience: int, last: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.Trainer._evaluate_epoch

    def evaluate(trainer: loop.Trainer) -> dict[str, object]:
        return original(trainer) | {"val_acc": accuracies[trainer.epoch - 1]}

    monkeypatch.setattr(loop.Trainer, "_evaluate_epoch", evaluate)
    line = ("--epochs", 6, "--encoder", "plain", "--patience", patience)
    assert run(data, tmp_path / "run", *line) == 0
    assert len(metrics(tmp_path / "run")) == last
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert resume(tmp_path / "run") == 0  # there is nothing left to do
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    finished = FinishedRun(tmp_path / "run")
    assert finished.is_finished and ("stopped_early" in finished.summary) is (last < 6)
    assert finished.summary["best_val"]["val_acc"] == max(accuracies[:last])
    if last == 4:  # with more patience it goes on
        assert resume(tmp_path / "run", "--patience", "9") == 0
        assert len(metrics(tmp_path / "run")) == 6 and FinishedRun(tmp_path / "run").is_finished


def test_epochs_that_may_not_be_chosen_do_not_count_as_the_best(data: Path, tmp_path: Path) -> None:
    line = ("--epochs", 6, "--patience", 1, "--best_from_epoch", 3, "--learning_rate", 1e-12, "--encoder", "plain")
    trainer = make_trainer(parse(arguments(data, tmp_path / "run", *line)).settings)
    assert len(trainer.fit()) == 4  # the third may be the best; the fourth is not better
