"""Min-norm weights against exact fractions, a solver on the gradients, and the optimality conditions."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import quadprog
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpareto.integration.min_norm import min_norm_weights
from torch import Generator, Tensor

SIZES = [1, 2, 3, 4, 5, 6, 8, 32]
SEEDS = range(3)
TOLERANCE = 1e-6

by_size = pytest.mark.parametrize("n", SIZES)


# --- gradients ---------------------------------------------------------------------------------------------------


def normal(n: int, dimension: int, generator: Generator) -> Tensor:
    return torch.randn(n, dimension, generator=generator, dtype=torch.float64)


def spread(n: int, generator: Generator) -> Tensor:
    """Factors (n, 1) over 12 orders of magnitude, including both ends."""
    exponents = 12 * torch.rand(n, 1, generator=generator, dtype=torch.float64) - 6
    exponents[0], exponents[-1] = -6, 6
    return 10**exponents


def shared_part(n: int, dimension: int, generator: Generator) -> Tensor:
    """Gradients with few conflicts: 0 is outside the convex hull, and the solution is inside a face."""
    return normal(n, dimension, generator) + 0.7


def collinear(n: int, dimension: int, generator: Generator) -> Tensor:
    return (0.1 + 3 * torch.rand(n, 1, generator=generator, dtype=torch.float64)) * normal(1, dimension, generator)


def collinear_both_ways(n: int, dimension: int, generator: Generator) -> Tensor:
    return normal(n, 1, generator) * normal(1, dimension, generator)


def duplicated(n: int, dimension: int, generator: Generator) -> Tensor:
    drawn = shared_part(max(1, n // 2), dimension, generator)
    return drawn[torch.randint(len(drawn), (n,), generator=generator)]


def opposite(n: int, dimension: int, generator: Generator) -> Tensor:
    gradients = normal(n, dimension, generator)
    gradients[-1] = -2 * gradients[0]  # for n = 1 that is the gradient itself
    return gradients


def nearly_equal(n: int, dimension: int, generator: Generator) -> Tensor:
    return normal(1, dimension, generator) + 1e-7 * normal(n, dimension, generator)


def nearly_opposite(n: int, dimension: int, generator: Generator) -> Tensor:
    signs = torch.tensor([(-1.0) ** i for i in range(n)], dtype=torch.float64)[:, None]
    return signs * normal(1, dimension, generator) + 1e-4 * normal(n, dimension, generator)


def low_rank(n: int, dimension: int, generator: Generator) -> Tensor:
    """Integer gradients in one plane: many are equal, opposite or zero."""
    left = torch.randint(-2, 3, (n, 2), generator=generator).double()
    return left @ torch.randint(-2, 3, (2, dimension), generator=generator).double()


def one_zero(n: int, dimension: int, generator: Generator) -> Tensor:
    gradients = normal(n, dimension, generator)
    gradients[n // 2] = 0
    return gradients


def all_zero(n: int, dimension: int, generator: Generator) -> Tensor:
    return torch.zeros(n, dimension, dtype=torch.float64)


def spread_random(n: int, dimension: int, generator: Generator) -> Tensor:
    return normal(n, dimension, generator) * spread(n, generator)


def spread_shared(n: int, dimension: int, generator: Generator) -> Tensor:
    return shared_part(n, dimension, generator) * spread(n, generator)


def spread_duplicated(n: int, dimension: int, generator: Generator) -> Tensor:
    return duplicated(n, dimension, generator) * spread(n, generator)


def spread_collinear(n: int, dimension: int, generator: Generator) -> Tensor:
    return collinear(n, dimension, generator) * spread(n, generator)


Draw = Callable[[int, int, Generator], Tensor]
KINDS: list[Draw] = [
    normal,
    shared_part,
    collinear,
    collinear_both_ways,
    duplicated,
    opposite,
    nearly_equal,
    nearly_opposite,
    low_rank,
    one_zero,
    all_zero,
    spread_random,
    spread_shared,
    spread_duplicated,
    spread_collinear,
]
by_kind = pytest.mark.parametrize("draw", KINDS, ids=lambda draw: draw.__name__)


def problems(draw: Draw, *sizes: int) -> list[Tensor]:
    """Return gradients of dimension below, equal to and above their number n, for every n in `sizes`."""
    return [
        draw(n, dimension, torch.Generator().manual_seed(100 * seed + dimension))
        for n in sizes
        for dimension in sorted({max(1, n // 2), n, 3 * n})
        for seed in SEEDS
    ]


def solved(gradients: Tensor, skip_zero: bool = False) -> Tensor:
    return min_norm_weights(gradients @ gradients.T, skip_zero=skip_zero)


# --- the optimality conditions -----------------------------------------------------------------------------------


def assert_optimal(alpha: Tensor, gramian: Tensor, tolerance: float = TOLERANCE) -> None:
    """Assert that α ≥ 0, Σα = 1, and (Gα)ᵢ ≥ αᵀGα with equality where αᵢ > 0.

    Condition i is about ⟨gᵢ, h⟩ with h = Σ αg, which is at most ‖gᵢ‖·‖h‖ ≤ ‖gᵢ‖·min‖g‖; the tolerance is relative to
    this bound. If norms differ by orders of magnitude, a tolerance relative to the largest element of G would accept
    anything for all but the longest gradients, and one relative to min‖g‖² would require more precision of ⟨gᵢ, h⟩, a
    sum of terms of size ‖gᵢ‖·min‖g‖, than float64 has. If a gradient is 0, so is the tolerance: Gα must be 0.
    """
    assert alpha.shape == gramian.shape[:-1]
    assert bool((alpha >= 0).all())
    assert float(alpha.sum()) == pytest.approx(1, abs=1e-14)
    norms = gramian.diagonal().sqrt()
    allowed = tolerance * norms * norms.min()
    products = gramian @ alpha
    above = products - alpha @ products
    assert bool((above >= -allowed).all()), (alpha, above, allowed)
    assert bool((above <= allowed)[alpha > 0].all()), (alpha, above, allowed)


@by_kind
def test_optimality_conditions(draw: Draw) -> None:
    for gradients in problems(draw, *SIZES):
        assert_optimal(solved(gradients), gradients @ gradients.T)


@by_kind
def test_optimality_conditions_of_float32_gradients(draw: Draw) -> None:
    """Checked against the float64 Gramian of the same gradients, with a tolerance for float32 rounding."""
    for gradients in problems(draw, *SIZES):
        single = gradients.float()
        products = (single[:, None] * single[None]).sum(-1)
        exact = single.double() @ single.double().T
        # A relative error of eps in the products is an error of eps·‖gᵢ‖·Σ αⱼ‖gⱼ‖ in ⟨gᵢ, h⟩, and this sum exceeds
        # min‖g‖ where its terms cancel (nearly opposite gradients).
        alpha = min_norm_weights(products.double())
        terms = float((alpha * exact.diagonal().sqrt()).sum()) / float(exact.diagonal().sqrt().min().clamp(min=1e-300))
        assert_optimal(alpha, exact, 16 * torch.finfo(torch.float32).eps * max(1.0, terms))


# --- independent solutions ---------------------------------------------------------------------------------------


def shortest(gradients: Tensor) -> Tensor:
    """Return the shortest point of the convex hull, by the dual: the shortest x with ⟨x, gᵢ⟩ ≥ 1 gives h = x/‖x‖².

    There is no such x if and only if 0 is in the hull. Constraints are divided by ‖gᵢ‖/min‖g‖, to keep them in range.
    """
    norms = gradients.norm(dim=1)
    if not bool(norms.all()):
        return torch.zeros_like(gradients[0])
    unit, bound = (gradients / norms[:, None]).numpy(), (norms.min() / norms).numpy()
    dimension = unit.shape[1]
    try:
        x = quadprog.solve_qp(np.eye(dimension), np.zeros(dimension), unit.T.copy(), bound)[0]
    except ValueError as error:
        assert "inconsistent" in str(error)
        return torch.zeros_like(gradients[0])
    return torch.from_numpy(x / (x @ x)) * norms.min()


@by_kind
def test_h_matches_a_quadratic_programme_on_the_gradients(draw: Draw) -> None:
    """Compares h, relative to the shortest gradient, because the weights are not unique."""
    for gradients in problems(draw, *SIZES):
        h, wanted = solved(gradients) @ gradients, shortest(gradients)
        assert float((h - wanted).norm()) <= TOLERANCE * float(gradients.norm(dim=1).min())


def solved_exactly(matrix: list[list[Fraction]], target: list[Fraction]) -> list[Fraction] | None:
    """Solve a linear system by Gauss–Jordan elimination in fractions; None for a singular matrix."""
    rows = [[*row, value] for row, value in zip(matrix, target, strict=True)]
    for i in range(len(rows)):
        pivot = next((k for k in range(i, len(rows)) if rows[k][i]), None)
        if pivot is None:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(len(rows)):
            if k != i and rows[k][i]:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


def enumerated(gradients: list[list[Fraction]]) -> list[Fraction]:
    """Return the shortest point of the convex hull, without rounding: the shortest one inside any simplex.

    It is in the hull of affinely independent gradients (Carathéodory), for which [G 1; 1ᵀ 0](α, −m) = (0, 1) has
    exactly one solution.
    """
    best: list[Fraction] | None = None
    one, zero = Fraction(1), Fraction(0)
    for count in range(1, min(len(gradients), len(gradients[0]) + 1) + 1):
        for chosen in itertools.combinations(gradients, count):
            matrix = [[sum((a * b for a, b in zip(g, f, strict=True)), zero) for f in chosen] + [one] for g in chosen]
            result = solved_exactly([*matrix, [one] * count + [zero]], [zero] * count + [one])
            if result is None or min(result[:count]) < 0:
                continue
            columns = zip(*chosen, strict=True)
            point = [sum((a * x for a, x in zip(result, column, strict=False)), zero) for column in columns]
            if best is None or square(point) < square(best):
                best = point
    assert best is not None
    return best


def square(point: list[Fraction]) -> Fraction:
    return sum((x * x for x in point), Fraction(0))


def test_the_enumeration_itself() -> None:
    def of(*rows: tuple[int, ...]) -> list[Fraction]:
        return enumerated([[Fraction(x) for x in row] for row in rows])

    assert of((2, 0), (0, 1)) == [Fraction(2, 5), Fraction(4, 5)]
    assert of((1, 3), (-2, 3), (0, 4)) == [0, 3]
    assert of((1, 1), (-2, 1), (0, -1), (5, 5)) == [0, 0]
    assert of((2, 1), (4, 2), (3, 9)) == [2, 1]


@st.composite
def whole_gradients(draw: st.DrawFn) -> list[list[int]]:
    n, dimension = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    size = draw(st.sampled_from([1, 3, 50]))  # small numbers: equal, opposite, collinear and zero gradients
    shift = draw(st.sampled_from([0, 0, size]))  # all of the same sign: 0 is outside the hull
    number = st.integers(-size, size).map(lambda x: x + shift)
    factor = st.sampled_from([1, 1, 1, 10, 10**6])
    row = st.tuples(st.lists(number, min_size=dimension, max_size=dimension), factor)
    return [[x * times for x in numbers] for numbers, times in draw(st.lists(row, min_size=n, max_size=n))]


@settings(max_examples=50)
@given(whole_gradients())
def test_equals_the_enumeration_of_active_sets(rows: list[list[int]]) -> None:
    gradients = torch.tensor(rows, dtype=torch.float64)
    alpha, wanted = solved(gradients), enumerated([[Fraction(x) for x in row] for row in rows])
    # h in fractions, too: what is compared is the weights' error and not that of the sum
    columns = zip(*rows, strict=True)
    h = [sum((Fraction(a) * x for a, x in zip(alpha.tolist(), column, strict=True)), Fraction(0)) for column in columns]
    difference = [a - b for a, b in zip(h, wanted, strict=True)]
    assert math.sqrt(square(difference)) <= 1e-9 * float(gradients.norm(dim=1).min())
    assert_optimal(alpha, gradients @ gradients.T)


lost_digits = pytest.mark.xfail(strict=True, reason="Ĝ + ttᵀ loses the digits of ttᵀ; see _solve_as_least_distance")


@pytest.mark.parametrize("ratio", [1e2, pytest.param(1e6, marks=lost_digits)])
def test_opposite_gradients_much_longer_than_a_third(ratio: float) -> None:
    """Their mean is 0, the minimum; the short gradient has no weight."""
    gradients = torch.tensor([[ratio, 0.0], [0.0, 1.0], [-ratio, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(solved(gradients), torch.tensor([0.5, 0, 0.5], dtype=torch.float64), rtol=0, atol=1e-12)


# --- two gradients -----------------------------------------------------------------------------------------------


def closed_form(a: float, b: float, c: float) -> tuple[Fraction, Fraction]:
    """Return the closed-form weights of two gradients, as fractions."""
    if a == b == c:
        return Fraction(1, 2), Fraction(1, 2)
    if c >= a:
        return Fraction(1), Fraction(0)
    if c >= b:
        return Fraction(0), Fraction(1)
    first, second, product = Fraction(a), Fraction(b), Fraction(c)
    return (second - product) / (first + second - 2 * product), (first - product) / (first + second - 2 * product)


@settings(max_examples=50)
@given(
    norm=st.floats(1e-6, 1e6),
    ratio=st.sampled_from([1.0, 1.5, 0.3, 1e-3, 1e6, 1e-12, 1e12]),
    cosine=st.floats(-1, 1) | st.sampled_from([-1.0, 0.0, 1.0]),
)
def test_closed_form(norm: float, ratio: float, cosine: float) -> None:
    """Each weight has a relative error below 1e-12, even the tiny weight of a gradient that is 10¹² times longer."""
    a, b = norm**2, (norm * ratio) ** 2
    c = cosine * norm * norm * ratio
    alpha = min_norm_weights(torch.tensor([[a, c], [c, b]], dtype=torch.float64))
    if 0 < a + b - 2 * c < 1e-3 * (a + b):  # nearly equal: weights are ill-conditioned, but h does not depend on them
        assert float(alpha.sum()) == pytest.approx(1, abs=1e-15)
        assert bool((alpha >= 0).all())
        return
    assert alpha.tolist() == pytest.approx([float(weight) for weight in closed_form(a, b, c)], rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ((3, 0), (0, 1), (0.1, 0.9)),
        ((1, 0), (2, 5), (1.0, 0.0)),  # c ≥ a
        ((2, 5), (1, 0), (0.0, 1.0)),  # c ≥ b
        ((1, 0), (1, 4), (1.0, 0.0)),  # c = a
        ((1, 2), (1, 2), (0.5, 0.5)),
        ((0, 0), (0, 0), (0.5, 0.5)),
        ((1, 1), (-3, -3), (0.75, 0.25)),
        ((0, 0), (1, 2), (1.0, 0.0)),
        ((1, 2), (0, 0), (0.0, 1.0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("skip_zero", [False, True])
def test_closed_form_by_hand(
    skip_zero: bool, first: tuple[int, ...], second: tuple[int, ...], wanted: tuple[float, float]
) -> None:
    """`skip_zero` has no effect here: it applies to more than two gradients."""
    gradients = torch.tensor([first, second], dtype=torch.float64)
    assert solved(gradients, skip_zero).tolist() == pytest.approx(wanted, abs=1e-15)


def test_a_third_gradient_of_weight_zero_changes_nothing() -> None:
    """The solver for many gradients gives the weights of the closed form for two."""
    for seed in range(10):
        pair = normal(2, 4, torch.Generator().manual_seed(seed))
        alpha = solved(pair)
        far = 100 * (alpha @ pair)
        torch.testing.assert_close(solved(torch.stack([*pair, far]))[:2], alpha, rtol=1e-9, atol=1e-12)


# --- many gradients, by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([(1, 0, 0), (0, 2, 0), (0, 0, 3)], (36 / 49, 9 / 49, 4 / 49)),  # orthogonal: αᵢ ∝ 1/‖gᵢ‖²
        ([(1, 0), (1, 0), (0, 1)], (0.25, 0.25, 0.5)),  # equal gradients share their weight
        ([(1, 2), (1, 2), (1, 2)], (1 / 3, 1 / 3, 1 / 3)),
        ([(2, 0), (1, 0), (3, 0)], (0, 1, 0)),
        ([(1, 0), (-1, 2), (-1, -2)], (0.5, 0.25, 0.25)),
        ([(1, 1), (1, -3), (9, 9)], (0.75, 0.25, 0)),
    ],
    ids=str,
)
def test_by_hand(rows: list[tuple[int, ...]], wanted: tuple[float, ...]) -> None:
    for order in itertools.permutations(range(len(rows))):
        gradients = torch.tensor([rows[i] for i in order], dtype=torch.float64)
        assert solved(gradients).tolist() == pytest.approx([wanted[i] for i in order], abs=1e-13)


@pytest.mark.parametrize("n", [3, 6, 32])
def test_equal_gradients_have_equal_weights(n: int) -> None:
    gradients = normal(1, 7, torch.Generator().manual_seed(n)).expand(n, -1)
    torch.testing.assert_close(solved(gradients), torch.full((n,), 1 / n, dtype=torch.float64), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("exponent", [-150, -20, 1, 20, 150])
def test_a_common_factor_changes_nothing(exponent: int, n: int) -> None:
    """A power of two does not change mantissas; the exponents nearly exhaust the range of a float64 Gramian."""
    gradients = normal(n, 4, torch.Generator().manual_seed(n))
    gramian = gradients @ gradients.T
    assert torch.equal(min_norm_weights(gramian * 4.0**exponent), min_norm_weights(gramian))


# --- zero gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [(0,), (2,), (1, 4), (0, 1, 2), (0, 1, 2, 3)], ids=str)
def test_zero_gradients_are_skipped(zeros: tuple[int, ...]) -> None:
    gradients = spread_random(5, 6, torch.Generator().manual_seed(len(zeros)))
    gradients[list(zeros)] = 0
    others = [i for i in range(5) if i not in zeros]
    alpha = solved(gradients, skip_zero=True)
    assert alpha[list(zeros)].tolist() == [0.0] * len(zeros)
    torch.testing.assert_close(alpha[others], solved(gradients[others], skip_zero=True), rtol=1e-9, atol=0.0)
    assert_optimal(alpha[others], gradients[others] @ gradients[others].T)


@pytest.mark.parametrize("zeros", [(0,), (2,), (1, 4), (0, 1, 2, 3)], ids=str)
def test_a_zero_gradient_is_the_minimum(zeros: tuple[int, ...]) -> None:
    gradients = normal(5, 6, torch.Generator().manual_seed(0))
    gradients[list(zeros)] = 0
    alpha = solved(gradients)
    assert bool((alpha @ gradients == 0).all())
    assert alpha[list(zeros)].tolist() == pytest.approx([1 / len(zeros)] * len(zeros))


@pytest.mark.parametrize("skip_zero", [False, True])
@by_size
def test_all_gradients_zero(n: int, skip_zero: bool) -> None:
    alpha = solved(torch.zeros(n, 3, dtype=torch.float64), skip_zero)
    assert alpha.tolist() == pytest.approx([1 / n] * n)


@pytest.mark.parametrize("n", [3, 6])
def test_skip_zero_changes_nothing_without_zeros(n: int) -> None:
    for gradients in problems(spread_random, n):
        assert torch.equal(solved(gradients, skip_zero=True), solved(gradients))


# --- groups ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip_zero", [False, True])
@by_size
def test_each_group_is_solved_independently(n: int, skip_zero: bool) -> None:
    groups = [gradients @ gradients.T for draw in KINDS for gradients in problems(draw, n)[:2]]
    together = min_norm_weights(torch.stack(groups), skip_zero=skip_zero)
    assert together.shape == (len(groups), n)
    alone = torch.stack([min_norm_weights(gramian, skip_zero=skip_zero) for gramian in groups])
    torch.testing.assert_close(together, alone, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_shapes_and_types(n: int) -> None:
    gradients = normal(n, 4, torch.Generator().manual_seed(0))
    gramian = gradients @ gradients.T
    alpha = min_norm_weights(gramian)
    nested = min_norm_weights(gramian.expand(2, 5, n, n))
    assert nested.shape == (2, 5, n)
    torch.testing.assert_close(nested, alpha.expand(2, 5, n))
    assert min_norm_weights(gramian.expand(0, n, n)).shape == (0, n)
    single = min_norm_weights(gramian.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), alpha, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [2, 3, 6])
def test_a_nonfinite_group_does_not_affect_the_others(n: int, bad: float) -> None:
    """Only the weights of that group are not finite."""
    gradients = normal(n, 4, torch.Generator().manual_seed(0))
    gramian = gradients @ gradients.T
    spoilt = gramian.clone()
    spoilt[0, 1] = spoilt[1, 0] = bad
    alpha = min_norm_weights(torch.stack([gramian, spoilt, gramian]), skip_zero=True)
    assert not bool(alpha[1].isfinite().all())
    assert torch.equal(alpha[0], min_norm_weights(gramian))
    assert torch.equal(alpha[2], alpha[0])
