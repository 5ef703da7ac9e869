"""G-Blending: weights computed by hand, the gradient of the weighted sum, and the epochs in which it measures."""

import io
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from every_method import NAMES, Loop, Model, assert_close, assert_same_state, batch_of, losses_of, step, take_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpareto.integration.hooks import Trial
from mmpareto.integration.methods.gblending import GBlending, blending_weights
from torch.nn.functional import cross_entropy

# --- the weights -------------------------------------------------------------------------------------------------


def trial_of(fall: float, growth: float) -> Trial:
    """A trial whose validation loss falls by `fall` from 4; its gap to the training loss grows by `growth` from 1."""
    return Trial(3.0, (4.0 - fall) - (1.0 + growth), 4.0, 4.0 - fall)


def test_weights_computed_by_hand() -> None:
    """ΔG = 1, 1/2, 2 and ΔO = 1/2, 1/4, 2: |ΔG|/ΔO² = 4, 8, 1/2, of 25/2."""
    trials = {"joint": trial_of(1.0, 0.5), "audio": trial_of(0.5, 0.25), "visual": trial_of(2.0, 2.0)}
    assert trials["joint"] == Trial(3.0, 1.5, 4.0, 3.0)
    assert blending_weights(trials) == pytest.approx({"joint": 8 / 25, "audio": 16 / 25, "visual": 1 / 25}, rel=1e-15)


eighths = st.integers(-16, 16).map(lambda n: n / 8)


@settings(max_examples=80)
@given(st.lists(st.tuples(eighths, eighths), min_size=1, max_size=7))
def test_weights_match_exact_fractions_and_limits(measured: list[tuple[float, float]]) -> None:
    """ΔO = 0 is the limit of decreasing ΔO > 0, equal for all losses."""
    actual = blending_weights({str(i): trial_of(*m) for i, m in enumerate(measured)})
    tiny = Fraction(1, 10**12)
    raw = [abs(Fraction(g)) / (Fraction(o) or tiny) ** 2 for g, o in measured]
    total = sum(raw)
    wanted = [float(r / total) if total else 1 / len(raw) for r in raw]
    assert list(actual.values()) == pytest.approx(wanted, rel=1e-12, abs=1e-20)
    assert sum(actual.values()) == pytest.approx(1.0, rel=1e-12)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)), min_size=2, max_size=6), st.floats(0.01, 100))
def test_properties_of_the_weights(measured: list[tuple[float, float]], unit: float) -> None:
    """Weights do not depend on the losses' unit, order or constant offset, nor on the signs of ΔG and ΔO."""
    trials = {str(i): trial_of(*m) for i, m in enumerate(measured)}
    weights = blending_weights(trials)
    scaled = {name: Trial(*(unit * x for x in t)) for name, t in trials.items()}
    assert blending_weights(scaled) == pytest.approx(weights, rel=1e-6)
    assert blending_weights(dict(reversed(trials.items()))) == pytest.approx(weights, rel=1e-12)
    shifted = {name: Trial(*(x + 7.0 for x in t)) for name, t in trials.items()}
    assert blending_weights(shifted) == pytest.approx(weights, rel=1e-6)
    backwards = {name: Trial(t[1], t[0], t[3], t[2]) for name, t in trials.items()}
    assert blending_weights(backwards) == pytest.approx(weights, rel=1e-12)


