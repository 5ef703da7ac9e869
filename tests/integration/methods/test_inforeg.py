"""InfoReg against its equations and its released code, written out for a small model that is trained."""

import copy
import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import Loop, Model, assert_close, assert_same_state, batch_of, losses_of, step, take_grads
from mmpareto import METHODS
from mmpareto.integration.methods.inforeg import InfoReg
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Batch = tuple[dict[str, Tensor], Tensor]
Grads = dict[str, Tensor | None]


def released(**options: Any) -> InfoReg:
    return InfoReg(**{**InfoReg.variants["released"], **options})


def encoder_parameters(model: Model, name: str) -> dict[str, Tensor]:
    return {key: p for key, p in model.named_parameters() if key.startswith(f"encoders.{name}.")}


def true_class(logits: Tensor, labels: Tensor) -> list[float]:
    """Probability of the true class, per sample."""
    result = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        powers = [math.exp(value - max(row)) for value in row]
        result.append(powers[label] / math.fsum(powers))
    return result


class Paper:
    """The paper's algorithm 1: gradients of a step, before the optimizer changes the weights."""

    def __init__(self, model: Model) -> None:
        self.model, self.t = model, -1
        self.traces: dict[str, list[float]] = {name: [] for name in model.modalities}
        self.squares: dict[str, list[float]] = {}

    def begin_epoch(self) -> None:
        for name, squares in self.squares.items():
            self.traces[name].append(sum(squares) / len(squares))
        self.t += 1
        self.squares = {name: [] for name in self.model.modalities}
        self.start = copy.deepcopy(self.model)

    def gradients(self, batch: Batch) -> tuple[Grads, dict[str, float]]:
        outputs = self.model(batch[0])
        cross_entropy(outputs.joint, batch[1]).backward()
        grads = take_grads(self.model)
        scores = {}
        for name, logits in outputs.contributions.items():
            scores[name] = sum(math.log(p) for p in true_class(logits, batch[1])) / len(batch[1])
        alphas = {}
        for name in self.model.modalities:
            lower = [scores[name] - s for s in scores.values() if s < scores[name]]
            gap = sum(lower) / len(lower) if lower else 0.0
            traces, mine = self.traces[name], encoder_parameters(self.model, name)
            self.squares[name].append(sum(float((grads[key] ** 2).sum()) for key in mine))
            in_window = self.t >= 2 and (traces[-1] - traces[-2]) / traces[-1] > 0.04
            alphas[name] = math.exp(0.9 * math.tanh(gap)) if in_window and gap > 0 else 0.0
            self.pull(grads, name, alphas[name])
        return grads, alphas

    def pull(self, grads: Grads, name: str, alpha: float) -> None:
        start = dict(self.start.named_parameters())
        for key, p in encoder_parameters(self.model, name).items():
            grads[key] = grads[key] + alpha * (p - start[key]).detach()


class Released(Paper):
    """The released code at ea7b9d5, for audio and visual."""

    def begin_epoch(self) -> None:
        self.t += 1
        if self.t == 0:
            self.audio_traces = [0.0] * 10
            self.k = 1.0
        else:
            self.audio_traces.append(sum(float(fim.mean()) for fim in self.fim.values()))
            now, before = sum(self.audio_traces[-10:]) / 10, sum(self.audio_traces[-11:-1]) / 10
            self.k = (now - before) / now
        weights = {key: p for key, p in encoder_parameters(self.model, "audio").items() if p.ndim > 1}
        self.fim = {key: torch.zeros_like(p) for key, p in weights.items()}
        self.start = copy.deepcopy(self.model)

    def gradients(self, batch: Batch) -> tuple[Grads, dict[str, float]]:
        outputs, labels = self.model(batch[0]), batch[1]
        audio, visual = outputs.contributions["audio"], outputs.contributions["visual"]
        (cross_entropy(outputs.joint, labels) + cross_entropy(audio, labels) + cross_entropy(visual, labels)).backward()
        grads = take_grads(self.model)
        score_a, score_v = sum(true_class(audio, labels)), sum(true_class(visual, labels))
        beta_a = 0.95 * math.exp(math.tanh(score_a - score_v)) if score_a > score_v and self.k > 0.05 else 0.0
        beta_v = 0.1 * math.exp(math.tanh(score_v - score_a)) if score_v > score_a and self.k > 0.05 else 0.0
        self.pull(grads, "audio", beta_a)
        self.pull(grads, "visual", beta_v)
        for key in self.fim:
            self.fim[key] += grads[key] ** 2
        return grads, {"audio": beta_a, "visual": beta_v}


