"""Invalid calls raise an error that names the cause, and leave no gradient."""

from typing import Any

import pytest
import torch
from integration_reference import Multimodal, model_and_batch
from mmpareto import MMPareto
from torch import Tensor, nn


@pytest.fixture
def model() -> Multimodal:
    return model_and_batch("two linear")[0]


@pytest.fixture
def losses(model: Multimodal) -> tuple[Tensor, dict[str, Tensor]]:
    return model.losses(*model_and_batch("two linear")[1])


def assert_rejected(match: str, model: Multimodal, joint: Any, unimodal: Any, encoders: Any = None) -> None:
    encoders = dict(model.encoders.items()) if encoders is None else encoders
    with pytest.raises(ValueError, match=match):
        MMPareto().backward(joint, unimodal, encoders=encoders)
    assert all(p.grad is None for p in model.parameters())


Losses = tuple[Tensor, dict[str, Tensor]]


def test_a_loss_that_requires_no_gradient(model: Multimodal, losses: Losses) -> None:
    joint, unimodal = losses
    assert_rejected("audio", model, joint, {**unimodal, "audio": unimodal["audio"].detach()})
    assert_rejected("visual", model, joint, {**unimodal, "visual": torch.tensor(1.0)})
    assert_rejected("joint", model, joint.detach(), unimodal)


def test_no_loss_at_all(model: Multimodal, losses: Losses) -> None:
    joint, _ = losses
    assert_rejected("unimodal", model, joint, {})
    assert_rejected("no loss", model, None, {})


def test_a_loss_without_an_encoder(model: Multimodal, losses: Losses) -> None:
    joint, unimodal = losses
    assert_rejected("visual", model, joint, unimodal, {"audio": model.encoders["audio"]})
    assert_rejected("vidual", model, joint, unimodal | {"vidual": unimodal["audio"] * 1.0})


def test_a_task_without_a_loss_or_an_encoder(model: Multimodal, losses: Losses) -> None:
    _, unimodal = losses
    both = list(model.encoders.parameters())
    assert both
    assert_rejected("visual", model, None, unimodal, {"shared": (model.encoders, ["audio", "depth"])})
    assert_rejected("visual", model, None, unimodal, {"shared": (model.encoders, ["audio"])})


def test_a_parameter_in_two_encoders(model: Multimodal, losses: Losses) -> None:
    joint, unimodal = losses
    audio, visual = (list(encoder.parameters()) for encoder in model.encoders.values())
    assert_rejected("audio|visual", model, joint, unimodal, {"audio": audio, "visual": [*visual, audio[0]]})


def test_an_iterator_that_was_used_before(model: Multimodal, losses: Losses) -> None:
    """It is no frozen encoder, for which the plain sum would be taken."""
    used = {name: encoder.parameters() for name, encoder in model.encoders.items()}
    assert all(list(parameters) for parameters in used.values())
    assert_rejected("'audio' is an iterator", model, *losses, used)
    MMPareto().backward(*losses, encoders={name: encoder.parameters() for name, encoder in model.encoders.items()})


def test_a_loss_that_is_not_a_scalar(model: Multimodal, losses: Losses) -> None:
    joint, unimodal = losses
    assert_rejected("audio", model, joint, {**unimodal, "audio": unimodal["audio"] * torch.ones(3)})
    assert_rejected("joint", model, joint * torch.ones(3), unimodal)


@pytest.mark.parametrize("gamma", [0.0, -1.5, float("nan"), float("inf")])
def test_gamma(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma"):
        MMPareto(gamma=gamma)


@pytest.mark.parametrize("option", ["weights", "rescale", "boost"])
def test_unknown_option_values(option: str) -> None:
    for value in ("tensor", "Parameter", "", None):
        arguments: dict[str, Any] = {option: value}
        with pytest.raises(ValueError, match=option):
            MMPareto(**arguments)


def test_weights_per_parameter_cannot_be_rescaled_per_encoder() -> None:
    """This combination of options has no meaning."""
    with pytest.raises(ValueError, match="rescale"):
        MMPareto(weights="parameter", rescale="encoder")


def test_sparse_gradients() -> None:
    embedding, head = nn.Embedding(5, 4, sparse=True), nn.Linear(4, 2)
    feature = embedding(torch.tensor([1, 3]))
    with pytest.raises(ValueError, match="sparse"):
        MMPareto().backward(head(feature).sum(), {"text": feature.square().mean()}, encoders={"text": embedding})
    assert embedding.weight.grad is None and head.weight.grad is None
