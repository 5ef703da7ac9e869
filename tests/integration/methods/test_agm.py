"""AGM against its equations: Shapley values from permutations, scores per sample, averages over all steps."""

import copy
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from every_method import assert_close, assert_same_state, take_grads
from mmpareto.integration.methods.agm import AGM, shapley_values
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

NAMES = ("audio", "visual", "text", "depth", "touch", "flow")
Batch = tuple[dict[str, Tensor], Tensor]


class Outputs(NamedTuple):
    joint: Tensor


class Encoder(nn.Module):
    """Map 2×4×4 to 3 features, with parameter tensors of 0, 1, 2 and 4 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.2))
        self.conv = nn.Conv2d(2, 2, 3)
        self.layer = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.layer(torch.tanh(self.conv(x)).flatten(1))


class Model(nn.Module):
    """A fusion in which the modalities interact, so that the logits are not a sum over modalities."""

    def __init__(self, count: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(count)
            self.encoders = nn.ModuleDict({name: Encoder() for name in NAMES[:count]})
            self.fusion = nn.Linear(3 * count, 6)
            self.head = nn.Linear(6, 3)
        self.double()
        with torch.no_grad():
            self.head.weight.mul_(6)

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        features = [encoder(inputs[name]) for name, encoder in self.encoders.items()]
        return Outputs(self.head(torch.tanh(2 * self.fusion(torch.cat(features, 1)))))


def batch_of(count: int, seed: int = 0, size: int = 7) -> Batch:
    generator = torch.Generator().manual_seed(50 + seed)
    inputs = {name: torch.randn(size, 2, 4, 4, generator=generator, dtype=torch.float64) for name in NAMES[:count]}
    return inputs, torch.randint(3, (size,), generator=generator)


def step(
    method: AGM, model: Model, batch: Batch, share: float = 1.0, scale: float | None = None, observe: bool = True
) -> dict[str, float]:
    """Take one step, and return the coefficients by modality."""
    inputs, labels = batch
    if observe:
        method.observe(model, inputs, labels)
    loss = share * cross_entropy(model(inputs).joint, labels)
    report = method.backward(loss, {}, encoders=dict(model.encoders.items()), scale=scale)
    return {name.removeprefix("coefficient_"): float(kappa) for name, kappa in report.metrics.items()}


# --- the equations -----------------------------------------------------------------------------------------------


def permuted_shapley(
    eval_forward: Callable[[dict[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Mean over all orders of the change that adding a modality makes; the empty coalition has the value 0."""
    known: dict[frozenset[str], Tensor] = {}

    def value(coalition: frozenset[str]) -> Tensor:
        if coalition not in known:
            known[coalition] = eval_forward({name: x * (name in coalition) for name, x in inputs.items()})
        return known[coalition]

    orders = list(itertools.permutations(inputs))
    total = dict.fromkeys(inputs, torch.zeros((), dtype=torch.float64))
    for order in orders:
        coalition: frozenset[str] = frozenset()
        for name in order:
            larger = coalition | {name}
            total[name] = total[name] + (value(larger) - (value(coalition) if coalition else 0.0))
            coalition = larger
    return {name: x / len(orders) for name, x in total.items()}


def expected_scores(model: Model, batch: Batch) -> dict[str, float]:
    inputs, labels = batch
    with torch.no_grad():
        values = permuted_shapley(lambda given: model(given).joint, inputs)
    scores = {}
    for name, phi in values.items():
        losses = []
        for row, label in zip(phi.tolist(), labels.tolist(), strict=True):
            losses.append(math.log(math.fsum(math.exp(z) for z in row)) - row[label])
        scores[name] = math.fsum(losses) / len(losses)
    return scores


