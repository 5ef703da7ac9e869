"""MCR against its equations: divergences and contrasts sample by sample, and the players' gradients one by one."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import (
    Loop,
    Model,
    assert_close,
    assert_same_state,
    batch_of,
    losses_of,
    make,
    ready,
    step,
    take_grads,
)
from mmpareto.integration.comparisons import jensen_shannon
from mmpareto.integration.methods.mcr import MCR, contrastive_loss
from mmpareto.models import FUSIONS
from torch import Tensor, nn

PERMUTATIONS = 3


def divergence(z: Tensor, reference: Tensor) -> Tensor:
    """The mean Jensen-Shannon divergence, from its definition by probabilities."""
    p, q = z.softmax(1), reference.softmax(1)
    middle = (p + q) / 2
    return ((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)).mean() / 2


def divergences(model: Model, inputs: dict[str, Tensor], constant: bool = False) -> dict[tuple[str, ...], Tensor]:
    """Subset → D_S with its whole graph, or with z(∅) as a constant; permutations are those of seed 0."""
    torch.manual_seed(0)
    parts = model(inputs).contributions
    size = len(next(iter(parts.values())))
    rows = {name: torch.rand(PERMUTATIONS, size).argsort(1) for name in parts}
    result = {}
    for count in range(1, len(parts)):
        for subset in itertools.combinations(parts, count):
            terms = []
            for index in range(PERMUTATIONS):
                z = sum(x[rows[name][index]] if name in subset else x for name, x in parts.items())
                reference = sum(parts.values())
                terms.append(divergence(z, reference.detach() if constant else reference))
            result[subset] = torch.stack(terms).mean()
    return result


def contrast(features: dict[str, Tensor], labels: Tensor, temperature: float) -> Tensor:
    """The supervised NT-Xent loss, pair by pair."""
    points = [(x / x.norm(), int(y)) for batch in features.values() for x, y in zip(batch, labels, strict=True)]
    losses = []
    for (i, (x, own)), (j, (other, its)) in itertools.product(enumerate(points), repeat=2):
        if i != j and own == its:
            pair = (x @ other / temperature).exp()
            rest = sum((x @ point / temperature).exp() for point, label in points if label != own)
            losses.append(-(pair / (pair + rest)).log())
    return torch.stack(losses).mean()


def parameters_of(model: Model, name: str) -> dict[str, Tensor]:
    return {key: p for key, p in model.named_parameters() if key.startswith(f"encoders.{name}.")}


@pytest.mark.parametrize("strategy", ["greedy", "independent", "collaborative"])
@pytest.mark.parametrize("count", [2, 3])
def test_every_player_raises_its_own_influence(count: int, strategy: str) -> None:
    """The formula of the README, with whole derivatives of each D_S with respect to one player at a time."""
    model, batch = Model(count), batch_of(count, size=5)
    kappa = {"greedy": -1.0, "independent": 0.0, "collaborative": 1.0}[strategy]
    options: dict[str, Any] = {"competition_weight": 0.5, "contrastive_weight": 0.3, "unimodal_weight": 0.2}
    method = MCR(strategy, permutations=PERMUTATIONS, contrastive_temperature=0.7, **options)
    outputs = model(batch[0])
    joint, unimodal = losses_of(outputs, batch[1])
    total = joint + 0.2 * sum(unimodal.values()) + 0.3 * contrast(outputs.features, batch[1], 0.7)
    total.backward()
    expected = take_grads(model)
    for name in model.modalities:
        own = parameters_of(model, name)
        columns = slice(4 * model.modalities.index(name), 4 * model.modalities.index(name) + 4)
        for subset, value in divergences(model, batch[0]).items():
            factor = -0.5 * (1.0 if name in subset else kappa)
            *gradients, weight = torch.autograd.grad(value, [*own.values(), model.fusion.weight], retain_graph=True)
            for key, gradient in zip(own, gradients, strict=True):
                expected[key] = expected[key] + factor * gradient
            expected["fusion.weight"][:, columns] += factor * weight[:, columns]
    step(method, Loop(model, batch), batch)
    actual = take_grads(model)
    if count == 2 and strategy == "greedy":  # elsewhere, the players share the bias
        torch.testing.assert_close(actual["fusion.bias"], expected["fusion.bias"])
    del actual["fusion.bias"], expected["fusion.bias"]
    assert_close(actual, expected, 1e-9)


@pytest.mark.parametrize("strategy", ["greedy", "independent"])
def test_the_released_gradient_of_the_unpermuted_prediction(strategy: str) -> None:
    """It reaches all players; in a greedy game it cancels, so that the prediction is a constant."""
    model, batch = Model(), batch_of()
    method = MCR(strategy, 1.0, 0.0, permutations=PERMUTATIONS, **MCR.variants["released"])
    joint, unimodal = losses_of(model(batch[0]), batch[1])
    (joint + 0.01 * sum(unimodal.values())).backward()
    expected = take_grads(model)
    whole, constant = divergences(model, batch[0]), divergences(model, batch[0], constant=True)
    for name, subset in itertools.product(model.modalities, whole):
        own = parameters_of(model, name)
        permuted = torch.autograd.grad(constant[subset], [*own.values()], retain_graph=True)
        both = torch.autograd.grad(whole[subset], [*own.values()], retain_graph=True)
        factor = -1.0 if name in subset else 1.0 if strategy == "greedy" else 0.0
        for key, part, full in zip(own, permuted, both, strict=True):
            unpermuted = 0.0 if strategy == "greedy" else part - full  # −∂D_S through z(∅)
            expected[key] = expected[key] + factor * part + unpermuted
    step(method, Loop(model, batch), batch)
    actual = take_grads(model)
    for key in expected:
        if key.startswith("encoders."):
            torch.testing.assert_close(actual[key], expected[key])


def test_a_fusion_that_is_no_sum_plays_with_features() -> None:
    """The gated fusion belongs to no player: in a greedy game, it learns from the other losses alone."""
    model, batch = Model(), batch_of()
    fusion = FUSIONS["gated"](dict.fromkeys(model.modalities, 4), 3).double()

    def gradients(method: MCR) -> tuple[list[Tensor], dict[str, Tensor | None]]:
        method.use_fusion(fusion)
        outputs = model(batch[0])
        outputs = SimpleNamespace(joint=fusion(outputs.features), unimodal=outputs.unimodal, features=outputs.features)
        torch.manual_seed(0)
        method.backward(*losses_of(outputs, batch[1]), encoders=dict(model.encoders.items()), outputs=outputs,
                        labels=batch[1])  # fmt: skip
        found = [p.grad for p in fusion.parameters() if p.grad is not None]
        fusion.zero_grad()
        return found, take_grads(model)

    plain, plain_encoders = gradients(MCR(competition_weight=0.0))
    greedy, encoders = gradients(MCR("greedy", 0.5))
    for a, b in zip(greedy, plain, strict=True):
        torch.testing.assert_close(a, b)
    independent, _ = gradients(MCR("independent", 0.5))
    collaborative, _ = gradients(MCR("collaborative", 0.5))
    assert any(not torch.allclose(a, b) for a, b in zip(independent, plain, strict=True))
    for a, b in zip(independent, collaborative, strict=True):
        torch.testing.assert_close(a, b)
    key = "encoders.visual.layer.weight"
    assert not torch.allclose(encoders[key], plain_encoders[key])


def test_the_divergence_is_that_of_probabilities_and_at_most_log_2() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (4 * torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(jensen_shannon(a, b), divergence(a, b))
    assert jensen_shannon(a, a).item() == pytest.approx(0, abs=1e-15)
    far = torch.tensor([[1e4, 0.0]])
    assert jensen_shannon(far, -far).item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("labels", [[1, 1, 1, 1], [0, 1, 2, 3]], ids=["one class", "no two of a class"])
def test_contrast_without_negatives_or_further_positives(labels: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    features = {name: torch.randn(4, 3, generator=generator, requires_grad=True) for name in ("audio", "visual")}
    y = torch.tensor(labels)
    loss = contrastive_loss(features, y, 0.5)
    loss.backward()
    gradients = [x.grad for x in features.values()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)
    if len(set(labels)) == 1:
        assert loss.item() == 0 and not any(bool(g.any()) for g in gradients if g is not None)
    else:
        torch.testing.assert_close(loss, contrast(features, y, 0.5))


@pytest.mark.parametrize("name", ["one modality", "one sample"])
def test_one_of_a_kind_is_plain_training(name: str) -> None:
    """There is nothing to permute, and no other class."""
    count, size = (1, 12) if name == "one modality" else (2, 1)
    model, batch = Model(count), batch_of(count, size=size)
    method, loop = ready("mcr", model, batch)
    step(method, loop, batch)
    actual = take_grads(model)
    joint, unimodal = losses_of(model(batch[0]), batch[1])
    (joint + 0.01 * sum(unimodal.values())).backward()
    assert_close(actual, take_grads(model), 1e-9)


def test_the_predictor_of_the_bottleneck_is_trained_by_adam() -> None:
    """Three steps beside PyTorch's layers and optimizer; then one that is not finite, which changes nothing."""
    model, batches = Model(), [batch_of(seed=seed) for seed in range(3)]
    method = MCR(competition_weight=0.0, contrastive_weight=0.0, bottleneck_weight=0.7, predictor_learning_rate=0.01)
    loop = Loop(model, batches[0])
    step(method, loop, batches[0])
    take_grads(model)
    assert method.predictor["hidden"].shape == (4, 3) and method.predictor["output"].shape == (8, 4)
    method.predictor = {name: method.predictor[name] for name in ("hidden", "output")}
    layers = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 8, bias=False)).double()
    layers.load_state_dict({"0.weight": method.predictor["hidden"], "2.weight": method.predictor["output"]})
    adam = torch.optim.Adam(layers.parameters(), lr=0.01)
    for batch in batches:
        outputs = model(batch[0])
        joint, unimodal = losses_of(outputs, batch[1])
        error = (layers(outputs.joint.detach()) - torch.cat([*outputs.features.values()], 1)).square().mean()
        (joint + 0.01 * sum(unimodal.values()) + 0.7 * error).backward()
        adam.step()
        adam.zero_grad()
        expected = take_grads(model)
        step(method, loop, batch, scale=1024.0)
        assert_close({k: None if g is None else g / 1024 for k, g in take_grads(model).items()}, expected, 1e-9)
        torch.testing.assert_close(method.predictor["hidden"], layers[0].weight.detach())
        torch.testing.assert_close(method.predictor["output"], layers[2].weight.detach())
    before = method.state_dict()
    step(method, loop, ({name: x * float("nan") for name, x in batches[0][0].items()}, batches[0][1]))
    assert_same_state(method.state_dict(), before)


