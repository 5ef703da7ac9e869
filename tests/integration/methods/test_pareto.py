"""Conventional Pareto against an independent derivation, TorchJD's MGDA, and statements of the papers."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integration_reference import (
    ENCODER_SETS,
    Batch,
    Multimodal,
    Tasks,
    assert_gradients,
    batch_for,
    finite_flags,
    gradients_of,
    linear,
    linear_loss,
    mlp,
    model_and_batch,
    parameters_like,
    plain_sum,
)
from mmpareto import METHODS
from mmpareto.integration.methods.pareto import Pareto
from scipy.optimize import nnls
from torch import Tensor, nn

WEIGHTS = ["encoder", "parameter"]
COUNTS = [1, 2, 3, 6]
NAMES = ("text", "audio", "visual", "touch", "depth", "radar")
SEEDS = range(3)

by_weights = pytest.mark.parametrize("weights", WEIGHTS)
by_count = pytest.mark.parametrize("count", COUNTS)


# --- independent derivation --------------------------------------------------------------------------------------


def convex_weights(rows: np.ndarray) -> np.ndarray:
    """Return α ≥ 0, Σα = 1 with the smallest ‖αᵀ rows‖: u/Σu of the least-squares u ≥ 0 with [rows, s]ᵀu ≈ (0, s).

    For Σu = t, the residual is t²·‖Σ αg‖² + s²(1 − t)², smallest where ‖Σ αg‖ is. Rows of 0 have equal weights.
    """
    norms = np.linalg.norm(rows, axis=1)
    if not norms.all():
        return (norms == 0) / (norms == 0).sum()
    matrix = np.vstack([rows.T, np.full(len(rows), norms.min())])
    target = np.zeros(len(matrix))
    target[-1] = norms.min()
    solution = nnls(matrix, target)[0]
    return solution / solution.sum()


Wanted = dict[nn.Parameter, tuple[Tensor | None, float]]
"""Parameter → (gradient, sum of the norms of the gradients that it combines)."""


@dataclass(frozen=True)
class Expected:
    """Expected result of one encoder's integration, and its gradients, with zeros where a loss does not reach."""

    gradients: list[list[Tensor]]
    h: list[Tensor]
    groups: list[list[int]]

    def rows(self, group: Sequence[int]) -> np.ndarray:
        """Return the gradients of a group as vectors (n, elements of the group)."""
        return np.stack([torch.cat([own[i].flatten() for i in group]).numpy() for own in self.gradients])


def integrated(gradients: list[list[Tensor]], weights: str) -> Expected:
    count = len(gradients[0])
    groups = [[i] for i in range(count)] if weights == "parameter" else [list(range(count))]
    expected = Expected(gradients, [torch.zeros_like(g) for g in gradients[0]], groups)
    for group in groups:
        alpha = convex_weights(expected.rows(group))
        for i in group:
            for weight, own in zip(alpha, gradients, strict=True):
                expected.h[i].add_(own[i], alpha=len(gradients) * float(weight))
    return expected


def derived(
    losses: Mapping[str, Tensor],
    parameters: Sequence[nn.Parameter],
    encoders: Mapping[str, tuple[Sequence[nn.Parameter], Sequence[str]]],
    weights: str,
) -> tuple[Wanted, dict[str, Expected]]:
    """Return the expected `.grad` of every trainable parameter and results per encoder, by one grad call per loss."""
    trainable = [p for p in parameters if p.requires_grad]
    each = {name: gradients_of(loss, trainable) for name, loss in losses.items()}
    result = {p: plain_sum(gradients[p] for gradients in each.values()) for p in trainable}
    reports = {}
    for modality, (members, names) in encoders.items():
        own = [p for p in members if p.requires_grad]
        missing = {p for p in own if all(each[name][p] is None for name in names)}
        filled = [[torch.zeros_like(p) if (g := each[name][p]) is None else g for p in own] for name in names]
        reports[modality] = integrated(filled, weights)
        result |= {p: None if p in missing else h for p, h in zip(own, reports[modality].h, strict=True)}
    size = {
        p: sum(float(g.norm()) for gradients in each.values() if (g := gradients[p]) is not None) for p in trainable
    }
    return {p: (wanted, size[p]) for p, wanted in result.items()}, reports


def assert_wanted(pairs: Iterable[tuple[nn.Parameter, tuple[Tensor | None, float]]]) -> None:
    """Assert that `.grad` equals the expected one to 1e-6, and to rounding where gradients cancel."""
    for parameter, (wanted, size) in pairs:
        if wanted is None:
            assert parameter.grad is None
            continue
        assert parameter.grad is not None
        assert parameter.grad.shape == wanted.shape
        assert float((parameter.grad - wanted).norm()) <= 1e-6 * float(wanted.norm()) + 1e-14 * size


