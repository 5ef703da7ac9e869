"""OPM against its equations: probabilities written out per pair, dropped features found by an independent fusion."""

import math
from typing import Any

import pytest
import torch
from every_method import CLASSES, FEATURE, Loop, Model, assert_close, batch_of, losses_of, ready, step, take_grads
from mmpareto.integration.methods.opm import OPM
from mmpareto.models import FUSIONS
from mmpareto.models.network import MultimodalNetwork
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Scores = dict[str, float]


def confident(count: int, seed: int = 0) -> Model:
    """A model whose modalities differ in confidence."""
    model = Model(count, seed=seed)
    with torch.no_grad():
        model.fusion.weight.mul_(20)
    return model


def expected_probabilities(scores: Scores, q_base: float = 0.5, lam: float = 0.5) -> Scores:
    result = {}
    for name, own in scores.items():
        ratios = [own / other for rival, other in scores.items() if rival != name]
        rho = sum(ratios) / len(ratios)
        result[name] = min(q_base * (1 + lam * math.tanh(rho - 1)), 1.0) if rho > 1 else 0.0
    return result


def scores_of(model: Model, batch: tuple[dict[str, Tensor], Tensor]) -> Scores:
    """s_k of the contributions W_k x_k + b/n, from the weights."""
    inputs, labels = batch
    columns = model.fusion.weight.split(FEATURE, dim=1)
    result = {}
    for (name, encoder), w in zip(model.encoders.items(), columns, strict=True):
        z = (encoder(inputs[name]) @ w.T + model.fusion.bias / len(model.encoders)).tolist()
        total = 0.0
        for row, label in zip(z, labels.tolist(), strict=True):
            total += math.exp(row[label]) / math.fsum(math.exp(value) for value in row)
        result[name] = total
    return result


def probabilities(report: Any) -> Scores:
    return {name.removeprefix("drop_probability_"): float(q) for name, q in report.metrics.items()}


class Watched:
    """The model's fusion, which keeps the features that it is given."""

    def __init__(self, model: Model) -> None:
        self.model, self.given = model, []

    def __call__(self, features: dict[str, Tensor]) -> Tensor:
        self.given.append(features)
        return self.model.fusion(features)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("released", [False, True])
def test_the_step_is_that_of_the_loss_of_the_features_that_are_kept(count: int, released: bool) -> None:
    model, batches = confident(count), [batch_of(count, size=40, seed=seed) for seed in (0, 1)]
    method, loop = OPM(**OPM.variants["released" if released else "paper"] | {"p_exe": 1.0}), Loop(model, batches[0])
    method.begin_training(loop)
    method.set_epoch(6)
    fusion = Watched(model)
    step(method, loop, batches[0])
    take_grads(model)
    method.use_fusion(fusion)
    report = step(method, loop, batches[1], seed=3)
    actual = take_grads(model)

    wanted = expected_probabilities(scores_of(model, batches[1 if released else 0]))
    assert probabilities(report) == pytest.approx(wanted, rel=1e-10)
    assert min(wanted.values()) == 0 and max(wanted.values()) > 0.5
    theta = sum(wanted.values()) / count if released else 0.0
    (given,) = fusion.given
    outputs = model(batches[1][0])
    kept = {}
    for name, x in outputs.features.items():
        ratio = given[name] / x
        kept[name] = (ratio[:, 0] > 0.5).double()
        torch.testing.assert_close(ratio, (kept[name] / (1 - theta)).unsqueeze(1).expand_as(x))
        assert abs(float(kept[name].mean()) - (1 - wanted[name])) < 4 * math.sqrt(0.25 / 40)
        assert wanted[name] > 0 or bool(kept[name].all())
    concatenated = torch.cat([x * kept[name].unsqueeze(1) for name, x in outputs.features.items()], 1)
    logits = concatenated @ model.fusion.weight.T / (1 - theta) + model.fusion.bias
    nn.functional.nll_loss(logits.log_softmax(1), batches[1][1]).backward()
    assert_close(actual, take_grads(model), 1e-10)