def expected_coefficients(
    scores: Mapping[str, float], past: Sequence[Mapping[str, float]], alpha: float, limit: float, ratio: str
) -> dict[str, float]:
    sign = 1 if ratio == "paper" else -1

    def strength(s: Mapping[str, float], name: str) -> float:
        differences = [s[name] - s[other] for other in s if other != name]
        return math.exp(sign * sum(differences) / len(differences)) if differences else 1.0

    averages = {name: sum(old[name] for old in past) / len(past) if past else 0.0 for name in scores}
    return {name: math.exp(alpha * min(strength(averages, name) - strength(scores, name), limit)) for name in scores}


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (1, {}),
        (2, {}),
        (2, {"ratio": "paper", "alpha": 0.3}),
        (3, {"alpha": 2.0, "limit": 0.05}),
        (3, {"ratio": "paper", "limit": math.inf}),
        (6, {}),
    ],
)
def test_coefficients_and_gradients_follow_the_equations_over_several_steps(count: int, options: Any) -> None:
    model, method = Model(count), AGM(**options)
    chosen = {"alpha": 1.0, "limit": 7.0, "ratio": "released"} | options
    past: list[dict[str, float]] = []
    for number in range(4 if count < 6 else 2):
        batch = batch_of(count, seed=number, size=5 + number)  # averages are over steps of any size
        scores = expected_scores(model, batch)
        wanted = expected_coefficients(scores, past, **chosen)
        assert count == 1 or max(wanted.values()) / min(wanted.values()) > 1.01
        cross_entropy(model(batch[0]).joint, batch[1]).backward()
        plain = take_grads(model)
        assert step(method, model, batch) == pytest.approx(wanted, rel=1e-9)
        for key, gradient in take_grads(model).items():
            assert gradient is not None and plain[key] is not None
            _, name, *_ = key.split(".")
            if key.startswith("encoders.") and gradient.ndim != 1:
                torch.testing.assert_close(gradient, plain[key] * wanted[name], rtol=1e-9, atol=1e-15)
            else:
                assert torch.equal(gradient, plain[key]), key
        past.append(scores)
        averages = {name: sum(old[name] for old in past) / len(past) for name in scores}
        assert {name: float(x) for name, x in method.averages.items()} == pytest.approx(averages, rel=1e-9)
    assert float(method.steps) == len(past)


def test_one_modality_is_joint_training() -> None:
    model, batch = Model(1), batch_of(1)
    cross_entropy(model(batch[0]).joint, batch[1]).backward()
    plain = take_grads(model)
    method = AGM()
    for _ in range(2):
        assert step(method, model, batch) == {"audio": 1.0}
        assert_same_state(take_grads(model), plain)


# --- Shapley values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_shapley_values_are_means_over_all_orders_and_sum_to_the_logits(count: int) -> None:
    model, (inputs, _) = Model(count), batch_of(count)
    seen = []

    def eval_forward(given: Mapping[str, Tensor]) -> Tensor:
        seen.append(frozenset(name for name, x in given.items() if bool(x.any())))
        assert all(bool((x == 0).all()) or torch.equal(x, inputs[name]) for name, x in given.items())
        return model(given).joint

    with torch.no_grad():
        actual = shapley_values(eval_forward, inputs)
        expected = permuted_shapley(lambda given: model(given).joint, inputs)
        whole = model(inputs).joint
    assert len(seen) == len(set(seen)) == 2**count - 1 and frozenset() not in seen
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.stack([*actual.values()]).sum(0), whole, rtol=1e-10, atol=1e-12)


def test_two_modalities_give_the_mono_modal_responses_of_the_paper() -> None:
    model, (inputs, _) = Model(2), batch_of(2)
    a, v = inputs["audio"], inputs["visual"]
    with torch.no_grad():
        actual = shapley_values(lambda given: model(given).joint, inputs)
        both = model(inputs).joint
        only_a = model({"audio": a, "visual": 0 * v}).joint
        only_v = model({"audio": 0 * a, "visual": v}).joint
    torch.testing.assert_close(actual["audio"], (both - only_v + only_a) / 2)
    torch.testing.assert_close(actual["visual"], (both - only_a + only_v) / 2)


def test_equal_modalities_have_equal_shapley_values_and_an_unused_one_zero() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = {"one": x, "two": x.clone(), "three": 2 * x, "idle": torch.ones(4, 3, dtype=torch.float64)}

    def eval_forward(given: Mapping[str, Tensor]) -> Tensor:
        return (given["one"] + given["two"]).tanh() * (1 + given["three"]) + given["three"] ** 3

    actual = shapley_values(eval_forward, inputs)
    torch.testing.assert_close(actual["one"], actual["two"])
    assert float(actual["idle"].abs().max()) < 1e-14
    assert float((actual["three"] - actual["one"]).abs().max()) > 0.1


# --- effect of the coefficients ----------------------------------------------------------------------------------


