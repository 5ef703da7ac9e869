"""Greedy: M and windows against an independent derivation, and the gradients of a held modality in a network."""

import copy
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integration_reference import linear_loss
from mmpareto import Greedy
from mmpareto.integration.report import Report
from mmpareto.models import FUSIONS
from mmpareto.models.mmtm import MMTM
from mmpareto.models.network import MultimodalNetwork, Outputs
from tiny_encoder import TinyEncoder
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

NAMES = ("audio", "visual", "text")
NEVER = 1e9  # a threshold that nothing exceeds

# --- parameters with given gradients -----------------------------------------------------------------------------


class Rig:
    """Two tensors per encoder, one tensor per modality's gates, and one that all gates share; float64."""

    def __init__(self, count: int = 2, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.names = NAMES[:count]
        self.encoders = {name: [self._weight(3, 2), self._weight(3)] for name in self.names}
        self.gates = {name: [self._weight(4)] for name in self.names}
        self.shared = [self._weight(2, 2)]

    def _weight(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(self.random(*shape) + 0.1)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    @property
    def parameters(self) -> list[nn.Parameter]:
        own = [p for group in (self.encoders, self.gates) for parameters in group.values() for p in parameters]
        return [*own, *self.shared]

    def watched(self) -> dict[str, list[nn.Parameter]]:
        return {name: [*self.shared, *self.gates[name]] for name in self.names}

    def method(self, *args: Any, **options: Any) -> Greedy:
        made = Greedy(*args, **options)
        made.watch(self.watched())
        return made

    def draw(self) -> list[Tensor]:
        """Draw a gradient for each parameter; sizes differ by up to a factor of a thousand."""
        sizes = 10 ** (3 * torch.rand(len(self.parameters), generator=self.generator, dtype=torch.float64))
        return [size * self.random(*p.shape) for p, size in zip(self.parameters, sizes, strict=True)]

    def step(self, method: Greedy, gradients: Sequence[Tensor | None], **more: Any) -> Report:
        joint = linear_loss(self.parameters, gradients)
        return method.backward(more.pop("factor", 1.0) * joint, {}, encoders=self.encoders, **more)

    def sizes(self, gradients: Sequence[Tensor | None]) -> dict[str, tuple[float, float]]:
        """Return modality → ‖g‖²/‖w‖² of (encoder, gates), summed element by element."""
        squares = {p: 0.0 if g is None else squared(g) for p, g in zip(self.parameters, gradients, strict=True)}

        def share(parameters: Iterable[nn.Parameter]) -> float:
            chosen = list(parameters)
            return math.fsum(squares[p] for p in chosen) / math.fsum(squared(p) for p in chosen)

        return {name: (share(self.encoders[name]), share(self.watched()[name])) for name in self.names}


def squared(x: Tensor) -> float:
    return math.fsum(float(value) ** 2 for value in x.detach().reshape(-1))


def gains(rig: Rig, ratios: Mapping[str, float]) -> list[Tensor]:
    """Return gradients with log10(bypass/main) = `ratios` for each modality; those of the gates are 0.1·w."""
    result = [0.1 * p.detach() for p in rig.parameters]
    for index, name in enumerate(rig.names):
        result[2 * index] *= 10 ** (-ratios[name] / 2)
        result[2 * index + 1] *= 10 ** (-ratios[name] / 2)
    return result


def holds(rig: Rig, method: Greedy, ratios: Mapping[str, float], steps: int) -> list[str | None]:
    """Take steps, and return the held modality of each."""
    result = []
    for _ in range(steps):
        result.append(method.hold())
        rig.step(method, gains(rig, ratios))
    return result


def ratio(method: Greedy, name: str) -> float:
    return math.log10(float(method.bypass[name]) / float(method.main[name]))


# --- M -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_m_sums_squared_gradients_over_squared_weights(count: int) -> None:
    for seed in range(3):
        rig = Rig(count, seed)
        method = rig.method(threshold=NEVER)
        totals = {name: [0.0, 0.0] for name in rig.names}
        for _ in range(6):
            assert method.hold() is None
            gradients = rig.draw()
            for name, sizes in rig.sizes(gradients).items():
                totals[name] = [total + size for total, size in zip(totals[name], sizes, strict=True)]
            report = rig.step(method, gradients)
            assert not report and report.losses == ["joint"]
            assert set(report.metrics) == {f"log_ratio_{name}" for name in rig.names}
            for name, (main, bypass) in totals.items():
                assert method.main[name].dtype == torch.float64 and method.main[name].shape == ()
                assert float(method.main[name]) == pytest.approx(main, rel=1e-12)
                assert float(method.bypass[name]) == pytest.approx(bypass, rel=1e-12)
                expected = math.log10(bypass / main)
                assert float(report.metrics[f"log_ratio_{name}"]) == pytest.approx(expected, rel=1e-9, abs=1e-12)
            with torch.no_grad():  # the next step has other weights
                for p in rig.parameters:
                    p.mul_(0.7).add_(0.1)


def test_the_weights_of_parameters_without_gradient_count() -> None:
    rig = Rig()
    gradients: list[Tensor | None] = [*rig.draw()]
    gradients[1] = gradients[-1] = None  # of audio's encoder, and of the shared part of the gates
    method = rig.method()
    rig.step(method, gradients)
    for name, (main, bypass) in rig.sizes(gradients).items():
        assert float(method.main[name]) == pytest.approx(main, rel=1e-12)
        assert float(method.bypass[name]) == pytest.approx(bypass, rel=1e-12)


def test_gates_inside_an_encoder_count_as_bypass_only() -> None:
    rig = Rig()
    inside = {name: [*rig.encoders[name], *rig.gates[name]] for name in rig.names}
    gradients = rig.draw()
    method = rig.method()
    method.backward(linear_loss(rig.parameters, gradients), {}, encoders=inside)
    for name, (main, bypass) in rig.sizes(gradients).items():
        assert float(method.main[name]) == pytest.approx(main, rel=1e-12)
        assert float(method.bypass[name]) == pytest.approx(bypass, rel=1e-12)


def test_gradients_are_those_of_the_joint_loss_alone() -> None:
    rig = Rig()
    method, gradients = rig.method(), rig.draw()
    stray = nn.Parameter(torch.ones(3, dtype=torch.float64))
    for held in (None, "visual", "visual"):  # no loss depends on the held gates here
        assert method.hold() == held
        unimodal = {name: (rig.encoders[name][0].sum() * stray.sum()) for name in rig.names}
        method.backward(linear_loss(rig.parameters, gradients), unimodal, encoders=rig.encoders)
        for p, wanted in zip(rig.parameters, gradients, strict=True):
            assert p.grad is not None and torch.equal(p.grad, wanted)
            p.grad = None
        assert stray.grad is None


@pytest.mark.parametrize("scale", [2.0**-14, 1024.0, torch.tensor(2.0**16)], ids=["small", "1024", "tensor"])
def test_a_loss_scale_changes_nothing_but_the_scale(scale: float | Tensor) -> None:
    plain, scaled = Rig(3, 1), Rig(3, 1)
    one, other = plain.method(), scaled.method()
    seen = []
    for _ in range(12):
        seen.append(one.hold())
        assert other.hold() == seen[-1]
        gradients = plain.draw()
        metrics = plain.step(one, gradients).metrics
        actual = scaled.step(other, gradients, scale=scale).metrics
        for p, twin in zip(plain.parameters, scaled.parameters, strict=True):
            assert p.grad is not None and twin.grad is not None and torch.equal(twin.grad, scale * p.grad)
            p.grad = twin.grad = None
        for key, metric in metrics.items():
            assert float(actual[key]) == pytest.approx(float(metric), rel=1e-12, abs=1e-12)
        for name in plain.names:  # not only their ratio, because a scale may change between steps
            assert float(other.main[name]) == pytest.approx(float(one.main[name]), rel=1e-12)
            assert float(other.bypass[name]) == pytest.approx(float(one.bypass[name]), rel=1e-12)
    assert set(seen) - {None}


def test_micro_batches_count_as_one_step() -> None:
    """M uses the sum of the gradients, and windows count steps, though `hold` is called before every forward pass."""
    whole, cut = Rig(3, 2), Rig(3, 2)
    one, other = whole.method(window=2), cut.method(window=2)
    seen = []
    for _ in range(10):
        seen.append(one.hold())
        gradients, parts = whole.draw(), whole.draw()
        rest = [g - part for g, part in zip(gradients, parts, strict=True)]
        whole.step(one, gradients)
        for part in ([0.3 * g for g in parts], [0.7 * g for g in parts]):
            assert other.hold() == seen[-1]
            with other.accumulate():
                cut.step(other, part)
        assert other.hold() == seen[-1]
        cut.step(other, rest)
        for name in whole.names:
            assert float(other.main[name]) == pytest.approx(float(one.main[name]), rel=1e-9)
            assert float(other.bypass[name]) == pytest.approx(float(one.bypass[name]), rel=1e-9)
        assert other.left == one.left
    assert set(seen) - {None}


@pytest.mark.parametrize("kind", ["audio's encoder", "visual's gates", "shared", "loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nonfinite_step_does_not_change_m(kind: str, value: float) -> None:
    """None of M changes, because a GradScaler skips the step for every parameter."""
    rig = Rig()
    method = rig.method(threshold=NEVER)
    rig.step(method, rig.draw())
    before = copy.deepcopy((method.main, method.bypass))
    gradients = rig.draw()
    for p in rig.parameters:
        p.grad = None
    if kind == "loss":
        joint = linear_loss(rig.parameters, gradients) + value
        report = method.backward(joint, {}, encoders=rig.encoders)
    else:
        index = {"audio's encoder": 0, "visual's gates": 5, "shared": 6}[kind]
        gradients[index].view(-1)[0] = value
        report = rig.step(method, gradients, scale=8.0)
        bad = rig.parameters[index].grad
        assert bad is not None and not bool(bad.isfinite().all())
    assert not bool(report.finite.any())
    assert (method.main, method.bypass) == before
    good = rig.draw()
    sizes = rig.sizes(good)
    rig.step(method, good)
    for name in rig.names:
        assert float(method.main[name]) == pytest.approx(float(before[0][name]) + sizes[name][0], rel=1e-12)
        assert float(method.bypass[name]) == pytest.approx(float(before[1][name]) + sizes[name][1], rel=1e-12)


def test_a_nonfinite_first_step_begins_no_window() -> None:
    rig = Rig()
    method = rig.method()
    rig.step(method, [torch.full_like(p, math.nan) for p in rig.parameters])
    assert method.hold() is None
    assert all(float(value) == 0 for value in (*method.main.values(), *method.bypass.values()))
    assert holds(rig, method, {"audio": 1.0, "visual": 0.0}, 3) == [None, "audio", "audio"]


# --- windows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratios", "held"),
    [
        ({"audio": 0.2101, "visual": 0.2}, "audio"),
        ({"audio": 0.2, "visual": 0.2101}, "visual"),
        ({"audio": 0.2099, "visual": 0.2}, None),
        ({"audio": -3.0, "visual": -2.9901}, None),
        ({"audio": -3.0, "visual": -2.9899}, "visual"),
        ({"audio": 0.5, "visual": 0.5}, None),
    ],
)
def test_a_difference_above_the_threshold_holds_the_larger_ratio(ratios: dict[str, float], held: str | None) -> None:
    rig = Rig()
    method = rig.method()
    assert method.threshold == 0.01
    assert holds(rig, method, ratios, 2) == [None, held]
    for name, wanted in ratios.items():
        assert ratio(method, name) == pytest.approx(wanted, abs=1e-6)


def test_logarithms_are_to_base_ten() -> None:
    """A factor of 1.2 between the shares of the bypasses is 0.079 to base 10, 0.182 to base e."""
    for threshold, held in ((0.0791, "audio"), (0.0792, None)):
        rig = Rig()
        assert holds(rig, rig.method(threshold), {"audio": math.log10(1.2), "visual": 0.0}, 2) == [None, held]


@pytest.mark.parametrize(
    ("ratios", "above"),
    [
        ({"audio": 0.3, "visual": 0.2, "text": 0.0}, ("audio", 0.2)),
        ({"audio": 0.0, "visual": 0.2, "text": 0.3}, ("text", 0.2)),
        ({"audio": -1.0, "visual": 0.5, "text": 0.4}, ("visual", 0.8)),
    ],
)
def test_the_largest_of_three_is_compared_with_the_mean_of_the_others(
    ratios: dict[str, float], above: tuple[str, float]
) -> None:
    for distance, held in ((-1e-4, above[0]), (1e-4, None)):
        rig = Rig(3)
        assert holds(rig, rig.method(threshold=above[1] + distance), ratios, 2) == [None, held]


@pytest.mark.parametrize("window", [1, 2, 5])
def test_one_step_without_a_window_follows_each_window(window: int) -> None:
    rig = Rig()
    actual = holds(rig, rig.method(window=window), {"audio": 0.0, "visual": 0.5}, 3 * (window + 1) + 1)
    assert actual == [None, *["visual"] * window] * 3 + [None]


def test_defaults_are_as_published() -> None:
    method = Greedy()
    assert (method.threshold, method.window, method.start_epoch) == (0.01, 5, 2)


def test_m_does_not_change_in_a_window() -> None:
    rig = Rig()
    method = rig.method(window=3)
    seen = []
    for _ in range(9):
        held = method.hold()
        before = copy.deepcopy((method.main, method.bypass))
        report = rig.step(method, rig.draw())
        assert ((method.main, method.bypass) == before) == (held is not None)
        assert float(report.metrics["log_ratio_audio"]) == pytest.approx(ratio(method, "audio"), rel=1e-9)
        seen.append(held)
    assert len([held for held in seen if held]) >= 4


def test_repeated_calls_of_hold_change_nothing() -> None:
    rig = Rig()
    method = rig.method(window=2)
    for expected in (None, "audio", "audio", None, "audio"):
        assert [method.hold() for _ in range(3)] == [expected] * 3
        rig.step(method, gains(rig, {"audio": 1.0, "visual": 0.0}))


def test_one_modality_is_never_held() -> None:
    rig = Rig(1)
    assert holds(rig, rig.method(threshold=1e-6), {"audio": 8.0}, 12) == [None] * 12


@settings(max_examples=30)
@given(
    st.integers(0, 10_000),
    st.sampled_from([2, 3]),
    st.integers(1, 4),
    st.sampled_from([0.001, 0.1, 0.5, 2.0]),
    st.integers(1, 3),
)
def test_windows_match_an_independent_derivation(
    seed: int, count: int, window: int, threshold: float, start_epoch: int
) -> None:
    """With epochs of five steps; decisions are made between a step outside a window and the next step."""
    rig = Rig(count, seed)
    steps = 20
    gradients = [rig.draw() for _ in range(steps)]
    sizes = [rig.sizes(g) for g in gradients]
    expected: list[str | None] = []
    totals = dict.fromkeys(rig.names, (0.0, 0.0))
    while len(expected) < steps:
        now = sizes[len(expected)]
        expected.append(None)
        totals = {name: (totals[name][0] + now[name][0], totals[name][1] + now[name][1]) for name in rig.names}
        ordered = sorted((math.log10(bypass / main), name) for name, (main, bypass) in totals.items())
        *others, (largest, first) = ordered
        epoch = 1 + (len(expected) - 1) // 5  # of the step just taken
        if epoch >= start_epoch and largest - math.fsum(r for r, _ in others) / len(others) > threshold:
            expected += [first] * window
    method = rig.method(threshold, window, start_epoch)
    actual = []
    for number, gradient in enumerate(gradients):
        if number % 5 == 0:
            method.begin_epoch(SimpleNamespace(epoch=1 + number // 5, epochs=4))
        actual.append(method.hold())
        rig.step(method, gradient)
    assert actual == expected[:steps]


@pytest.mark.parametrize(("start_epoch", "first"), [(1, 1), (2, 4), (3, 7)])
def test_windows_begin_after_the_first_step_of_the_start_epoch(start_epoch: int, first: int) -> None:
    """With epochs of three steps. M also grows in earlier epochs, but only a step of the start epoch decides."""
    rig = Rig()
    method = rig.method(start_epoch=start_epoch, window=100)
    actual = []
    for epoch in (1, 2, 3):
        method.begin_epoch(SimpleNamespace(epoch=epoch, epochs=3))
        actual += holds(rig, method, {"audio": 1.0, "visual": 0.0}, 3)
    assert actual == [None] * first + ["audio"] * (9 - first)


def test_windows_are_those_of_the_released_callback() -> None:
    """Against the states of its `on_backward_end`, called after each backward pass: four epochs of seventeen steps.

    Locked before the start epoch, it only adds to M. Unlocked outside a window, it adds to M and may begin a window;
    in a window, it counts.
    """
    rig = Rig(2, 5)
    method, steps, window, threshold = rig.method(0.05, 5, 2), 17, 5, 0.05
    main, bypass = dict.fromkeys(rig.names, 0.0), dict.fromkeys(rig.names, 0.0)
    held, counted, seen = None, 0, []
    for epoch in range(1, 5):
        method.begin_epoch(SimpleNamespace(epoch=epoch, epochs=4))
        for _ in range(steps):
            seen.append(held)
            assert method.hold() == held
            gradients = rig.draw()
            rig.step(method, gradients)
            unlocked = epoch >= 2
            if held is not None:
                counted += 1
                held = None if counted == window else held
                continue
            for name, (own, gates) in rig.sizes(gradients).items():
                main[name] += own
                bypass[name] += gates
            first, second = (math.log10(bypass[name] / main[name]) for name in rig.names)
            if unlocked and abs(first - second) > threshold:
                held, counted = rig.names[0] if first > second else rig.names[1], 0
    assert seen[: steps + 1] == [None] * (steps + 1)  # the first step of the start epoch is never held
    assert seen[steps + 1] is not None and seen.count(None) > steps + 5


def test_a_run_resumed_before_the_start_epoch_has_no_window_until_then() -> None:
    rig = Rig()
    first, second = rig.method(), rig.method()
    first.begin_epoch(SimpleNamespace(epoch=1, epochs=4))
    ratios = {"audio": 1.0, "visual": 0.0}
    assert holds(rig, first, ratios, 2) == [None, None]
    second.load_state_dict(first.state_dict())
    assert holds(rig, second, ratios, 2) == [None, None]
    second.begin_epoch(SimpleNamespace(epoch=2, epochs=4))
    assert holds(rig, second, ratios, 2) == [None, "audio"]


def test_a_window_continues_across_epochs() -> None:
    rig = Rig()
    method = rig.method(window=4)
    actual = []
    for epoch in (2, 3, 4):
        method.begin_epoch(SimpleNamespace(epoch=epoch, epochs=4))
        actual += holds(rig, method, {"audio": 1.0, "visual": 0.0}, 3)
    assert actual == [None, *["audio"] * 4, None, *["audio"] * 3]


# --- in a network with MMTM blocks -------------------------------------------------------------------------------

Batch = tuple[dict[str, Tensor], Tensor]


def network_and_batch(count: int = 2, seed: int = 0) -> tuple[MultimodalNetwork, Batch]:
    """Tiny encoders with a block after each of their last three stages; float64, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        names = NAMES[:count]
        encoders = {name: TinyEncoder(2) for name in names}
        blocks = [MMTM(dict.fromkeys(names, width)) for width in TinyEncoder.widths[-3:]]
        fusion = FUSIONS["concat"](dict.fromkeys(names, TinyEncoder.feature_size), 3)
        network = MultimodalNetwork(encoders, fusion, blocks=blocks).double()
        return network, batch_of(names)


def batch_of(names: Sequence[str]) -> Batch:
    inputs = {name: torch.randn(6, 2, 20, 20, dtype=torch.float64) for name in names}
    return inputs, torch.randint(3, (6,))


def context_of(network: MultimodalNetwork, epoch: int = 2) -> Any:
    return SimpleNamespace(network=network, epoch=epoch, epochs=4)


def ready(network: MultimodalNetwork, **options: Any) -> Greedy:
    method = Greedy(**options)
    method.begin_training(context_of(network))
    method.begin_epoch(context_of(network))
    return method


def step(method: Greedy, network: MultimodalNetwork, batch: Batch) -> tuple[str | None, Outputs]:
    forward_arguments = method.before_forward(context_of(network), *batch)
    assert set(forward_arguments) == {"hold"}
    outputs = network(batch[0], **forward_arguments)
    unimodal = {name: cross_entropy(z, batch[1]) for name, z in outputs.unimodal.items()}
    joint = cross_entropy(outputs.joint, batch[1])
    method.backward(joint, unimodal, encoders=dict(network.encoders.items()), interaction=True)
    return forward_arguments["hold"], outputs


@pytest.mark.parametrize("count", [2, 3])
def test_m_of_a_network_with_blocks(count: int) -> None:
    """Against autograd on a copy, with parameters assigned by their names."""
    network, batch = network_and_batch(count)
    method = ready(network, threshold=NEVER)
    totals: dict[tuple[str, str], float] = {}
    for _ in range(4):
        twin = copy.deepcopy(network)
        loss = cross_entropy(twin(batch[0]).joint, batch[1])
        parameters = dict(twin.named_parameters())
        gradients = dict(zip(parameters, torch.autograd.grad(loss, [*parameters.values()]), strict=True))
        for name in network.modalities:
            main = [key for key in parameters if key.startswith(f"encoders.{name}.")]
            own = [key for key in parameters if f".excite.{name}." in key]
            assert main and len(own) == 6
            bypass = own + [key for key in parameters if ".squeeze." in key]
            for kind, keys in (("main", main), ("bypass", bypass)):
                size = sum(squared(gradients[k]) for k in keys) / sum(squared(parameters[k]) for k in keys)
                totals[kind, name] = totals.get((kind, name), 0.0) + size
        step(method, network, batch)
        for name in network.modalities:
            assert float(method.main[name]) == pytest.approx(totals["main", name], rel=1e-9)
            assert float(method.bypass[name]) == pytest.approx(totals["bypass", name], rel=1e-9)
        with torch.no_grad():
            for p in network.parameters():
                p.sub_(0.1 * p.grad)
                p.grad = None


def with_constant_gates(network: MultimodalNetwork, inputs: Mapping[str, Tensor], held: str) -> Tensor:
    """Return the network's joint logits with one modality's gates replaced by the block's running means."""
    maps = dict(inputs)
    for stage, block in enumerate(network.blocks, start=1):
        for name, encoder in network.encoders.items():
            for apply in encoder.stages()[:2] if stage == 1 else encoder.stages()[stage : stage + 1]:
                maps[name] = apply(maps[name])
        common = block.squeeze(torch.cat([x.mean((2, 3)) for x in maps.values()], 1)).relu()
        for name, x in maps.items():
            if name == held:
                gate = torch.tensor(block.state_dict()[f"mean_{name}"].tolist(), dtype=x.dtype)
            else:
                gate = block.excite[name](common).sigmoid()
            maps[name] = x * gate[..., None, None]
    return network.fusion({name: x.mean((2, 3)) for name, x in maps.items()})


@pytest.mark.parametrize("count", [2, 3])
def test_a_held_modality_learns_as_if_its_gates_were_constant(count: int) -> None:
    network, batch = network_and_batch(count)
    method = ready(network, threshold=1e-6, window=2)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    seen = []
    for _ in range(7):
        optimizer.zero_grad()
        held, outputs = step(method, network, batch)
        seen.append(held)
        if held is not None:
            twin = copy.deepcopy(network)  # its means include this step's gates
            logits = with_constant_gates(twin, batch[0], held)
            torch.testing.assert_close(logits, outputs.joint, rtol=1e-9, atol=1e-12)
            twin.zero_grad()
            cross_entropy(logits, batch[1]).backward()
            for (key, p), other in zip(network.named_parameters(), twin.parameters(), strict=True):
                if f".excite.{held}." in key:
                    assert p.grad is None and other.grad is None, key
                else:
                    assert p.grad is not None and bool(p.grad.any()), key
                    torch.testing.assert_close(p.grad, other.grad, rtol=1e-8, atol=1e-12)
        optimizer.step()
    assert [held is None for held in seen] == [True, False, False] * 2 + [True]


def test_without_a_window_the_gradients_are_those_of_joint_training() -> None:
    network, batch = network_and_batch()
    twin = copy.deepcopy(network)
    cross_entropy(twin(batch[0]).joint, batch[1]).backward()
    assert step(ready(network), network, batch)[0] is None
    for p, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert p.grad is not None and torch.equal(p.grad, other.grad)


class Run:
    """A network trained by Greedy, which can be interrupted after any step."""

    def __init__(self) -> None:
        self.network, _ = network_and_batch()
        self.method = ready(self.network, threshold=1e-6, window=4)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.05, momentum=0.9)

    def steps(self, numbers: Iterable[int]) -> list[str | None]:
        result = []
        for number in numbers:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(50 + number)
                batch = batch_of(self.network.modalities)
            self.optimizer.zero_grad()
            result.append(step(self.method, self.network, batch)[0])
            self.optimizer.step()
        return result


@pytest.mark.parametrize("cut", [1, 3, 5, 6], ids=["before", "inside", "at the end", "after"])
def test_a_run_resumed_around_a_window_continues_bit_for_bit(cut: int) -> None:
    whole, first, second = Run(), Run(), Run()
    expected = whole.steps(range(12))
    assert [held is None for held in expected] == [True, False, False, False, False] * 2 + [True, False]
    assert first.steps(range(cut)) == expected[:cut]
    assert (first.method.left, first.method.held is None) == {1: (0, True), 3: (2, False)}.get(cut, (0, True))
    file = io.BytesIO()
    parts = (first.network, first.optimizer, first.method)
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    for part, state in zip((second.network, second.optimizer, second.method), states, strict=True):
        part.load_state_dict(state)
    second.method.begin_training(context_of(second.network))
    assert second.steps(range(cut, 12)) == expected[cut:]
    for key, value in whole.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[key], value), key
    for kind in ("main", "bypass"):
        for name, value in getattr(whole.method, kind).items():
            assert torch.equal(getattr(second.method, kind)[name], value)


def test_a_saved_state_does_not_change_afterwards() -> None:
    rig = Rig()
    method = rig.method(window=2)
    rig.step(method, rig.draw())
    state = method.state_dict()
    before = copy.deepcopy(state)
    for _ in range(5):
        method.hold()
        rig.step(method, rig.draw())
    assert state == before
    assert method.state_dict() != before


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"threshold": 0.0}, "threshold must be a positive number"),
        ({"threshold": -0.01}, "threshold must be a positive number"),
        ({"threshold": math.nan}, "threshold must be a positive number"),
        ({"threshold": math.inf}, "threshold must be a positive number"),
        ({"window": 0}, "window must be at least 1"),
        ({"window": -5}, "window must be at least 1"),
    ],
)
def test_options_out_of_range_are_rejected(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Greedy(**options)


def test_unwatched_modalities_and_a_missing_joint_loss_are_rejected() -> None:
    rig = Rig()
    joint = linear_loss(rig.parameters, rig.draw())
    partly = Greedy()
    partly.watch({"audio": rig.gates["audio"]})
    cases = [
        (Greedy(), joint, "'audio': call watch"),
        (partly, joint, "'visual': call watch"),
        (rig.method(), None, "Greedy descends the joint loss: pass it"),
        (rig.method(), joint.detach(), "'joint' needs no gradient"),
    ]
    for method, loss, match in cases:
        with pytest.raises(ValueError, match=match):
            method.backward(loss, dict.fromkeys(rig.names, joint), encoders=rig.encoders)
        assert all(p.grad is None for p in rig.parameters)
        assert not method.main and not method.bypass and method.hold() is None


def test_an_iterator_can_be_watched() -> None:
    rig = Rig()
    method = Greedy(threshold=NEVER)
    method.watch({name: iter(parameters) for name, parameters in rig.watched().items()})
    gradients = rig.draw()
    for _ in range(2):
        rig.step(method, gradients)
    for name, (_, bypass) in rig.sizes(gradients).items():
        assert float(method.bypass[name]) == pytest.approx(2 * bypass, rel=1e-12)


def test_it_requires_mmtm_blocks() -> None:
    assert dict(Greedy.network) == {"blocks": "mmtm"}
    assert Greedy.descends_joint and not Greedy.descends_unimodal
