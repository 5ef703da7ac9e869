"""--accumulate N: the micro-batches of a batch give the step of the whole batch."""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpareto import METHODS
from mmpareto.data.loading.batches import Batch, to_device
from mmpareto.errors import InputError
from mmpareto.training.loop import Trainer
from mmpareto.training.losses import micro_batch_count, split_batch
from prepared_clips import write_prepared
from tiny_runs import needed, run, trainer_of
from torch import Tensor

OPTIONS = {
    "unimodal": ("--modality", "visual"),
    "pretrain_finetune": ("--pretrain_epochs", "0"),
    "gblending": ("--trial_epochs", "1"),
    "inforeg": ("--variant", "released"),
    "relearning": ("--protocol", "validation"),
    "greedy": ("--encoder", "staged"),
    "lfm": ("--variant", "corrected"),  # by default, it needs the whole batch
    "cggm": ("--direction_weight", "0"),  # with its direction loss, it needs the whole batch
    **dict.fromkeys(("ogm", "ogm_ge"), ("--modulated", "weights")),  # of encoders without convolutions
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=12, test=4)


def ready(data: Path, folder: Path, *more: str) -> Trainer:
    trainer = trainer_of(data, folder, "--protocol", "paper", "--batch_size", "5", *more)
    trainer.begin_epoch()
    return trainer


def batches(trainer: Trainer) -> list[Batch]:
    trainer.order.set_epoch(1)
    return [to_device(batch, trainer.device, trainer.data.train.normalisation) for batch in trainer.loader]


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in METHODS if name != "mcr"),  # which compares the samples of a batch
        "mmpareto --blocks mmtm",
        "mmpareto --blocks mmtm --cross_terms included",
    ],
)
def test_micro_batches_give_the_step_of_the_whole_batch(name: str, data: Path, tmp_path: Path) -> None:
    """Batches of 5, 5 and 2 in micro-batches of 2, 2 and 1, or 1 and 1; no BatchNorm; float32, to 1e-4 relative."""
    encoder = "staged" if "--blocks" in name else "plain"
    more = ("--encoder", encoder, "--method", *name.split(), *OPTIONS.get(name, ()), *needed(name, data, encoder))
    whole, parted = ready(data, tmp_path / "a", *more), ready(data, tmp_path / "b", *more, "--accumulate", "3")
    initial = copy.deepcopy(dict(whole.network.named_parameters()))
    for batch in batches(whole):
        one, two = (_seeded_step(trainer, batch) for trainer in (whole, parted))
        assert list(one) == list(two)
        for metric in one:
            torch.testing.assert_close(two[metric], one[metric], rtol=1e-4, atol=1e-6, msg=metric)
    result, expected = dict(parted.network.named_parameters()), dict(whole.network.named_parameters())
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(parameter, initial[key]) for key, parameter in result.items())
    whole.finite_monitor.check()
    parted.finite_monitor.check()


def _seeded_step(trainer: Trainer, batch: Batch) -> dict[str, Tensor]:
    torch.manual_seed(5)  # for PCGrad's random order
    return trainer.step(batch)


def test_all_micro_batches_have_the_same_loss_scale(data: Path, tmp_path: Path) -> None:
    more = ("--encoder", "plain")
    whole, parted = ready(data, tmp_path / "a", *more), ready(data, tmp_path / "b", *more, "--accumulate", "2")
    parted.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for batch in batches(whole):
        whole.step(batch)
        parted.step(batch)
    torch.testing.assert_close(
        dict(parted.network.named_parameters()), dict(whole.network.named_parameters()), rtol=1e-4, atol=1e-6
    )


def test_hooks_see_every_micro_batch_and_the_optimiser_steps_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = ready(data, tmp_path, "--method", "agm", "--encoder", "plain", "--accumulate", "2")
    calls: list[Any] = []
    before, step = trainer.method.before_forward, trainer.optimizer.step

    def recorded(loop: Any, inputs: Any, labels: Tensor) -> dict[str, Any]:
        calls.append(labels.tolist())
        return before(loop, inputs, labels)

    monkeypatch.setattr(trainer.method, "before_forward", recorded)
    monkeypatch.setattr(trainer.optimizer, "step", lambda *_: (calls.append("step"), step())[1])
    first = batches(trainer)[0]
    trainer.step(first)
    assert calls == [first.labels[:3].tolist(), first.labels[3:].tolist(), "step"]


def test_batchnorm_sees_one_micro_batch_at_a_time(data: Path, tmp_path: Path) -> None:
    trainer = ready(data, tmp_path, "--encoder", "tiny", "--accumulate", "2")
    alone = copy.deepcopy(trainer.network)
    first = batches(trainer)[0]
    trainer.step(first)
    for part in (slice(0, 3), slice(3, 5)):
        alone({name: values[part] for name, values in first.inputs.items()})
    for name, buffer in alone.named_buffers():
        torch.testing.assert_close(trainer.network.get_buffer(name), buffer)
        assert not name.endswith("num_batches_tracked") or buffer == 2


def test_a_nonfinite_loss_in_one_micro_batch_counts_for_the_step(data: Path, tmp_path: Path) -> None:
    trainer = ready(data, tmp_path, "--encoder", "plain", "--accumulate", "5")
    first = batches(trainer)[0]
    first.inputs["audio"][0] = float("nan")
    trainer.step(first)
    with pytest.raises(Exception, match="step 1: the joint and audio loss"):
        trainer.finite_monitor.check()


def test_no_micro_batch_is_larger_than_those_of_a_full_batch() -> None:
    for batch_size, accumulate in itertools.product(range(1, 13), range(1, 13)):
        if accumulate > batch_size:
            continue
        assert micro_batch_count(batch_size, batch_size, accumulate) == accumulate
        for samples in range(1, batch_size + 1):
            count = micro_batch_count(samples, batch_size, accumulate)
            assert 1 <= count <= min(accumulate, samples)
            assert -(-samples // count) <= -(-batch_size // accumulate)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_micro_batches_hold_every_sample_once_in_order(count: int) -> None:
    batch = Batch({"a": torch.arange(10).view(5, 2)}, torch.arange(5), torch.arange(5) + 7)
    parts = split_batch(batch, count)
    for index in (0, 1, 2):
        whole, pieces = batch[index], [part[index] for part in parts]
        if index == 0:
            whole, pieces = batch.inputs["a"], [part.inputs["a"] for part in parts]
        assert torch.equal(torch.cat(pieces), whole)
        sizes = [len(piece) for piece in pieces]
        assert len(sizes) == count and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("count", [0, -1, 5])
def test_more_micro_batches_than_samples_are_refused(count: int, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"--accumulate is {count}; it must be from 1 to --batch_size 4"):
        run(data, tmp_path / "run", "--accumulate", str(count))


def test_micro_batches_too_small_for_the_network_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"batch of 1 .*--accumulate"):
        run(data, tmp_path / "run", "--protocol", "paper", "--encoder", "normed", "--accumulate", "4")
    assert not (tmp_path / "run").exists()
