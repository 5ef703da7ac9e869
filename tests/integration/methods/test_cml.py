"""CML against its definition, sample by sample and order by order."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import FEATURE, Batch, Loop, Model, assert_close, batch_of, losses_of, step, take_grads
from mmpareto.integration.methods.cml import CML
from mmpareto.models import FUSIONS
from torch import Tensor, nn


def with_zeros(model: Model, batch: Batch, kept: frozenset[str]) -> Tensor:
    """Σ over the kept modalities of W_k x_k, plus b: the joint logits with zeros for the others."""
    weights = dict(zip(model.modalities, model.fusion.weight.split(FEATURE, dim=1), strict=True))
    features = model(batch[0]).features
    return sum((features[name] @ weights[name].T for name in model.modalities if name in kept), model.fusion.bias)


def definition(model: Model, batch: Batch, lam: float, skip_corrected: bool) -> Tensor:
    """The mean of L over all samples and all orders of removal."""
    labels = batch[1].tolist()
    terms = []
    for order in itertools.permutations(model.modalities):
        chain = [frozenset(order[removed:]) for removed in range(len(order))]
        rows = [with_zeros(model, batch, kept) for kept in chain]
        for i, label in enumerate(labels):
            samples = [z[i] for z in rows]
            logs = [z - z.exp().sum().log() for z in samples]
            loss = -sum(log[label] for log in logs) / len(chain)
            for before, after in itertools.pairwise(logs):
                corrects = int(after.argmax()) == label and int(before.argmax()) != label
                rise = after.exp().amax() - before.exp().amax()
                if rise > 0 and not (skip_corrected and corrects):
                    loss = loss + lam * rise
            terms.append(loss)
    return sum(terms) / len(terms)


def uneven(count: int, seed: int = 0) -> tuple[Model, Batch]:
    """A model whose modalities disagree, so that confidence rises for some samples and falls for others."""
    model, batch = Model(count, seed=seed), batch_of(count, seed=seed)
    with torch.no_grad():
        model.fusion.weight.mul_(8)
    return model, batch


def ready(method: CML, model: Model, batch: Batch) -> Loop:
    loop = Loop(model, batch)
    method.begin_training(loop)
    return loop


@pytest.mark.parametrize("skip_corrected", [False, True])
@pytest.mark.parametrize(("count", "lam"), [(2, 0.0), (2, 0.7), (3, 1.5)])
def test_the_gradient_is_that_of_the_mean_over_all_orders(count: int, lam: float, skip_corrected: bool) -> None:
    model, batch = uneven(count)
    method = CML(lam, skip_corrected)
    report = step(method, ready(method, model, batch), batch)
    actual = take_grads(model)
    definition(model, batch, lam, skip_corrected).backward()
    assert_close(actual, take_grads(model), 1e-10)
    assert report.losses == ["joint", "subsets"] and bool(report.finite.all())


def test_samples_that_the_removal_corrects_are_skipped_on_request() -> None:
    model, batch = uneven(2)
    losses = [float(definition(model, batch, 1.0, skip).detach()) for skip in (False, True)]
    assert losses[1] < losses[0]  # there are some, so that the test above tells the two apart


def loss_of(method: CML, outputs: Any, labels: Tensor, share: float = 1.0) -> float:
    """L of two modalities whose features are their logits, without the joint loss."""
    method.use_fusion(lambda features: sum(features.values()))
    encoders = {name: [nn.Parameter(torch.zeros(1))] for name in outputs.features}
    moved = {name: x + encoders[name][0] for name, x in outputs.features.items()}
    method._share = share
    joint = sum(x.sum() for x in moved.values()) * 0
    objectives = method.objectives(joint, {}, encoders, SimpleNamespace(features=moved), labels)
    return float(objectives.losses["subsets"].detach())


def two(audio: list[list[float]], visual: list[list[float]], dtype: torch.dtype = torch.float64) -> Any:
    return SimpleNamespace(
        features={"audio": torch.tensor(audio, dtype=dtype), "visual": torch.tensor(visual, dtype=dtype)}
    )


def test_by_hand() -> None:
    """Log-odds 1 and −1 cancel: confidence rises from ½ to σ(1), whichever modality is removed."""
    outputs, labels = two([[1.0, 0.0]], [[0.0, 1.0]]), torch.tensor([0])
    right, wrong = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))
    errors = -(math.log(right) + math.log(wrong)) / 2
    assert loss_of(CML(2.0), outputs, labels) == pytest.approx(errors / 2 + 2.0 * (right - 0.5), rel=1e-12)
    assert loss_of(CML(2.0), outputs, labels, share=0.25) == pytest.approx((errors / 2 + 2 * (right - 0.5)) / 4)


def test_one_rise_is_not_hidden_by_anothers_fall() -> None:
    """The hinge is per sample: a second sample whose confidence falls leaves half of the first one's rise."""
    alone = loss_of(CML(1.0), two([[1, 0]], [[0, 1]]), torch.tensor([0])) - loss_of(
        CML(0.0), two([[1, 0]], [[0, 1]]), torch.tensor([0])
    )
    both = two([[1, 0], [9, 0]], [[0, 1], [9, 0]])
    labels = torch.tensor([0, 0])
    assert loss_of(CML(1.0), both, labels) - loss_of(CML(0.0), both, labels) == pytest.approx(alone / 2, rel=1e-9)


def test_agreeing_modalities_have_no_hinge() -> None:
    outputs, labels = two([[2.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]]), torch.tensor([2])
    assert loss_of(CML(100.0), outputs, labels) == loss_of(CML(0.0), outputs, labels) > 0


@pytest.mark.parametrize("fusion", [name for name in FUSIONS if name not in ("average_labels", "average_logits")])
def test_every_fusion_of_two_in_half_precision(fusion: str) -> None:
    torch.manual_seed(0)
    module = FUSIONS[fusion]({"audio": 4, "visual": 4}, 3)
    method, x = CML(), {name: torch.randn(5, 4, requires_grad=True) for name in ("audio", "visual")}
    method.use_fusion(module)
    half = {name: value.half() for name, value in x.items()}
    joint = sum(value.float().sum() for value in half.values()) * 0
    encoders = {name: [value] for name, value in x.items()}
    report = method.backward(
        joint, {}, encoders=encoders, outputs=SimpleNamespace(features=half), labels=torch.tensor([0, 1, 2, 0, 1])
    )
    assert bool(report.all_finite) and all(bool(value.grad.any()) for value in x.values())
    assert all(p.grad is not None for name, p in module.named_parameters() if "project" not in name)


def test_a_batch_without_samples_adds_nothing() -> None:
    method = CML()
    method.loss = lambda logits, labels: torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    empty = SimpleNamespace(features={name: torch.zeros(0, 2) for name in ("audio", "visual")})
    assert loss_of(method, empty, torch.zeros(0, dtype=torch.long), share=0.0) == 0


def test_what_is_missing_is_said() -> None:
    model, batch = uneven(2)
    outputs = model(batch[0])
    joint, _ = losses_of(outputs, batch[1])
    encoders = dict(model.encoders.items())
    with pytest.raises(ValueError, match="needs the fusion"):
        CML().backward(joint, {}, encoders=encoders, outputs=outputs, labels=batch[1])
    with pytest.raises(ValueError, match="needs the features"):
        CML().backward(joint, {}, encoders=encoders, labels=batch[1])
    with pytest.raises(ValueError, match="needs the labels"):
        CML().backward(joint, {}, encoders=encoders, outputs=outputs)
    with pytest.raises(ValueError, match="lam must be at least 0"):
        CML(lam=-1)