def assert_report(result: Any, expected: Expected) -> None:
    """Compare cosine, norms, weights, conflict and rescale with values computed from the gradients."""
    whole = expected.rows(range(len(expected.h)))
    norms = np.linalg.norm(whole, axis=1)
    cosines = [
        whole[i] @ whole[j] / (norms[i] * norms[j]) if norms[i] * norms[j] > 0 else 0.0
        for i in range(len(norms))
        for j in range(i)
    ]
    assert result.cosine.shape == ()
    assert float(result.cosine) == pytest.approx(min(cosines, default=1.0), abs=1e-9)
    assert result.norms.tolist() == pytest.approx(norms.tolist(), rel=1e-9)
    assert result.weights.shape == (len(expected.groups), len(norms))
    assert result.conflict.shape == (len(expected.groups),)
    assert result.conflict.dtype == torch.bool
    assert result.rescale.tolist() == [1.0]
    for alpha, conflict, group in zip(result.weights, result.conflict, expected.groups, strict=True):
        rows = expected.rows(group)
        assert bool((alpha >= 0).all())
        assert float(alpha.sum()) == pytest.approx(1, abs=1e-12)
        # Compared by Σ αg, because the weights are not unique on tensors with fewer elements than losses.
        difference = alpha.numpy() @ rows - convex_weights(rows) @ rows
        assert np.linalg.norm(difference) <= 1e-6 * np.linalg.norm(rows)
        assert bool(conflict) == bool((rows @ rows.T < 0).any())
        if len(rows) <= rows.shape[1] and np.linalg.matrix_rank(rows) == len(rows):
            assert alpha.tolist() == pytest.approx(convex_weights(rows).tolist(), abs=1e-6)
    for tensor in (result.cosine, result.norms, result.weights, result.conflict, result.rescale):
        assert not tensor.requires_grad


def test_the_independent_derivation_itself() -> None:
    for rows, wanted in (
        ([(3.0, 0.0), (0.0, 1.0)], (0.1, 0.9)),
        ([(1.0, 0.0), (2.0, 5.0)], (1.0, 0.0)),
        ([(1.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 3.0)], (36 / 49, 9 / 49, 4 / 49)),
        ([(1.0, 2.0), (0.0, 0.0)], (0.0, 1.0)),
    ):
        assert convex_weights(np.array(rows)).tolist() == pytest.approx(wanted)


# --- models ------------------------------------------------------------------------------------------------------


def modalities_and_batch(count: int, seed: int) -> tuple[Multimodal, Batch]:
    kinds = {name: (linear, mlp)[i % 2] for i, name in enumerate(NAMES[:count])}
    torch.manual_seed(seed)
    return Multimodal(kinds), batch_for(kinds, 8, 1000 + seed)


def tasks_and_losses(count: int, seed: int) -> tuple[Tasks, dict[str, Tensor]]:
    """A shared network with tasks; each task has its own labels, and losses differ in size."""
    names = NAMES[:count]
    torch.manual_seed(seed)
    model = Tasks(names)
    inputs, _ = batch_for({"shared": linear}, 8, 1000 + seed)
    features = model.shared(inputs["shared"])
    losses = {
        name: nn.functional.cross_entropy(head(features), torch.randint(3, (8,))) * 3.0**-i
        for i, (name, head) in enumerate(model.heads.items())
    }
    return model, losses


def check_modalities(model: Multimodal, batch: Batch, weights: str) -> None:
    twin = copy.deepcopy(model)
    joint, unimodal = twin.losses(*batch)
    encoders = {name: (members, ["(joint)", name]) for name, members in twin.encoder_parameters().items()}
    result, reports = derived({"(joint)": joint, **unimodal}, list(twin.parameters()), encoders, weights)
    joint, unimodal = model.losses(*batch)
    report = Pareto(weights).backward(joint, unimodal, encoders=dict(model.encoders.items()))
    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    assert_wanted((p, result.get(other, (None, 0.0))) for p, other in pairs)
    assert list(report) == list(model.encoders)
    assert report.losses == ["joint", *unimodal]
    assert finite_flags(report) == [True] * (1 + len(unimodal))
    assert report.metrics == {}
    for modality, wanted in reports.items():
        assert_report(report[modality], wanted)


@by_weights
@by_count
def test_modalities(count: int, weights: str) -> None:
    for seed in SEEDS:
        check_modalities(*modalities_and_batch(count, seed), weights)


@by_weights
@pytest.mark.parametrize("name", ENCODER_SETS)
def test_kinds_of_encoders(name: str, weights: str) -> None:
    check_modalities(*model_and_batch(name), weights)