def test_the_default_is_the_sign_that_the_author_confirms() -> None:
    variants = {name: AGM(**options) for name, options in AGM.variants.items()}
    assert list(variants) == ["corrected", "paper", "released"]
    assert [AGM().ratio, *(method.ratio for method in variants.values())] == ["released"] * 2 + ["paper", "released"]
    neutral = (0.0, None, "observed", None)
    for method in (AGM(), variants["corrected"], variants["paper"]):
        assert (method.floor, method.modulation_ends, method.response, method.clip_above) == neutral


def lone_step(method: AGM, scores: Mapping[str, float], loss: float = 1.0) -> dict[str, float]:
    """Take a step in which the Shapley value φ of modality k has −log softmax(φ)[0] = scores[k]."""
    names = list(scores)
    weights = {name: nn.Parameter(torch.ones(1, 1)) for name in names}
    logits = {name: _logits(score) for name, score in scores.items()}

    def eval_forward(given: Mapping[str, Tensor]) -> Any:
        return SimpleNamespace(joint=torch.stack([logits[name] * given[name] for name in names]).sum(0))

    method.observe(eval_forward, {name: torch.ones(1, 1, dtype=torch.float64) for name in names}, torch.tensor([0]))
    joint = loss * torch.stack([w.sum() for w in weights.values()]).sum()
    report = method.backward(joint, {}, encoders={name: [w] for name, w in weights.items()})
    return {name: float(report.metrics[f"coefficient_{name}"]) for name in names}


def _logits(score: float) -> Tensor:
    """Logits (1, 2) whose loss for class 0 is `score`; where logits are additive, they are the Shapley value."""
    return torch.tensor([[0.0, score + math.log(-math.expm1(-score))]], dtype=torch.float64)


def test_ratio_determines_which_modality_is_slowed() -> None:
    ahead = {"audio": 0.5, "visual": 1.5}  # audio has the lower cross-entropy
    r = math.exp(1.0)
    printed, released = lone_step(AGM(ratio="paper"), ahead), lone_step(AGM(), ahead)
    assert printed == pytest.approx({"audio": math.exp(1 - 1 / r), "visual": math.exp(1 - r)})
    assert released == pytest.approx({"audio": math.exp(1 - r), "visual": math.exp(1 - 1 / r)})
    assert printed["audio"] > 1 > printed["visual"] and released["visual"] > 1 > released["audio"]


def test_constant_scores_do_not_change_gradients_from_the_second_step_on() -> None:
    method, scores = AGM(), {"audio": 0.5, "visual": 1.5, "text": 0.9}
    lone_step(method, scores)
    for _ in range(3):
        assert lone_step(method, scores) == pytest.approx(dict.fromkeys(scores, 1.0), rel=1e-12)


def test_the_limit_bounds_the_coefficients() -> None:
    method = AGM(alpha=2.0, limit=0.5)
    lone_step(method, {"audio": 0.1, "visual": 8.0})
    actual = lone_step(method, {"audio": 8.0, "visual": 0.1})
    assert actual["audio"] == pytest.approx(math.exp(2.0 * 0.5)) and 0 <= actual["visual"] < 1


def test_scores_of_any_size_give_finite_coefficients() -> None:
    method, far = AGM(), {"audio": 5000.0, "visual": 1e-3}
    for scores in (far, far, {"audio": 1e-3, "visual": 5000.0}, {"audio": 1.0, "visual": 1.0}):
        actual = lone_step(method, scores)
        assert all(math.isfinite(kappa) and 0 <= kappa <= math.exp(7) * (1 + 1e-12) for kappa in actual.values())


def test_a_score_is_capped_where_the_true_class_is_less_likely_than_the_floor() -> None:
    floor = 1e-8
    for score, capped in ((30.0, -math.log(floor)), (17.0, 17.0)):
        actual = lone_step(AGM(floor=floor, alpha=0.01, limit=math.inf), {"audio": 0.5, "visual": score})
        assert actual["audio"] == pytest.approx(math.exp(0.01 * (1 - math.exp(capped - 0.5))), rel=1e-9)


