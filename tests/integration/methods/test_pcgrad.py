"""PCGrad against the published algorithm on the gradient vectors themselves, in every possible order."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from every_method import Loop, Model, assert_close, batch_of, step, take_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from integration_reference import linear_loss, parameters_like
from mmpareto.integration.methods.pcgrad import PCGrad
from mmpareto.integration.report import EncoderReport
from torch import Tensor

SHAPES = [(3, 2), (), (4,), (2, 1, 2)]
Gradients = list[list[Tensor | None]]


def random_gradients(count: int, seed: int) -> Gradients:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES] for _ in range(count)]


def descended(
    method: PCGrad, gradients: Gradients, scale: float | None = None
) -> tuple[list[Tensor | None], EncoderReport]:
    """Take a step on tasks with these gradients, and return `.grad` of their encoder and its report."""
    like = [next(g for g in tensors if g is not None) for tensors in zip(*gradients, strict=True)]
    parameters = parameters_like(like)
    losses = {f"task{i}": linear_loss(parameters, own) for i, own in enumerate(gradients)}
    report = method.backward(None, losses, encoders={"shared": (parameters, list(losses))}, scale=scale)
    return [p.grad for p in parameters], report["shared"]


def published(vectors: Sequence[Tensor], orders: Sequence[Sequence[int]]) -> Tensor:
    """Algorithm 1: project each gradient onto the normal planes of those that it conflicts with, one by one."""
    surgery = []
    for i, vector in enumerate(vectors):
        g = vector.clone()
        for j in orders[i]:
            product = torch.dot(g, vectors[j])
            if float(product) < 0:
                g = g - product / vectors[j].norm() ** 2 * vectors[j]
        surgery.append(g)
    return torch.stack(surgery).sum(0)


def flat(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors if t is not None])


def drawn_orders(count: int, seed: int) -> list[list[int]]:
    """Return the order of the other gradients for every gradient, drawn in turn from the global generator."""
    torch.manual_seed(seed)
    orders = []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        orders.append([others[k] for k in torch.randperm(len(others))] if count > 2 else others)
    return orders


@settings(max_examples=30)
@given(st.sampled_from([2, 3, 6]), st.integers(0, 10**6))
def test_it_matches_the_published_algorithm(count: int, seed: int) -> None:
    gradients = random_gradients(count, seed)
    orders = drawn_orders(count, seed)
    expected = published([flat(own) for own in gradients], orders)
    torch.manual_seed(seed)
    actual, report = descended(PCGrad(), gradients)
    torch.testing.assert_close(flat(actual), expected, rtol=1e-10, atol=1e-12)
    combination = sum(c * flat(own) for c, own in zip(count * report.weights[0], gradients, strict=True))
    torch.testing.assert_close(combination, expected, rtol=1e-10, atol=1e-12)
    vectors = torch.stack([flat(own) for own in gradients])
    assert report.conflict.tolist() == [bool((vectors @ vectors.T < 0).any())]


@settings(max_examples=30)
@given(st.sampled_from([2, 3, 6]), st.integers(0, 10**6))
def test_per_tensor_it_matches_the_published_algorithm(count: int, seed: int) -> None:
    gradients = random_gradients(count, seed)
    orders = drawn_orders(count, seed)
    torch.manual_seed(seed)
    actual, report = descended(PCGrad(weights="parameter"), gradients)
    for index, h in enumerate(actual):
        assert h is not None
        expected = published([flat([own[index]]) for own in gradients], orders)
        torch.testing.assert_close(h.flatten(), expected, rtol=1e-10, atol=1e-12)
    assert report.weights.shape == (len(SHAPES), count) and report.conflict.shape == (len(SHAPES),)


def test_every_order_occurs() -> None:
    gradients = random_gradients(3, seed=1)
    gradients[2] = [-a - 0.5 * b for a, b in zip(gradients[0], gradients[1], strict=True)]
    vectors = [flat(own) for own in gradients]
    assert min(float(torch.dot(vectors[2], v)) for v in vectors[:2]) < 0
    choices = [list(itertools.permutations([j for j in range(3) if j != i])) for i in range(3)]
    possible = [published(vectors, orders) for orders in itertools.product(*choices)]
    torch.manual_seed(0)
    seen = set()
    for _ in range(60):
        h = flat(descended(PCGrad(), gradients)[0])
        matches = {i for i, one in enumerate(possible) if torch.allclose(h, one, rtol=1e-10)}
        assert matches
        seen |= matches
    assert len(seen) == len(possible)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_two_gradients_match_torchjd_and_neither_is_opposed(seed: int) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    gradients = random_gradients(2, seed)
    matrix = torch.stack([flat(own) for own in gradients])
    h = flat(descended(PCGrad(), gradients)[0])
    torch.testing.assert_close(h, aggregation.PCGrad()(matrix), rtol=1e-10, atol=1e-12)
    assert bool((matrix @ h >= -1e-10 * matrix.norm(dim=1) * h.norm()).all())


def test_two_objectives_draw_nothing_and_more_draw_once_per_step() -> None:
    before = torch.get_rng_state()
    descended(PCGrad(), random_gradients(2, seed=0))
    assert torch.equal(torch.get_rng_state(), before)
    states = []
    for parts in (1, 3):
        method, parameters = PCGrad(), parameters_like(random_gradients(1, seed=0)[0])
        torch.manual_seed(5)
        for part in range(parts):
            losses = {f"task{i}": linear_loss(parameters, random_gradients(4, part)[i]) / parts for i in range(4)}
            encoders = {"shared": (parameters, list(losses))}
            if part < parts - 1:
                with method.accumulate():
                    method.backward(None, losses, encoders=encoders)
            else:
                method.backward(None, losses, encoders=encoders)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_zero_and_missing_gradients() -> None:
    gradients = random_gradients(3, seed=3)
    gradients[1] = [None, None, torch.zeros(4, dtype=torch.float64), None]
    gradients[2] = [None, *[-g for g in gradients[0][1:] if g is not None]]
    zeros = [torch.zeros(s, dtype=torch.float64) for s in SHAPES]
    filled = [[z if g is None else g for g, z in zip(own, zeros, strict=True)] for own in gradients]
    expected = published([flat(own) for own in filled], [[1, 2], [0, 2], [0, 1]])  # the zero gradient changes nothing
    torch.testing.assert_close(flat(descended(PCGrad(), gradients)[0]), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weights", ["encoder", "parameter"])
def test_one_objective_is_plain_descent(weights: str) -> None:
    gradients = random_gradients(1, seed=0)
    actual, report = descended(PCGrad(weights), gradients)
    assert torch.equal(flat(actual), flat(gradients[0]))
    assert not bool(report.conflict.any())


@pytest.mark.parametrize("count", [2, 3])
def test_micro_batches_and_loss_scaling_change_nothing(count: int) -> None:
    model, (inputs, labels) = Model(count), batch_of(count)
    loop = Loop(model, (inputs, labels))
    whole = step(PCGrad(), loop, (inputs, labels))
    expected = take_grads(model)
    method = PCGrad()
    for start, end in ((0, 5), (5, 12)):
        part = {m: x[start:end] for m, x in inputs.items()}, labels[start:end]
        if end < 12:
            with method.accumulate():
                step(method, loop, part, share=5 / 12, scale=1024.0)
        else:
            report = step(method, loop, part, share=7 / 12, scale=1024.0)
    assert_close({k: None if g is None else g / 1024 for k, g in take_grads(model).items()}, expected, 1e-9)
    for name, seen in whole.items():
        torch.testing.assert_close(report[name].weights, seen.weights)
        torch.testing.assert_close(report[name].norms, seen.norms)


def test_other_options_are_rejected() -> None:
    with pytest.raises(ValueError, match="'layer'"):
        PCGrad(weights="layer")
    assert PCGrad().state_dict() == {}