@by_weights
@by_count
def test_tasks_on_one_encoder(count: int, weights: str) -> None:
    for seed in SEEDS:
        model, losses = tasks_and_losses(count, seed)
        own, names = list(model.shared.parameters()), list(losses)
        actual, reports = derived(losses, list(model.parameters()), {"shared": (own, names)}, weights)
        report = Pareto(weights).backward(None, losses, encoders={"shared": (model.shared, names)})
        assert_wanted(actual.items())
        assert report.losses == names
        assert_report(report["shared"], reports["shared"])


def test_tasks_are_reported_in_the_order_given() -> None:
    model, losses = tasks_and_losses(6, 0)
    original = Pareto().backward(None, losses, encoders={"shared": (model.shared, list(losses))})["shared"]
    model, losses = tasks_and_losses(6, 0)
    reordered = Pareto().backward(None, losses, encoders={"shared": (model.shared, list(losses)[::-1])})["shared"]
    torch.testing.assert_close(reordered.weights, original.weights.flip(1), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(reordered.norms, original.norms.flip(0))


@by_weights
def test_one_objective_is_plain_descent(weights: str) -> None:
    model, losses = tasks_and_losses(1, 0)
    wanted = torch.autograd.grad(losses[NAMES[0]], list(model.parameters()), retain_graph=True)
    report = Pareto(weights).backward(None, losses, encoders={"shared": (model.shared, NAMES[:1])})["shared"]
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert bool((report.weights == 1).all())
    assert not bool(report.conflict.any())


def test_equal_losses_are_the_plain_sum() -> None:
    """With the factor n, equal gradients give the same as the uniform baseline."""
    for count in COUNTS:
        gradients = [torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(count))] * count
        h, _ = descended(torch.stack(gradients))
        torch.testing.assert_close(h, count * gradients[0], rtol=1e-9, atol=0.0)


# --- given gradients ---------------------------------------------------------------------------------------------


def descended(gradients: Tensor, method: Any = None) -> tuple[Tensor, Any]:
    """Return (h, report) of one tensor with these gradients (n, elements)."""
    (parameter,) = parameters_like([gradients[0]])
    losses = {f"task{i}": linear_loss([parameter], [g]) for i, g in enumerate(gradients)}
    report = (method or Pareto()).backward(None, losses, encoders={"shared": ([parameter], list(losses))})
    assert parameter.grad is not None
    return parameter.grad, report["shared"]


@st.composite
def drawn_gradients(draw: st.DrawFn) -> Tensor:
    n, elements = draw(st.sampled_from([1, 2, 3, 4, 6])), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    gradients = torch.randn(n, elements, generator=generator, dtype=torch.float64) + draw(st.sampled_from([0.0, 0.7]))
    sizes = draw(st.lists(st.sampled_from([1.0, 1.0, 0.1, 30.0]), min_size=n, max_size=n))
    gradients *= torch.tensor(sizes, dtype=torch.float64)[:, None]
    if n > 1 and draw(st.booleans()):
        gradients[-1] = gradients[0] * draw(st.sampled_from([1.0, 2.0, -1.0, -0.5]))
    return gradients


@settings(max_examples=30)
@given(drawn_gradients())
def test_a_common_descent_direction(gradients: Tensor) -> None:
    """⟨Σ αg, gᵢ⟩ ≥ ‖Σ αg‖² for every loss, so ⟨h, gᵢ⟩ ≥ ‖h‖²/n: Désidéri's theorem."""
    h, _ = descended(gradients)
    norms, n = gradients.norm(dim=1), len(gradients)
    # The tolerance is relative to the largest possible ⟨h, gᵢ⟩, since ‖h‖ ≤ n·min‖g‖.
    assert bool((gradients @ h >= h @ h / n - 1e-9 * n * norms * norms.min()).all())


