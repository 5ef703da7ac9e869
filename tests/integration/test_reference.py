"""Every code path takes the same step as `reference.py`, to a relative 1e-6 in float64."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from integration_reference import (
    ALL_OPTIONS,
    PAPER,
    PER_TENSOR,
    RELEASED,
    Batch,
    Multimodal,
    Options,
    assert_gradients,
    expectation,
    model_and_batch,
    option_name,
)
from mmpareto import MMPareto
from mmpareto.integration.reduction import SumReducer
from mmpareto.integration.reference import mmpareto_step
from processes import in_processes
from torch import Tensor
from torch import distributed as dist

VARIANTS = {"per_tensor": PER_TENSOR, "paper": PAPER, "released": RELEASED}
MODELS = ("one modality", "two linear", "one-element and tied", "unused and frozen", "three modalities")
SIZE = 8
Grads = dict[str, Tensor | None]


def reference(model: Multimodal, batch: Batch, options: Options) -> Grads:
    twin = copy.deepcopy(model)
    joint, unimodal = twin.losses(*batch)
    mmpareto_step(joint, unimodal, dict(twin.encoders.items()), **options.arguments())
    return {name: p.grad for name, p in twin.named_parameters()}


def backward(method: MMPareto, model: Multimodal, batch: Batch, *, outputs: bool, scale: float | None = None) -> None:
    """Call `backward` once, with losses weighted by the batch's share of SIZE samples."""
    features = model.features(batch[0])
    joint, unimodal = model.losses_of(features, batch[1])
    share = len(batch[1]) / SIZE
    method.backward(
        joint * share,
        {name: loss * share for name, loss in unimodal.items()},
        encoders=dict(model.encoders.items()),
        outputs=SimpleNamespace(features=features) if outputs else None,
        scale=scale,
    )


def part(batch: Batch, start: int, end: int) -> Batch:
    return {name: x[start:end] for name, x in batch[0].items()}, batch[1][start:end]


def assert_step(model: Multimodal, expected: Grads, scale: float = 1.0) -> None:
    for name, parameter in model.named_parameters():
        wanted = expected[name]
        assert (parameter.grad is None) == (wanted is None), name
        if parameter.grad is not None and wanted is not None:
            error = (parameter.grad / scale - wanted).norm()
            assert error <= 1e-6 * wanted.norm(), f"{name}: {parameter.grad} is not {wanted}"


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=option_name)
def test_the_reference_matches_the_equations(options: Options) -> None:
    """Compared with a second derivation, which searches for the weights instead of using the closed form."""
    for seed in range(5):
        model, batch = model_and_batch(MODELS[seed], seed, SIZE)
        expected, _ = expectation("mmpareto", model, batch, options)
        joint, unimodal = model.losses(*batch)
        mmpareto_step(joint, unimodal, dict(model.encoders.items()), **options.arguments())
        assert_gradients(expected)


@pytest.mark.parametrize("outputs", [False, True], ids=["at once", "encoder by encoder"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("options", ALL_OPTIONS, ids=option_name)
def test_one_batch(options: Options, name: str, outputs: bool) -> None:
    for seed in range(4):
        model, batch = model_and_batch(name, seed, SIZE)
        expected = reference(model, batch, options)
        backward(MMPareto(**options.arguments()), model, batch, outputs=outputs)
        assert_step(model, expected)


@pytest.mark.parametrize("outputs", [False, True], ids=["at once", "encoder by encoder"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_accumulated_and_scaled(variant: str, name: str, outputs: bool) -> None:
    for seed in range(3):
        model, batch = model_and_batch(name, seed, SIZE)
        expected = reference(model, batch, VARIANTS[variant])
        method = MMPareto(**VARIANTS[variant].arguments())
        with method.accumulate():
            backward(method, model, part(batch, 0, 3), outputs=outputs, scale=1024.0)
            backward(method, model, part(batch, 3, 4), outputs=outputs, scale=1024.0)
        assert all(p.grad is None for p in model.parameters())
        backward(method, model, part(batch, 4, SIZE), outputs=outputs, scale=1024.0)
        assert_step(model, expected, scale=1024.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_named_variants(variant: str) -> None:
    """Each class method has the options of its variant."""
    model, batch = model_and_batch("two linear", 1, SIZE)
    expected = reference(model, batch, VARIANTS[variant])
    backward(getattr(MMPareto, variant)(), model, batch, outputs=False)
    assert_step(model, expected)


def of_two_processes() -> list[tuple[str, str, bool, Grads]]:
    """Return the gradients of unequal shares of a batch, per variant and model, with and without micro-batches."""
    results = []
    for variant, options in VARIANTS.items():
        for name in MODELS:
            for accumulates in (False, True):
                model, batch = model_and_batch(name, 0, SIZE)
                method = MMPareto(**options.arguments())
                method.reduce = SumReducer(same_graph=True)
                start, end = [(0, 5), (5, SIZE)][dist.get_rank()]
                if accumulates:
                    with method.accumulate():
                        backward(method, model, part(batch, start, start + 1), outputs=True)
                    start += 1
                backward(method, model, part(batch, start, end), outputs=True)
                results.append((variant, name, accumulates, {n: p.grad for n, p in model.named_parameters()}))
    return results


def test_two_processes(tmp_path: Path) -> None:
    results: list[list[Any]] = in_processes(2, of_two_processes, tmp_path)
    for process in results:
        assert len(process) == 2 * len(VARIANTS) * len(MODELS)
        for variant, name, _, grads in process:
            model, batch = model_and_batch(name, 0, SIZE)
            for key, parameter in model.named_parameters():
                parameter.grad = grads[key]
            assert_step(model, reference(model, batch, VARIANTS[variant]))
