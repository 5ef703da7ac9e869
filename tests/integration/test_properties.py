"""Properties for arbitrary gradients; losses that are linear in the parameters have exactly the drawn gradients."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from integration_reference import (
    ALL_OPTIONS,
    PAPER,
    PER_TENSOR,
    RELEASED,
    Expected,
    Options,
    assert_report,
    dot,
    integrated,
    linear_loss,
    norm,
    parameters_like,
)
from mmpareto import MMPareto, UniformSum
from mmpareto.integration.method import Method
from torch import Tensor, nn

examples = settings(max_examples=80, deadline=None, derandomize=True, database=None)
KINDS = (
    "random",
    "whole numbers",
    "equal",
    "opposite",
    "nearly opposite",
    "orthogonal",
    "no joint",
    "no unimodal",
    "no gradient",
    "joint only",
    "unimodal only",
    "unreached",
    "frozen",
)
SHAPES = ((), (1,), (2,), (7,), (3, 4), (2, 1, 3), (40, 33), (0,))


@dataclass(frozen=True)
class Problem:
    """Gradients of one encoder's tensors, None where a loss does not reach; `frozen` marks frozen tensors."""

    joint: list[Tensor | None]
    unimodal: list[Tensor | None]
    zeros: list[Tensor]
    frozen: list[bool]

    @property
    def dtype(self) -> torch.dtype:
        return self.zeros[0].dtype

    @property
    def eps(self) -> float:
        return torch.finfo(self.dtype).eps

    def swapped(self) -> "Problem":
        return replace(self, joint=self.unimodal, unimodal=self.joint)

    def scaled(self, factor: float) -> "Problem":
        def times(gradients: list[Tensor | None]) -> list[Tensor | None]:
            return [None if g is None else g * factor for g in gradients]

        return replace(self, joint=times(self.joint), unimodal=times(self.unimodal))

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return the two gradients of every trainable tensor, zeros where a loss does not reach."""
        rows = zip(self.joint, self.unimodal, self.zeros, self.frozen, strict=True)
        return [(z if j is None else j, z if u is None else u) for j, u, z, frozen in rows if not frozen]

    def expected(self, options: Options) -> Expected:
        first, second = zip(*self.pairs(), strict=True)
        return integrated(first, second, options, self.eps)


@dataclass(frozen=True)
class Step:
    """Result of one call of `backward`: `h` of the trainable tensors (zeros for None) and the encoder's report."""

    h: list[Tensor]
    report: Any
    parameters: list[nn.Parameter]
    other: nn.Parameter


def step(problem: Problem, integrate: Method) -> Step:
    """Take one step from parameters of 0, so that even huge gradients give finite losses."""
    parameters = parameters_like(problem.zeros)
    for parameter, frozen in zip(parameters, problem.frozen, strict=True):
        parameter.data.zero_()
        parameter.requires_grad_(not frozen)
    other = nn.Parameter(torch.zeros(3, dtype=problem.dtype))
    direction = torch.arange(1, 4, dtype=problem.dtype)
    everything = [*parameters, other]
    joint = linear_loss(everything, [*problem.joint, direction])
    unimodal = linear_loss(everything, [*problem.unimodal, 2 * direction])
    report = integrate.backward(joint, {"touch": unimodal}, encoders={"touch": parameters})
    trainable = [p for p in parameters if p.requires_grad]
    h = [torch.zeros_like(p) if p.grad is None else p.grad for p in trainable]
    assert all(bool(tensor.isfinite().all()) for tensor in h)
    assert [bool(flag) for flag in report.finite] == [True, True]
    return Step(h, report.get("touch"), parameters, other)


