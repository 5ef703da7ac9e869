"""CGGM against its equations: counts by hand, the coefficients in fractions, L_gm by finite differences."""

from collections.abc import Mapping
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import Loop, Model, assert_close, batch_of, losses_of, ready, step, take_grads
from mmpareto.integration.methods.cggm import CGGM
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def correct(model: Model, batch: tuple[dict[str, Tensor], Tensor]) -> dict[str, int]:
    """Return the number of samples that each head classifies correctly, counted one by one."""
    return {
        name: sum(row.index(max(row)) == label for row, label in zip(z.tolist(), batch[1].tolist(), strict=True))
        for name, z in model(batch[0]).unimodal.items()
    }


def balance(now: Mapping[str, Fraction], before: Mapping[str, Fraction]) -> dict[str, Fraction]:
    change = {name: now[name] - before[name] for name in now}
    total = sum(change.values())
    return {name: (total - own) / total if total else Fraction(1) for name, own in change.items()}


def coefficients(method: CGGM, predictions: list[list[int]], labels: list[int]) -> list[float]:
    """Return κ of modalities whose classifiers predict these classes."""
    encoders = {f"m{i}": [nn.Parameter(torch.ones(1))] for i in range(len(predictions))}
    heads = {name: nn.Parameter(torch.ones(1)) for name in encoders}
    losses = {name: (encoders[name][0] * heads[name]).sum() for name in encoders}
    logits = {
        name: nn.functional.one_hot(torch.tensor(rows), 3).float()
        for name, rows in zip(encoders, predictions, strict=True)
    }
    joint = sum((p.sum() for (p,) in encoders.values()), torch.zeros(()))
    outputs = SimpleNamespace(unimodal=logits, features={})
    metrics = method.backward(joint, losses, encoders=encoders, outputs=outputs, labels=torch.tensor(labels)).metrics
    return [float(metrics[f"coefficient_{name}"]) for name in encoders]


@pytest.mark.parametrize("count", [2, 3])
def test_two_steps_follow_the_equations(count: int) -> None:
    """Without L_gm: the joint loss's gradients are multiplied by ρ·B; heads learn from their own losses alone."""
    model, batches = Model(count), [batch_of(count, size=size, seed=size) for size in (7, 12)]
    method, loop = CGGM(rho=1.5, direction_weight=0.0), Loop(model, batches[0])
    before = dict.fromkeys(model.modalities, Fraction(0))
    for batch in batches:
        now = {name: Fraction(number, len(batch[1])) for name, number in correct(model, batch).items()}
        kappa = {name: 1.5 * float(b) for name, b in balance(now, before).items()}
        before = now
        joint, unimodal = losses_of(model(batch[0]), batch[1])
        joint.backward(retain_graph=True)
        sum(unimodal.values()).backward(inputs=[*model.heads.parameters()])
        expected = take_grads(model)
        for key, gradient in expected.items():
            if key.startswith("encoders."):
                expected[key] = gradient * kappa[key.split(".")[1]]
        report = step(method, loop, batch)
        assert_close(take_grads(model), expected, 1e-9)
        for name, value in kappa.items():
            assert float(report.metrics[f"coefficient_{name}"]) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("count", [2, 3])
def test_the_direction_loss_is_that_of_the_weights_gradients(count: int) -> None:
    """Its gradient by central differences of a loss whose gradients are taken with respect to the weights."""
    model, batch = Model(count), batch_of(count, seed=3)
    weight, rho = 0.7, 1.3
    rates = {name: Fraction(number, 12) for name, number in correct(model, batch).items()}
    b = {name: float(value) for name, value in balance(rates, dict.fromkeys(rates, Fraction(0))).items()}
    _, unimodal = losses_of(model(batch[0]), batch[1])
    own = {name: torch.autograd.grad(loss, model.heads[name].weight)[0] for name, loss in unimodal.items()}

    def descended() -> float:
        joint = cross_entropy(model(batch[0]).joint, batch[1])
        (gradient,) = torch.autograd.grad(joint, model.fusion.weight)
        parts = dict(zip(model.modalities, gradient.split(4, dim=1), strict=True))
        terms = []
        for name, h in own.items():
            g = parts[name]
            terms.append(abs(b[name]) - b[name] * float((g * h).sum() / (g.norm() * h.norm())))
        return float(joint.detach()) + weight * sum(terms) / count

    step(CGGM(rho, weight), Loop(model, batch), batch)
    actual = take_grads(model)
    names = dict(model.named_parameters())
    for key in ("fusion.weight", "fusion.bias", "encoders.audio.conv.weight", "encoders.visual.layer.bias"):
        factor = rho * b[key.split(".")[1]] if key.startswith("encoders.") else 1.0
        flat, index, size = names[key].detach().view(-1), 1, 1e-5
        flat[index] += size
        up = descended()
        flat[index] -= 2 * size
        down = descended()
        flat[index] += size
        assert float(actual[key].view(-1)[index]) == pytest.approx(
            factor * (up - down) / (2 * size), rel=1e-5, abs=1e-9
        )


