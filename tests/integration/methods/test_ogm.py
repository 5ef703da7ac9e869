"""OGM and OGM-GE against their equations, per sample, and the noise against its distribution."""

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import Loop, Model, assert_close, batch_of, losses_of, step, take_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from integration_reference import linear_loss
from mmpareto.integration.methods.ogm import OGM, OGMGE
from mmpareto.models import FUSIONS
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

# --- the equations, one sample at a time -------------------------------------------------------------------------


def score(rows: Sequence[Sequence[float]], labels: Sequence[int]) -> float:
    total = 0.0
    for row, label in zip(rows, labels, strict=True):
        powers = [math.exp(value - max(row)) for value in row]
        total += powers[label] / math.fsum(powers)
    return total


def expected_coefficients(logits: Mapping[str, Tensor], labels: Tensor, alpha: float) -> dict[str, float]:
    scores = {name: score(z.tolist(), labels.tolist()) for name, z in logits.items()}
    result = {}
    for name, own in scores.items():
        others = [value for other, value in scores.items() if other != name]
        ratio = own / (sum(others) / len(others)) if others else 1.0
        result[name] = 1 - math.tanh(alpha * ratio) if ratio > 1 else 1.0
    return result


def joint_gradients(model: Model, batch: tuple[dict[str, Tensor], Tensor]) -> dict[str, Tensor | None]:
    cross_entropy(model(batch[0]).joint, batch[1]).backward()
    return take_grads(model)


def coefficients(method: OGM, logits: Mapping[str, Tensor], labels: Tensor, kind: str = "contributions") -> Any:
    """Return the coefficients for these logits, of encoders with one weight each."""
    encoders = {name: [nn.Parameter(torch.ones(1, 1, 1, 1))] for name in logits}
    loss = sum((p.sum() for (p,) in encoders.values()), torch.zeros(()))
    outputs = SimpleNamespace(**{kind: logits})
    metrics = method.backward(loss, {}, encoders=encoders, outputs=outputs, labels=labels).metrics
    return {name: metrics[f"coefficient_{name}"] for name in logits}


@pytest.mark.parametrize("alpha", [0.1, 0.8, 3.0])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_gradients_of_convolutions_are_multiplied(count: int, alpha: float) -> None:
    model, batch = Model(count), batch_of(count, seed=count)
    with torch.no_grad():
        model.fusion.weight.mul_(20)  # so that the modalities differ in confidence
    wanted = expected_coefficients(model(batch[0]).contributions, batch[1], alpha)
    assert min(wanted.values()) < 0.99 and max(wanted.values()) == 1.0
    expected = joint_gradients(model, batch)
    report = step(OGM(alpha), Loop(model, batch), batch)
    actual = take_grads(model)
    assert len(report) == 0 and report.losses == ["joint"]
    for name, kappa in wanted.items():
        assert float(report.metrics[f"coefficient_{name}"]) == pytest.approx(kappa, rel=1e-10)
        key = f"encoders.{name}.conv.weight"
        torch.testing.assert_close(actual.pop(key), expected.pop(key) * kappa, rtol=1e-10, atol=0)
    for key, gradient in expected.items():  # biases, linear layers, the joint head; None for the unimodal heads
        assert (actual[key] is None) == (gradient is None)
        if gradient is not None:
            assert torch.equal(actual[key], gradient)
            assert not key.startswith("heads")