@settings(max_examples=30)
@given(drawn_gradients(), st.integers(0, 2**31))
def test_no_convex_combination_is_shorter(gradients: Tensor, seed: int) -> None:
    h, report = descended(gradients)
    n = len(gradients)
    torch.testing.assert_close(h, n * (report.weights[0] @ gradients), rtol=1e-12, atol=1e-14 * float(gradients.norm()))
    shares = -torch.rand(200, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log()
    others = torch.cat([shares / shares.sum(1, keepdim=True), torch.eye(n, dtype=torch.float64)])
    nearby = 0.99 * report.weights + 0.01 * others  # combinations that are slightly longer
    length = float(h.norm()) / n
    slack = 1e-9 * float(gradients.norm(dim=1).min())
    assert float((torch.cat([others, nearby]) @ gradients).norm(dim=1).min()) >= length - slack


@settings(max_examples=30)
@given(drawn_gradients())
def test_it_matches_the_independent_derivation(gradients: Tensor) -> None:
    h, report = descended(gradients)
    wanted = integrated([[g] for g in gradients], "encoder")
    assert float((h - wanted.h[0]).norm()) <= 1e-6 * len(gradients) * float(gradients.norm(dim=1).min())
    assert report.conflict.tolist() == [bool((gradients @ gradients.T < 0).any())]


def test_weights_per_encoder_and_per_parameter_differ() -> None:
    """Two tensors, weighted together or separately; computed by hand."""
    pair = [[torch.tensor([1.0]), torch.tensor([2.0, 0.0])], [torch.tensor([-3.0]), torch.tensor([0.0, 1.0])]]
    wanted = {
        # a = 5, b = 10, c = −3: α = (13, 8)/21
        "encoder": ([2 * (13 - 24) / 21], [2 * 26 / 21, 2 * 8 / 21], [[13 / 21, 8 / 21]], [True]),
        # (1) and (−3): α = (¾, ¼), h = 0; (2, 0) and (0, 1): α = (0.2, 0.8)
        "parameter": ([0.0], [0.8, 1.6], [[0.75, 0.25], [0.2, 0.8]], [True, False]),
    }
    for weights, (first, second, alpha, conflict) in wanted.items():
        double = [[g.double() for g in own] for own in pair]
        parameters = parameters_like(double[0])
        losses = {name: linear_loss(parameters, own) for name, own in zip("ab", double, strict=True)}
        report = Pareto(weights).backward(None, losses, encoders={"shared": (parameters, ["a", "b"])})["shared"]
        assert parameters[0].grad.tolist() == pytest.approx(first)
        assert parameters[1].grad.tolist() == pytest.approx(second)
        assert report.conflict.tolist() == conflict
        for actual, row in zip(report.weights.tolist(), alpha, strict=True):
            assert actual == pytest.approx(row)


# --- TorchJD -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 6])
def test_torchjd(count: int) -> None:
    """TorchJD's MGDA is a Frank–Wolfe iteration: exact for two gradients, otherwise its error falls as 1/steps.

    The iteration ends when a step is shorter than epsilon. The error is that of the squared norm; the error of h is at
    most its square root, because the squared norm is strongly convex in h.
    """
    aggregation = pytest.importorskip("torchjd.aggregation")
    library = aggregation.MGDA(epsilon=1e-9, max_iters=2000)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        gradients = torch.randn(count, 10, generator=generator, dtype=torch.float64) + 0.2 * seed
        h, _ = descended(gradients)
        theirs = library(gradients)
        gap = 1e-12 if count == 2 else 1e-3
        largest = float(gradients.norm(dim=1).max())
        excess = float(theirs.square().sum() - (h / count).square().sum())
        assert -1e-12 * largest**2 <= excess <= gap * largest**2
        assert float((h / count - theirs).square().sum()) <= gap * largest**2


# --- zero gradients and errors -----------------------------------------------------------------------------------


@by_count
@by_weights
def test_a_zero_gradient_gives_a_zero_step(weights: str, count: int) -> None:
    """A zero gradient is the minimum: h is exactly 0, in the shapes of the parameters, while heads still learn."""
    model, losses = tasks_and_losses(count, 0)
    losses[NAMES[count - 1]] = losses[NAMES[count - 1]] * 0
    report = Pareto(weights).backward(None, losses, encoders={"shared": (model.shared, list(losses))})
    for parameter in model.shared.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert report["shared"].norms[-1] == 0
    assert bool((report["shared"].weights[:, -1] == 1).all())
    assert float(report["shared"].cosine) <= (1 if count == 1 else 0)
    assert finite_flags(report) == [True] * count
    if count > 1:
        assert bool(next(model.heads[NAMES[0]].parameters()).grad.any())


@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_tensor_that_one_loss_does_not_reach(count: int) -> None:
    """The missing gradient counts as zero: h is 0 if the tensor is weighted alone, but not as part of the encoder."""
    shapes = [torch.zeros(4, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)]
    for weights in WEIGHTS:
        generator = torch.Generator().manual_seed(count)
        drawn = [[torch.randn(s.shape, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(count)]
        given = [[None if i == 1 else own[0], own[1]] for i, own in enumerate(drawn)]
        drawn[1][0].zero_()
        parameters = parameters_like(shapes)
        losses = {f"task{i}": linear_loss(parameters, own) for i, own in enumerate(given)}
        report = Pareto(weights).backward(None, losses, encoders={"shared": (parameters, list(losses))})["shared"]
        expected = integrated(drawn, weights)
        assert_gradients(dict(zip(parameters, expected.h, strict=True)))
        assert_report(report, expected)
        assert bool(parameters[0].grad.any()) == (weights == "encoder")


def test_options_and_registry() -> None:
    assert METHODS["pareto"] is Pareto
    assert Pareto().weights == "encoder"
    assert Pareto().state_dict() == {}
    with pytest.raises(ValueError, match="weights must be 'parameter' or 'encoder', not 'tensor'"):
        Pareto("tensor")