def gradient_pair(kind: str, shape: tuple[int, ...], sizes: tuple[float, float], generator: torch.Generator) -> Any:
    first = sizes[0] * torch.randn(shape, generator=generator, dtype=torch.float64)
    second = sizes[1] * torch.randn(shape, generator=generator, dtype=torch.float64)
    zero = torch.zeros(shape, dtype=torch.float64)
    if kind == "whole numbers":
        drawn = [torch.randint(-2, 3, shape, generator=generator).double() for _ in range(2)]
        return drawn[0] * sizes[0], drawn[1] * sizes[1]
    if kind == "orthogonal":
        mask = torch.randint(2, shape, generator=generator)
        return first * mask, second * (1 - mask)
    special = {
        "equal": (first, first),
        "opposite": (first, first * (-sizes[1] / sizes[0])),
        "nearly opposite": (first, (1e-3 * second / sizes[1] - first / sizes[0]) * sizes[1]),
        "no joint": (zero, second),
        "no unimodal": (first, zero),
        "no gradient": (zero, zero),
        "joint only": (first, None),
        "unimodal only": (None, second),
        "unreached": (None, None),
    }
    return special.get(kind, (first, second))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    kinds = ["random", *draw(st.lists(st.sampled_from(KINDS), max_size=4))]
    exponents = st.sampled_from([0, 0, 0, 3, -9, 12])
    joint, unimodal, zeros = [], [], []
    for kind in kinds:
        shape = draw(st.sampled_from(SHAPES))
        sizes = (2.0 ** draw(exponents), 2.0 ** draw(exponents))
        pair = gradient_pair(kind, shape, sizes, generator)
        first, second = (None if g is None else g.to(dtype) for g in pair)
        joint.append(first)
        unimodal.append(second)
        zeros.append(torch.zeros(shape, dtype=dtype))
    return Problem(joint, unimodal, zeros, [kind == "frozen" for kind in kinds])


option_sets = st.sampled_from(ALL_OPTIONS)


def rounding(problem: Problem, index: int, expected: Expected) -> float:
    """Return the relative rounding error allowed in h of rescale group `index`: about eps·(‖g₁‖ + ‖g₂‖)/‖h‖.

    ‖h‖ is the norm before rescaling, which enlarges errors as much as h; the factor 32 is enough for γ < 4.
    """
    pairs, group = problem.pairs(), expected.rescale_groups[index]
    size = norm(expected.h[i] for i in group) / float(expected.rescale[index])
    total = norm(pairs[i][0] for i in group) + norm(pairs[i][1] for i in group)
    return 32 * problem.eps * (1 + total / size) if size > 0 else 1.0


def is_discontinuous(problem: Problem, options: Options, dtype: torch.dtype) -> bool:
    """Return whether a group is so close to c = 0, or to the stationary threshold, that rounding may decide."""
    expected, pairs = problem.expected(options), problem.pairs()
    for group in expected.groups:
        one, two = norm(pairs[i][0] for i in group), norm(pairs[i][1] for i in group)
        product = dot((pairs[i][0] for i in group), (pairs[i][1] for i in group))
        limit = 1e-5 if dtype == torch.float32 else 1e-12
        if min(one, two) > 0 and abs(product) < limit * one * two:
            return True
    conflict = expected.conflict.expand(len(pairs)) if options.weights == "encoder" else expected.conflict
    return any(
        bool(conflict[group[0]]) and not expected.stationary[index] and rounding(problem, index, expected) > 1e-3
        for index, group in enumerate(expected.rescale_groups)
    )


@examples
@given(problems(), option_sets)
def test_a_step_matches_the_equations(problem: Problem, options: Options) -> None:
    if is_discontinuous(problem, options, problem.dtype):
        event("left out")  # --hypothesis-show-statistics prints how many
        return
    expected, result = problem.expected(options), step(problem, MMPareto(**options.arguments()))
    tolerance = 1e-5 if problem.dtype == torch.float32 else 1e-9
    assert_report(result.report, expected, 1e-3 if problem.dtype == torch.float32 else 1e-9)
    for index, group in enumerate(expected.rescale_groups):
        allowed = tolerance + (0.0 if expected.stationary[index] else rounding(problem, index, expected))
        wanted = norm(expected.h[i] for i in group)
        assert norm(result.h[i].double() - expected.h[i] for i in group) <= allowed * wanted


@examples
@given(problems(), option_sets)
def test_unreached_and_frozen_tensors(problem: Problem, options: Options) -> None:
    result = step(problem, MMPareto(**options.arguments()))
    rows = zip(result.parameters, problem.joint, problem.unimodal, problem.frozen, strict=True)
    for parameter, first, second, frozen in rows:
        if frozen or (first is None and second is None):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None
            assert parameter.grad.shape == parameter.shape
            assert parameter.grad.dtype == parameter.dtype
        assert not bool(parameter.any()), "the parameters themselves must not change"
    assert torch.equal(result.other.grad, 3 * torch.arange(1, 4, dtype=problem.dtype))
    count = sum(not frozen for frozen in problem.frozen)
    assert result.report.weights.shape == (count if options.weights == "parameter" else 1, 2)
    assert result.report.conflict.shape == (count if options.weights == "parameter" else 1,)
    assert result.report.rescale.shape == (len(problem.expected(options).rescale_groups),)


