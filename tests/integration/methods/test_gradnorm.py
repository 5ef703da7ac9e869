"""GradNorm against the gradient of its own loss, computed by autograd through the norms of the weighted losses."""

import copy
import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from every_method import (
    Encoder,
    Loop,
    Model,
    assert_close,
    assert_same_state,
    batch_of,
    losses_of,
    step,
    take_grads,
)
from integration_reference import linear_loss, parameters_like
from mmpareto.integration.methods.gradnorm import GradNorm
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Slow:
    """Algorithm 1 of the paper for one encoder, with the weights as a leaf tensor."""

    def __init__(self, alpha: float, rate: float) -> None:
        self.alpha, self.rate = alpha, rate
        self.w: Tensor | None = None
        self.first: list[float] = []

    def step(self, losses: Sequence[Tensor], layer: nn.Parameter, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        if self.w is None:
            self.w, self.first = torch.ones(len(losses), dtype=torch.float64), [x.item() for x in losses]
        w = self.w.clone().requires_grad_()
        weighted = torch.stack([w[i] * loss for i, loss in enumerate(losses)])
        descent = torch.autograd.grad(weighted.sum(), parameters, retain_graph=True, allow_unused=True)
        norms = [torch.autograd.grad(x, layer, create_graph=True)[0].norm() for x in weighted]
        ratios = [loss.item() / start for loss, start in zip(losses, self.first, strict=True)]
        mean_ratio, mean_norm = sum(ratios) / len(ratios), sum(x.item() for x in norms) / len(norms)
        objective = sum(
            (norm - mean_norm * (ratio / mean_ratio) ** self.alpha).abs()
            for norm, ratio in zip(norms, ratios, strict=True)
        )
        (slope,) = torch.autograd.grad(objective, w, retain_graph=True)
        self.w = (w - self.rate * slope).detach()
        self.w = self.w * len(losses) / self.w.sum()
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, descent, strict=True)]


def train(parameters: Sequence[nn.Parameter], rate: float = 0.3) -> None:
    with torch.no_grad():
        for p in parameters:
            if p.grad is not None:
                p -= rate * p.grad
            p.grad = None


class Tasks:
    """An encoder with one head per task; labels and sizes of the losses differ."""

    def __init__(self, count: int) -> None:
        torch.manual_seed(0)
        self.shared = Encoder().double()
        self.heads = nn.ModuleDict({f"task{i}": nn.Linear(4, 3) for i in range(count)}).double()
        self.inputs, self.labels = batch_of()

    def losses(self, size: slice = slice(None), share: float = 1.0) -> dict[str, Tensor]:
        x, labels = self.shared(self.inputs["audio"][size]), self.labels[size]
        return {
            task: share * (1 + 2 * i) * cross_entropy(head(x), (labels + i) % 3)
            for i, (task, head) in enumerate(self.heads.items())
        }

    def encoders(self, losses: Mapping[str, Tensor]) -> dict[str, tuple[nn.Module, list[str]]]:
        return {"shared": (self.shared, list(losses))}


