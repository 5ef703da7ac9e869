"""Several optimiser steps per batch, encoders that are trained in turn, and new optimisers (`Hooks`), in the loop."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpareto.data.loading.batches import to_device
from mmpareto.training.loop import Trainer
from prepared_clips import write_prepared
from tiny_runs import run, trainer_of

DECAY = ("--weight_decay", "0.1", "--momentum", "0.9", "--learning_rate", "0.05", "--protocol", "paper")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=14, test=4, prepared={})


def snapshot(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in trainer.network.state_dict().items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The encoders, and other parts, of which a parameter or a buffer has changed."""
    return {
        key.split(".")[1 if key.startswith("encoders.") else 0]
        for key, value in before.items()
        if not torch.equal(value, after[key])
    }


def batches(trainer: Trainer) -> Iterator[object]:
    for batch in trainer.loader:
        yield to_device(batch, trainer.device, trainer.data.train.normalisation)


def test_a_turn_moves_its_own_encoder_and_the_head(data: Path, tmp_path: Path) -> None:
    """Whatever momentum and weight decay; and each turn is a step of the optimiser on the loss of its modality."""
    trainer = trainer_of(data, tmp_path / "run", "--method", "mla", *DECAY)
    trainer.begin_epoch()
    assert (trainer.method.batches, trainer.method.turns_per_batch) == (trainer.steps_per_epoch, 2) == (4, 2)
    states = [snapshot(trainer)]
    trainer.optimizer.register_step_post_hook(lambda *_: states.append(snapshot(trainer)))
    losses = []
    for batch in batches(trainer):
        taken = len(states)
        metrics = trainer.step(batch)  # type: ignore[arg-type]
        assert [moved(a, b) for a, b in zip(states[taken - 1 : -1], states[taken:], strict=True)] == [
            {"audio", "fusion"},
            {"visual", "fusion"},
        ]
        losses.append([float(metrics[f"train_loss{name}"]) for name in ("_audio", "_visual", "")])
        trainer.network.load_state_dict(states[taken])  # what the visual turn began with
        with torch.no_grad():
            outputs = trainer.network({"visual": batch.inputs["visual"]})  # type: ignore[attr-defined]
            loss = torch.nn.functional.cross_entropy(outputs.joint, batch.labels)  # type: ignore[attr-defined]
        torch.testing.assert_close(metrics["train_loss_visual"], loss, rtol=1e-4, atol=1e-6)
        trainer.network.load_state_dict(states[-1])
    assert trainer.steps == len(losses) == 4
    audio, visual, both = np.array(losses).T
    np.testing.assert_allclose(both, (audio + visual) / 2, rtol=1e-6)


def test_the_turns_of_a_step_are_recorded_as_one(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "run", "--method", "mla", "--record-gradients", "2", *DECAY) == 0
    with np.load(tmp_path / "run/gradients.npz") as records:
        assert records["step"].tolist() == [1, 3, 5, 7] and records["objectives"].tolist() == ["unimodal"]
        for name in ("audio", "visual"):
            assert (records[f"norm_unimodal_{name}"] > 0).all()


def test_stages_train_one_encoder_after_the_other_with_new_optimisers(data: Path, tmp_path: Path) -> None:
    more = ("--boost_epochs", "1", "--rectify_epochs", "1", "--epochs", "6")
    trainer = trainer_of(data, tmp_path / "run", "--method", "reconboost", *more, *DECAY)
    states, rates, with_momentum = [snapshot(trainer)], [1.0], []
    for epoch in range(1, 7):
        trainer._reset_epoch(epoch)
        trainer._train_epoch()
        states.append(snapshot(trainer))
        rates.append(float(trainer.network.fusion.rate.detach()))
        encoders = trainer.network.encoders.items()
        with_momentum.append({n for n, e in encoders if any(p in trainer.optimizer.state for p in e.parameters())})
    expected = [{"audio"}, {"audio"}, {"visual"}, {"audio", "visual"}, {"audio"}, {"audio", "visual"}]
    assert [moved(a, b) - {"fusion"} for a, b in itertools.pairwise(states)] == expected
    assert [a != b for a, b in itertools.pairwise(rates)] == [False, True] * 3
    assert with_momentum == expected