@pytest.mark.parametrize(
    ("trials", "wanted"),
    [
        ({"a": trial_of(1, 0), "b": trial_of(1, 0.5)}, {"a": 1.0, "b": 0.0}),  # no overfitting outweighs all
        ({"a": trial_of(1, 0), "b": trial_of(3, 0), "c": trial_of(9, 1)}, {"a": 0.25, "b": 0.75, "c": 0.0}),
        ({"a": trial_of(0, 1), "b": trial_of(1, 1)}, {"a": 0.0, "b": 1.0}),  # learned nothing
        ({"a": trial_of(0, 0), "b": trial_of(1, 1)}, {"a": 0.0, "b": 1.0}),
        ({"a": trial_of(0, 0), "b": trial_of(0, 1)}, {"a": 0.5, "b": 0.5}),
        ({"a": trial_of(-1, 1), "b": trial_of(1, -1)}, {"a": 0.5, "b": 0.5}),
        ({"a": Trial(1, math.nan, 1, math.nan), "b": trial_of(1, 1)}, {"a": 0.0, "b": 1.0}),  # diverged
        ({"a": Trial(1, math.nan, 1, 0.5), "b": trial_of(1, 1)}, {"a": 0.0, "b": 1.0}),
        ({"a": Trial(1, math.inf, 1, math.inf)}, {"a": 1.0}),
        ({"a": Trial(0, 0, 1e-200, 0), "b": Trial(0, 0, 2e-200, 0)}, {"a": 2 / 3, "b": 1 / 3}),  # 1/ΔO² overflows
        ({"a": Trial(0, 0, 1e200, 0), "b": Trial(0, 0, 2e200, 0)}, {"a": 2 / 3, "b": 1 / 3}),  # ΔO² overflows
    ],
)
def test_edge_cases_of_the_weights(trials: dict[str, Trial], wanted: dict[str, float]) -> None:
    assert blending_weights(trials) == pytest.approx(wanted, rel=1e-12)


# --- the gradient ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 6])
def test_every_gradient_is_that_of_the_weighted_sum(count: int) -> None:
    model, (inputs, labels) = Model(count), batch_of(count)
    weights = {name: 0.3 / (i + 1) for i, name in enumerate(["joint", *NAMES[:count]])}
    method = GBlending()
    method.set_weights(weights)
    report = step(method, Loop(model, (inputs, labels)), (inputs, labels))
    actual = take_grads(model)
    outputs = model(inputs)
    total = weights["joint"] * cross_entropy(outputs.joint, labels)
    for name, logits in outputs.unimodal.items():
        total = total + weights[name] * cross_entropy(logits, labels)
    total.backward()
    assert_close(actual, take_grads(model), 1e-12)
    assert all(g is not None and bool(g.any()) for g in actual.values())
    assert report.losses == list(weights) and bool(report.finite.all())
    assert {key: float(value) for key, value in report.metrics.items()} == {
        f"weight_{n}": w for n, w in weights.items()
    }


def test_a_zero_weight_gives_a_zero_gradient_and_a_nonfinite_loss_is_reported() -> None:
    model, batch = Model(), batch_of()
    method = GBlending()
    method.set_weights({"joint": 0.4, "audio": 0.0, "visual": 0.6})
    outputs = model(batch[0])
    joint, unimodal = losses_of(outputs, batch[1])
    unimodal["visual"] = unimodal["visual"] * math.nan
    report = method.backward(joint, unimodal, encoders=dict(model.encoders.items()))
    grads = take_grads(model)
    assert not any(bool(g.any()) for key, g in grads.items() if key.startswith("heads.audio.") and g is not None)
    assert report.finite.tolist() == [True, True, False]


# --- epochs in which it measures ---------------------------------------------------------------------------------


class Measured(Loop):
    """Records all trials; each trial learns a little more than the previous one."""

    def __init__(self, count: int = 2, epoch: int = 1, epochs: int = 25) -> None:
        super().__init__(Model(count), batch_of(count), epoch)
        self.epochs = epochs
        self.trials: list[tuple[int, str, int]] = []

    def trial(self, loss: str, epochs: int) -> Trial:
        self.trials.append((self.epoch, loss, epochs))
        return trial_of(0.1 * len(self.trials), 0.5)


def run(method: GBlending, loop: Measured, epochs: range) -> list[dict[str, float]]:
    seen = []
    for loop.epoch in epochs:
        method.begin_epoch(loop)
        seen.append(method.weights)
        method.end_epoch(loop)
    return seen


@pytest.mark.parametrize("count", [1, 3])
def test_offline_measures_once_over_the_whole_run(count: int) -> None:
    method, loop = GBlending(), Measured(count)
    seen = run(method, loop, range(1, 26))
    names = ["joint", *NAMES[:count]]
    assert loop.trials == [(1, name, 25) for name in names]
    total = sum(range(1, count + 2))
    assert seen[0] == pytest.approx({name: (i + 1) / total for i, name in enumerate(names)})
    assert all(weights == seen[0] for weights in seen)


