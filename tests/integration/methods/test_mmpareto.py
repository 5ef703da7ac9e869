"""MMPareto with any number of modalities and of objectives per encoder, against an independent derivation."""

import copy
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from integration_reference import (
    ALL_OPTIONS,
    CLASSES,
    PAPER,
    PER_TENSOR,
    RELEASED,
    Batch,
    Multimodal,
    Options,
    assert_gradients,
    batch_for,
    expectation,
    finite_flags,
    gained,
    gradients_of,
    linear,
    linear_loss,
    mlp,
    option_name,
    parameters_like,
    plain_sum,
)
from mmpareto import MMPareto
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

NAMES = ("text", "audio", "visual", "touch", "depth", "radar")
VARIANTS = {
    "per_tensor": (MMPareto.per_tensor, PER_TENSOR),
    "paper": (MMPareto.paper, PAPER),
    "released": (MMPareto.released, RELEASED),
}
EPS = torch.finfo(torch.float64).eps
SEEDS = range(3)

by_variant = pytest.mark.parametrize("variant", VARIANTS)
by_option = pytest.mark.parametrize("options", ALL_OPTIONS, ids=option_name)


# --- the equations, for n gradients ------------------------------------------------------------------------------


def searched_weights(rows: np.ndarray) -> np.ndarray:
    """Return α ≥ 0, Σα = 1 with the smallest ‖αᵀ rows‖, by comparing the shortest points of all faces.

    In the plane through some rows, the shortest point is found by least squares, from one row in the directions of the
    others; only faces with independent directions are needed (Carathéodory).
    """
    best, least = np.zeros(len(rows)), math.inf
    for count in range(1, len(rows) + 1):
        for chosen in itertools.combinations(range(len(rows)), count):
            start, directions = rows[chosen[0]], rows[list(chosen[1:])] - rows[chosen[0]]
            if count > 1 and np.linalg.matrix_rank(directions) < count - 1:
                continue
            steps = np.linalg.lstsq(directions.T, -start, rcond=None)[0] if count > 1 else np.zeros(0)
            alpha = np.array([1 - steps.sum(), *steps])
            length = float(np.linalg.norm(alpha @ rows[list(chosen)]))
            if alpha.min() >= 0 and length < least:
                best, least = np.zeros(len(rows)), length
                best[list(chosen)] = alpha
    return best


@dataclass(frozen=True)
class Group:
    """Expected weights of one group of tensors, and its gradients `rows` (n, elements)."""

    rows: np.ndarray
    conflict: bool
    alpha: np.ndarray
    left: int
    """Number of nonzero gradients; n without a conflict."""


@dataclass(frozen=True)
class Expected:
    """Expected result of one encoder's integration. `sizes`: sum of the gradients' norms, per tensor."""

    h: list[Tensor]
    sizes: list[float]
    norms: list[float]
    cosine: float
    groups: list[Group]
    rescale: list[float]


def rows_of(gradients: Sequence[Sequence[Tensor]], members: Iterable[int]) -> np.ndarray:
    indices = list(members)
    return np.stack([torch.cat([own[i].double().flatten() for i in indices]).numpy() for own in gradients])


def weighed(rows: np.ndarray, zero_is_conflict: bool) -> Group:
    """Return the expected weights; a conflict is a pair of nonzero gradients with ⟨gᵢ, gⱼ⟩ < 0 (≤ 0)."""
    nonzero = rows.any(axis=1)
    products = [float(a @ b) for a, b in itertools.combinations(rows[nonzero], 2)]
    if not any(product < 0 or (zero_is_conflict and product == 0) for product in products):
        return Group(rows, False, np.full(len(rows), 1 / len(rows)), len(rows))
    alpha = np.zeros(len(rows))
    alpha[nonzero] = searched_weights(rows[nonzero])
    return Group(rows, True, alpha, int(nonzero.sum()))


def is_decided(rows: np.ndarray) -> bool:
    """Return whether gradients that cancel must be recognized as a stationary group.

    Two always are. With more, ‖h‖ ~ eps·Σ‖gᵢ‖/σ² remains, where σ is the smallest nonzero singular value of their
    directions, because the weights are computed from the Gramian: for small σ, this noise may exceed the threshold.
    Both results are then accepted, and the expected rescaling is NaN.
    """
    values = np.linalg.svd(rows / np.linalg.norm(rows, axis=1, keepdims=True), compute_uv=False)
    return len(rows) < 3 or float(values[values > 1e-9].min()) > 0.5