def test_the_first_improvement_is_measured_from_0_and_the_second_from_the_first() -> None:
    method = CGGM(rho=1.0, direction_weight=0.0)
    labels = [0, 1, 2, 0]
    assert coefficients(method, [[0, 1, 2, 1], [0, 0, 0, 1]], labels) == pytest.approx([0.25, 0.75])  # ε = ¾, ¼
    assert coefficients(method, [[0, 1, 2, 0], [0, 1, 0, 0]], labels) == pytest.approx([2 / 3, 1 / 3])  # Δε = ¼, ½
    assert coefficients(method, [[0, 1, 1, 1], [0, 1, 2, 0]], labels) == pytest.approx([-1.0, 2.0])  # Δε = −½, ¼


@pytest.mark.parametrize(("variant", "equal", "opposite"), [("paper", 1.3, (1.3, 1.3)), ("released", 1.3, (-1, 1))])
def test_improvements_that_cancel(variant: str, equal: float, opposite: tuple[float, float]) -> None:
    """Without any improvement B is 1; of opposite ones, the released code divides by 1e-8."""
    labels = [0, 1, 2, 0]
    options = CGGM.variants[variant] | {"direction_weight": 0.0}
    method = CGGM(**options)
    wrong = [1, 2, 0, 1]
    assert coefficients(method, [wrong, wrong], labels) == pytest.approx([equal, equal])  # all wrong
    coefficients(method, [[0, 2, 0, 1], wrong], labels)
    actual = coefficients(method, [wrong, [0, 2, 0, 1]], labels)  # Δε = −¼, ¼
    if variant == "paper":
        assert actual == pytest.approx(opposite)
    else:
        assert [a / (1.3 * 0.25e8) for a in actual] == pytest.approx([1, -1], rel=1e-6)


def test_an_equal_share_of_unequal_batches_is_no_improvement() -> None:
    """1/3 of 3 samples and 4/12 are one number, which rounding must not change."""
    method = CGGM(rho=1.0, direction_weight=0.0)
    for samples in (3, 12):
        labels = [0, 1, 2] * (samples // 3)
        rows = [[0] * samples, [1] * samples, [2] * samples]
        actual = coefficients(method, rows, labels)
    assert actual == [1.0, 1.0, 1.0]


def test_one_modality_is_joint_training() -> None:
    model, batch = Model(1), batch_of(1)
    method, loop = ready("cggm", model, batch)
    for _ in range(2):
        step(method, loop, batch)
        actual = take_grads(model)
        joint, unimodal = losses_of(model(batch[0]), batch[1])
        joint.backward(retain_graph=True)
        unimodal["audio"].backward(inputs=[*model.heads.parameters()])
        assert_close(actual, take_grads(model), 1e-12)


@pytest.mark.parametrize(
    ("labels", "right"),
    [(torch.tensor([0.5, -1.0, 2.0]), [2, 3]), (torch.tensor([[1, 0], [1, 1], [0, 0]]), [3, 6])],
    ids=["scores", "several labels"],
)
def test_scores_and_several_labels_count_by_sign(labels: Tensor, right: list[int]) -> None:
    logits = torch.tensor([[1.0, 1.0], [2.0, -1.0], [0.1, -3.0]])[:, : labels.shape[1] if labels.ndim == 2 else 1]
    parameter = nn.Parameter(torch.ones(1))
    head = nn.Parameter(torch.ones(1))
    method = CGGM(direction_weight=0.0)
    outputs: Any = {"unimodal": {"text": logits}, "features": {}}
    losses = {"text": (parameter * head).sum()}
    method.backward(parameter.sum(), losses, encoders={"text": [parameter]}, outputs=outputs, labels=labels)
    assert method.scores["text"].tolist() == right


def test_half_precision_features_are_compared_in_float32() -> None:
    model, batch = Model(), batch_of()
    outputs = model(batch[0])
    unimodal = losses_of(outputs, batch[1])[1]
    expected = CGGM()._direction_loss({name: torch.tensor([1.0, 2.0]) for name in unimodal}, outputs, batch[1])
    halves = SimpleNamespace(
        joint=outputs.joint.half(),
        unimodal={name: z.half() for name, z in outputs.unimodal.items()},
        features={name: x.half() for name, x in outputs.features.items()},
    )
    actual = CGGM()._direction_loss({name: torch.tensor([1.0, 2.0]) for name in unimodal}, halves, batch[1])
    assert actual.dtype == torch.float32 and actual.item() == pytest.approx(expected.item(), rel=1e-2)


def test_what_it_needs_is_asked_for() -> None:
    model, batch = Model(), batch_of()
    outputs = model(batch[0])
    joint, unimodal = losses_of(outputs, batch[1])
    given = {"encoders": dict(model.encoders.items()), "labels": batch[1]}
    bare = SimpleNamespace(unimodal=outputs.unimodal, joint=None, features=outputs.features)
    for match, parts in (("outputs.joint", bare), ("classifiers' predictions", {"features": outputs.features})):
        with pytest.raises(ValueError, match=match):
            CGGM().backward(joint, unimodal, outputs=parts, **given)
    method = CGGM()
    with method.accumulate(), pytest.raises(ValueError, match="whole batch"):
        method.backward(joint, unimodal, outputs=outputs, **given)
    assert method.needs_whole_batch and not CGGM(direction_weight=0).needs_whole_batch
    for options, match in (
        ({"rho": 0.0}, "rho"),
        ({"direction_weight": -1.0}, "direction_weight"),
        ({"epsilon": -1.0}, "epsilon"),
    ):
        with pytest.raises(ValueError, match=match):
            CGGM(**options)
