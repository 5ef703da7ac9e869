"""Divisions by zero, cancellation, and non-finite numbers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from integration_reference import (
    ALL_OPTIONS,
    PAPER,
    PER_TENSOR,
    RELEASED,
    Options,
    assert_report,
    expectation,
    finite_flags,
    integrated,
    linear_loss,
    model_and_batch,
    option_name,
    parameters_like,
)
from mmpareto import METHODS, MMPareto
from torch import Tensor, nn

by_option = pytest.mark.parametrize("options", ALL_OPTIONS, ids=option_name)


def call(joint: list[Tensor | None], unimodal: list[Tensor | None], integrate: Any) -> tuple[list[nn.Parameter], Any]:
    """Take one step on one encoder with exactly these gradients."""
    shapes = [first if first is not None else second for first, second in zip(joint, unimodal, strict=True)]
    parameters = parameters_like(shapes)
    losses = linear_loss(parameters, joint), {"touch": linear_loss(parameters, unimodal)}
    return parameters, integrate.backward(*losses, encoders={"touch": parameters})


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@by_option
@pytest.mark.parametrize("which", ["joint", "unimodal", "both"])
def test_zero_gradients(which: str, options: Options) -> None:
    """The step is finite and without conflict, even with zero_is_conflict, where weights of (0, 1) would give h = 0."""
    gradients = {"joint": [normal(6), normal(2, 2, seed=1)], "unimodal": [normal(6, seed=2), normal(2, 2, seed=3)]}
    for name in gradients if which == "both" else [which]:
        gradients[name] = [torch.zeros_like(g) for g in gradients[name]]
    parameters, report = call(gradients["joint"], gradients["unimodal"], MMPareto(**options.arguments()))
    factor = 1.5 if options.boost == "always" else 1.0
    for parameter, first, second in zip(parameters, gradients["joint"], gradients["unimodal"], strict=True):
        torch.testing.assert_close(parameter.grad, factor * (first + second), rtol=1e-6, atol=0.0)
    encoder_report = report["touch"]
    assert not bool(encoder_report.conflict.any())
    assert bool((encoder_report.weights == 0.5).all())
    assert bool((encoder_report.rescale == 1).all())
    assert bool(encoder_report.cosine.isfinite())
    assert bool(encoder_report.norms.isfinite().all())
    assert finite_flags(report) == [True, True]


@by_option
def test_one_zero_tensor_among_others(options: Options) -> None:
    joint = [normal(5), torch.zeros(3), normal(4, seed=1)]
    unimodal = [-normal(5) + 0.1 * normal(5, seed=2), normal(3, seed=3), torch.zeros(4)]
    parameters, report = call([*joint], [*unimodal], MMPareto(**options.arguments()))
    expected = integrated(joint, unimodal, options, torch.finfo(torch.float32).eps)
    for parameter, wanted in zip(parameters, expected.h, strict=True):
        torch.testing.assert_close(parameter.grad.double(), wanted, rtol=1e-5, atol=1e-6)
    assert_report(report["touch"], expected, 1e-5)


@by_option
def test_zero_product_of_gradients(options: Options) -> None:
    """c = 0 with nonzero gradients: a conflict only with zero_is_conflict."""
    joint, unimodal = torch.tensor([3.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    (parameter,), report = call([joint], [unimodal], MMPareto(**options.arguments()))
    assert report["touch"].conflict.tolist() == [options.zero_is_conflict]
    if options.zero_is_conflict:  # α = (b, a)/(a + b) = (0.1, 0.9), h = (0.6, 1.8), λ = √10/√3.6, γ = 1.5
        torch.testing.assert_close(report["touch"].weights.double(), torch.tensor([[0.1, 0.9]], dtype=torch.float64))
        wanted = 1.5 * math.sqrt(10 / 3.6) * torch.tensor([0.6, 1.8], dtype=torch.float64)
    else:
        assert report["touch"].weights.tolist() == [[0.5, 0.5]]
        wanted = (1.5 if options.boost == "always" else 1.0) * (joint + unimodal)
    torch.testing.assert_close(parameter.grad, wanted, rtol=1e-12, atol=0.0)


# --- stationary groups -------------------------------------------------------------------------------------------


@by_option
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("factor", [-1.0, -2.0, -0.7, -1e-3, -3e4])
def test_opposite_gradients_cancel_exactly(factor: float, dtype: torch.dtype, options: Options) -> None:
    """g_u = s·g_m, s < 0 (rounded for most s): the min-norm point is 0, and so is the gradient, never 0·inf."""
    joint = [normal(300, dtype=dtype), normal(17, 3, seed=1, dtype=dtype)]
    unimodal = [factor * gradient for gradient in joint]
    parameters, report = call([*joint], [*unimodal], MMPareto(**options.arguments()))
    for parameter in parameters:
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert bool(report["touch"].conflict.all())
    wanted = torch.tensor([-factor, 1.0], dtype=torch.float64) / (1 - factor)
    for row in report["touch"].weights.double():
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-6)
    assert bool(report["touch"].rescale.isfinite().all())


@pytest.mark.parametrize("variant", [MMPareto.per_tensor, MMPareto.paper, MMPareto.released])
@pytest.mark.parametrize("factor", [-1.0, -3.0, -0.7])
def test_a_million_opposite_elements(factor: float, variant: Callable[[], Any]) -> None:
    """Sums over 1e6 float32 products must keep the digits that distinguish 0 from amplified noise."""
    whole = torch.randint(-1000, 1001, (1000, 1000), generator=torch.Generator().manual_seed(0)).float()
    joint = whole if factor != -0.7 else whole * math.pi
    (parameter,), report = call([joint], [factor * joint], variant())
    assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert report["touch"].conflict.tolist() == [True]


@pytest.mark.parametrize("variant", [MMPareto.per_tensor, MMPareto.paper, MMPareto.released])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_a_million_nearly_opposite_elements(offset: float, variant: Callable[[], Any]) -> None:
    """Above the threshold, h is what remains of the gradients, and not noise from the sums."""
    joint = normal(1000, 1000) + offset
    unimodal = -2 * joint + 0.01 * normal(1000, 1000, seed=1)
    (parameter,), _ = call([joint], [unimodal], variant())
    expected = integrated([joint], [unimodal], PER_TENSOR, torch.finfo(torch.float32).eps)
    wanted, first, second = expected.h[0], *expected.weights[0]
    plain = 2 * first * joint.double() + 2 * second * unimodal.double()
    eps = torch.finfo(torch.float32).eps
    rounding = 16 * eps * (float(joint.double().norm()) + float(unimodal.double().norm())) / float(plain.norm())
    assert float((parameter.grad.double() - wanted).norm()) <= rounding * float(wanted.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_stationary_threshold(dtype: torch.dtype) -> None:
    """Both sides of ‖h‖ = 32·eps·(‖g_m‖ + ‖g_u‖): a sideways component s gives ‖h‖ = 2·½·s, with ‖g_m‖ + ‖g_u‖ = 2."""
    eps = torch.finfo(dtype).eps
    for sideways, stationary in ((16 * eps, True), (256 * eps, False)):
        joint, unimodal = torch.tensor([1.0, 0.0], dtype=dtype), torch.tensor([-1.0, sideways], dtype=dtype)
        (parameter,), _ = call([joint], [unimodal], MMPareto())
        if stationary:
            assert torch.equal(parameter.grad, torch.zeros_like(parameter))
        else:
            assert parameter.grad[1] > 0
            size = math.hypot(*parameter.grad.tolist())
            assert size == pytest.approx(1.5 * sideways, rel=0.05)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_element_tensors(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Weighted alone, such a tensor either has no conflict or is stationary."""
    for seed in range(50):
        joint, unimodal = normal(2, seed=seed, dtype=dtype).mul(10.0 ** (seed % 7 - 3)).unbind()
        unimodal = unimodal * 3.7
        (parameter,), report = call([joint.reshape(shape)], [unimodal.reshape(shape)], MMPareto())
        opposed = bool(joint * unimodal < 0)
        assert report["touch"].conflict.tolist() == [opposed]
        wanted = torch.zeros((), dtype=dtype) if opposed else joint + unimodal
        assert torch.equal(parameter.grad, wanted.reshape(shape))