def integrated(gradients: Sequence[Sequence[Tensor]], options: Options) -> Expected:
    """Apply MMPareto to n lists of gradients; tensors that a loss does not reach have a gradient of zeros."""
    count = len(gradients[0])
    each, whole = [[i] for i in range(count)], [list(range(count))]
    members = each if options.weights == "parameter" else whole
    groups = [weighed(rows_of(gradients, group), options.zero_is_conflict) for group in members]
    of_tensor = groups if options.weights == "parameter" else groups * count
    h = [
        sum((group.left * float(a) * own[i] for a, own in zip(group.alpha, gradients, strict=True)), torch.zeros(()))
        for i, group in enumerate(of_tensor)
    ]
    rescale = []
    for group in members if options.rescale == "none" else each if options.rescale == "parameter" else whole:
        conflict = of_tensor[group[0]].conflict
        length = float(np.linalg.norm(rows_of([h], group)))
        rows = rows_of(gradients, group)
        if not conflict:
            rescale.append(1.0)
        elif length < 32 * EPS * np.linalg.norm(rows, axis=1).sum():
            rescale.append(0.0 if is_decided(rows[of_tensor[group[0]].alpha > 0]) else math.nan)
        else:
            restores = length > 0 and options.rescale != "none"
            rescale.append(max(1.0, float(np.linalg.norm(rows.sum(0))) / length) if restores else 1.0)
        for i in group:
            h[i] = h[i] * rescale[-1] * (options.gamma if conflict or options.boost == "always" else 1.0)
    all_rows = rows_of(gradients, range(count))
    norms = np.linalg.norm(all_rows, axis=1)
    pairs = [(i, j) for i, j in itertools.combinations(range(len(norms)), 2)]
    cosines = [all_rows[i] @ all_rows[j] / (norms[i] * norms[j]) if norms[i] * norms[j] else 0.0 for i, j in pairs]
    sizes = [sum(float(own[i].norm()) for own in gradients) for i in range(count)]
    return Expected(h, sizes, norms.tolist(), min(cosines, default=float(norms[0] > 0)), groups, rescale)


Encoders = Mapping[str, tuple[Sequence[nn.Parameter], Sequence[str]]]
Wanted = dict[nn.Parameter, tuple[Tensor | None, float]]
"""Parameter → (gradient, sum of the norms of the gradients that it combines)."""