@pytest.mark.parametrize(("alpha", "rate"), [(1.5, 0.025), (0.0, 0.1), (0.12, 0.5)])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_weights_follow_the_gradient_of_the_loss_in_the_paper(count: int, alpha: float, rate: float) -> None:
    tasks, method, slow = Tasks(count), GradNorm(alpha, rate), Slow(alpha, rate)
    parameters = list(tasks.shared.parameters())
    for number in range(6):
        losses = tasks.losses()
        wanted = slow.step(list(losses.values()), tasks.shared.gate.weight, parameters)
        scale = [1.0, 512.0][number % 2]
        report = method.backward(None, losses, encoders=tasks.encoders(losses), scale=scale)
        for p, h in zip(parameters, wanted, strict=True):
            assert p.grad is not None
            p.grad /= scale
            torch.testing.assert_close(p.grad, h, rtol=1e-9, atol=1e-12)
        for p in tasks.heads.parameters():
            assert p.grad is not None
            p.grad /= scale
        assert slow.w is not None
        torch.testing.assert_close(method.loss_weights["shared"], slow.w, rtol=1e-9, atol=1e-12)
        if number == 0:
            torch.testing.assert_close(report["shared"].weights[0], torch.full((count,), 1 / count).double())
        train([*parameters, *tasks.heads.parameters()])
    assert float((slow.w - 1).abs().max()) > 1e-3  # the weights did change


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_encoder_has_its_own_weights_of_joint_and_unimodal_loss(count: int) -> None:
    model, batch = Model(count), batch_of(count)
    loop, method = Loop(model, batch), GradNorm()
    slow = {name: Slow(1.5, 0.025) for name in model.encoders}
    for _ in range(3):
        outputs = model(batch[0])
        joint, unimodal = losses_of(outputs, batch[1])
        wanted = {
            name: slow[name].step([joint, unimodal[name]], encoder.gate.weight, list(encoder.parameters()))
            for name, encoder in model.encoders.items()
        }
        step(method, loop, batch)
        for name, encoder in model.encoders.items():
            for p, h in zip(encoder.parameters(), wanted[name], strict=True):
                torch.testing.assert_close(p.grad, h, rtol=1e-9, atol=1e-12)
        train(list(model.parameters()))
    assert count == 1 or len({float(w[0]) for w in method.loss_weights.values()}) == count


def test_weights_balance_the_norms_of_losses_that_fall_equally_fast() -> None:
    """With equal training rates the loss is minimal when all weighted norms are equal (paper, section 3.2)."""
    method = GradNorm(weights_learning_rate=1e-2)
    gradients = [[torch.full((2, 2), size, dtype=torch.float64)] for size in (0.5, 1.0, 2.0)]
    for _ in range(400):
        parameters = [nn.Parameter(torch.ones(2, 2, dtype=torch.float64))]
        losses = {f"task{i}": linear_loss(parameters, own) for i, own in enumerate(gradients)}
        report = method.backward(None, losses, encoders={"shared": (parameters, list(losses))})
    sizes = 3 * report["shared"].weights[0] * report["shared"].norms
    assert float(sizes.max() / sizes.min()) < 1.1
    torch.testing.assert_close(method.loss_weights["shared"].sum(), torch.tensor(3.0).double())