def test_one_modality_is_joint_training() -> None:
    model, batch = Model(1), batch_of(1)
    expected = joint_gradients(model, batch)
    report = step(OGM(), Loop(model, batch), batch)
    assert float(report.metrics["coefficient_audio"]) == 1.0
    for key, gradient in take_grads(model).items():
        assert (gradient is None) == (expected[key] is None)
        assert gradient is None or torch.equal(gradient, expected[key])


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(0, 10_000), st.floats(1e-3, 1e6), st.floats(1e-3, 1e3), st.sampled_from([32, 64]))
def test_coefficients_are_in_0_to_1_and_those_of_weaker_modalities_are_1(
    count: int, seed: int, spread: float, alpha: float, bits: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float32 if bits == 32 else torch.float64
    labels = torch.randint(4, (6,), generator=generator)
    logits = {f"m{i}": (torch.randn(6, 4, generator=generator) * spread).to(dtype) for i in range(count)}
    actual = coefficients(OGM(alpha), logits, labels)
    scores = {name: score(z.double().tolist(), labels.tolist()) for name, z in logits.items()}
    assert actual[min(scores, key=lambda name: scores[name])] == 1.0
    for name, kappa in actual.items():
        assert kappa.shape == () and 0 < float(kappa.float()) <= 1
        others = [value for other, value in scores.items() if other != name]
        if others and scores[name] > 1.0001 * sum(others) / len(others):
            assert float(kappa) < 1
        if not others or scores[name] < 0.9999 * sum(others) / len(others):
            assert float(kappa) == 1.0


def test_a_ratio_may_be_infinite_or_undefined() -> None:
    right, wrong = torch.tensor([[1e6, 0.0]]), torch.tensor([[0.0, 1e6]])
    labels = torch.tensor([0])
    actual = coefficients(OGM(), {"audio": right, "visual": wrong}, labels)  # ρ = ∞
    assert 0 < float(actual["audio"]) < 1e-37 and float(actual["visual"]) == 1
    actual = coefficients(OGM(), {"audio": wrong, "visual": wrong}, labels)  # ρ = 0/0
    assert float(actual["audio"]) == 1 and float(actual["visual"]) == 1


def test_two_equally_confident_modalities_are_not_slowed() -> None:
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    actual = coefficients(OGM(), {"audio": z, "visual": z.clone()}, torch.zeros(5, dtype=torch.long))
    assert float(actual["audio"]) == 1.0 and float(actual["visual"]) == 1.0


def test_small_coefficients_have_no_cancellation() -> None:
    """With ρ = 2, κ = 1 − tanh(2α) ≈ 2e⁻⁴ᵅ; evaluated as 1 − tanh, this is 0 for α = 10."""
    labels = torch.tensor([0])
    logits = {"audio": torch.tensor([[1e6, 0.0]]), "visual": torch.tensor([[0.0, 0.0]])}
    actual = coefficients(OGM(alpha=10.0), logits, labels)
    assert float(actual["audio"]) == pytest.approx(2 * math.exp(-40), rel=1e-12)


def test_contributions_are_preferred_to_unimodal_logits() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = {name: 3 * torch.randn(7, 3, generator=generator) for name in ("audio", "visual")}
    labels = torch.randint(3, (7,), generator=generator)
    expected = expected_coefficients({name: z.double() for name, z in logits.items()}, labels, 0.8)
    for actual in (coefficients(OGM(), logits, labels), coefficients(OGM(), logits, labels, "unimodal")):
        assert {name: float(kappa) for name, kappa in actual.items()} == pytest.approx(expected, rel=1e-6)
    model, batch = Model(), batch_of()
    outputs = model(batch[0])
    report = OGM().backward(
        losses_of(outputs, batch[1])[0],
        {},
        encoders=dict(model.encoders.items()),
        outputs=outputs._replace(unimodal={name: 100 * z for name, z in outputs.unimodal.items()}),
        labels=batch[1],
    )
    wanted = expected_coefficients(outputs.contributions, batch[1], 0.8)
    assert {name: float(report.metrics[f"coefficient_{name}"]) for name in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("outputs", "labels", "match"),
    [
        (
            SimpleNamespace(contributions={}, unimodal={"audio": torch.zeros(2, 3)}),
            True,
            "--fusion concat, sum or cosine",
        ),
        (SimpleNamespace(unimodal={}), True, "needs the model's outputs.*contributions"),
        (None, True, "needs the model's outputs: pass outputs="),
        (SimpleNamespace(contributions={"visual": torch.zeros(2, 3)}), True, "needs logits of 'audio'"),
        (SimpleNamespace(contributions={"audio": torch.zeros(2, 3)}), False, "needs the labels: pass labels="),
    ],
)
def test_missing_input_is_named(outputs: Any, labels: bool, match: str) -> None:
    weight = nn.Parameter(torch.ones(1, 1, 1, 1))
    for method in (OGM(), OGMGE()):
        with pytest.raises(ValueError, match=match):
            method.backward(
                weight.sum(),
                {},
                encoders={"audio": [weight]},
                outputs=outputs,
                labels=torch.tensor([0, 1]) if labels else None,
            )
        assert weight.grad is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha": 0.0}, "alpha must be a positive number"),
        ({"alpha": math.nan}, "alpha must be a positive number"),
        ({"alpha": math.inf}, "alpha must be a positive number"),
        ({"modulation_starts": -1}, "modulation_starts"),
        ({"modulation_starts": 6, "modulation_ends": 5}, "modulation_ends"),
        ({"modulated": "biases"}, "modulated must be 'convolutions' or 'weights'"),
        ({"score": "unimodal"}, "score must be 'contribution' or 'zeroed'"),
    ],
)
@pytest.mark.parametrize("kind", [OGM, OGMGE])
def test_options_out_of_range_are_rejected(kind: type[OGM], options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        kind(**options)


@pytest.mark.parametrize("kind", [OGM, OGMGE])
def test_it_modulates_only_in_the_chosen_epochs(kind: type[OGM]) -> None:
    """The options count epochs from 0, like the released flags, and the context from 1."""
    model, batch = Model(), batch_of()
    expected = joint_gradients(model, batch)
    key = "encoders.{}.conv.weight"
    modulated = []
    for epoch in range(1, 7):
        method = kind(modulation_starts=1, modulation_ends=3)
        method.begin_epoch(Loop(model, batch, epoch))
        again = kind()
        again.load_state_dict(method.state_dict())  # resumed in mid-epoch: no epoch begins
        same = []
        for each in (method, again):
            report = step(each, Loop(model, batch, epoch), batch)
            actual = take_grads(model)
            same.append(all(torch.equal(actual[key.format(m)], expected[key.format(m)]) for m in model.modalities))
            ones = all(float(kappa) == 1 for kappa in report.metrics.values())
            assert ones == same[-1]
        assert same[0] == same[1]
        if not same[0]:
            modulated.append(epoch)
    assert modulated == [2, 3, 4]
    default = kind()
    states = {}
    for epoch in (1, 51, 52):
        default.begin_epoch(Loop(model, batch, epoch))
        states[epoch] = default.active
    assert states == {1: True, 51: True, 52: False}
    assert kind(modulation_starts=5).active  # always active without the hook


@pytest.mark.parametrize("kind", [OGM, OGMGE])
def test_micro_batches_give_the_coefficients_and_the_noise_of_the_full_batch(kind: type[OGM]) -> None:
    model, (inputs, labels) = Model(3), batch_of(3, size=9)
    whole = step(kind(), Loop(model, (inputs, labels)), (inputs, labels), seed=4)
    expected, method = take_grads(model), kind()
    for start, end in ((0, 2), (2, 9)):
        part = {name: x[start:end] for name, x in inputs.items()}, labels[start:end]
        if end < 9:
            with method.accumulate():
                step(method, Loop(model, part), part, share=2 / 9)
        else:
            report = step(method, Loop(model, part), part, share=7 / 9, seed=4)
    assert_close(take_grads(model), expected, 1e-10)
    for name, kappa in whole.metrics.items():
        torch.testing.assert_close(report.metrics[name], kappa, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [OGM, OGMGE])
def test_a_loss_scale_scales_everything(kind: type[OGM]) -> None:
    model, batch = Model(), batch_of()
    step(kind(), Loop(model, batch), batch, seed=2)
    expected = take_grads(model)
    step(kind(), Loop(model, batch), batch, scale=2.0**16, seed=2)
    actual = {key: None if g is None else g / 2**16 for key, g in take_grads(model).items()}
    assert_close(actual, expected, 1e-12)


# --- as in BalanceBenchmark ----------------------------------------------------------------------------------------


def benchmark_coefficients(logits: Mapping[str, Tensor], labels: Tensor, alpha: float) -> dict[str, float]:
    """Per sample: softmax of the logits' cosines, where the largest logit is that of the true class."""
    scores = {}
    for name, z in logits.items():
        scores[name] = 0.0
        for row, label in zip(z.tolist(), labels.tolist(), strict=True):
            if row[label] == max(row):
                powers = [math.exp(math.cos(value)) for value in row]
                scores[name] += powers[label] / math.fsum(powers)
    ratios = {name: s / (min(scores.values()) + 1e-5) for name, s in scores.items()}
    return {name: max(1 - math.tanh(alpha * ratio), 0.0) if ratio > 1 else 1.0 for name, ratio in ratios.items()}


def test_three_modalities_as_in_balancebenchmark() -> None:
    """Every gradient that is not 1-D; the default differs, and two modalities are compared as by default."""
    model, batch = Model(3), batch_of(3, size=40, seed=1)
    with torch.no_grad():
        model.fusion.weight.mul_(3)
    wanted = benchmark_coefficients(model(batch[0]).contributions, batch[1], 0.3)
    assert sorted(kappa < 1 for kappa in wanted.values()) == [False, True, True]
    expected, method = joint_gradients(model, batch), OGM(**OGM.variants["balancebenchmark"])
    assert (method.modulation_starts, method.modulation_ends) == (10, 80)
    report = step(method, Loop(model, batch), batch)
    actual = take_grads(model)
    for key, gradient in expected.items():
        if gradient is not None:
            acts = key.startswith("encoders.") and gradient.ndim != 1
            factor = wanted[key.split(".")[1]] if acts else 1.0
            torch.testing.assert_close(actual[key], factor * gradient, rtol=1e-9, atol=0)
    for name, kappa in wanted.items():
        assert float(report.metrics[f"coefficient_{name}"]) == pytest.approx(kappa, rel=1e-9)
    contributions = model(batch[0]).contributions
    assert coefficients(OGM(0.3), contributions, batch[1]) != pytest.approx(wanted, rel=0.05)
    two = {name: contributions[name] for name in ("audio", "visual")}
    assert coefficients(OGM(0.3, comparison="balancebenchmark"), two, batch[1]) == coefficients(OGM(0.3), two, batch[1])


def test_a_modality_that_is_never_right_stops_all_others_as_in_balancebenchmark() -> None:
    right, wrong = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    method, labels = OGM(comparison="balancebenchmark"), torch.tensor([0])
    actual = coefficients(method, {"audio": right, "visual": wrong, "text": right}, labels)
    assert float(actual["audio"]) == float(actual["text"]) < 1e-37 and float(actual["visual"]) == 1
    actual = coefficients(method, {"audio": wrong, "visual": wrong, "text": wrong}, labels)
    assert all(float(kappa) == 1 for kappa in actual.values())


# --- what is modulated, and other scores ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [OGM, OGMGE])
def test_weights_of_any_kind_are_modulated_on_request_and_an_encoder_without_any_is_refused(kind: type[OGM]) -> None:
    model, batch = Model(), batch_of(seed=3)
    with torch.no_grad():
        model.fusion.weight.mul_(20)
    wanted = expected_coefficients(model(batch[0]).contributions, batch[1], 0.8)
    assert min(wanted.values()) < 0.99
    expected, shift = joint_gradients(model, batch), {}
    report = step(kind(modulated="weights"), Loop(model, batch), batch)
    actual = take_grads(model)
    for key, gradient in expected.items():
        if key.startswith("encoders.") and gradient is not None:
            kappa = wanted[key.split(".")[1]] if gradient.ndim > 1 else 1.0
            shift[key] = float((actual[key] - kappa * gradient).abs().max())
            assert (shift[key] < 1e-14) == (kind is OGM or gradient.ndim == 1), key  # else the noise
    assert {m: float(report.metrics[f"coefficient_{m}"]) for m in wanted} == pytest.approx(wanted)

    for encoder in model.encoders.values():
        encoder.conv.requires_grad_(False)
    method = kind()
    for call in (
        lambda: method.begin_training(Loop(model, batch)),
        lambda: step(method, Loop(model, batch), batch),
    ):
        with pytest.raises(ValueError, match=r"encoder 'audio' has none.*--modulated weights"):
            call()
    assert all(gradient is None for gradient in take_grads(model).values())


@pytest.mark.parametrize("name", ["film", "gated", "bilinear", "average"])
def test_other_fusions_are_scored_with_the_other_features_zeroed(name: str) -> None:
    """Against the fusion written out by hand, for two modalities: FiLM γ(x)·y + β(x), gated σ(x)·y, and so on."""
    torch.manual_seed(1)
    fusion = FUSIONS[name]({"audio": 4, "visual": 4}, 3).double()
    encoders = {m: nn.Conv2d(1, 4, 1).double() for m in ("audio", "visual")}
    inputs = {m: torch.randn(6, 1, 1, 1, dtype=torch.float64) for m in encoders}
    labels = torch.randint(3, (6,))
    features = {m: encoder(inputs[m]).flatten(1) for m, encoder in encoders.items()}
    a, v, none = features["audio"], features["visual"], torch.zeros(6, 4, dtype=torch.float64)
    weights = dict(fusion.named_parameters())

    def linear(layer: str, x: Tensor) -> Tensor:
        return x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]

    def by_hand(x: Tensor, y: Tensor) -> Tensor:
        if name == "film":
            film = linear("fc", x)
            return linear("fc_out", film[:, :4] * y + film[:, 4:])
        if name == "gated":
            return linear("fc_out", torch.sigmoid(linear("fc.audio", x)) * linear("fc.visual", y))
        if name == "bilinear":
            return linear("fc_out", linear("fc", torch.einsum("bi,bj->bij", x, y).reshape(6, 16)))
        return torch.log((linear("fc.audio", x).softmax(1) + linear("fc.visual", y).softmax(1)) / 2)

    wanted = expected_coefficients({"audio": by_hand(a, none), "visual": by_hand(none, v)}, labels, 0.8)
    joint = cross_entropy(fusion(features), labels)
    arguments = {"encoders": encoders, "outputs": {"features": features}, "labels": labels}
    method = OGM(score="zeroed")
    with pytest.raises(ValueError, match=r"needs the fusion: call use_fusion\(\)"):
        method.backward(joint, {}, **arguments)
    with pytest.raises(ValueError, match="needs the features"):
        method.backward(joint, {}, **arguments | {"outputs": {"joint": joint}})
    method.begin_training(SimpleNamespace(network=SimpleNamespace(fusion=fusion, additive=False)))
    report = method.backward(joint, {}, **arguments)
    assert {m: float(report.metrics[f"coefficient_{m}"]) for m in wanted} == pytest.approx(wanted, rel=1e-10)
    with pytest.raises(ValueError, match="--score zeroed"):
        OGM().begin_training(SimpleNamespace(network=SimpleNamespace(fusion=fusion, additive=False)))


