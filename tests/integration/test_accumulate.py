"""Micro-batches under `accumulate()` give the gradients of the whole batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from integration_reference import (
    PAPER,
    PER_TENSOR,
    RELEASED,
    Batch,
    Multimodal,
    Options,
    assert_gradients,
    assert_report,
    dense_and_batch,
    expectation,
    finite_flags,
    model_and_batch,
)
from mmpareto import METHODS, MMPareto
from torch import Tensor, nn

METHOD_VARIANTS: dict[str, tuple[str, Callable[[], Any], Options]] = {
    "joint": ("joint", METHODS["joint"], PER_TENSOR),
    "uniform": ("uniform", METHODS["uniform"], PER_TENSOR),
    "per_tensor": ("mmpareto", MMPareto.per_tensor, PER_TENSOR),
    "paper": ("mmpareto", MMPareto.paper, PAPER),
    "released": ("mmpareto", MMPareto.released, RELEASED),
}
MODELS = ["one modality", "one-element and tied", "unused and frozen", "three modalities"]  # none has BatchNorm
by_variant = pytest.mark.parametrize("variant", METHOD_VARIANTS)


def shares_of(batch: Batch, sizes: list[int]) -> list[tuple[Batch, float]]:
    """Return micro-batches, each with its share of the samples."""
    inputs, labels = batch
    pieces = {name: tensor.split(sizes) for name, tensor in inputs.items()}
    return [
        (({name: split[i] for name, split in pieces.items()}, part), len(part) / len(labels))
        for i, part in enumerate(labels.split(sizes))
    ]


def weighted_losses(model: Multimodal, batch: Batch, share: float) -> tuple[Tensor, dict[str, Tensor]]:
    joint, unimodal = model.losses(*batch)
    return joint * share, {name: loss * share for name, loss in unimodal.items()}


def encoders_of(model: Multimodal) -> dict[str, nn.Module]:
    return dict(model.encoders.items())


def accumulated(model: Multimodal, batch: Batch, sizes: list[int], integrate: Any, **further: Any) -> Any:
    """Run all micro-batches but the last inside one `accumulate()`, the last one outside; return its report."""
    *early, last = shares_of(batch, sizes)
    with integrate.accumulate():
        for part, share in early:
            integrate.backward(*weighted_losses(model, part, share), encoders=encoders_of(model), **further)
    return integrate.backward(*weighted_losses(model, *last), encoders=encoders_of(model), **further)


@by_variant
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sizes", [[6, 6], [3, 4, 5], [1, 9, 2]], ids=str)
def test_micro_batches_equal_the_whole(sizes: list[int], name: str, variant: str) -> None:
    method, make, options = METHOD_VARIANTS[variant]
    model, batch = model_and_batch(name, size=sum(sizes))
    expected, reports = expectation(method, model, batch, options)
    report = accumulated(model, batch, sizes, make())
    assert_gradients(expected)
    assert list(report) == list(reports)
    for modality, wanted in reports.items():
        assert_report(report[modality], wanted)
    assert all(finite_flags(report))


@by_variant
def test_a_context_for_each_micro_batch(variant: str) -> None:
    """As in a loop that decides at every micro-batch whether it is the last."""
    method, make, options = METHOD_VARIANTS[variant]
    model, batch = model_and_batch("three modalities", size=9)
    expected, _ = expectation(method, model, batch, options)
    integrate = make()
    *early, last = shares_of(batch, [2, 3, 4])
    for part, share in early:
        with integrate.accumulate():
            integrate.backward(*weighted_losses(model, part, share), encoders=encoders_of(model))
    integrate.backward(*weighted_losses(model, *last), encoders=encoders_of(model))
    assert_gradients(expected)


@by_variant
def test_only_the_last_call_changes_grad(variant: str) -> None:
    method, make, options = METHOD_VARIANTS[variant]
    model, batch = model_and_batch("three modalities", size=9)
    expected, _ = expectation(method, model, batch, options)
    trainable = list(model.parameters())
    before = {p: torch.full_like(p, 0.5) for p in trainable[::2]}
    for parameter, start in before.items():
        parameter.grad = start.clone()
    integrate = make()
    *early, last = shares_of(batch, [2, 3, 4])
    with integrate.accumulate():
        for part, share in early:
            integrate.backward(*weighted_losses(model, part, share), encoders=encoders_of(model))
            for parameter in trainable:
                if parameter in before:
                    assert torch.equal(parameter.grad, before[parameter])
                else:
                    assert parameter.grad is None
    integrate.backward(*weighted_losses(model, *last), encoders=encoders_of(model))
    assert_gradients(expected, before)


@by_variant
def test_a_step_leaves_nothing_for_the_next_one(variant: str) -> None:
    method, make, options = METHOD_VARIANTS[variant]
    integrate = make()
    model, batch = model_and_batch("three modalities", size=9)
    accumulated(model, batch, [4, 5], integrate)
    for sizes in ([9], [3, 6]):
        model.zero_grad()
        expected, _ = expectation(method, model, batch, options)
        accumulated(model, batch, sizes, integrate)
        assert_gradients(expected)


@by_variant
def test_scale(variant: str) -> None:
    method, make, options = METHOD_VARIANTS[variant]
    model, batch = model_and_batch("three modalities", size=9)
    expected, reports = expectation(method, model, batch, options)
    report = accumulated(model, batch, [4, 5], make(), scale=1024.0)
    assert_gradients({p: None if g is None else 1024 * g for p, g in expected.items()})
    for modality, wanted in reports.items():
        assert_report(report[modality], wanted)


@pytest.mark.parametrize("variant", ["per_tensor", "paper", "released"])
def test_interaction(variant: str) -> None:
    method, make, options = METHOD_VARIANTS[variant]
    model, batch = dense_and_batch()
    expected, reports = expectation(method, model, batch, options)
    report = accumulated(model, batch, [3, 5], make(), interaction=True)
    assert_gradients(expected)
    for modality, wanted in reports.items():
        assert_report(report[modality], wanted)


@pytest.mark.parametrize("variant", ["uniform", "per_tensor", "paper", "released"])
def test_a_nonfinite_micro_batch_is_flagged_in_the_report(variant: str) -> None:
    """Gradients and flags are those of the whole batch, whichever micro-batch is non-finite."""
    _, make, _ = METHOD_VARIANTS[variant]
    integrate = make()
    model, batch = model_and_batch("three modalities", size=9)
    (first, share), (second, rest) = shares_of(batch, [4, 5])
    joint, unimodal = weighted_losses(model, first, share)
    with integrate.accumulate():
        integrate.backward(joint, {**unimodal, "audio": unimodal["audio"] * torch.nan}, encoders=encoders_of(model))
    report = integrate.backward(*weighted_losses(model, second, rest), encoders=encoders_of(model))
    assert finite_flags(report) == [True, *(name != "audio" for name in unimodal)]
    assert not all(bool(p.grad.isfinite().all()) for p in model.encoders["audio"].parameters())
    assert all(bool(p.grad.isfinite().all()) for p in model.encoders["text"].parameters())


@by_variant
@pytest.mark.parametrize("calls", [0, 1])
def test_an_exception_leaves_a_usable_object(calls: int, variant: str) -> None:
    """The next call sets `.grad`, without the micro-batches of the step that failed."""
    method, make, options = METHOD_VARIANTS[variant]
    integrate = make()
    model, batch = model_and_batch("three modalities", size=9)
    expected, _ = expectation(method, model, batch, options)
    with pytest.raises(KeyError, match="lost"), integrate.accumulate():
        for _ in range(calls):
            integrate.backward(*model.losses(*batch), encoders=encoders_of(model))
        raise KeyError("lost")
    assert all(p.grad is None for p in model.parameters())
    integrate.backward(*model.losses(*batch), encoders=encoders_of(model))
    assert_gradients(expected)


def test_a_rejected_call_leaves_a_usable_object() -> None:
    integrate = MMPareto()
    model, batch = model_and_batch("three modalities", size=9)
    expected, _ = expectation("mmpareto", model, batch)
    joint, unimodal = model.losses(*batch)
    with pytest.raises(ValueError, match="audio"), integrate.accumulate():
        integrate.backward(joint, {**unimodal, "audio": unimodal["audio"].detach()}, encoders=encoders_of(model))
    integrate.backward(*model.losses(*batch), encoders=encoders_of(model))
    assert_gradients(expected)
