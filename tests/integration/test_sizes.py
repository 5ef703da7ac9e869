"""Gradients of any size that float32 has, zero, and not finite: integrated alike, or reported, by every method."""

import copy
import math
from typing import Any

import pytest
import torch
from every_method import (
    CONTROLS,
    FEATURE,
    VARIANTS,
    Batch,
    Model,
    assert_close,
    assert_same_state,
    batch_of,
    ready,
    step,
    take_grads,
    tensors_in,
)
from mmpareto import METHODS
from torch import Tensor, nn
from torch.nn.utils import parametrize

every = pytest.mark.parametrize("name", list(METHODS))
every_path = pytest.mark.parametrize("name", [*METHODS, *CONTROLS, *VARIANTS])
BY_SIZE = {
    "gradnorm": "the learning rate of its weights is per unit of the gradients",
    "agm, released": "clips gradients with elements above 1",
}
"""Methods that, by definition, do not only scale their step with the gradients."""


class _Times(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor, and may pass through another dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
        ctx.factor, ctx.dtype = factor, dtype
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.to(ctx.dtype).to(gradient) * ctx.factor, None, None


class Times(nn.Module):
    """Parametrization by a parameter whose gradients are `factor` times as long."""

    def __init__(self, factor: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.factor, self.dtype = factor, dtype

    def forward(self, x: Tensor) -> Tensor:
        return _Times.apply(x, self.factor, self.dtype)


def float32_model(factor: float, dtype: torch.dtype = torch.float32, only: str = "") -> tuple[Model, Batch]:
    """Return a float32 model whose gradients are `factor` times as long: all, or those of modules named `only`."""
    model, (inputs, labels) = Model().float(), batch_of()
    for path, module in list(model.named_modules()):
        for name, _ in list(module.named_parameters(recurse=False)):
            chosen = not only or path.startswith(only)
            parametrize.register_parametrization(module, name, Times(factor if chosen else 1.0, dtype))
    return model, ({name: x.float() for name, x in inputs.items()}, labels)


class OneElement(nn.Module):
    """Encoder with a single weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.gate = nn.Linear(1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.mean(1, keepdim=True)).mean((1, 2, 3)).unsqueeze(1)
        return (torch.tanh(x) * torch.sigmoid(self.gate(x))) * torch.linspace(1, 2, FEATURE, dtype=x.dtype)


@every_path
def test_the_direction_does_not_depend_on_the_size(name: str) -> None:
    """Scaling all gradients by a power of two is exact in float32, except where squares are computed in float64."""
    results = {}
    for exponent in (0, -100, 100):
        model, batch = float32_model(2.0**exponent)
        method, loop = ready(name, model, batch)
        for number in range(2):
            report = step(method, loop, batch, seed=number)
            assert bool(report.all_finite)
            for encoder in report.values():
                assert bool(encoder.weights.isfinite().all()) and bool(encoder.norms.isfinite().all())
            results[exponent, number] = take_grads(model)
        assert all(bool(value.isfinite().all()) for value in tensors_in(method.state_dict()) if name != "pmr")
    for (exponent, number), grads in results.items():
        assert all(g is None or bool(g.isfinite().all()) for g in grads.values())
        if name not in BY_SIZE:
            actual = {key: None if g is None else g.double() / 2.0**exponent for key, g in grads.items()}
            assert_close(actual, results[0, number], 1e-5)


@every_path
def test_gradients_of_zero_are_integrated_to_zero(name: str) -> None:
    model, batch = float32_model(0.0)
    method, loop = ready(name, model, batch)
    for number in range(2):
        report = step(method, loop, batch, seed=number)
        assert bool(report.all_finite)
        for encoder in report.values():
            assert all(bool(x.isfinite().all()) for x in (encoder.cosine, encoder.norms, encoder.weights))
    assert not any(bool(g.any()) for g in take_grads(model).values() if g is not None)


@every
def test_encoders_of_one_weight(name: str) -> None:
    model, batch = Model(), batch_of()
    for modality in model.modalities:
        model.encoders[modality] = OneElement().double()
    method, loop = ready(name, model, batch)
    for number in range(2):
        report = step(method, loop, batch, seed=number)
        assert bool(report.all_finite)
    grads = [g for g in take_grads(model).values() if g is not None]
    assert grads and all(bool(g.isfinite().all()) for g in grads)


@every_path
@pytest.mark.parametrize("where", ["encoders.visual.layer", "heads.visual", "fusion"])
def test_what_is_not_finite_is_reported(name: str, where: str) -> None:
    """`report.finite` is all that a loop looks at: no `.grad` may be finite or not against what it says."""
    model, batch = float32_model(math.inf, only=where)
    method, loop = ready(name, model, batch)
    before = copy.deepcopy(method.state_dict())
    report = step(method, loop, batch)
    grads = take_grads(model)
    assert bool(report.all_finite) == all(bool(g.isfinite().all()) for g in grads.values() if g is not None)
    reached = [g for key, g in grads.items() if key.startswith(where) and g is not None]
    assert bool(report.all_finite) == (not reached)
    if method.separates and where == "heads.visual" and reached and "visual" in report.losses:
        assert not bool(report.finite[report.losses.index("visual")])
    if reached and not name.startswith("mla"):  # MLA's first turn is finite
        for a, b in zip(tensors_in(method.state_dict()), tensors_in(before), strict=False):
            assert_same_state(a, b)


@every
def test_an_fp16_overflow_skips_the_step(name: str) -> None:
    """Gradients pass through float16; the factor is so large at first that they overflow there."""
    model, batch = float32_model(1.0, torch.float16)
    method, loop = ready(name, model, batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, backoff_factor=2.0**-20)
    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    report = step(method, loop, batch, scale=scaler)
    assert not bool(report.all_finite)
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, start[key]) for key, p in model.named_parameters())
    optimizer.zero_grad()
    state = copy.deepcopy(method.state_dict())
    assert bool(step(method, loop, batch, scale=scaler).all_finite)
    scaler.unscale_(optimizer)
    expected_model, _ = float32_model(1.0)
    plain, plain_loop = ready(name, expected_model, batch)
    plain.load_state_dict(state)
    step(plain, plain_loop, batch)
    assert_close(take_grads(model), take_grads(expected_model), 2e-2)


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-24, 1e-20, 1e19, 1e25, 1e35])
@pytest.mark.parametrize("name", ["mmpareto", "pareto", "pcgrad", "metabalance", "gradnorm", "uniform"])
def test_two_objectives_of_any_size_are_integrated_alike(name: str, size: float) -> None:
    """The square of a float32 number below 1e-23 or above 1e19 is 0 or infinite; conflicts must not get lost in it."""
    torch.manual_seed(0)
    joint = torch.randn(300, dtype=torch.float64)
    unimodal = -joint + 0.7 * torch.randn(300, dtype=torch.float64)

    def integrated(size: float, dtype: torch.dtype) -> tuple[torch.Tensor, Any]:
        weight = nn.Parameter(torch.zeros(300, dtype=dtype))
        losses = [((g * size).to(dtype) * weight).sum() for g in (joint, unimodal)]
        report = METHODS[name]().backward(losses[0], {"touch": losses[1]}, encoders={"touch": [weight]})
        assert weight.grad is not None
        return weight.grad.double(), report

    (wanted, expected), (grad, report) = integrated(1.0, torch.float64), integrated(size, torch.float32)
    torch.testing.assert_close(grad / size, wanted, rtol=1e-5, atol=1e-6)
    if expected:
        torch.testing.assert_close(report["touch"].norms / size, expected["touch"].norms, rtol=1e-5, atol=0)
        assert report["touch"].conflict.tolist() == expected["touch"].conflict.tolist()