def test_online_measures_at_every_interval_over_the_epochs_to_come() -> None:
    method, loop = GBlending(mode="online"), Measured()
    seen = run(method, loop, range(1, 26))
    names = ["joint", "audio", "visual"]
    assert loop.trials == [(epoch, name, n) for epoch, n in ((1, 10), (11, 10), (21, 5)) for name in names]
    changes = [i + 1 for i in range(1, 25) if seen[i] != seen[i - 1]]
    assert changes == [11, 21]
    assert seen[10] == pytest.approx({"joint": 4 / 15, "audio": 5 / 15, "visual": 6 / 15})


@pytest.mark.parametrize(("mode", "when"), [("offline", [1]), ("online", [1, 5, 9])])
def test_the_length_of_trials_can_be_set(mode: str, when: list[int]) -> None:
    method, loop = GBlending(mode=mode, every=4, trial_epochs=3), Measured()
    run(method, loop, range(1, 12))
    assert loop.trials == [(epoch, name, 3) for epoch in when for name in ("joint", "audio", "visual")]


@pytest.mark.parametrize("mode", ["offline", "online"])
@pytest.mark.parametrize("last", [1, 10, 11, 13])
def test_a_resumed_run_measures_as_often_as_an_uninterrupted_one(mode: str, last: int) -> None:
    """The run stops during or after epoch `last`, before the next epoch begins."""
    whole, loop = GBlending(mode=mode), Measured()
    wanted = run(whole, loop, range(1, 26))
    first, second, its_loop = GBlending(mode=mode), GBlending(mode=mode), Measured()
    run(first, its_loop, range(1, last + 1))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    second.begin_training(its_loop)
    assert_same_state(second.state_dict(), first.state_dict())
    assert run(second, its_loop, range(last + 1, 26)) == wanted[last:]
    assert its_loop.trials == loop.trials


def test_an_interrupted_trial_changes_nothing() -> None:
    class Stopped(Measured):
        def trial(self, loss: str, epochs: int) -> Trial:
            if loss == "visual":
                raise KeyboardInterrupt
            return super().trial(loss, epochs)

    method = GBlending(mode="online")
    method.set_weights({"joint": 1.0, "audio": 2.0, "visual": 3.0})
    with pytest.raises(KeyboardInterrupt):
        method.begin_epoch(Stopped())
    assert method.weights == {"joint": 1.0, "audio": 2.0, "visual": 3.0}


def test_weights_that_were_set_are_not_measured_again_offline() -> None:
    method, loop = GBlending(), Measured()
    method.set_weights({"joint": 1, "audio": 2, "visual": 3})
    run(method, loop, range(1, 4))
    assert not loop.trials and method.weights == {"joint": 1.0, "audio": 2.0, "visual": 3.0}


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"mode": "sometimes"}, {"every": 0}, {"trial_epochs": -1}])
def test_bad_options_are_rejected_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        GBlending(**options)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({"joint": -0.1, "audio": 1.0}, "'joint'"),
        ({"joint": 1.0, "audio": math.nan}, "'audio'"),
        ({"joint": math.inf}, "'joint'"),
        ({"joint": 0.0, "audio": 0.0}, "above 0"),
        ({}, "above 0"),
    ],
)
def test_bad_weights_are_rejected(weights: dict[str, float], match: str) -> None:
    method = GBlending()
    with pytest.raises(ValueError, match=match):
        method.set_weights(weights)
    assert method.weights == {}


def test_bad_input_is_rejected_and_leaves_no_gradient() -> None:
    with pytest.raises(ValueError, match="no trials"):
        blending_weights({})
    model, batch = Model(), batch_of()
    loop = Loop(model, batch)
    method = GBlending()
    with pytest.raises(ValueError, match=r"set_weights\(\)"):
        step(method, loop, batch)
    for weights in ({"joint": 1.0, "audio": 1.0}, {"joint": 1.0, "audio": 1.0, "visual": 1.0, "text": 1.0}):
        method.set_weights(weights)
        with pytest.raises(ValueError, match="but the losses are"):
            step(method, loop, batch)
    method.set_weights({"joint": 1.0, "audio": 1.0, "visual": 1.0})
    joint, unimodal = losses_of(model(batch[0]), batch[1])
    with pytest.raises(ValueError, match="'text' has no encoder"):
        method.backward(joint, unimodal | {"text": joint}, encoders=dict(model.encoders.items()))
    assert all(g is None for g in take_grads(model).values())