@examples
@given(problems(), st.sampled_from([options for options in ALL_OPTIONS if options.weights == options.rescale]))
def test_harmless_direction(problem: Problem, options: Options) -> None:
    """⟨h, g⟩ ≥ 0 for both losses in every group; `released`, which mixes groups, does not guarantee this."""
    result, pairs, expected = step(problem, MMPareto(**options.arguments())), problem.pairs(), problem.expected(options)
    for index, group in enumerate(expected.rescale_groups):
        h = [result.h[i] for i in group]
        slack = rounding(problem, index, expected) * norm(h)
        for column in (0, 1):
            gradient = [pairs[i][column] for i in group]
            assert dot(h, gradient) >= -slack * norm(gradient)


@examples
@given(
    problems(),
    st.sampled_from([options for options in ALL_OPTIONS if options.rescale != "none"]),
    st.sampled_from([0.5, 1.0, 1.5, 3.0]),
)
def test_magnitude_in_conflict(problem: Problem, options: Options, gamma: float) -> None:
    """In conflict, ‖h‖ ≥ γ‖g₁ + g₂‖ over every rescale group that is not stationary (there h is exactly 0)."""
    options = replace(options, gamma=gamma)
    result, pairs = step(problem, MMPareto(**options.arguments())), problem.pairs()
    expected = problem.expected(options)
    conflict = result.report.conflict.expand(len(pairs)) if options.weights == "encoder" else result.report.conflict
    for group in expected.rescale_groups:
        h, plain = norm(result.h[i] for i in group), norm(pairs[i][0].double() + pairs[i][1].double() for i in group)
        if bool(conflict[group[0]]) and h > 0:
            assert h >= gamma * plain * (1 - 64 * problem.eps)


@examples
@given(problems(), st.sampled_from(["parameter", "encoder"]), st.sampled_from([0.5, 1.0, 2.0]))
def test_without_rescaling_no_direction_is_longer_than_twice_a_gradient(
    problem: Problem, weights: str, gamma: float
) -> None:
    """With rescale="none", h = 2γΣαg in conflict: the shortest convex combination, no longer than either gradient."""
    result, pairs = step(problem, MMPareto(gamma, weights=weights, rescale="none")), problem.pairs()
    groups = problem.expected(Options(gamma, weights, "none")).groups
    assert bool(((result.report.rescale == 1) | (result.report.rescale == 0)).all())
    for group, conflict in zip(groups, result.report.conflict, strict=True):
        if bool(conflict):
            shorter = min(norm(pairs[i][column] for i in group) for column in (0, 1))
            assert norm(result.h[i] for i in group) <= 2 * gamma * shorter * (1 + 64 * problem.eps)


@examples
@given(problems(), st.sampled_from([1.5, 2.0, 3.0]))
def test_the_released_boost_is_uniform_with_longer_encoder_gradients(problem: Problem, gamma: float) -> None:
    """Without conflict, the step of `released` is that of the uniform baseline with encoder gradients times γ."""
    boosted = step(problem, MMPareto.released(gamma))
    scaled, plain = step(problem, UniformSum(encoder_scale=gamma)), step(problem, UniformSum())
    assert torch.equal(scaled.other.grad, plain.other.grad) and torch.equal(boosted.other.grad, plain.other.grad)
    for left, right in zip(scaled.h, plain.h, strict=True):
        assert torch.equal(left, gamma * right)
    if not bool(boosted.report.conflict):
        for left, right in zip(boosted.h, scaled.h, strict=True):
            torch.testing.assert_close(left, right, rtol=4 * problem.eps, atol=0.0)
    event(f"conflict: {bool(boosted.report.conflict)}")