def test_a_tensor_that_cancels_inside_an_encoder_that_does_not() -> None:
    """`released` weights the encoder as a whole, then divides by ‖h‖ per tensor, which is 0 for the first one here."""
    joint = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]
    unimodal = [torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.0])]
    # c = -1, a = b = 2, α = (½, ½): the first tensor's h is 0, the second's is (1, 1)
    parameters, report = call([*joint], [*unimodal], MMPareto.released())
    assert parameters[0].grad.tolist() == [0.0, 0.0]
    torch.testing.assert_close(parameters[1].grad, torch.tensor([1.5, 1.5]))
    assert report["touch"].conflict.tolist() == [True]

    unimodal = [torch.tensor([-3.0, 0.0]), torch.tensor([0.0, 1.0])]
    # c = -2, a = 2, b = 10: α = (¾, ¼): h = (0, 0) and (0, 2) though the first tensors' sum is (-2, 0)
    parameters, _ = call([*joint], [*unimodal], MMPareto.released())
    assert parameters[0].grad.tolist() == [0.0, 0.0]
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.0, 3.0]))


# --- the example in the README -----------------------------------------------------------------------------------


def two_scalars(*values: float) -> list[Tensor | None]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


def test_released_rescaling_can_harm() -> None:
    """g_m = (−3, −2), g_u = (1, 0): α = (0.2, 0.8), h = (0.4, −0.8), rescaled per tensor to (2, −2), then ×1.5."""
    parameters, report = call(two_scalars(-3, -2), two_scalars(1, 0), MMPareto.released())
    h = [float(p.grad) for p in parameters]
    assert h == pytest.approx([3.0, -3.0])
    assert report["touch"].weights[0].tolist() == pytest.approx([0.2, 0.8])
    assert report["touch"].rescale.tolist() == pytest.approx([5.0, 2.5])
    assert -3 * h[0] - 2 * h[1] < -2.9, "the step should increase the joint loss"
    unscaled = [h[0] / 5, h[1] / 2.5]
    assert -3 * unscaled[0] - 2 * unscaled[1] > 0, "without the rescaling it should not"
    assert unscaled[0] > 0


