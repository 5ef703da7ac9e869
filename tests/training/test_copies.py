"""Copies of samples with one modality alone (`Hooks.copies`): data, forward pass, a step, and the length of epochs."""

import math
from pathlib import Path

import mmpareto.training.loop as loop
import numpy as np
import pytest
import torch
from mmpareto.data.loading.batches import Batch, EpochOrder, make_loader, stop_workers
from mmpareto.errors import InputError
from mmpareto.models.building import build_network
from mmpareto.training.loop import Trainer
from mmpareto.training.losses import split_batch
from prepared_clips import open_clips, write_prepared
from tiny_runs import acting, assert_same_run, read, resume, run, send_signal, trainer_of

TRAIN = 14
PAPER = ("--protocol", "paper", "--encoder", "plain")
SMV = ("--method", "smv", "--warmup", "1", "--learning_rate", "0.01", *PAPER)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=TRAIN, test=4, prepared={})


def test_copies_are_shuffled_in_and_augmented_anew(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "clips", train=5, test=1)
    dataset = open_clips(folder, "train", training=True, image_size=16, audio_frames=8)
    order = EpochOrder(len(dataset), seed=1)
    order.set_copies([(3, 1), (3, 1), (0, 0)], used=8)
    order.set_epoch(2)
    loader = make_loader(dataset, batch_size=3, order=order, workers=1)
    batches = list(loader)
    stop_workers(loader)
    indices, alone = (
        torch.cat([getattr(batch, field) for batch in batches]).tolist() for field in ("indices", "alone")
    )
    found = sorted(zip(indices, alone, strict=True))
    assert found == sorted([*((index, -1) for index in range(5)), (3, 1), (3, 1), (0, 0)])
    assert found != list(zip(indices, alone, strict=True)) and len(order) == 8
    visual = torch.cat([batch.inputs["visual"] for batch in batches])
    same_clip = [visual[row] for row, index in enumerate(indices) if index == 3]
    assert not any(torch.equal(same_clip[i], same_clip[j]) for i, j in ((0, 1), (0, 2), (1, 2)))  # three random crops
    order.set_epoch(2, start=6)
    assert list(order) == _keys(order, 2)[6:]
    order.set_copies([], used=5)
    assert sorted(_keys(order, 2)) == [(2, index) for index in range(5)]


def _keys(order: EpochOrder, epoch: int) -> list[tuple[int, ...]]:
    order.set_epoch(epoch)
    return list(order)


def test_micro_batches_keep_which_samples_are_copies() -> None:
    batch = Batch({"a": torch.arange(5.0)}, torch.arange(5), torch.arange(5), alone=torch.tensor([-1, 0, 1, -1, 0]))
    assert [part.alone.tolist() for part in split_batch(batch, 2)] == [[-1, 0, 1], [-1, 0]]


@pytest.mark.parametrize("fusion", ["concat", "sum", "average"])
def test_a_copy_is_predicted_and_trains_by_its_modality_alone(fusion: str) -> None:
    torch.manual_seed(0)
    names = ("audio", "visual", "text")
    network = build_network(dict.fromkeys(names, 5), 3, encoder="mlp", fusion=fusion).eval()
    inputs = {name: torch.randn(3, 5, requires_grad=True) for name in names}
    outputs = network(inputs, alone=torch.tensor([-1, 1, 2]))
    plain = network(inputs)
    for number, name in enumerate(names):
        for row, kept in enumerate(([0, 1, 2], [1], [2])):
            expected = plain.features[name][row] if number in kept else torch.zeros_like(plain.features[name][row])
            assert torch.equal(outputs.features[name][row], expected)
    torch.testing.assert_close(outputs.joint, network.fusion(outputs.features))
    outputs.joint.sum().backward()
    for number, name in enumerate(names):
        reached = [bool((inputs[name].grad[row] != 0).any()) for row in range(3)]
        assert reached == [True, number == 1, number == 2]