@examples
@given(problems(), option_sets)
def test_no_conflict_is_the_plain_sum(problem: Problem, options: Options) -> None:
    """Without conflict, h is exactly g₁ + g₂ (γ times that with boost=always), with weights ½ and ½."""
    result = step(problem, MMPareto(**options.arguments()))
    expected = problem.expected(options)
    for index, group in enumerate(expected.groups):
        if bool(result.report.conflict[index]):
            continue
        assert result.report.weights[index].tolist() == [0.5, 0.5]
        for i in group:
            plain = problem.pairs()[i][0] + problem.pairs()[i][1]
            if options.boost == "conflict":
                assert torch.equal(result.h[i], plain)
            else:
                torch.testing.assert_close(result.h[i], 1.5 * plain, rtol=4 * problem.eps, atol=0.0)


@examples
@given(problems(), option_sets)
def test_the_shorter_gradient_gets_the_larger_weight(problem: Problem, options: Options) -> None:
    result, pairs = step(problem, MMPareto(**options.arguments())), problem.pairs()
    for index, group in enumerate(problem.expected(options).groups):
        first, second = result.report.weights[index].tolist()
        assert first >= 0
        assert second >= 0
        assert first + second == pytest.approx(1, abs=4 * problem.eps)
        one, two = norm(pairs[i][0] for i in group), norm(pairs[i][1] for i in group)
        if bool(result.report.conflict[index]) and abs(one - two) > 1e-4 * max(one, two):
            assert (first > second) == (one < two)


@examples
@given(problems(), option_sets)
def test_swapping_the_losses_swaps_the_weights(problem: Problem, options: Options) -> None:
    integrate = MMPareto(**options.arguments())
    original, swapped = step(problem, integrate), step(problem.swapped(), integrate)
    tolerance = 1e-4 if problem.dtype == torch.float32 else 1e-10
    assert torch.equal(original.report.conflict, swapped.report.conflict)
    torch.testing.assert_close(original.report.weights, swapped.report.weights.flip(1), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(original.report.norms, swapped.report.norms.flip(0), rtol=tolerance, atol=0.0)
    torch.testing.assert_close(original.report.cosine, swapped.report.cosine, rtol=tolerance, atol=tolerance)
    if is_discontinuous(problem, options, problem.dtype):
        event("left out")  # --hypothesis-show-statistics prints how many
        return
    expected = problem.expected(options)
    for index, group in enumerate(expected.rescale_groups):
        size = max(norm(original.h[i] for i in group), norm(swapped.h[i] for i in group))
        allowed = 1e-5 + rounding(problem, index, expected)
        assert norm(original.h[i].double() - swapped.h[i].double() for i in group) <= allowed * size


def check_scaling(problem: Problem, options: Options, factor: float) -> None:
    """A power of two does not change the mantissas, so only the range of the numbers matters."""
    integrate = MMPareto(**options.arguments())
    original, scaled = step(problem, integrate), step(problem.scaled(factor), integrate)
    tolerance = 1e-5 if problem.dtype == torch.float32 else 1e-12
    assert torch.equal(original.report.conflict, scaled.report.conflict)
    torch.testing.assert_close(original.report.weights, scaled.report.weights, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(original.report.cosine, scaled.report.cosine, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(original.report.rescale, scaled.report.rescale, rtol=tolerance, atol=0.0)
    torch.testing.assert_close(original.report.norms.double() * factor, scaled.report.norms.double(), rtol=1e-5, atol=0)
    for left, right in zip(original.h, scaled.h, strict=True):
        assert norm([left.double() * factor - right.double()]) <= tolerance * factor * norm([left])


@examples
@given(problems(), option_sets, st.sampled_from([2.0**-40, 2.0**-10, 2.0, 2.0**16, 2.0**40]))
def test_scaling_both_gradients_scales_the_result(problem: Problem, options: Options, factor: float) -> None:
    check_scaling(problem, options, factor)


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**60])
@pytest.mark.parametrize("options", [PER_TENSOR, PAPER, RELEASED], ids=["per_tensor", "paper", "released"])
def test_scaling_to_the_ends_of_float32(options: Options, factor: float) -> None:
    """At about 1e±18, squares of gradients are the smallest and largest that float32 represents in full precision."""
    generator = torch.Generator().manual_seed(0)
    joint = [torch.randn(20, generator=generator), torch.randn(3, 4, generator=generator)]
    unimodal = [0.3 * torch.randn(20, generator=generator) - 0.4 * joint[0], joint[1].flip(0)]
    zeros = [torch.zeros_like(gradient) for gradient in joint]
    check_scaling(Problem([*joint], [*unimodal], zeros, [False, False]), options, factor)