def test_paper_and_per_tensor_do_no_harm() -> None:
    parameters, report = call(two_scalars(-3, -2), two_scalars(1, 0), MMPareto.paper())
    size = math.sqrt(8) / math.sqrt(0.8)
    assert report["touch"].rescale.tolist() == pytest.approx([size])
    assert [float(p.grad) for p in parameters] == pytest.approx([1.5 * size * 0.4, 1.5 * size * -0.8])
    parameters, report = call(two_scalars(-3, -2), two_scalars(1, 0), MMPareto.per_tensor())
    assert [float(p.grad) for p in parameters] == [0.0, -2.0]
    assert report["touch"].conflict.tolist() == [True, False]


# --- arithmetic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", [PER_TENSOR, PAPER, RELEASED], ids=["per_tensor", "paper", "released"])
def test_half_precision_parameters(options: Options, dtype: torch.dtype) -> None:
    """Arithmetic is at least float32: 1,000 squares of 30 overflow float16, and bfloat16 has 8 bits of precision."""
    joint = (30 * normal(1000)).to(dtype)
    unimodal = (20 * normal(1000, seed=1) - 10 * normal(1000)).to(dtype)
    (parameter,), report = call([joint], [unimodal], MMPareto(**options.arguments()))
    expected = integrated([joint], [unimodal], options, torch.finfo(torch.float32).eps)
    assert parameter.grad.dtype == dtype
    torch.testing.assert_close(parameter.grad.double(), expected.h[0], rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    assert_report(report["touch"], expected, 1e-4)


def test_an_encoder_of_two_dtypes() -> None:
    joint = [normal(8), normal(9, seed=1, dtype=torch.float64)]
    unimodal = [-normal(8) + normal(8, seed=2), normal(9, seed=3, dtype=torch.float64)]
    for options in (PER_TENSOR, PAPER, RELEASED):
        parameters, report = call([*joint], [*unimodal], MMPareto(**options.arguments()))
        expected = integrated(joint, unimodal, options, torch.finfo(torch.float32).eps)
        for parameter, wanted in zip(parameters, expected.h, strict=True):
            torch.testing.assert_close(parameter.grad.double(), wanted, rtol=1e-5, atol=1e-5)
        assert_report(report["touch"], expected, 1e-5)


# --- non-finite numbers ------------------------------------------------------------------------------------------

BAD = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("method", "which"),
    [
        ("joint", "joint"),
        *((method, which) for method in ("uniform", "mmpareto") for which in ("joint", "audio", "visual")),
    ],
)
def test_a_nonfinite_loss_is_flagged(method: str, which: str, bad: float) -> None:
    """Gradients stay non-finite, so that a GradScaler detects them; only the flag of this loss is False."""
    model, batch = model_and_batch("two linear")
    joint, unimodal = model.losses(*batch)
    losses = {"joint": joint, **unimodal}
    losses[which] = losses[which] * bad
    joint = losses.pop("joint")
    report = METHODS[method]().backward(joint, losses, encoders=dict(model.encoders.items()))
    names = ["joint"] if method == "joint" else ["joint", "audio", "visual"]
    assert finite_flags(report) == [name != which for name in names]
    for modality, encoder in model.encoders.items():
        for parameter in encoder.parameters():
            if which in ("joint", modality):
                assert not bool(parameter.grad.isfinite().all())
            else:
                assert bool(parameter.grad.isfinite().all())