def test_half_precision_gives_finite_gradients() -> None:
    features = {name: torch.randn(4, 3).half().requires_grad_() for name in ("audio", "visual")}
    assert contrastive_loss(features, torch.tensor([0, 1, 0, 1]), 0.5).dtype == torch.float32
    contributions = {name: (100 * torch.randn(4, 3)).half().requires_grad_() for name in features}
    MCR()._competition(features, contributions).backward()
    assert all(x.grad is not None and bool(x.grad.isfinite().all()) for x in contributions.values())


def test_what_it_needs_is_asked_for() -> None:
    model, batch = Model(), batch_of()
    outputs = model(batch[0])
    joint, unimodal = losses_of(outputs, batch[1])
    given: dict[str, Any] = {"encoders": dict(model.encoders.items()), "labels": batch[1]}
    uneven = SimpleNamespace(features={**outputs.features, "visual": outputs.features["visual"][:, :3]})
    cases = [
        ("`features`", {"outputs": {"unimodal": outputs.unimodal}}),
        ("4 \\(audio\\), 3 \\(visual\\)", {"outputs": uneven}),
        ("joint loss", {"outputs": outputs, "joint": None}),
    ]
    for match, changes in cases:
        loss = changes.pop("joint", joint)
        with pytest.raises(ValueError, match=match):
            MCR(competition_weight=0.0).backward(loss, unimodal, **(given | changes))
    with pytest.raises(ValueError, match="use_fusion"):
        MCR().backward(joint, unimodal, outputs={"features": outputs.features}, **given)
    method = make("mcr")
    with method.accumulate(), pytest.raises(ValueError, match="whole batch"):
        method.backward(joint, unimodal, outputs=outputs, **given)
    with pytest.raises(ValueError, match="strategy"):
        MCR(strategy="colab")
