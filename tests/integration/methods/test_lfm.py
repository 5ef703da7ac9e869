"""LFM against its definition, sample by sample, and its weight against the released numbers."""

import itertools
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from every_method import Batch, Loop, Model, assert_close, batch_of, losses_of, step, take_grads
from mmpareto.integration.methods.lfm import LFM
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence

VARIANTS = {
    "contrastive": {"gap": "contrastive"},
    "jensen_shannon": {"gap": "divergence"},
    "reversed": {"gap": "divergence", "gap_reversed": True},
}
DECREASING = {1: 0.6321205588, 2: 0.3934693403, 4: 0.2211992169}  # 1 − exp(−1/epoch)


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The mean over samples and both directions of −log of the share of exp(cosine/τ) that the sample itself has."""
    count, total = len(first), torch.zeros((), dtype=first.dtype)
    for i in range(count):
        for own, others in ((first[i], second), (second[i], first)):
            powers = [torch.exp(F.cosine_similarity(own, others[j], dim=0) / temperature) for j in range(count)]
            total = total - torch.log(powers[i] / sum(powers))
    return total / (2 * count)


def divergence(first: Tensor, second: Tensor, swapped: bool) -> Tensor:
    p, q = Categorical(logits=first), Categorical(logits=second)
    m = Categorical(probs=(p.probs + q.probs) / 2)
    pairs = ((m, p), (m, q)) if swapped else ((p, m), (q, m))
    return sum(kl_divergence(a, b).mean() for a, b in pairs) / 2


def definition(model: Model, batch: Batch, variant: str, alpha: float, factor: float, temperature: float) -> Tensor:
    outputs = model(batch[0])
    gaps = []
    for j, k in itertools.combinations(model.modalities, 2):
        if variant == "contrastive":
            gaps.append(info_nce(outputs.features[j], outputs.features[k], temperature))
        else:
            z = [len(model.modalities) * outputs.contributions[name] for name in (j, k)]
            gaps.append(divergence(*z, swapped=variant == "reversed"))
    return factor * ((1 - alpha) * F.cross_entropy(outputs.joint, batch[1]) + alpha * sum(gaps) / len(gaps))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("count", "epoch"), [(2, 1), (3, 4)])
def test_the_gradient_is_that_of_the_definition(count: int, epoch: int, variant: str) -> None:
    model, batch = Model(count), batch_of(count)
    with torch.no_grad():
        model.fusion.weight.mul_(8)
    method = LFM(**VARIANTS[variant], loss_weight=2.0, gap_temperature=0.3)
    loop = Loop(model, batch, epoch=epoch)
    method.begin_training(loop)
    method.begin_epoch(loop)
    report = step(method, loop, batch)
    actual = take_grads(model)
    definition(model, batch, variant, DECREASING[epoch], 2.0, 0.3).backward()
    assert_close(actual, take_grads(model), 1e-8)
    assert report.losses == ["joint", "modality gap"] and bool(report.finite.all())


def test_variants() -> None:
    assert vars(LFM()).items() >= LFM.variants["paper"].items()
    released = LFM(**LFM.variants["released"])
    assert released.gap_reversed and released.loss_weight == 2 and not LFM(**LFM.variants["corrected"]).gap_reversed
    # The numbers of Crema_epoch.py, getAlpha_Learnable_Fitted, whose other weight is 1 − α.
    cls = [2.04623704e-01, 3.35472727e-03, 1.22989557e-04, -2.92947416e-06, 2.23835486e-08, -5.39717505e-11]
    for epoch in (0, 1, 57, 199):
        released.set_epoch(epoch, 200)
        assert 1 - released.alpha == pytest.approx(sum(c * epoch**i for i, c in enumerate(cls)), abs=1e-12)
    released.set_epoch(10, 20)  # half of a run of 20 epochs
    half = released.alpha
    released.set_epoch(100, 200)
    assert released.alpha == half
    assert all(-0.011 < weight < 0.8 for weight in weights(released, 1000))


def weights(method: LFM, epochs: int) -> list[float]:
    result = []
    for epoch in range(epochs):
        method.set_epoch(epoch, epochs)
        result.append(method.alpha)
    return result


def test_the_decreasing_weight_decreases() -> None:
    found = weights(LFM(), 300)
    assert found == sorted(found, reverse=True) and 0 < found[-1] < 0.004


def gap_of(method: LFM, fields: Mapping[str, Mapping[str, Tensor]]) -> float:
    """A, from what the objectives weigh; the encoders are the tensors themselves."""
    method.set_epoch(0, 1)
    given = {field: {k: x.requires_grad_() for k, x in values.items()} for field, values in fields.items()}
    tensors = next(iter(given.values()))
    joint = sum(x.sum() for x in tensors.values()) * 0
    objectives = method.objectives(joint, {}, {k: [x] for k, x in tensors.items()}, SimpleNamespace(**given), None)
    return float(objectives.losses["modality gap"].detach()) / method.alpha


def test_the_direction_of_the_divergence() -> None:
    """Jensen-Shannon is at most log 2; with the arguments swapped, certainty in different classes has no bound."""
    pair = {"contributions": {"audio": torch.tensor([[50.0, 0.0]]), "visual": torch.tensor([[0.0, 50.0]])}}
    assert gap_of(LFM(gap="divergence"), pair) == pytest.approx(math.log(2), rel=1e-6)
    # m = (½, ½), and log p = (0, −100): −½·(0 − 100) − log 2
    assert gap_of(LFM(gap="divergence", gap_reversed=True), pair) == pytest.approx(50 - math.log(2), rel=1e-6)


@pytest.mark.parametrize("variant", ["jensen_shannon", "reversed"])
def test_equal_predictions_have_no_gap(variant: str) -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    shifted = {"contributions": {"audio": z, "visual": z + 3.0, "text": z.double()}}  # softmax is the same
    assert gap_of(LFM(**VARIANTS[variant]), shifted) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_and_one_sample(variant: str) -> None:
    x = {"audio": torch.tensor([[300.0, 0.0, 1.0]]).half(), "visual": torch.tensor([[0.0, 300.0, 2.0]]).half()}
    gap = gap_of(LFM(**VARIANTS[variant]), {"features": x, "contributions": x})
    assert math.isfinite(gap) and (gap == 0) == (variant == "contrastive")  # it has nothing to be told from


def test_features_of_one_direction_are_matched() -> None:
    """The sample itself has cosine 1 and the other 0: log(1 + exp(−1/τ)), whatever the lengths of the features."""
    x = {"audio": torch.tensor([[2.0, 0.0], [0.0, 5.0]]), "visual": torch.tensor([[7.0, 0.0], [0.0, 0.1]])}
    assert gap_of(LFM(gap_temperature=0.5), {"features": x}) == pytest.approx(math.log1p(math.exp(-2)), rel=1e-5)


def test_only_the_contrastive_gap_needs_the_whole_batch() -> None:
    assert LFM().needs_whole_batch and not LFM(gap="divergence").needs_whole_batch


def test_what_does_not_fit_is_said() -> None:
    model, batch = Model(), batch_of()
    outputs = model(batch[0])
    joint, _ = losses_of(outputs, batch[1])
    encoders = dict(model.encoders.items())

    def refused(match: str, method: LFM, given: Any) -> None:
        with pytest.raises(ValueError, match=match):
            method.backward(joint, {}, encoders=encoders, outputs=given, labels=batch[1])

    refused("needs the features", LFM(), None)
    refused("needs the contributions", LFM(gap="divergence"), {"features": outputs.features})
    refused("no sum over modalities", LFM(gap="divergence"), outputs._replace(contributions={}))
    longer = outputs.features | {"visual": torch.cat([outputs.features["visual"]] * 2, 1)}
    refused("one length, not 4 of 'audio', 8 of 'visual'", LFM(), outputs._replace(features=longer))
    network = nn.Module()
    network.additive = False
    with pytest.raises(ValueError, match="--gap contrastive"):
        LFM(gap="divergence").begin_training(SimpleNamespace(network=network))
    for options in ({"gap": "both"}, {"gap_weight": "none"}, {"gap_temperature": 0.0}, {"loss_weight": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            LFM(**options)