def training(
    method: InfoReg, model: Model, literal: Paper, epochs: int, rate: float = 1.0
) -> Iterator[tuple[int, dict[str, float]]]:
    """Train by the method, compare every step with the literal algorithm, and yield epoch and coefficients."""
    batches = [batch_of(len(model.modalities), size=6, seed=seed) for seed in range(3)]
    loop = Loop(model, batches[0])
    method.begin_training(loop)
    for epoch in range(epochs):
        loop.epoch = epoch + 1
        method.begin_epoch(loop)
        literal.begin_epoch()
        for batch in batches:
            wanted, alphas = literal.gradients(batch)
            scale = 2.0 ** (10 * (epoch % 2))
            report = step(method, loop, batch, scale=scale)
            grads = {key: None if g is None else g / scale for key, g in take_grads(model).items()}
            assert_close(grads, wanted, 1e-10)
            for name, alpha in alphas.items():
                assert float(report.metrics[f"regulation_{name}"]) == pytest.approx(alpha, rel=1e-9)
            with torch.no_grad():
                for key, p in model.named_parameters():
                    p -= rate * (0 if grads[key] is None else grads[key])
            yield epoch, alphas
        method.end_epoch(loop)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_papers_algorithm(count: int) -> None:
    model = Model(count)
    epochs: dict[int, list[dict[str, float]]] = {}
    for epoch, alphas in training(InfoReg(), model, Paper(model), epochs=8, rate=2.0):
        epochs.setdefault(epoch, []).append(alphas)
    regulated = [any(any(alphas.values()) for alphas in steps) for steps in epochs.values()]
    assert regulated[:2] == [False, False]
    assert any(regulated) == (count > 1) and not all(regulated[2:])


def test_the_released_code() -> None:
    model = Model()
    seen = [alphas for _, alphas in training(released(), model, Released(model), epochs=11, rate=1.0)]
    assert any(alphas["audio"] for alphas in seen) and any(alphas["visual"] for alphas in seen)
    assert any(seen[0].values()) and not any(any(alphas.values()) for alphas in seen[-3:])


def test_the_first_commit_never_regulates_the_second_modality() -> None:
    """Its window and its losses are those of heads of their own: without regulation, the uniform baseline."""
    model, batch = Model(), batch_of()
    method, loop = released(threshold=0.04, prediction="head", strength_of_others=0.0), Loop(model, batch, epoch=1)
    method.begin_epoch(loop)
    with torch.no_grad():
        model.heads["visual"].weight.mul_(0.0)
        model.heads["visual"].bias.mul_(0.0)[batch[1][0]] += 9.0  # sure of one class
    step(METHODS["uniform"](), loop, batch)
    wanted = take_grads(model)
    report = step(method, loop, batch)
    assert_close(take_grads(model), wanted, 1e-12)  # at the epoch's first step, nothing has moved yet
    scores = {n: sum(true_class(z, batch[1])) for n, z in model(batch[0]).unimodal.items()}
    stronger = scores["audio"] > scores["visual"]
    assert float(report.metrics["regulation_visual"]) == 0.0
    assert (float(report.metrics["regulation_audio"]) > 0) == stronger


def test_a_run_resumed_in_mid_epoch_continues_bit_for_bit() -> None:
    """With weights that have moved since the epoch began."""
    model, method = Model(), released()
    steps = training(method, model, Released(model), epochs=2)
    for _ in range(5):
        next(steps)
    assert method.start and method.traces["audio"]
    other, loop, batch = released(), Loop(model, batch_of()), batch_of(seed=7)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    other.begin_training(loop)
    step(method, loop, batch)
    wanted = take_grads(model)
    step(other, loop, batch)
    assert_same_state(take_grads(model), wanted)
    for one in (method, other):
        one.end_epoch(loop)
    assert_same_state(other.state_dict(), method.state_dict())
    assert not method.start and len(method.traces["audio"]) == 2


def regulation(logits: Mapping[str, Tensor], labels: Tensor, **options: Any) -> dict[str, float]:
    """Return α in the window, for these predictions."""
    method = InfoReg(**options)
    method.set_epoch(method.modulation_starts)
    encoders = {name: [nn.Parameter(torch.ones(2))] for name in logits}
    loss = sum((p.sum() for (p,) in encoders.values()), torch.zeros(()))
    outputs = SimpleNamespace(contributions=logits)
    metrics = method.backward(loss, {}, encoders=encoders, outputs=outputs, labels=labels).metrics
    return {name: float(metrics[f"regulation_{name}"]) for name in logits}