@pytest.mark.parametrize("bad", BAD)
@by_option
def test_nonfinite_gradients_of_finite_losses_are_flagged(options: Options, bad: float) -> None:
    """The flag depends on the gradients at the encoder, not only on the loss."""
    for position in range(2):
        gradients = [[normal(6), normal(4, seed=1)], [normal(6, seed=2), normal(4, seed=3)]]
        gradients[position][0][2] = bad
        parameters = parameters_like(gradients[0])
        with torch.no_grad():
            parameters[0][2] = 0.0
        losses = []
        for first, second in gradients:
            loss = (torch.where(first.isfinite(), first, 0.0) * parameters[0]).sum() + (second * parameters[1]).sum()
            if not bool(first.isfinite().all()):
                zero = parameters[0][2].abs() if math.isnan(bad) else parameters[0][2]
                loss = loss + math.copysign(1, bad) * torch.sqrt(zero)  # 0, with a slope of ±inf, or of 0·inf
            losses.append(loss)
        assert all(bool(loss.isfinite()) for loss in losses)
        report = MMPareto(**options.arguments()).backward(
            losses[0], {"touch": losses[1]}, encoders={"touch": parameters}
        )
        assert finite_flags(report) == [position != 0, position != 1]
        assert not bool(parameters[0].grad.isfinite().all())


@pytest.mark.parametrize("bad", BAD)
@by_option
def test_infinity_and_nan_propagate(options: Options, bad: float) -> None:
    """No comparison may turn a non-finite gradient into zero, whatever the other gradient is."""
    for other in (normal(6), torch.zeros(6), -normal(6), torch.full((6,), -bad)):
        for swapped in (False, True):
            spoiled = normal(6)
            spoiled[0] = bad
            pair = (other, spoiled) if swapped else (spoiled, other)
            (parameter,), report = call([pair[0]], [pair[1]], MMPareto(**options.arguments()))
            assert not bool(parameter.grad.isfinite().all())
            flags = finite_flags(report)
            assert flags[int(swapped)] is False
            assert flags[1 - int(swapped)] == bool(other.isfinite().all())