def test_the_last_coefficients_are_kept_after_the_last_epoch() -> None:
    method = AGM(modulation_ends=1)
    first = {"audio": 0.5, "visual": 1.5}
    for epoch, scores in enumerate([first, {"audio": 1.0, "visual": 1.2}, {"audio": 3.0, "visual": 0.1}, first]):
        method.set_epoch(epoch)
        actual = lone_step(method, scores)
        if epoch == 1:
            last = actual
            assert last != {"audio": 1.0, "visual": 1.0}
        if epoch > 1:
            assert actual == last
        resumed = AGM(modulation_ends=1)  # in mid-epoch: no epoch begins
        resumed.load_state_dict(method.state_dict())
        assert resumed.active == (epoch <= 1) and resumed.kept == method.kept
    method.set_epoch(0)
    assert lone_step(method, {"audio": 3.0, "visual": 0.1}) != last


def test_a_state_of_before_these_options_loads() -> None:
    method = AGM()
    method.load_state_dict({"averages": {"audio": torch.tensor(1.0)}, "steps": torch.tensor(3.0)})
    assert method.active and method.kept == {} and float(method.steps) == 3


# --- as released -------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """Two small encoders with BatchNorm, and a fusion in which the modalities interact; float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        names = ("audio", "visual")
        parts = {n: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4)) for n in names}
        self.encoders, self.fusion = nn.ModuleDict(parts), nn.Linear(8, 3)
        self.double()

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        a, v = (self.encoders[name](inputs[name]) for name in ("audio", "visual"))
        return Outputs(self.fusion(torch.cat([a, v + 0.5 * torch.tanh(a * v)], 1)))


class Context:
    """Counts the passes, and whether each is in evaluation mode and has a graph."""

    def __init__(self, network: Network, epoch: int = 1) -> None:
        self.network, self.epoch, self.passes = network, epoch, []

    def eval_forward(self, inputs: Mapping[str, Tensor], graph: bool = False) -> Outputs:
        self.network.eval()
        with torch.set_grad_enabled(graph):
            outputs = self.network(inputs)
        self.network.train()
        self.passes.append(graph)
        return outputs


def as_released(
    network: Network, batch: Batch, past: list[list[float]], alpha: float, limit: float, norm: float
) -> Any:
    """κ and the gradients, by autograd through φ_k whose gradient alone is multiplied, and PyTorch's own clipping."""
    inputs, labels = batch
    network.train()
    both = network(inputs).joint
    network.eval()
    only_a = network({"audio": inputs["audio"], "visual": 0 * inputs["visual"]}).joint
    only_v = network({"audio": 0 * inputs["audio"], "visual": inputs["visual"]}).joint
    network.train()
    responses = [(both - only_v + only_a) / 2, (both - only_a + only_v) / 2]
    scores = []
    for phi in responses:
        p = phi.detach().softmax(1)
        scores.append(sum(-math.log(max(float(p[i, y]), 1e-8)) for i, y in enumerate(labels.tolist())) / len(labels))
    mean = [sum(old[k] for old in past) / len(past) if past else 0.0 for k in (0, 1)]
    past.append(scores)
    kappa = []
    for k in (0, 1):
        now, usual = math.exp(scores[1 - k] - scores[k]), math.exp(mean[1 - k] - mean[k])
        kappa.append(math.exp(alpha * min(usual - now, limit)))
    modulated = [k * phi + (1 - k) * phi.detach() for k, phi in zip(kappa, responses, strict=True)]
    cross_entropy(modulated[0] + modulated[1], labels).backward()
    weight = network.fusion.weight.grad
    clipped = bool(weight.max() > norm or weight.min() < -norm)
    if clipped:
        nn.utils.clip_grad_norm_(network.parameters(), norm)
    return dict(zip(("audio", "visual"), kappa, strict=True)), take_grads(network), clipped