def test_nothing_is_dropped_in_the_first_step_of_the_paper_and_with_one_modality() -> None:
    for count, method in ((3, OPM()), (1, OPM()), (1, OPM(probability="current"))):
        model, batch = confident(count), batch_of(count)
        losses_of(model(batch[0]), batch[1])[0].backward()
        expected = take_grads(model)
        method.begin_training(Loop(model, batch))
        for _ in range(1 if count > 1 else 3):
            report = step(method, Loop(model, batch), batch)
            assert_close(take_grads(model), expected, 1e-12)
            assert all(q == 0 for q in probabilities(report).values()) and len(report.metrics) == count


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        ([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [0.0, 0.0, 0.0]),  # equal scores
        ([[-1e6, 0.0], [-1e6, 0.0], [-1e6, 0.0]], [0.0, 0.0, 0.0]),  # all wrong: 0/0
        ([[1e6, 0.0], [-1e6, 0.0], [1e6, 0.0]], [0.75, 0.0, 0.75]),  # ρ = ∞
        ([[1e6, 0.0], [0.0, 0.0], [0.0, 0.0]], [0.5 * (1 + 0.5 * math.tanh(1)), 0.0, 0.0]),  # ρ = 2, ¾, ¾
    ],
)
def test_probabilities_of_extreme_scores_in_a_batch_of_one(z: list[list[float]], expected: list[float]) -> None:
    features = {name: nn.Parameter(torch.ones(1, 2)) for name in "abc"}
    method = OPM(probability="current")
    method.use_fusion(lambda given: torch.stack([*given.values()]).sum(0))
    outputs = {"features": features, "contributions": {n: torch.tensor([row]) for n, row in zip("abc", z, strict=True)}}
    joint = torch.stack([*features.values()]).sum()
    report = method.backward(
        joint, {}, encoders={n: [x] for n, x in features.items()}, outputs=outputs, labels=torch.tensor([0])
    )
    assert [*probabilities(report).values()] == pytest.approx(expected)
    assert all(x.grad is not None and bool(x.grad.isfinite().all()) for x in features.values())


def test_a_step_drops_features_with_probability_p_exe() -> None:
    model, batch = confident(2), batch_of(size=30)
    method, loop = OPM(probability="current", p_exe=0.3), Loop(model, batch)
    fusion = Watched(model)
    method.use_fusion(fusion)
    for number in range(40):
        step(method, loop, batch, seed=number)
    whole = model(batch[0]).features
    dropping = [any(not torch.equal(given[n], whole[n]) for n in whole) for given in fusion.given]
    assert abs(sum(dropping) / 40 - 0.3) < 4 * math.sqrt(0.21 / 40)


def test_it_acts_in_the_chosen_epochs_and_a_resumed_step_is_the_same() -> None:
    model, batch = confident(2), batch_of()
    losses_of(model(batch[0]), batch[1])[0].backward()
    expected, acting = take_grads(model), []
    for epoch in range(1, 7):
        method, loop = OPM(probability="current", modulation_starts=1, modulation_ends=3), Loop(model, batch, epoch)
        method.begin_training(loop)
        method.begin_epoch(loop)
        again = OPM(probability="current", modulation_starts=1, modulation_ends=3)
        again.load_state_dict(method.state_dict())
        again.begin_training(loop)
        results = []
        for each in (method, again):
            step(each, loop, batch, seed=epoch)
            results.append(take_grads(model))
        for key, gradient in results[0].items():
            assert gradient is None or torch.equal(gradient, results[1][key])
        if any(g is not None and not torch.allclose(g, expected[key]) for key, g in results[0].items()):
            acting.append(epoch)
    assert acting == [2, 3, 4]
    default = OPM(**OPM.variants["released"])
    default.set_epoch(5)
    assert not default.active
    default.set_epoch(6)
    assert default.active


