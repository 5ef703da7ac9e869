"""Cost of a step: passes through the encoders, retained graphs, and synchronization with the device."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from integration_reference import (
    ENCODER_SETS,
    PAPER,
    PER_TENSOR,
    RELEASED,
    Multimodal,
    Options,
    batch_for,
    expectation,
    model_and_batch,
    tasks_and_batch,
)
from mmpareto import METHODS, MMPareto
from torch import Tensor, nn

METHOD_NAMES = ["joint", "uniform", "mmpareto"]
VARIANTS = pytest.mark.parametrize("options", [PER_TENSOR, PAPER, RELEASED], ids=["per_tensor", "paper", "released"])


class Count(torch.autograd.Function):
    """The identity; counts its forward and backward passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, passes: Counter[str]) -> Tensor:
        ctx.name, ctx.passes = name, passes
        passes[f"{name} forward"] += 1
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.passes[f"{ctx.name} backward"] += 1
        return gradient, None, None


class Counted(nn.Module):
    """A module that counts the backward passes through its output."""

    def __init__(self, inside: nn.Module, name: str, passes: Counter[str]) -> None:
        super().__init__()
        self.inside, self.name, self.passes = inside, name, passes

    def forward(self, x: Tensor) -> Tensor:
        return Count.apply(self.inside(x), self.name, self.passes)


def counted(model: Multimodal) -> Counter[str]:
    passes: Counter[str] = Counter()
    for name, encoder in model.encoders.items():
        first, *rest = encoder
        model.encoders[name] = nn.Sequential(Counted(first, name, passes), *rest)
        model.heads[name] = Counted(model.heads[name], f"head of {name}", passes)
    model.fusion = Counted(model.fusion, "fusion", passes)
    return passes


def check_passes(method: Any, name: str, **further: Any) -> Counter[str]:
    model, batch = model_and_batch(name)
    passes = counted(model)
    joint, unimodal = model.losses(*batch)
    method.backward(joint, unimodal, encoders=dict(model.encoders.items()), **further)
    assert all(count == 1 for which, count in passes.items() if which.endswith("forward"))
    return passes


@pytest.fixture(autouse=True)
def mlps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of two and three encoders whose first layer can be wrapped."""
    mlp = ENCODER_SETS["one modality"]["touch"]
    for names in ("ab", "abc"):
        monkeypatch.setitem(ENCODER_SETS, f"mlps {names}", dict.fromkeys(names, mlp))


@VARIANTS
@pytest.mark.parametrize("further", [{}, {"scale": 8.0}], ids=str)
@pytest.mark.parametrize("names", ["ab", "abc"])
def test_mmpareto_takes_two_passes_per_encoder(names: str, further: dict[str, float], options: Options) -> None:
    """Two backward passes per encoder, for any number of modalities, and one through fusion and heads."""
    passes = check_passes(MMPareto(**options.arguments()), f"mlps {names}", **further)
    assert {name: passes[f"{name} backward"] for name in names} == dict.fromkeys(names, 2)
    assert passes["fusion backward"] == 1
    assert all(passes[f"head of {name} backward"] == 1 for name in names)


@pytest.mark.parametrize("method", ["joint", "uniform"])
@pytest.mark.parametrize("names", ["ab", "abc"])
def test_plain_methods_take_one_pass(names: str, method: str) -> None:
    passes = check_passes(METHODS[method](), f"mlps {names}")
    assert {name: passes[f"{name} backward"] for name in names} == dict.fromkeys(names, 1)
    assert passes["fusion backward"] == 1
    assert all(passes[f"head of {name} backward"] == (method == "uniform") for name in names)


def test_two_tasks_take_two_passes() -> None:
    model, inputs, labels = tasks_and_batch()
    passes: Counter[str] = Counter()
    first, *rest = model.shared
    model.shared = nn.Sequential(Counted(first, "shared", passes), *rest)
    losses = model.losses(inputs, labels)
    MMPareto().backward(None, losses, encoders={"shared": (model.shared, list(losses))})
    assert passes == {"shared forward": 1, "shared backward": 2}


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("accumulate", [False, True])
def test_no_graph_is_retained(accumulate: bool, method: str) -> None:
    """A second backward pass through an encoder raises: its activations are freed."""
    model, batch = model_and_batch("mlps ab")
    joint, unimodal = model.losses(*batch)
    integrate = METHODS[method]()
    if accumulate:
        with integrate.accumulate():
            integrate.backward(joint, unimodal, encoders=dict(model.encoders.items()))
    else:
        integrate.backward(joint, unimodal, encoders=dict(model.encoders.items()))
    losses = [joint] if method == "joint" else [joint, *unimodal.values()]
    for loss in losses:
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()


@contextmanager
def sync_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("interaction", [False, True])
@VARIANTS
def test_backward_reads_no_value(options: Options, interaction: bool) -> None:
    """On the meta device, tensors have no values and reading one raises, so a step that runs there reads none."""
    for name in ("convolution and mlp", "unused and frozen"):
        model, (inputs, labels) = model_and_batch(name)
        model = model.to("meta")
        batch = {modality: tensor.to("meta") for modality, tensor in inputs.items()}, labels.to("meta")
        arguments: dict[str, Any] = {"encoders": dict(model.encoders.items()), "interaction": interaction}
        for method in (MMPareto(**options.arguments()), METHODS["uniform"](), METHODS["joint"]()):
            method.backward(*model.losses(*batch), **arguments)
            method.backward(*model.losses(*batch), **arguments, scale=torch.ones((), device="meta"))
            with method.accumulate():
                method.backward(*model.losses(*batch), **arguments)
            method.backward(*model.losses(*batch), **arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@VARIANTS
def test_backward_never_waits_for_the_device(options: Options) -> None:
    for name in ("convolution and mlp", "one-element and tied", "three modalities"):
        kinds = ENCODER_SETS[name]
        model = model_and_batch(name)[0].cuda()
        inputs, labels = batch_for(kinds, 8, 0)
        batch = {modality: tensor.cuda() for modality, tensor in inputs.items()}, labels.cuda()
        encoders = dict(model.encoders.items())
        for method in (MMPareto(**options.arguments()), METHODS["uniform"](), METHODS["joint"]()):
            for scale in (None, 8.0, torch.full((), 8.0, device="cuda")):
                method.backward(*model.losses(*batch), encoders=encoders, scale=scale)  # libraries load on first use
                joint, unimodal = model.losses(*batch)
                with sync_is_an_error():
                    method.backward(joint, unimodal, encoders=encoders, scale=scale)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@VARIANTS
def test_the_gpu_matches_the_reference(options: Options) -> None:
    model, batch = model_and_batch("one-element and tied")
    expected, _ = expectation("mmpareto", model, batch, options)
    wanted = [expected[p] for p in model.parameters()]
    model = model.cuda()
    on_device = {name: tensor.cuda() for name, tensor in batch[0].items()}, batch[1].cuda()
    joint, unimodal = model.losses(*on_device)
    MMPareto(**options.arguments()).backward(joint, unimodal, encoders=dict(model.encoders.items()))
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad.cpu(), gradient, rtol=1e-6, atol=1e-12)