@pytest.mark.parametrize(("clip_above", "ever_clipped"), [(1.0, False), (0.05, True)])
def test_the_variant_released_is_the_released_computation(clip_above: float, ever_clipped: bool) -> None:
    network, twin, past, clipped = Network(), Network(), [], set()
    options = {**AGM.variants["released"], "alpha": 1.5, "clip_above": clip_above}
    method = AGM(**options)
    for number in range(4):
        generator = torch.Generator().manual_seed(number)
        scale = 1.0 if number else 30.0  # scores beyond the cap
        inputs = {n: scale * torch.randn(7, 5, generator=generator, dtype=torch.float64) for n in ("audio", "visual")}
        batch = inputs, torch.randint(3, (7,), generator=generator)
        wanted, expected, is_clipped = as_released(twin, batch, past, 1.5, 10.0, clip_above)
        clipped.add(is_clipped)
        context = Context(network)
        method.begin_epoch(context)
        method.before_forward(context, *batch)
        assert context.passes == []  # they follow the pass that is descended
        outputs = network(inputs)
        arguments = {"encoders": dict(network.encoders.items()), "outputs": outputs, "scale": 2.0 ** (10 * number)}
        report = method.backward(cross_entropy(outputs.joint, batch[1]), {}, **arguments)
        assert context.passes == [True, True]
        assert {n: float(report.metrics[f"coefficient_{n}"]) for n in wanted} == pytest.approx(wanted, rel=1e-9)
        actual = {key: g / 2.0 ** (10 * number) for key, g in take_grads(network).items() if g is not None}
        assert_close(actual, expected, 1e-9)
        assert_same_state(dict(network.named_buffers()), dict(twin.named_buffers()))
    assert (True in clipped) == ever_clipped


def test_coefficients_of_1_are_joint_training_whatever_the_response() -> None:
    """The Shapley values of a network sum to its logits, so κ = 1 leaves the gradient of the joint loss."""
    network, (inputs, labels) = Network(), ({n: torch.randn(6, 5).double() for n in ("audio", "visual")}, None)
    labels = torch.randint(3, (6,))
    method = AGM(alpha=1e-12, response="descended")
    outputs = network(inputs)
    cross_entropy(outputs.joint, labels).backward(retain_graph=True)
    expected = take_grads(network)
    method.before_forward(Context(network), inputs, labels)
    method.backward(cross_entropy(outputs.joint, labels), {}, encoders=dict(network.encoders.items()), outputs=outputs)
    assert_close(take_grads(network), expected, 1e-9)


def test_descended_responses_need_the_whole_batch_and_the_logits() -> None:
    network, method = Network(), AGM(**AGM.variants["released"])
    inputs, labels = {n: torch.randn(6, 5).double() for n in ("audio", "visual")}, torch.randint(3, (6,))
    assert method.needs_whole_batch and not AGM().needs_whole_batch
    outputs = network(inputs)
    joint, encoders = cross_entropy(outputs.joint, labels), dict(network.encoders.items())
    with pytest.raises(ValueError, match=r"call observe\(\)"):
        method.backward(joint, {}, encoders=encoders, outputs=outputs)
    other = network(inputs)
    for match, wrong in (("needs outputs.joint", None), ("does not depend on outputs.joint", other)):
        method.before_forward(Context(network), inputs, labels)
        with pytest.raises(ValueError, match=match):
            method.backward(joint, {}, encoders=encoders, outputs=wrong)
    method.before_forward(Context(network), inputs, labels)
    with pytest.raises(ValueError, match="whole batch at once"), method.accumulate():
        method.backward(joint, {}, encoders=encoders, outputs=outputs)
    assert all(g is None for g in take_grads(network).values())


# --- steps and state ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
def test_micro_batches_give_the_full_batch(count: int) -> None:
    model, whole, other = Model(count), AGM(), AGM()
    for number in range(2):
        inputs, labels = batch_of(count, seed=number, size=9)
        expected = step(whole, model, (inputs, labels))
        gradients = take_grads(model)
        parts = [
            ({name: x[a:b] for name, x in inputs.items()}, labels[a:b]) for a, b in itertools.pairwise((0, 2, 3, 9))
        ]
        with other.accumulate():
            for part in parts[:-1]:
                assert step(other, model, part, len(part[1]) / 9) == {}
        assert float(other.steps) == number  # once per step
        assert step(other, model, parts[-1], 6 / 9) == pytest.approx(expected, rel=1e-10)
        assert_close(take_grads(model), gradients, 1e-10)
        for name, average in whole.averages.items():
            torch.testing.assert_close(other.averages[name], average, rtol=1e-12, atol=0)
        assert float(other.steps) == number + 1


def test_a_loss_scale_changes_neither_coefficients_nor_state() -> None:
    model, one, two = Model(2), AGM(), AGM()
    for number in range(2):
        expected = step(one, model, batch_of(2, number))
        gradients = take_grads(model)
        assert step(two, model, batch_of(2, number), scale=2.0**16) == expected
        assert_close({k: g / 2**16 for k, g in take_grads(model).items() if g is not None}, gradients, 1e-12)
    assert_same_state(two.state_dict(), one.state_dict())