@pytest.mark.parametrize("name", ["gated", "average"])
def test_other_fusions_are_scored_with_the_other_features_zeroed(name: str) -> None:
    torch.manual_seed(0)
    encoders = {m: nn.Linear(5, FEATURE) for m in ("audio", "visual")}
    fusion = FUSIONS[name](dict.fromkeys(encoders, FEATURE), CLASSES)
    network = MultimodalNetwork(encoders, fusion).double()
    inputs = {m: 9 * torch.randn(8, 5, dtype=torch.float64) for m in encoders}
    labels = torch.randint(CLASSES, (8,))
    with pytest.raises(ValueError, match=r"no sum over modalities.*--score zeroed"):
        OPM().begin_training(Loop(network, (inputs, labels)))
    method = OPM(probability="current", score="zeroed")
    method.begin_training(Loop(network, (inputs, labels)))
    report = step_on(method, network, inputs, labels)
    features = network(inputs).features
    none = torch.zeros(8, FEATURE, dtype=torch.float64)
    scores = {}
    for m in features:
        alone = {n: x if n == m else none for n, x in features.items()}
        scores[m] = float(fusion(alone).softmax(1)[range(8), labels].sum().detach())
    assert probabilities(report) == pytest.approx(expected_probabilities(scores))


def step_on(method: OPM, network: MultimodalNetwork, inputs: dict[str, Tensor], labels: Tensor) -> Any:
    outputs = network(inputs)
    return method.backward(
        cross_entropy(outputs.joint, labels),
        {},
        encoders=dict(network.encoders.items()),
        outputs=outputs,
        labels=labels,
    )


def test_half_precision_features_are_fused_in_float32() -> None:
    torch.manual_seed(0)
    features = {name: nn.Parameter(torch.randn(6, FEATURE, dtype=torch.bfloat16)) for name in ("audio", "visual")}
    fusion = FUSIONS["concat"](dict.fromkeys(features, FEATURE), CLASSES)
    seen = []
    method = OPM(probability="current", rescale=True)
    method.use_fusion(lambda given: (seen.extend(x.dtype for x in given.values()), fusion(given))[1])
    parts = fusion.contributions({name: x.detach().float() for name, x in features.items()})
    method.backward(
        features["audio"].sum(),
        {},
        encoders={name: [x] for name, x in features.items()},
        outputs={"features": features, "contributions": parts},
        labels=torch.tensor([0, 1, 2, 0, 1, 2]),
    )
    assert set(seen) == {torch.float32} and features["audio"].grad.dtype == torch.bfloat16


def test_the_released_step_needs_the_whole_batch_and_features_are_required() -> None:
    model, batch = confident(2), batch_of()
    method, loop = ready("opm", model, batch)
    assert not method.needs_whole_batch
    released = OPM(**OPM.variants["released"])
    released.begin_training(loop)
    assert released.needs_whole_batch
    with pytest.raises(ValueError, match="whole batch at once"), released.accumulate():
        step(released, loop, batch)
    outputs = model(batch[0])
    given = {"encoders": dict(model.encoders.items()), "labels": batch[1]}
    with pytest.raises(ValueError, match="needs the features: pass outputs"):
        method.backward(outputs.joint.sum(), {}, outputs={"contributions": outputs.contributions}, **given)
    with pytest.raises(ValueError, match=r"needs the fusion: call use_fusion\(\)"):
        OPM().backward(outputs.joint.sum(), {}, outputs=outputs, **given)
    assert all(g is None for g in take_grads(model).values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", OPM.variants.values())
def test_on_a_gpu_it_drops_the_same_features_and_never_waits(options: dict[str, Any]) -> None:
    gradients = []
    for device in ("cpu", "cuda"):
        model, method = confident(3).to(device), OPM(**options)
        method.use_fusion(model.fusion)
        for number in range(4):
            inputs, labels = batch_of(3, seed=number)
            outputs, labels = model({name: x.to(device) for name, x in inputs.items()}), labels.to(device)
            joint, _ = losses_of(outputs, labels)
            torch.manual_seed(number)
            take_grads(model)
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("error" if number >= 2 else "default")  # libraries load on first use
            try:
                method.backward(joint, {}, encoders=dict(model.encoders.items()), outputs=outputs, labels=labels)
            finally:
                if device == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
        gradients.append({name: None if g is None else g.cpu() for name, g in take_grads(model).items()})
    assert_close(*gradients, 1e-9)


@pytest.mark.parametrize(
    "options",
    [{"q_base": 0.0}, {"q_base": 1.1}, {"lam": -1.0}, {"p_exe": 0.0}, {"probability": "next"}, {"score": "unimodal"},
     {"modulation_starts": 3, "modulation_ends": 2}, {"modulation_starts": -1}],
)  # fmt: skip
def test_options_out_of_range_are_rejected(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        OPM(**options)