@pytest.mark.parametrize("zero", [None, 0.0])
def test_the_last_layer_is_the_last_matrix_that_a_loss_reaches(zero: float | None) -> None:
    """A layer that no loss reaches is skipped, whether its gradient is missing or (in compiled models) zero."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 2), (3, 2), (3,), (2, 3)]
    gradients = [[torch.rand(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(2)]
    unreached = None if zero is None else torch.zeros(2, 3, dtype=torch.float64)
    for own in gradients:
        own[3] = unreached  # type: ignore[call-overload]
    parameters = [p.abs().detach().requires_grad_() for p in parameters_like([torch.zeros(s).double() for s in shapes])]
    losses = {f"task{i}": linear_loss(parameters, own) for i, own in enumerate(gradients)}
    method = GradNorm()
    method.backward(None, losses, encoders={"shared": (parameters, list(losses))})
    norms = [float(own[1].norm()) for own in gradients]
    mean = sum(norms) / 2
    moved = [1 - 0.025 * math.copysign(size, size - mean) for size in norms]
    wanted = torch.tensor([2 * w / sum(moved) for w in moved], dtype=torch.float64)
    torch.testing.assert_close(method.loss_weights["shared"], wanted)


def test_weights_stay_positive() -> None:
    method = GradNorm(weights_learning_rate=1e3)
    tasks = Tasks(3)
    for _ in range(4):
        losses = tasks.losses()
        method.backward(None, losses, encoders=tasks.encoders(losses))
        weights = method.loss_weights["shared"]
        assert bool((weights > 0).all())
        torch.testing.assert_close(weights.sum(), torch.tensor(3.0).double())


def test_one_objective_is_plain_descent() -> None:
    tasks, method = Tasks(1), GradNorm()
    for _ in range(3):
        losses = tasks.losses()
        expected = torch.autograd.grad(losses["task0"], list(tasks.shared.parameters()), retain_graph=True)
        method.backward(None, losses, encoders=tasks.encoders(losses))
        for p, g in zip(tasks.shared.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-12, atol=0.0)
        train([*tasks.shared.parameters(), *tasks.heads.parameters()])


def test_micro_batches_are_one_batch() -> None:
    tasks, method, other = Tasks(3), GradNorm(), GradNorm()
    for _ in range(3):
        whole = tasks.losses()
        method.backward(None, whole, encoders=tasks.encoders(whole))
        expected = {str(i): p.grad for i, p in enumerate(tasks.shared.parameters())}
        tasks.shared.zero_grad()
        first, second = tasks.losses(slice(0, 5), 5 / 12), tasks.losses(slice(5, 12), 7 / 12)
        with other.accumulate():
            other.backward(None, first, encoders=tasks.encoders(first))
        other.backward(None, second, encoders=tasks.encoders(second))
        assert_close({str(i): p.grad for i, p in enumerate(tasks.shared.parameters())}, expected)
        torch.testing.assert_close(other.loss_weights["shared"], method.loss_weights["shared"])
        train([*tasks.shared.parameters()])


def test_a_loaded_state_continues_bit_for_bit() -> None:
    model, batch = Model(), batch_of()
    loop, method = Loop(model, batch), GradNorm()
    for seed in range(2):
        step(method, loop, batch_of(seed=seed))
        train(list(model.parameters()))
    fresh = GradNorm()
    fresh.load_state_dict(copy.deepcopy(method.state_dict()))
    for seed in range(2, 4):
        step(method, loop, batch_of(seed=seed))
        expected = take_grads(model)
        step(fresh, loop, batch_of(seed=seed))
        assert_same_state(take_grads(model), expected)
        assert_same_state(fresh.state_dict(), method.state_dict())


def test_a_nonfinite_step_does_not_change_the_state() -> None:
    """Neither a later step nor the first one, whose losses all others would be compared with."""
    tasks, method, clean = Tasks(2), GradNorm(), GradNorm()

    def one_step(which: GradNorm, factor: float) -> None:
        losses = tasks.losses()
        losses["task1"] = losses["task1"] * factor
        which.backward(None, losses, encoders=tasks.encoders(losses))
        if factor != 1:
            assert not any(bool(p.grad.isfinite().all()) for p in tasks.shared.parameters() if p.grad is not None)
        tasks.shared.zero_grad()

    one_step(method, math.inf)
    for which in (method, clean):
        one_step(which, 1.0)
    assert_same_state(method.state_dict(), clean.state_dict())
    train([*tasks.heads.parameters()])
    one_step(method, math.nan)
    assert_same_state(method.state_dict(), clean.state_dict())


def test_an_overflow_in_one_encoder_keeps_the_state_of_all() -> None:
    """A GradScaler skips the whole step."""
    model, batch = Model(), batch_of()
    method = GradNorm()
    step(method, Loop(model, batch), batch)
    before = copy.deepcopy(method.state_dict())
    joint, unimodal = losses_of(model(batch[0]), batch[1])
    unimodal["visual"] = unimodal["visual"] * math.inf
    method.backward(joint, unimodal, encoders=dict(model.encoders.items()))
    assert_same_state(method.state_dict(), before)


@pytest.mark.parametrize(
    ("options", "match"), [({"alpha": -1.0}, "alpha"), ({"weights_learning_rate": 0.0}, "weights_learning_rate")]
)
def test_options_out_of_range_are_rejected(options: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        GradNorm(**options)