@pytest.mark.parametrize("method", ["joint", "uniform", "mmpareto"])
def test_nonfinite_gradients_outside_the_encoders_are_flagged(method: str) -> None:
    """Otherwise, training would continue with them for ever."""
    inside, outside = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(1))
    joint = inside.sum() + torch.sqrt(outside).sum()
    report = METHODS[method]().backward(joint, {"touch": 2 * inside.sum()}, encoders={"touch": [inside]})
    assert not bool(outside.grad.isfinite().all())
    assert finite_flags(report)[0] is False
    if method == "mmpareto":
        assert finite_flags(report) == [False, True]


def test_huge_finite_gradients_are_not_flagged() -> None:
    """The check uses no squares or sums, which could overflow."""
    parameter = nn.Parameter(torch.zeros(3))
    loss = (torch.tensor([3e38, -3e38, 3e38]) * parameter).sum()
    report = METHODS["uniform"]().backward(loss, {"touch": 0 * parameter.sum()}, encoders={"touch": [parameter]})
    assert finite_flags(report) == [True, True]


def test_nan_in_one_tensor_does_not_affect_the_others() -> None:
    joint, unimodal = [normal(6), normal(4, seed=1)], [normal(6, seed=2), normal(4, seed=3)]
    spoiled = [joint[0].clone().fill_(math.nan), joint[1]]
    clean, _ = call([*joint], [*unimodal], MMPareto())
    parameters, _ = call([*spoiled], [*unimodal], MMPareto())
    assert bool(parameters[0].grad.isnan().any())
    assert torch.equal(parameters[1].grad, clean[1].grad)


# --- reports -----------------------------------------------------------------------------------------------------


def test_reports_hold_no_graph() -> None:
    model, batch = model_and_batch("three modalities")
    for options in (PER_TENSOR, PAPER, RELEASED):
        joint, unimodal = model.losses(*batch)
        report = MMPareto(**options.arguments()).backward(joint, unimodal, encoders=dict(model.encoders.items()))
        for encoder_report in report.values():
            tensors = (
                encoder_report.cosine,
                encoder_report.norms,
                encoder_report.weights,
                encoder_report.conflict,
                encoder_report.rescale,
            )
            assert not any(t.requires_grad or t.grad_fn for t in tensors)
        assert not any(torch.as_tensor(flag).requires_grad for flag in report.finite)
        assert not any(p.grad is not None and p.grad.requires_grad for p in model.parameters())


def test_reports_remain_valid_after_the_next_step() -> None:
    """The loop reads flags up to 20 steps later: they must not be views of tensors that the next step overwrites."""
    integrate, kept, wanted = MMPareto(), [], []
    for seed in range(3):
        model, batch = model_and_batch("convolution and mlp", seed)
        wanted.append(expectation("mmpareto", model, batch)[1])
        joint, unimodal = model.losses(*batch)
        kept.append(integrate.backward(joint, unimodal, encoders=dict(model.encoders.items())))
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
    for report, expected in zip(kept, wanted, strict=True):
        for modality in expected:
            assert_report(report[modality], expected[modality])


def test_gradients_of_two_parameters_share_no_memory() -> None:
    """Gradient clipping modifies `.grad` in place."""
    model, batch = model_and_batch("two linear")
    for options in (PER_TENSOR, PAPER, RELEASED):
        joint, unimodal = model.losses(*batch)
        MMPareto(**options.arguments()).backward(joint, unimodal, encoders=dict(model.encoders.items()))
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        for number, gradient in enumerate(gradients):
            gradient.fill_(number)
        for number, gradient in enumerate(gradients):
            assert bool((gradient == number).all())