def test_coefficients_of_three_modalities_by_hand() -> None:
    """Mean log-probabilities of log(1/2), log(1/4) and log(1/8): gaps of 1.5, 1 and 0 times log 2."""
    one, labels = torch.zeros(1, 2), torch.tensor([0])
    logits = {
        "weak": torch.tensor([[0.0, math.log(7)]]),
        "strong": one,
        "middle": torch.tensor([[0.0, math.log(3)]]),
    }
    found = regulation(logits, labels)
    assert found["weak"] == 0
    assert found["strong"] == pytest.approx(math.exp(0.9 * math.tanh(1.5 * math.log(2))), rel=1e-6)
    assert found["middle"] == pytest.approx(math.exp(0.9 * math.tanh(math.log(2))), rel=1e-6)


@pytest.mark.parametrize("score", ["likelihood", "probability"])
def test_edges_of_the_scores(score: str) -> None:
    labels = torch.tensor([0, 0])
    right, wrong, flat = (torch.tensor([[value, 0.0, 0.0]] * 2) for value in (1e4, -1e4, 0.0))
    assert set(regulation({"a": wrong, "b": wrong.clone()}, labels, score=score).values()) == {0.0}
    assert set(regulation({"a": flat, "b": flat, "c": flat}, labels, score=score).values()) == {0.0}
    found = regulation({"a": right, "b": wrong}, labels, score=score, beta=1.0)
    gap = 1.0 if score == "likelihood" else math.tanh(2.0)
    assert found == {"a": pytest.approx(math.exp(gap), rel=1e-6), "b": 0.0}
    half = {"a": torch.full((1, 3), 2.0, dtype=torch.float16), "b": torch.tensor([[1.0, 0, 0]]).bfloat16()}
    found = regulation(half, labels[:1], score=score)
    assert found["a"] == 0 and math.isfinite(found["b"]) and found["b"] > 1


def test_the_trace_is_that_of_unscaled_finite_steps() -> None:
    model, batch = Model(), batch_of()
    cross_entropy(model(batch[0]).joint, batch[1]).backward()
    wanted = {n: sum(float((p.grad**2).sum()) for p in encoder_parameters(model, n).values()) for n in model.modalities}
    model.zero_grad(set_to_none=True)
    method, loop = InfoReg(), Loop(model, batch)
    method.set_epoch(0)
    step(method, loop, batch, scale=1024.0)
    step(method, loop, ({n: x * math.inf for n, x in batch[0].items()}, batch[1]), scale=1024.0)
    method.set_epoch(1)
    for name, value in wanted.items():
        assert method.traces[name] == [pytest.approx(value, rel=1e-9)]


def test_zeroed_predictions_are_those_of_any_fusion() -> None:
    model, batch = Model(3), batch_of(3)
    method, loop = InfoReg(prediction="zeroed", unimodal_loss=True), Loop(model, batch)
    method.begin_training(loop)
    method.set_epoch(0)
    outputs = model(batch[0])
    weights = dict(zip(model.modalities, model.fusion.weight.split(4, dim=1), strict=True))
    alone = {n: x @ weights[n].T + model.fusion.bias for n, x in outputs.features.items()}
    (cross_entropy(outputs.joint, batch[1]) + sum(cross_entropy(z, batch[1]) for z in alone.values())).backward()
    wanted = take_grads(model)
    step(method, loop, batch)
    assert_close(take_grads(model), wanted, 1e-10)
    assert all(g is None for key, g in wanted.items() if key.startswith("heads."))


def test_what_is_missing_is_named() -> None:
    model, batch = Model(), batch_of()
    outputs = model(batch[0])
    joint, unimodal = losses_of(outputs, batch[1])
    encoders = dict(model.encoders.items())
    with pytest.raises(ValueError, match="which trains the heads"):
        InfoReg(prediction="head")
    with pytest.raises(ValueError, match="no sum over modalities"):
        InfoReg().begin_training(SimpleNamespace(network=SimpleNamespace(additive=False)))  # type: ignore[arg-type]
    for given, match in (
        ({"labels": None}, "needs the labels"),
        ({"outputs": None}, "`contributions`"),
        ({"outputs": {"features": {}, "contributions": {}}}, "no sum over modalities"),
        ({"outputs": {"contributions": {"audio": outputs.joint}}}, "prediction of 'visual'"),
    ):
        arguments = {"outputs": outputs, "labels": batch[1]} | given
        with pytest.raises(ValueError, match=match):
            method = InfoReg()
            method.set_epoch(0)
            method.backward(joint, unimodal, encoders=encoders, **arguments)
