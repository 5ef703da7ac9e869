"""MetaBalance against its equations, one tensor and one objective at a time, over several steps."""

import copy
import math

import pytest
import torch
from every_method import Loop, Model, assert_close, assert_same_state, batch_of, losses_of, step, take_grads
from integration_reference import linear_loss, parameters_like
from mmpareto.integration.methods.metabalance import MetaBalance
from torch import Tensor

SHAPES = [(3, 2), (), (4,)]
Gradients = list[list[Tensor | None]]


def random_gradients(count: int, seed: int) -> Gradients:
    """Gradients whose sizes differ by orders of magnitude between objectives and between steps."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(count, len(SHAPES), generator=generator, dtype=torch.float64).mul(2).exp()
    return [
        [sizes[i, k] * torch.randn(s, generator=generator, dtype=torch.float64) for k, s in enumerate(SHAPES)]
        for i in range(count)
    ]


def descended(method: MetaBalance, gradients: Gradients, scale: float | None = None) -> list[Tensor | None]:
    """Take a step on tasks with these gradients, and return `.grad` of their encoder."""
    parameters = parameters_like([torch.zeros(s, dtype=torch.float64) for s in SHAPES])
    losses = {f"task{i}": linear_loss(parameters, own) for i, own in enumerate(gradients)}
    method.backward(None, losses, encoders={"shared": (parameters, list(losses))}, scale=scale)
    return [p.grad for p in parameters]


class Slow:
    """The equations in plain floats."""

    def __init__(self, relax: float, beta: float, strategy: str) -> None:
        self.relax, self.beta, self.strategy = relax, beta, strategy
        self.averages: dict[tuple[int, int], float] = {}

    def step(self, gradients: Gradients) -> list[Tensor]:
        sums = []
        for index, shape in enumerate(SHAPES):
            total = torch.zeros(shape, dtype=torch.float64)
            target = 0.0
            for i, own in enumerate(gradients):
                g = own[index]
                size = 0.0 if g is None else math.sqrt(sum(x * x for x in g.flatten().tolist()))
                target = size if i == 0 else target
                average = self.beta * self.averages.get((index, i), 0.0) + (1 - self.beta) * size
                self.averages[index, i] = average
                if g is None or size == 0:
                    continue
                scaled = i > 0 and (self.strategy == "both" or size > target)
                ratio = self.averages[index, 0] / average if scaled else 1.0
                total += self.relax * ratio * g + (1 - self.relax) * g
            sums.append(total)
        return sums


def assert_close_to(actual: list[Tensor | None], expected: list[Tensor]) -> None:
    for h, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(torch.zeros_like(wanted) if h is None else h, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("strategy", ["shrink", "both"])
@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize(("relax", "beta"), [(0.7, 0.9), (1.0, 0.0), (0.2, 0.5)])
def test_the_equations_over_several_steps(count: int, strategy: str, relax: float, beta: float) -> None:
    method, slow = MetaBalance(relax, beta, strategy), Slow(relax, beta, strategy)
    for seed in range(5):
        gradients = random_gradients(count, seed)
        scale = 1024.0 if seed % 2 else 1.0
        assert_close_to(descended(method, gradients, scale), [scale * h for h in slow.step(gradients)])


def test_without_averaging_and_relaxation_no_auxiliary_gradient_is_larger_than_the_target() -> None:
    """The basic version of the paper: with β = 0 and r = 1, norms are at most those of the target."""
    target, auxiliary = random_gradients(2, seed=0)
    for strategy in ("shrink", "both"):
        actual = descended(MetaBalance(1.0, 0.0, strategy), [target, auxiliary])
        for h, g, a in zip(actual, target, auxiliary, strict=True):
            assert h is not None and g is not None and a is not None
            size = float(g.norm()) if strategy == "both" else min(float(g.norm()), float(a.norm()))
            torch.testing.assert_close((h - g).norm(), torch.tensor(size, dtype=torch.float64))


def test_zero_and_missing_gradients_cause_no_division_by_zero() -> None:
    for strategy in ("shrink", "both"):
        method, slow = MetaBalance(strategy=strategy), Slow(0.7, 0.9, strategy)
        for seed in range(3):
            target, first, second = random_gradients(3, seed)
            zero = torch.zeros(SHAPES[0], dtype=torch.float64)
            gradients = [
                [zero, None, target[2]],
                [None, first[1], first[2]],
                [second[0], None, torch.zeros(4).double()],
            ]
            actual = descended(method, gradients)
            assert all(h is not None and bool(h.isfinite().all()) for h in actual)
            assert_close_to(actual, slow.step(gradients))


def test_one_objective_is_plain_descent() -> None:
    for seed in range(2):
        gradients = random_gradients(1, seed)
        assert_close_to(descended(MetaBalance(strategy=["shrink", "both"][seed]), gradients), gradients[0])


@pytest.mark.parametrize("count", [2, 3])
def test_the_joint_loss_is_the_target_and_micro_batches_are_one_batch(count: int) -> None:
    model, (inputs, labels) = Model(count), batch_of(count)
    loop, method, other = Loop(model, (inputs, labels)), MetaBalance(), MetaBalance()
    for _ in range(3):
        whole = step(method, loop, (inputs, labels))
        expected = take_grads(model)
        with other.accumulate():
            step(other, loop, ({m: x[:5] for m, x in inputs.items()}, labels[:5]), share=5 / 12)
        step(other, loop, ({m: x[5:] for m, x in inputs.items()}, labels[5:]), share=7 / 12)
        assert_close(take_grads(model), expected)
        for seen in whole.values():
            assert torch.equal(seen.weights[:, 0], torch.full_like(seen.weights[:, 0], 0.5))
            assert bool((seen.weights[:, 1] <= 0.5).all()) and seen.weights.shape == (6, 2)


def test_a_loaded_state_continues_bit_for_bit() -> None:
    method = MetaBalance()
    for seed in range(3):
        descended(method, random_gradients(3, seed))
    fresh = MetaBalance()
    fresh.load_state_dict(copy.deepcopy(method.state_dict()))
    expected = descended(method, random_gradients(3, 9))
    assert_same_state(descended(fresh, random_gradients(3, 9)), expected)
    assert_same_state(fresh.state_dict(), method.state_dict())
    without = descended(MetaBalance(), random_gradients(3, 9))
    assert not torch.equal(without[0], expected[0])  # the state makes a difference


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_overflow_in_one_tensor_keeps_the_whole_state(value: float) -> None:
    method = MetaBalance()
    descended(method, random_gradients(2, 0))
    before = copy.deepcopy(method.state_dict())
    gradients = random_gradients(2, 1)
    gradients[1][2] = torch.full((4,), value, dtype=torch.float64)
    actual = descended(method, gradients)
    assert actual[2] is not None and not bool(actual[2].isfinite().any())
    assert_same_state(method.state_dict(), before)


def test_an_overflow_in_one_encoder_keeps_the_state_of_all() -> None:
    """A GradScaler skips the whole step."""
    model, batch = Model(), batch_of()
    method = MetaBalance()
    step(method, Loop(model, batch), batch)
    before = copy.deepcopy(method.state_dict())
    joint, unimodal = losses_of(model(batch[0]), batch[1])
    unimodal["visual"] = unimodal["visual"] * math.inf
    method.backward(joint, unimodal, encoders=dict(model.encoders.items()))
    assert_same_state(method.state_dict(), before)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"relax_factor": 1.1}, "relax_factor"),
        ({"relax_factor": math.nan}, "relax_factor"),
        ({"beta": 1.0}, "beta"),
        ({"beta": -0.1}, "beta"),
        ({"strategy": "grow"}, "'grow'"),
    ],
)
def test_options_out_of_range_are_rejected(options: dict[str, float | str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MetaBalance(**options)  # type: ignore[arg-type]