def derived(
    losses: Mapping[str, Tensor], model: nn.Module, encoders: Encoders, options: Options
) -> tuple[Wanted, dict[str, Expected]]:
    """Return the expected `.grad` of every trainable parameter and reports by encoder, from one grad call per loss."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    each = {name: gradients_of(loss, trainable) for name, loss in losses.items()}
    actual: Wanted = {p: (plain_sum(gradients[p] for gradients in each.values()), 0.0) for p in trainable}
    reports = {}
    for modality, (members, names) in encoders.items():
        filled = [[torch.zeros_like(p) if (g := each[name][p]) is None else g for p in members] for name in names]
        expected = reports[modality] = integrated(filled, options)
        for p, h, size in zip(members, expected.h, expected.sizes, strict=True):
            actual[p] = (None if all(each[name][p] is None for name in names) else h, size)
    return actual, reports


# --- comparing ---------------------------------------------------------------------------------------------------


def assert_wanted(pairs: Iterable[tuple[nn.Parameter, tuple[Tensor | None, float]]], scale: float = 1.0) -> None:
    """Assert that `.grad` is `scale` times the expected gradient to 1e-6, zeros exactly."""
    for parameter, (wanted, size) in pairs:
        if wanted is None:
            assert parameter.grad is None
            continue
        assert parameter.grad is not None
        assert parameter.grad.shape == wanted.shape
        if bool(wanted.isnan().any()):
            assert bool(parameter.grad.isfinite().all())
            continue
        error = float((parameter.grad / scale - wanted).norm())
        assert error <= 1e-6 * float(wanted.norm()) + 1e-14 * size, (parameter.grad, wanted)
        if not bool(wanted.any()):
            assert not bool(parameter.grad.any())


def assert_report(actual: Any, expected: Expected) -> None:
    count = len(expected.norms)
    assert actual.cosine.shape == ()
    assert float(actual.cosine) == pytest.approx(expected.cosine, abs=1e-9)
    assert actual.norms.tolist() == pytest.approx(expected.norms, rel=1e-9)
    assert actual.conflict.tolist() == [group.conflict for group in expected.groups]
    assert bool(actual.rescale.isfinite().all())
    decided = [(a, b) for a, b in zip(actual.rescale.tolist(), expected.rescale, strict=True) if not math.isnan(b)]
    assert [a for a, _ in decided] == pytest.approx([b for _, b in decided], rel=1e-6)
    assert actual.weights.shape == (len(expected.groups), count)
    for alpha, group in zip(actual.weights.numpy(), expected.groups, strict=True):
        assert (alpha >= 0).all()
        assert alpha.sum() == pytest.approx(1, abs=1e-12)
        # Compared by Σ αg, because the weights are not unique on tensors with fewer elements than losses.
        assert np.linalg.norm((alpha - group.alpha) @ group.rows) <= 1e-6 * np.linalg.norm(group.rows)
        if not group.conflict or np.linalg.matrix_rank(group.rows) == count:
            assert alpha.tolist() == pytest.approx(group.alpha.tolist(), abs=1e-6)
    for tensor in (actual.cosine, actual.norms, actual.weights, actual.conflict, actual.rescale):
        assert not tensor.requires_grad


def test_the_searched_weights_themselves() -> None:
    for rows, wanted in (
        ([(3.0, 0.0), (0.0, 1.0)], (0.1, 0.9)),
        ([(1.0, 0.0), (2.0, 5.0)], (1.0, 0.0)),
        ([(1.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 3.0)], (36 / 49, 9 / 49, 4 / 49)),
        ([(1.0, 1.0), (1.0, -3.0), (9.0, 9.0)], (0.75, 0.25, 0.0)),
        ([(1.0, 0.0), (-1.0, 2.0), (-1.0, -2.0)], (0.5, 0.25, 0.25)),
    ):
        assert searched_weights(np.array(rows)).tolist() == pytest.approx(wanted)


# --- models ------------------------------------------------------------------------------------------------------


class Several(nn.Module):
    """One shared network with one head per task, and a joint head on all their logits."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), gained_features(), nn.Linear(4, 4))
        self.heads = nn.ModuleDict({name: nn.Linear(4, CLASSES) for name in NAMES[:count]})
        self.joint_head = nn.Linear(CLASSES * count, CLASSES)
        self.double()

    def losses(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the losses, the joint loss first; labels (B, 1 + tasks), because each task has its own."""
        features = self.shared(inputs)
        logits = {name: head(features) for name, head in self.heads.items()}
        joint = self.joint_head(torch.tanh(torch.cat(list(logits.values()), 1)))
        own = {name: cross_entropy(x, labels[:, i]) * 2.0**-i for i, (name, x) in enumerate(logits.items(), start=1)}
        return {"joint": cross_entropy(joint, labels[:, 0]), **own}


def gained_features() -> nn.Module:
    """Return a network of 6 to 4 features, with two one-element tensors."""
    return nn.Sequential(nn.Linear(6, 5), gained())


def several_and_batch(count: int, seed: int) -> tuple[Several, Tensor, Tensor]:
    torch.manual_seed(seed)
    return Several(count), torch.randn(12, 5, dtype=torch.float64), torch.randint(CLASSES, (12, 1 + count))


def split(losses: Mapping[str, Tensor], joint: bool) -> tuple[Tensor | None, dict[str, Tensor]]:
    return losses["joint"] if joint else None, {name: loss for name, loss in losses.items() if name != "joint"}


Call = tuple[Wanted, dict[str, Expected]]


def several_expected(model: Several, inputs: Tensor, labels: Tensor, joint: bool, options: Options) -> Call:
    losses = {name: loss for name, loss in model.losses(inputs, labels).items() if joint or name != "joint"}
    encoders = {"shared": (list(model.shared.parameters()), list(losses))}
    return derived(losses, model, encoders, options)


def several_step(model: Several, inputs: Tensor, labels: Tensor, joint: bool, integrate: Any, **further: Any) -> Any:
    first, own = split(model.losses(inputs, labels), joint)
    return integrate.backward(first, own, encoders={"shared": (model.shared, list(own))}, **further)


OBJECTIVES = [(1, False), (3, False), (6, False), (2, True), (3, True), (5, True)]
by_objectives = pytest.mark.parametrize(
    ("count", "joint"), OBJECTIVES, ids=[f"{count} own{' and joint' if joint else ''}" for count, joint in OBJECTIVES]
)


@by_objectives
@by_option
def test_objectives_of_one_encoder(options: Options, count: int, joint: bool) -> None:
    for seed in SEEDS:
        model, inputs, labels = several_and_batch(count, seed)
        wanted, reports = several_expected(model, inputs, labels, joint, options)
        report = several_step(model, inputs, labels, joint, MMPareto(**options.arguments()))
        assert_wanted(wanted.items())
        assert list(report) == ["shared"]
        assert report.losses == [*(["joint"] if joint else []), *NAMES[:count]]
        assert finite_flags(report) == [True] * (count + joint)
        assert_report(report["shared"], reports["shared"])


def test_models_have_groups_with_and_without_conflict_and_rescaling() -> None:
    """Otherwise the comparisons would cover only some of the cases."""
    for options in (PER_TENSOR, PAPER):
        flags, factors = [], []
        for (count, joint), seed in itertools.product(OBJECTIVES, SEEDS):
            _, reports = several_expected(*several_and_batch(count, seed), joint, options)
            flags += [group.conflict for group in reports["shared"].groups if len(group.alpha) > 2]
            factors += reports["shared"].rescale
        assert sum(flags) >= 5
        assert sum(factor > 1 for factor in factors) >= 5
        if options is PER_TENSOR:
            assert len(flags) - sum(flags) >= 5
            assert sum(factor == 0 for factor in factors) >= 5


def modalities_and_batch(count: int, seed: int) -> tuple[Multimodal, Batch]:
    kinds = {name: (linear, mlp, gained)[i % 3] for i, name in enumerate(NAMES[:count])}
    torch.manual_seed(seed)
    return Multimodal(kinds), batch_for(kinds, 12, 1000 + seed)


@pytest.mark.parametrize("count", [1, 3, 6])
@by_option
def test_modalities(options: Options, count: int) -> None:
    """Two objectives per encoder; also compared with the other tests' reference, which is for two objectives only."""
    model, batch = modalities_and_batch(count, 0)
    twin = copy.deepcopy(model)
    joint, unimodal = twin.losses(*batch)
    encoders = {name: (members, ["joint", name]) for name, members in twin.encoder_parameters().items()}
    wanted, reports = derived({"joint": joint, **unimodal}, twin, encoders, options)
    other, _ = expectation("mmpareto", model, batch, options)
    joint, unimodal = model.losses(*batch)
    report = MMPareto(**options.arguments()).backward(joint, unimodal, encoders=dict(model.encoders.items()))
    assert_wanted((p, wanted[q]) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    assert_gradients(other)
    assert list(report) == list(NAMES[:count])
    for modality, expected in reports.items():
        assert_report(report[modality], expected)


@by_variant
def test_encoders_with_different_numbers_of_objectives(variant: str) -> None:
    """The joint loss with no, one, or three unimodal losses; losses of different encoders share a backward pass."""
    make, options = VARIANTS[variant]
    model, (inputs, labels) = modalities_and_batch(3, 1)
    own = {"text": ["text", "order", "length"], "audio": ["audio"], "visual": []}

    def losses() -> dict[str, Tensor]:
        joint, unimodal = model.losses(inputs, labels)
        feature = model.encoders["text"](inputs["text"])
        del unimodal["visual"]
        return {
            "joint": joint,
            **unimodal,
            "order": feature.square().mean(),
            "length": (feature[:, 0] - 1).abs().mean(),
        }

    members = model.encoder_parameters()
    encoders = {name: (members[name], ["joint", *names]) for name, names in own.items()}
    wanted, reports = derived(losses(), model, encoders, options)
    joint, unimodal = split(losses(), joint=True)
    report = make().backward(joint, unimodal, encoders={name: (model.encoders[name], own[name]) for name in own})
    assert_wanted(wanted.items())
    assert {name: report[name].weights.shape[1] for name in report} == {"text": 4, "audio": 2, "visual": 1}
    for modality, expected in reports.items():
        assert_report(report[modality], expected)


# --- given gradients ---------------------------------------------------------------------------------------------

Gradients = list[list[Tensor | None]]


def call(gradients: Gradients, integrate: Any, scale: float | None = None) -> tuple[list[Tensor], Any]:
    """Return (h by tensor, the encoder's report) for n objectives with exactly these gradients."""
    shapes = [next(g for g in tensors if g is not None) for tensors in zip(*gradients, strict=True)]
    parameters = parameters_like(shapes)
    losses = {f"task{i}": linear_loss(parameters, own) for i, own in enumerate(gradients)}
    report = integrate.backward(None, losses, encoders={"shared": (parameters, list(losses))}, scale=scale)
    return [p.grad for p in parameters if p.grad is not None], report["shared"]


def whole_numbers(*rows: tuple[int, ...]) -> Gradients:
    """Return gradients of an encoder with one tensor."""
    return [[torch.tensor(row, dtype=torch.float64)] for row in rows]


def random_gradients(
    count: int, seed: int, shift: float = 0.0, shapes: Sequence[tuple[int, ...]] = ((9,), (2, 5))
) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(s, generator=generator, dtype=torch.float64) + shift for s in shapes] for _ in range(count)]