def test_the_state_survives_bit_for_bit() -> None:
    model, method = Model(3), AGM()
    for number in range(3):
        step(method, model, batch_of(3, number))
    take_grads(model)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    fresh = AGM()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for number in range(3, 6):
        expected = step(method, model, batch_of(3, number))
        gradients = take_grads(model)
        assert step(fresh, model, batch_of(3, number)) == expected
        assert_same_state(take_grads(model), gradients)
    assert_same_state(fresh.state_dict(), method.state_dict())


def test_a_saved_state_does_not_change_afterwards() -> None:
    model, method = Model(2), AGM()
    step(method, model, batch_of(2))
    taken = method.state_dict()
    kept = copy.deepcopy(taken)
    step(method, model, batch_of(2, 1))
    assert_same_state(taken, kept)


def test_nonfinite_steps_do_not_change_the_state() -> None:
    model, method = Model(2), AGM()
    step(method, model, batch_of(2))
    take_grads(model)
    before = {name: float(x) for name, x in method.averages.items()}

    inputs, labels = batch_of(2, 1)
    inputs["audio"] = inputs["audio"] * math.nan
    step(method, model, (inputs, labels))
    actual = take_grads(model)
    assert not any(bool(g.isfinite().all()) for key, g in actual.items() if g is not None and "audio" in key)
    assert {name: float(x) for name, x in method.averages.items()} == before and float(method.steps) == 1

    # Only a response is not finite: losses and gradients are finite, and the step counts.
    batch = batch_of(2, 1)
    cross_entropy(model(batch[0]).joint, batch[1]).backward()
    plain = take_grads(model)
    method.observe(lambda given: Outputs(model(given).joint * math.inf), *batch)
    assert step(method, model, batch, observe=False) == {"audio": 1.0, "visual": 1.0}
    assert_same_state(take_grads(model), plain)
    assert {name: float(x) for name, x in method.averages.items()} == before and float(method.steps) == 1

    # Only the gradients are not finite, as with a loss scale that is too large.
    step(method, model, batch, scale=math.inf)
    assert {name: float(x) for name, x in method.averages.items()} == before and float(method.steps) == 1


def test_every_backward_needs_its_own_observation() -> None:
    model, method = Model(2), AGM()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"call observe\(\)"):
            step(method, model, batch_of(2), observe=False)
        assert all(g is None for g in take_grads(model).values())
        step(method, model, batch_of(2))
        take_grads(model)


def test_an_encoder_that_was_not_observed_is_named() -> None:
    model, method, (inputs, labels) = Model(2), AGM(), batch_of(2)
    method.observe(lambda given: model({"visual": inputs["visual"], **given}), {"audio": inputs["audio"]}, labels)
    with pytest.raises(ValueError, match=r"'visual'.*pass its inputs"):
        step(method, model, (inputs, labels), observe=False)


def test_the_hook_observes_with_eval_forward_without_a_graph() -> None:
    model, batch, calls = Model(2), batch_of(2), []

    def eval_forward(given: Mapping[str, Tensor]) -> Outputs:
        calls.append(torch.is_grad_enabled())
        return model(given)

    method, other = AGM(), AGM()
    assert method.before_forward(SimpleNamespace(eval_forward=eval_forward), *batch) == {}
    assert calls == [False] * 3
    assert step(method, model, batch, observe=False) == step(other, model, batch)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha": 0.0}, "alpha must be a positive number"),
        ({"alpha": math.inf}, "alpha must be a positive number"),
        ({"limit": 0.0}, "limit must be a positive number"),
        ({"limit": math.nan}, "limit must be a positive number"),
        ({"ratio": "both"}, "ratio must be 'paper' or 'released'"),
        ({"floor": 1.0}, "floor must be at least 0 and below 1"),
        ({"modulation_ends": -1}, "modulation_ends must be at least 0"),
        ({"response": "both"}, "response must be 'observed' or 'descended'"),
        ({"clip_above": 0.0}, "clip_above must be a positive number"),
    ],
)
def test_options_out_of_range_are_rejected(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        AGM(**options)


def test_it_needs_the_joint_loss() -> None:
    model, method = Model(2), AGM()
    method.observe(model, *batch_of(2))
    with pytest.raises(ValueError, match="AGM descends the joint loss"):
        method.backward(None, {}, encoders=dict(model.encoders.items()))
