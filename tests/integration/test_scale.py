"""`scale`, the factor of a GradScaler: `.grad` is multiplied by it, and nothing else depends on it."""

from typing import Any

import pytest
import torch
from integration_reference import (
    PAPER,
    PER_TENSOR,
    RELEASED,
    Options,
    assert_gradients,
    assert_report,
    expectation,
    finite_flags,
    model_and_batch,
)
from mmpareto import METHODS, MMPareto
from torch import nn

SCALES: dict[str, Any] = {
    "65536": 65536.0,
    "tensor": torch.tensor(65536.0),
    "float64 tensor": torch.tensor(1024.0, dtype=torch.float64),
    "not a power of two": 3.7,
    "below one": 2.0**-6,
}
by_scale = pytest.mark.parametrize("name", SCALES)


@by_scale
@pytest.mark.parametrize("options", [PER_TENSOR, PAPER, RELEASED], ids=["per_tensor", "paper", "released"])
def test_mmpareto(options: Options, name: str) -> None:
    model, batch = model_and_batch("convolution and mlp", seed=1)
    expected, reports = expectation("mmpareto", model, batch, options)
    scale = float(SCALES[name])
    joint, unimodal = model.losses(*batch)
    report = MMPareto(**options.arguments()).backward(
        joint, unimodal, encoders=dict(model.encoders.items()), scale=SCALES[name]
    )
    assert_gradients({p: None if g is None else scale * g for p, g in expected.items()})
    for modality, wanted in reports.items():
        assert_report(report[modality], wanted)
    assert finite_flags(report) == [True, True, True]


@by_scale
@pytest.mark.parametrize("method", ["joint", "uniform"])
def test_plain_methods(method: str, name: str) -> None:
    model, batch = model_and_batch("two linear")
    expected, _ = expectation(method, model, batch)
    joint, unimodal = model.losses(*batch)
    METHODS[method]().backward(joint, unimodal, encoders=dict(model.encoders.items()), scale=SCALES[name])
    assert_gradients({p: None if g is None else float(SCALES[name]) * g for p, g in expected.items()})


@pytest.mark.parametrize("method", ["joint", "uniform", "mmpareto"])
def test_existing_gradients_are_not_scaled(method: str) -> None:
    model, batch = model_and_batch("two linear")
    expected, _ = expectation(method, model, batch)
    before = {p: torch.full_like(p, 0.5) for p in model.parameters()}
    for parameter, start in before.items():
        parameter.grad = start.clone()
    joint, unimodal = model.losses(*batch)
    METHODS[method]().backward(joint, unimodal, encoders=dict(model.encoders.items()), scale=16.0)
    assert_gradients({p: None if g is None else 16 * g for p, g in expected.items()}, before)


@pytest.mark.parametrize("method", ["joint", "uniform", "mmpareto"])
def test_half_precision_gradients_do_not_underflow(method: str) -> None:
    """The purpose of a GradScaler: 1e-9 is 0 in float16 unless it is scaled in the backward pass."""
    inside, outside = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))

    def loss(sign: float) -> torch.Tensor:
        return 1e-9 * (inside.half().float() * sign + outside.half().float()).sum()

    report = METHODS[method]().backward(
        loss(1.0), {"touch": loss(2.0)}, encoders={"touch": [inside]}, scale=torch.tensor(2.0**17)
    )
    count = {"joint": (1, 1), "uniform": (3, 2), "mmpareto": (3, 2)}[method]
    for parameter, factor in zip((inside, outside), count, strict=True):
        wanted = torch.full((4,), factor * 1e-9)
        torch.testing.assert_close(parameter.grad / 2.0**17, wanted, rtol=1e-2, atol=0.0)
    if method == "mmpareto":
        torch.testing.assert_close(report["touch"].norms.float(), torch.tensor([2e-9, 4e-9]), rtol=1e-2, atol=0.0)


def scaled_step(bad: float, optimizer: torch.optim.Optimizer, scaler: Any, model: Any, batch: Any) -> None:
    joint, unimodal = model.losses(*batch)
    scaler.scale(torch.zeros(()))  # a GradScaler creates its factor at its first use
    MMPareto().backward(joint * bad, unimodal, encoders=dict(model.encoders.items()), scale=scaler.get_scale())
    scaler.step(optimizer)
    scaler.update()


def test_grad_scaler() -> None:
    """`scaler.step` removes the factor, and skips the step when a loss is non-finite."""
    model, batch = model_and_batch("two linear")
    expected, _ = expectation("mmpareto", model, batch)
    start = {p: p.detach().clone() for p in model.parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu")
    scaled_step(1.0, optimizer, scaler, model, batch)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(parameter.detach(), start[parameter] - gradient, rtol=1e-6, atol=1e-9)

    optimizer.zero_grad()
    before, factor = {p: p.detach().clone() for p in model.parameters()}, scaler.get_scale()
    scaled_step(torch.inf, optimizer, scaler, model, batch)
    assert all(torch.equal(p, before[p]) for p in model.parameters())
    assert scaler.get_scale() == factor / 2