def test_a_step_on_copies_descends_the_loss_of_zeroed_features(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path / "run", *SMV, "--accumulate", "2")
    trainer.epoch = 2
    trainer.network.double()
    trainer.begin_epoch()
    batches = [batch for batch, _ in trainer._batches()]
    batch = next(batch for batch in batches if bool((batch.alone >= 0).any()))
    inputs = {name: x.double() for name, x in batch.inputs.items()}
    features = trainer.network(inputs).features
    rows = []
    for row, alone in enumerate(batch.alone.tolist()):
        used = [features[name][row] * float(alone in (-1, k)) for k, name in enumerate(trainer.network.modalities)]
        rows.append(trainer.network.fusion.fc_out(torch.cat(used)))
    loss = torch.nn.functional.cross_entropy(torch.stack(rows), batch.labels)
    expected = torch.autograd.grad(loss, [p for p in trainer.network.parameters() if p.requires_grad])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.optimizer, "step", lambda *_: None)
        patch.setattr(trainer.optimizer, "zero_grad", lambda **_: None)
        metrics = trainer.step(batch._replace(inputs=inputs))
    assert float(metrics["train_loss"]) == pytest.approx(float(loss.detach()))
    for parameter, gradient in zip([p for p in trainer.network.parameters() if p.requires_grad], expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_an_epoch_has_a_step_more_per_batch_of_copies(data: Path, tmp_path: Path) -> None:
    """The counts, the schedule in epochs, and the numbers of the recorded steps; with whole batches only."""
    more = (*SMV, "--scheduler", "cosine", "--record_gradients", "1", "--drop_last", "train", "--epochs", "3")
    trainer = trainer_of(data, tmp_path / "run", *more)
    steps, rates = [], []
    original = trainer.step

    def step(batch: Batch, samples: int | None = None) -> dict[str, torch.Tensor]:
        assert samples == 4
        rates.append((trainer.epoch, trainer.steps, trainer.optimizer.param_groups[0]["lr"]))
        return original(batch, samples)

    trainer.step = step  # type: ignore[method-assign]
    evaluate = trainer._evaluate_epoch
    trainer._evaluate_epoch = lambda: (steps.append(trainer.steps), evaluate())[1]  # type: ignore[method-assign, func-returns-value]
    copies = []
    begin = trainer.begin_epoch
    trainer.begin_epoch = lambda: (begin(), copies.append(sum(map(len, trainer.method.copies().values()))))[0]  # type: ignore[method-assign, func-returns-value]
    trainer.fit()
    assert copies[0] == 0 and copies[1] > 0
    assert steps == [(TRAIN + count) // 4 for count in copies]
    assert trainer.total_steps == sum(steps)
    for epoch, number, rate in rates:
        done = epoch - 1 + number / steps[epoch - 1]
        assert rate == pytest.approx(0.01 * (1 + math.cos(math.pi * done / 3)) / 2)
    with np.load(tmp_path / "run/gradients.npz") as recorded:
        assert recorded["step"].tolist() == list(range(1, sum(steps) + 1))


def test_a_run_stopped_among_copies_resumes_bit_identically(data: Path, tmp_path: Path) -> None:
    """With drawn copies and recorded gradients, after steps of two lengths of epoch."""
    more = (*SMV, "--level", "modality", "--part_ratio", "0.5", "--alpha", "4", "--epochs", "3")
    more = (*more, "--record_gradients", "2")
    assert run(data, tmp_path / "whole", *more) == 0
    steps = read(tmp_path / "whole/last.pt")["earlier_steps"]
    assert steps > 12  # 4 per epoch without copies
    with acting(loop.Trainer, "step", steps - 1, send_signal):
        assert run(data, tmp_path / "run", *more) == 143
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    records = [dict(np.load(tmp_path / name / "gradients.npz")) for name in ("run", "whole")]
    assert all(np.array_equal(records[0][key], records[1][key]) for key in ("step", "epoch", "norm_joint_audio"))


def test_a_run_without_the_number_of_earlier_steps_resumes(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path / "run", "--method", "joint", *PAPER)
    trainer._train_epoch()
    state = trainer.state_dict() | {"epoch": 3, "steps": 1}
    del state["earlier_steps"]
    again = trainer_of(data, tmp_path / "again", "--method", "joint", *PAPER)
    again.load_state_dict(state)
    assert again.total_steps == 2 * 4 + 1


def test_indices_are_those_of_the_features(data: Path, tmp_path: Path) -> None:
    trainer: Trainer = trainer_of(data, tmp_path / "run", *SMV)
    context, dataset = trainer.method_context, trainer.data.train
    context.epoch = 3
    for share in (1.0, 0.4):
        labels = torch.cat([labels for _, labels in context.features(share, "augmented")])
        indices = context.indices(share)
        assert [dataset.labels[index] for index in indices.tolist()] == labels.tolist()
    assert sorted(context.indices(1.0).tolist()) == list(range(TRAIN))


def test_a_last_batch_of_one_copy_is_foreseen(data: Path, tmp_path: Path) -> None:
    """With BatchNorm on the feature: 14 clips in batches of 4 never leave one, but copies may."""
    trainer_of(data, tmp_path / "joint", "--method", "joint", *PAPER, "--encoder", "normed")
    with pytest.raises(InputError, match=r"batch of 1 .*--drop_last train"):
        trainer_of(data, tmp_path / "run", *SMV, "--encoder", "normed")
    trainer_of(data, tmp_path / "whole", *SMV, "--encoder", "normed", "--drop_last", "train")