@pytest.mark.parametrize("pair", list(itertools.combinations(range(4), 2)), ids=str)
@by_variant
def test_any_negative_pair_is_a_conflict(variant: str, pair: tuple[int, int]) -> None:
    """Any single pair among four gradients that otherwise agree."""
    make, options = VARIANTS[variant]
    gradients = torch.cat([torch.eye(4, dtype=torch.float64) + 1, torch.zeros(4, 2, dtype=torch.float64)], 1)
    first, second = pair
    gradients[first, 4], gradients[second, 4] = 9, -1
    products = gradients @ gradients.T
    assert int((products < 0).sum()) == 2
    h, report = call([[g] for g in gradients], make())
    assert report.conflict.tolist() == [True]
    expected = integrated([[g] for g in gradients], options)
    torch.testing.assert_close(h[0], expected.h[0], rtol=1e-9, atol=1e-12)
    assert_report(report, expected)


def test_three_objectives_by_hand() -> None:
    """g = (1, 0), (0, 2), (−1, −1): Gα = 0 at α = (2, 1, 2)/5, so the group is stationary."""
    h, report = call(whole_numbers((1, 0), (0, 2), (-1, -1)), MMPareto())
    assert report.weights[0].tolist() == pytest.approx([0.4, 0.2, 0.4])
    assert report.rescale.tolist() == [0.0]
    assert h[0].tolist() == [0.0, 0.0]
    # (1, 1), (1, −3), (4, 4): α = (¾, ¼, 0), Σαg = (1, 0), h = (3, 0), Σg = (6, 2): λ = √40/3
    h, report = call(whole_numbers((1, 1), (1, -3), (4, 4)), MMPareto(gamma=2.0))
    assert report.weights[0].tolist() == pytest.approx([0.75, 0.25, 0.0], abs=1e-12)
    assert report.rescale.tolist() == pytest.approx([math.sqrt(40) / 3])
    assert h[0].tolist() == pytest.approx([2 * math.sqrt(40), 0.0], abs=1e-9)