# --- the noise ---------------------------------------------------------------------------------------------------


class Noise:
    """One step of OGM-GE on encoders with given gradients; `audio` is more confident than `visual`."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], *, seed: int = 0, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(10)
        self.parameters = {
            name: [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]
            for name in ("audio", "visual")
        }
        self.gradients = {
            name: [
                (i + 1) * (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5) * scale
                for i, shape in enumerate(shapes)
            ]
            for name in self.parameters
        }
        self.method = OGMGE(alpha=2.0)
        self.logits = {"audio": torch.tensor([[2.0, 0.0]]), "visual": torch.tensor([[0.0, 0.0]])}
        self.kappa = expected_coefficients(self.logits, torch.tensor([0]), 2.0)
        self.added = self.step(seed)

    def step(self, seed: int) -> dict[str, list[Tensor]]:
        """Return `.grad` minus κ·gradient for 4-D weights, and `.grad` minus the gradient for others."""
        loss = sum(
            (linear_loss(self.parameters[name], self.gradients[name]) for name in self.parameters), torch.zeros(())
        )
        torch.manual_seed(seed)
        self.method.backward(
            loss,
            {},
            encoders=self.parameters,
            outputs=SimpleNamespace(contributions=self.logits),
            labels=torch.tensor([0]),
        )
        added: dict[str, list[Tensor]] = {}
        for name, own in self.parameters.items():
            for p, g in zip(own, self.gradients[name], strict=True):
                assert p.grad is not None
                added.setdefault(name, []).append(p.grad - (g * self.kappa[name] if g.ndim == 4 else g))
                p.grad = None
        return added


def test_noise_is_gaussian_with_the_standard_deviation_of_the_gradient_before_modulation() -> None:
    case = Noise([(40, 20, 5, 5), (30, 20, 5, 5)])
    assert case.kappa["audio"] < 0.1 and case.kappa["visual"] == 1.0
    drawn = []
    for name, noises in case.added.items():  # including the weaker modality
        for noise, gradient in zip(noises, case.gradients[name], strict=True):
            n = noise.numel()
            mean = float(gradient.sum()) / n
            std = math.sqrt(float(((gradient - mean) ** 2).sum()) / (n - 1))
            z = (noise / std).flatten()
            assert abs(float(z.mean())) < 5 / math.sqrt(n)
            assert abs(float(z.square().mean()) - 1) < 5 * math.sqrt(2 / n)
            assert abs(float((z**4).mean()) - 3) < 5 * math.sqrt(96 / n)
            for bound in (0.5, 1.0, 2.0):
                share = math.erf(bound / math.sqrt(2))
                assert abs(float((z.abs() < bound).double().mean()) - share) < 5 * math.sqrt(share * (1 - share) / n)
            centred = (gradient - mean).flatten() / std
            assert abs(float((z * centred).mean())) < 5 / math.sqrt(n)  # independent of the gradient
            drawn.append(z[:15000])
    together = torch.stack(drawn)
    products = together @ together.T / together.shape[1]
    off = products - products.diagonal().diag()
    assert float(off.abs().max()) < 5 / math.sqrt(together.shape[1])  # independent between tensors


def test_noise_comes_from_the_generator_and_differs_between_steps() -> None:
    case = Noise([(4, 3, 2, 2)])
    again, other = case.step(0)["audio"][0], case.step(1)["audio"][0]
    assert torch.equal(again, case.added["audio"][0])
    assert not bool((other == again).any())


def test_only_4d_tensors_get_noise() -> None:
    case = Noise([(), (6,), (6, 5), (6, 5, 3), (6, 5, 3, 2), (6, 2, 2, 2, 2)])
    for noises in case.added.values():
        for noise in noises:
            assert bool(noise.all()) if noise.ndim == 4 else not bool(noise.any())


def test_gradients_without_spread_get_no_noise_at_any_size() -> None:
    """A weight with one element; and tiny gradients, whose noise is equally tiny."""
    assert all(abs(float(noise[0])) < 1e-14 for noise in Noise([(1, 1, 1, 1)]).added.values())
    tiny, plain = Noise([(4, 3, 2, 2)], scale=1e-30), Noise([(4, 3, 2, 2)])
    torch.testing.assert_close(tiny.added["visual"][0] * 1e30, plain.added["visual"][0], rtol=1e-9, atol=1e-12)


def test_noise_of_half_precision_weights_is_computed_in_float32() -> None:
    weight = nn.Parameter(torch.zeros(8, 8, 3, 3, dtype=torch.bfloat16))
    gradient = (torch.rand(8, 8, 3, 3, generator=torch.Generator().manual_seed(0)) + 0.5).bfloat16()
    torch.manual_seed(0)
    OGMGE().backward(
        (weight * gradient).sum(),
        {},
        encoders={"audio": [weight]},
        outputs=SimpleNamespace(contributions={"audio": torch.zeros(2, 3)}),
        labels=torch.tensor([0, 1]),
    )
    assert weight.grad is not None and weight.grad.dtype == torch.bfloat16
    spread = float((weight.grad.double() - gradient.double()).std() / gradient.double().std())
    assert abs(spread - 1) < 5 / math.sqrt(2 * weight.numel()) + 0.01