def test_a_long_direction_is_not_shortened() -> None:
    """λ < 1 counts as 1. This needs `released`: over the group for which α is computed, h is never longer than the sum.

    g = (1, 0), (−1, 3), (1, 5), two tensors of one element: α = (11, 2, 0)/13, h = (27, 18)/13, Σg = (1, 8).
    """
    gradients: Gradients = [
        [torch.tensor([float(x)], dtype=torch.float64) for x in row] for row in ((1, 0), (-1, 3), (1, 5))
    ]
    h, report = call(gradients, MMPareto.released())
    assert report.weights[0].tolist() == pytest.approx([11 / 13, 2 / 13, 0])
    assert report.rescale.tolist() == pytest.approx([1.0, 52 / 9])
    assert [float(x) for x in h] == pytest.approx([1.5 * 27 / 13, 1.5 * 8])


@by_option
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_no_conflict_is_the_plain_sum(count: int, options: Options) -> None:
    """Exactly, or γ times that with boost=always."""
    gradients = random_gradients(count, count, shift=2.5)
    h, report = call(gradients, MMPareto(**options.arguments()))
    assert not bool(report.conflict.any())
    assert bool((report.weights == 1 / count).all())
    assert bool((report.rescale == 1).all())
    for actual, tensors in zip(h, zip(*gradients, strict=True), strict=True):
        plain = sum(tensors[1:], tensors[0])
        assert torch.equal(actual, plain * 1.5 if options.boost == "always" else plain)


@by_option
def test_one_objective_is_plain_descent(options: Options) -> None:
    """There is no conflict; γ applies only with boost=always."""
    model, inputs, labels = several_and_batch(1, 0)
    (loss,) = split(model.losses(inputs, labels), joint=False)[1].values()
    own = list(model.shared.parameters())
    gradients = torch.autograd.grad(loss, own)
    report = several_step(model, inputs, labels, False, MMPareto(**options.arguments()))["shared"]
    for parameter, gradient in zip(own, gradients, strict=True):
        assert torch.equal(parameter.grad, gradient * (1.5 if options.boost == "always" else 1.0))
    assert not bool(report.conflict.any())
    assert bool((report.weights == 1).all())
    assert bool((report.rescale == 1).all())
    assert float(report.cosine) == pytest.approx(1)


@pytest.mark.parametrize("zeros", [(0,), (2,), (0, 3), (0, 1, 2), (1, 2, 3, 4)], ids=str)
@by_option
def test_zero_gradients_are_left_out(options: Options, zeros: tuple[int, ...]) -> None:
    """The step is as if those objectives, which have weight 0, did not exist; n counts the others only."""
    gradients = random_gradients(5, sum(zeros))
    others = [own for i, own in enumerate(gradients) if i not in zeros]
    wanted, alone = call([[*own] for own in others], MMPareto(**options.arguments()))
    for i in zeros:
        gradients[i] = [torch.zeros_like(g) for g in gradients[i]]
    h, report = call(gradients, MMPareto(**options.arguments()))
    for actual, right in zip(h, wanted, strict=True):
        torch.testing.assert_close(actual, right, rtol=1e-9, atol=1e-12)
    assert torch.equal(report.conflict, alone.conflict)
    assert bool(report.conflict.any()) == (len(others) > 1)
    torch.testing.assert_close(report.rescale, alone.rescale, rtol=1e-9, atol=0.0)
    for alpha, right, conflict in zip(report.weights, alone.weights, report.conflict, strict=True):
        if conflict:
            assert alpha[list(zeros)].tolist() == [0.0] * len(zeros)
            torch.testing.assert_close(alpha[[i for i in range(5) if i not in zeros]], right, rtol=1e-9, atol=1e-12)
        else:
            assert alpha.tolist() == [0.2] * 5


@by_option
def test_tensors_that_some_losses_do_not_reach(options: Options) -> None:
    """An objective is left out only in groups that its loss does not reach."""
    for seed in range(5):
        filled = random_gradients(4, seed, shapes=((6,), (3, 4), (), (5,)))
        missing = [(0, 1), (2, 1), (1, 3), (2, 3), (3, 3)]  # only the first loss reaches the last tensor
        given: Gradients = [
            [None if (i, k) in missing else g for k, g in enumerate(own)] for i, own in enumerate(filled)
        ]
        for i, k in missing:
            filled[i][k] = torch.zeros_like(filled[i][k])
        h, report = call(given, MMPareto(**options.arguments()))
        expected = integrated(filled, options)
        for actual, wanted, size in zip(h, expected.h, expected.sizes, strict=True):
            assert float((actual - wanted).norm()) <= 1e-6 * float(wanted.norm()) + 1e-14 * size
        assert_report(report, expected)


@pytest.mark.parametrize("count", [3, 6])
@by_variant
def test_orthogonal_gradients(variant: str, count: int) -> None:
    """They are in conflict for `released` only, with αᵢ ∝ 1/‖gᵢ‖²."""
    make, _ = VARIANTS[variant]
    sizes = torch.arange(1, count + 1, dtype=torch.float64)
    gradients = [[row] for row in sizes.diag()]
    h, report = call(gradients, make())
    assert report.conflict.tolist() == [variant == "released"]
    if variant != "released":
        assert torch.equal(h[0], sizes)
        return
    alpha = sizes**-2 / (sizes**-2).sum()
    torch.testing.assert_close(report.weights[0], alpha, rtol=1e-9, atol=0.0)
    direction = alpha * sizes
    torch.testing.assert_close(h[0], 1.5 * sizes.norm() * direction / direction.norm(), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("count", [3, 4, 6])
def test_one_element_tensors(count: int, dtype: torch.dtype) -> None:
    """Weighted alone, such a tensor has no conflict or is stationary, for any number and sizes of gradients."""
    seen = set()
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(count, generator=generator).double() + 0.7 * (seed % 2)
        values = (values * 10 ** (3 * torch.rand(count, generator=generator).double())).to(dtype)
        opposed = bool(values.min() < 0 < values.max())
        seen.add(opposed)
        (h,), report = call([[v.reshape(1)] for v in values], MMPareto())
        assert report.conflict.tolist() == [opposed]
        assert report.rescale.tolist() == [0.0 if opposed else 1.0]
        wanted = torch.zeros(1, dtype=dtype) if opposed else values.sum().reshape(1)
        torch.testing.assert_close(h, wanted, rtol=1e-6, atol=0.0)
    assert seen == {True, False}


# --- properties --------------------------------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn) -> list[list[Tensor]]:
    """Draw gradients of 1 to 6 objectives for 1 to 3 tensors, some of them parallel, zero, small or large."""
    count, tensors = draw(st.sampled_from([1, 2, 3, 4, 6])), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shapes = [(draw(st.integers(count, 12)),) for _ in range(tensors)]
    shift = draw(st.sampled_from([0.0, 0.5]))
    gradients = [
        [torch.randn(s, generator=generator, dtype=torch.float64) + shift for s in shapes] for _ in range(count)
    ]
    for own in gradients:
        kind = draw(st.sampled_from(["random", "random", "random", "zero", "first", "small", "large"]))
        for k in range(tensors):
            factor = {"zero": 0.0, "small": 1e-2, "large": 1e2}.get(kind, 1.0)
            own[k] = 3.0 * gradients[0][k] if kind == "first" else own[k] * factor
    return gradients


def is_discontinuous(gradients: list[list[Tensor]], options: Options) -> bool:
    """Return whether a pair in some group is so close to c = 0 that rounding decides."""
    indices = [[i] for i in range(len(gradients[0]))] if options.weights == "parameter" else [range(len(gradients[0]))]
    for rows in (rows_of(gradients, group) for group in indices):
        for a, b in itertools.combinations(rows[rows.any(axis=1)], 2):
            if abs(a @ b) < 1e-12 * np.linalg.norm(a) * np.linalg.norm(b):
                return True
    return False


option_sets = st.sampled_from(ALL_OPTIONS)


@settings(max_examples=50)
@given(problems(), option_sets)
def test_a_step_matches_the_equations(gradients: list[list[Tensor]], options: Options) -> None:
    if is_discontinuous(gradients, options):
        event("left out")  # --hypothesis-show-statistics prints how many
        return
    h, report = call([[*own] for own in gradients], MMPareto(**options.arguments()))
    expected = integrated(gradients, options)
    assert_report(report, expected)
    for actual, wanted in zip(h, expected.h, strict=True):
        assert float((actual - wanted).norm()) <= 1e-6 * float(wanted.norm())


@settings(max_examples=50)
@given(problems(), st.sampled_from([options for options in ALL_OPTIONS if options.weights == options.rescale]))
def test_harmless_and_not_shortened(gradients: list[list[Tensor]], options: Options) -> None:
    """In conflict, ⟨h, gᵢ⟩ ≥ 0 and ‖h‖ ≥ γ‖Σg‖; without conflict, the sum has ⟨h, gᵢ⟩ ≥ 0, too."""
    h, report = call([[*own] for own in gradients], MMPareto(**options.arguments()))
    indices = [[i] for i in range(len(h))] if options.weights == "parameter" else [range(len(h))]
    for group, conflict, rescale in zip(indices, report.conflict, report.rescale, strict=True):
        rows, direction = rows_of(gradients, group), rows_of([h], group)[0]
        slack = 1e-9 * np.linalg.norm(direction) * np.linalg.norm(rows, axis=1)
        assert (rows @ direction >= -slack).all()
        if bool(conflict) and float(rescale) > 0:
            assert np.linalg.norm(direction) >= 1.5 * np.linalg.norm(rows.sum(0)) * (1 - 1e-12)


@settings(max_examples=30)
@given(problems(), option_sets, st.randoms(use_true_random=False))
def test_the_order_of_the_objectives_does_not_matter(
    gradients: list[list[Tensor]], options: Options, random: Any
) -> None:
    if is_discontinuous(gradients, options):
        event("left out")
        return
    order = list(range(len(gradients)))
    random.shuffle(order)
    original, first = call([[*own] for own in gradients], MMPareto(**options.arguments()))
    reordered, second = call([[*gradients[i]] for i in order], MMPareto(**options.arguments()))
    for left, right in zip(original, reordered, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-9 * float(left.norm()))
    assert torch.equal(first.conflict, second.conflict)
    torch.testing.assert_close(first.norms[order], second.norms)
    torch.testing.assert_close(first.rescale, second.rescale, rtol=1e-6, atol=0.0)


# --- scale and micro-batches -------------------------------------------------------------------------------------


@by_objectives
@by_variant
def test_scale(variant: str, count: int, joint: bool) -> None:
    """A power of two does not change mantissas: gradients are multiplied by it, and the report is the same."""
    make, _ = VARIANTS[variant]
    model, inputs, labels = several_and_batch(count, 1)
    plain = several_step(model, inputs, labels, joint, make())["shared"]
    wanted = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    scaled = several_step(model, inputs, labels, joint, make(), scale=65536.0)["shared"]
    actual = [p.grad for p in model.parameters() if p.grad is not None]
    for right, left in zip(wanted, actual, strict=True):
        torch.testing.assert_close(left, 65536 * right, rtol=1e-9, atol=0.0)
    for field in ("cosine", "norms", "weights", "rescale"):
        torch.testing.assert_close(getattr(scaled, field), getattr(plain, field), rtol=1e-9, atol=0.0)
    assert torch.equal(scaled.conflict, plain.conflict)


@pytest.mark.parametrize("count", [3, 6])
def test_half_precision_gradients_do_not_underflow(count: int) -> None:
    """These gradients are 0 in float16 unless they are scaled in the backward pass."""
    parameter = nn.Parameter(torch.zeros(16))
    generator = torch.Generator().manual_seed(count)
    rows = (torch.randn(count, 16, generator=generator) * 64).round() / 64  # so that float16 holds them
    losses = {f"task{i}": 1e-9 * (parameter.half().float() * row).sum() for i, row in enumerate(rows)}
    encoders = {"shared": ([parameter], list(losses))}
    report = MMPareto().backward(None, losses, encoders=encoders, scale=65536.0 * 64)["shared"]
    expected = integrated([[row.double() * 1e-9] for row in rows], PER_TENSOR)
    assert expected.groups[0].conflict
    torch.testing.assert_close(parameter.grad.double() / (65536 * 64), expected.h[0], rtol=2e-2, atol=1e-10)
    torch.testing.assert_close(report.norms, torch.tensor(expected.norms, dtype=torch.float64), rtol=1e-2, atol=0.0)
    assert report.weights[0].tolist() == pytest.approx(expected.groups[0].alpha.tolist(), abs=1e-2)


@pytest.mark.parametrize("sizes", [[12], [6, 6], [3, 8, 1]], ids=str)
@by_objectives
@by_variant
def test_micro_batches(variant: str, count: int, joint: bool, sizes: list[int]) -> None:
    make, options = VARIANTS[variant]
    model, inputs, labels = several_and_batch(count, 2)
    wanted, reports = several_expected(model, inputs, labels, joint, options)
    integrate = make()

    def backward(part: Tensor, its_labels: Tensor) -> Any:
        share = len(part) / len(inputs)
        losses = {name: loss * share for name, loss in model.losses(part, its_labels).items()}
        first, own = split(losses, joint)
        return integrate.backward(first, own, encoders={"shared": (model.shared, list(own))})

    *early, last = zip(inputs.split(sizes), labels.split(sizes), strict=True)
    with integrate.accumulate():
        for part in early:
            assert list(backward(*part)) == []
    report = backward(*last)
    assert_wanted(wanted.items())
    assert_report(report["shared"], reports["shared"])


@by_variant
def test_micro_batches_of_six_modalities(variant: str) -> None:
    make, options = VARIANTS[variant]
    model, (inputs, labels) = modalities_and_batch(6, 3)
    expected, _ = expectation("mmpareto", model, (inputs, labels), options)
    integrate = make()
    sizes = [5, 3, 4]
    pieces = {name: x.split(sizes) for name, x in inputs.items()}
    for i, part in enumerate(labels.split(sizes)):
        joint, unimodal = model.losses({name: piece[i] for name, piece in pieces.items()}, part)
        weighted = {name: loss * (len(part) / 12) for name, loss in unimodal.items()}
        if i < 2:
            with integrate.accumulate():
                integrate.backward(joint * (len(part) / 12), weighted, encoders=dict(model.encoders.items()))
        else:
            integrate.backward(joint * (len(part) / 12), weighted, encoders=dict(model.encoders.items()))
    assert_gradients(expected)
