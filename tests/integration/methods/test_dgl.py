"""DGL against autograd: which loss reaches each encoder and each fusion, and which loss does not."""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from integration_reference import dense_and_batch, linear, model_and_batch, plain_sum, tasks_and_batch
from mmpareto import DGL, JointLoss, UniformSum
from mmpareto.integration.report import Report
from mmpareto.models import FUSIONS
from mmpareto.models.mmtm import MMTM
from mmpareto.models.network import MultimodalNetwork, Outputs
from tiny_encoder import TinyEncoder
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CLASSES, INPUT, FEATURE = 3, 5, 4
TWO, THREE = ("audio", "visual"), ("text", "audio", "visual")
SETTINGS = [(fusion, TWO) for fusion in FUSIONS] + [
    (fusion, names) for fusion in ("concat", "sum") for names in (("touch",), THREE)
]
FLAGS = [*itertools.product([True, False], repeat=3)]  # unimodal_loss, truncate_joint, truncate_unimodal
every_fusion = pytest.mark.parametrize(("fusion", "names"), SETTINGS, ids=lambda v: v if isinstance(v, str) else len(v))

Batch = tuple[dict[str, Tensor], Tensor]
Gradients = dict[nn.Parameter, Tensor | None]


def network_and_batch(fusion: str, names: Sequence[str] = TWO, seed: int = 0) -> tuple[MultimodalNetwork, Batch]:
    """A float64 network whose unimodal predictions come from the shared fusion."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoders = {n: nn.Sequential(nn.Linear(INPUT, 6), nn.Tanh(), nn.Linear(6, FEATURE)) for n in names}
        network = MultimodalNetwork(encoders, FUSIONS[fusion](dict.fromkeys(names, FEATURE), CLASSES)).double()
        inputs = {name: torch.randn(12, INPUT, dtype=torch.float64) for name in names}
        return network, (inputs, torch.randint(CLASSES, (12,)))


def network_with_blocks(names: Sequence[str]) -> tuple[MultimodalNetwork, Batch]:
    """Encoders that exchange information through MMTM blocks, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoders = {name: TinyEncoder(2) for name in names}
        blocks = [MMTM(dict.fromkeys(names, width)) for width in TinyEncoder.widths[-3:]]
        fusion = FUSIONS["concat"](dict.fromkeys(names, TinyEncoder.feature_size), CLASSES)
        network = MultimodalNetwork(encoders, fusion, blocks=blocks).double()
        inputs = {name: torch.randn(6, 2, 20, 20, dtype=torch.float64) for name in names}
        return network, (inputs, torch.randint(CLASSES, (6,)))


def losses_of(outputs: Outputs, labels: Tensor, share: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
    unimodal = {name: share * cross_entropy(z, labels) for name, z in outputs.unimodal.items()}
    return share * cross_entropy(outputs.joint, labels), unimodal


def gradients_of(loss: Tensor, module: nn.Module) -> Gradients:
    parameters = list(module.parameters())
    result = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return dict(zip(parameters, result, strict=True))


def step(
    method: DGL,
    network: MultimodalNetwork,
    batch: Batch,
    *,
    joint_weight: float = 1.0,
    share: float = 1.0,
    **more: Any,
) -> Report:
    joint, unimodal = losses_of(network(batch[0]), batch[1], share)
    more.setdefault("interaction", network.interaction)
    return method.backward(joint_weight * joint, unimodal, encoders=dict(network.encoders.items()), **more)


def take_grads(module: nn.Module) -> dict[str, Tensor | None]:
    """Return `.grad` by name, and clear it."""
    result = {name: p.grad for name, p in module.named_parameters()}
    module.zero_grad(set_to_none=True)
    return result


def assert_grads(expected: Gradients, factor: float = 1.0) -> None:
    """Assert that `.grad` equals `factor` times `expected` up to rounding, and that none is missing or zero."""
    for parameter, gradient in expected.items():
        assert gradient is not None and bool(gradient.any())
        torch.testing.assert_close(parameter.grad, factor * gradient, rtol=1e-10, atol=1e-15)


@every_fusion
@pytest.mark.parametrize("alpha", [None, 0.3])
def test_encoders_learn_from_their_own_loss_and_the_fusion_from_the_joint_loss(
    fusion: str, names: tuple[str, ...], alpha: float | None
) -> None:
    for seed in range(3):
        network, (inputs, labels) = network_and_batch(fusion, names, seed)
        outputs = network(inputs)
        joint, unimodal = losses_of(outputs, labels)
        own = {name: gradients_of(loss, network.encoders[name]) for name, loss in unimodal.items()}
        detached = network.fusion({name: x.detach() for name, x in outputs.features.items()})
        outside = gradients_of(cross_entropy(detached, labels), network.fusion)
        method = DGL() if alpha is None else DGL(alpha)
        report = method.backward(joint, unimodal, encoders=dict(network.encoders.items()))
        for gradients in own.values():
            assert_grads(gradients, 4.0 if alpha is None else alpha)
        assert_grads(outside)
        assert not report and report.losses == ["joint", *names] and report.finite.tolist() == [True] * (1 + len(names))


@every_fusion
def test_the_joint_loss_leaves_no_gradient_on_any_encoder(fusion: str, names: tuple[str, ...]) -> None:
    network, batch = network_and_batch(fusion, names)
    step(DGL(), network, batch)
    first = take_grads(network)
    step(DGL(), network, batch, joint_weight=7.3)
    for key, gradient in take_grads(network).items():
        before = first[key]
        assert before is not None and gradient is not None and bool(gradient.any())
        assert torch.equal(gradient, before) == key.startswith("encoders."), key


@every_fusion
def test_unimodal_losses_leave_no_gradient_outside_the_encoders(fusion: str, names: tuple[str, ...]) -> None:
    network, batch = network_and_batch(fusion, names)
    step(DGL(2.0), network, batch)
    first = take_grads(network)
    step(DGL(5.0), network, batch)
    for key, gradient in take_grads(network).items():
        before = first[key]
        assert before is not None and gradient is not None
        assert torch.equal(gradient, before) == key.startswith("fusion."), key


def test_it_is_equivalent_to_detached_features() -> None:
    """A joint loss computed from detached features gives the same gradients."""
    network, (inputs, labels) = network_and_batch("gated")
    step(DGL(), network, (inputs, labels))
    expected = take_grads(network)
    outputs = network(inputs)
    joint = cross_entropy(network.fusion({name: x.detach() for name, x in outputs.features.items()}), labels)
    DGL().backward(joint, losses_of(outputs, labels)[1], encoders=dict(network.encoders.items()))
    for key, gradient in take_grads(network).items():
        assert torch.equal(gradient, expected[key]), key


@pytest.mark.parametrize("dense", [False, True])
def test_separate_heads_receive_no_gradient(dense: bool) -> None:
    model, batch = dense_and_batch() if dense else model_and_batch("three modalities")
    joint, unimodal = model.losses(*batch)
    own = {name: gradients_of(loss, model.encoders[name]) for name, loss in unimodal.items()}
    outside = gradients_of(joint, model.fusion) | gradients_of(joint, model.joint_head)
    DGL().backward(joint, unimodal, encoders=dict(model.encoders.items()), interaction=dense)
    assert all(p.grad is None for p in model.heads.parameters())
    for gradients in own.values():
        assert_grads(gradients, 4.0)
    assert_grads(outside)


@pytest.mark.parametrize("names", [TWO, THREE], ids=len)
def test_with_blocks_an_encoder_learns_from_its_own_loss_only(names: tuple[str, ...]) -> None:
    network, batch = network_with_blocks(names)
    assert network.interaction
    joint, unimodal = losses_of(network(batch[0]), batch[1])
    own = {name: gradients_of(loss, network.encoders[name]) for name, loss in unimodal.items()}
    outside = gradients_of(joint, network.fusion) | gradients_of(joint, network.blocks)
    for name, other in zip(names, reversed(names), strict=True):
        if name != other:  # there are cross terms to leave out
            crossing = gradients_of(unimodal[other], network.encoders[name])
            assert all(g is not None and bool(g.any()) for g in crossing.values())
    DGL().backward(joint, unimodal, encoders=dict(network.encoders.items()), interaction=True)
    for gradients in own.values():
        assert_grads(gradients, 4.0)
    assert_grads(outside)


@pytest.mark.parametrize("make", [dense_and_batch, None], ids=["dense", "blocks"])
def test_with_interaction_the_joint_loss_leaves_no_gradient_on_encoders(make: Callable[..., Any] | None) -> None:
    model, batch = network_with_blocks(THREE) if make is None else make(0, THREE)
    actual = []
    for weight in (1.0, -3.0):
        joint, unimodal = losses_of(model(batch[0]), batch[1]) if make is None else model.losses(*batch)
        DGL().backward(weight * joint, unimodal, encoders=dict(model.encoders.items()), interaction=True)
        actual.append({key: g for key, g in take_grads(model).items() if key.startswith("encoders.")})
    for key, gradient in actual[0].items():
        assert gradient is not None and torch.equal(gradient, actual[1][key]), key


@every_fusion
def test_micro_batches_give_the_full_batch(fusion: str, names: tuple[str, ...]) -> None:
    if fusion == "entropy_over_batch":
        pytest.skip("its predictions depend on the other samples of the batch")
    network, (inputs, labels) = network_and_batch(fusion, names)
    method = DGL()
    step(method, network, (inputs, labels))
    expected = take_grads(network)
    for start, end in ((0, 2), (2, 7)):
        with method.accumulate():
            part = {name: x[start:end] for name, x in inputs.items()}, labels[start:end]
            step(method, network, part, share=(end - start) / 12)
        assert all(p.grad is None for p in network.parameters())
    step(method, network, ({name: x[7:] for name, x in inputs.items()}, labels[7:]), share=5 / 12)
    for key, gradient in take_grads(network).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("scale", [1024.0, torch.tensor(0.25)], ids=["float", "tensor"])
def test_gradients_include_the_scale(scale: float | Tensor) -> None:
    network, batch = network_and_batch("film")
    step(DGL(), network, batch)
    expected = take_grads(network)
    step(DGL(), network, batch, scale=scale)
    for key, gradient in take_grads(network).items():
        wanted = expected[key]
        assert wanted is not None and torch.equal(gradient, wanted * scale), key  # exact for a power of two


def test_it_adds_to_existing_gradients() -> None:
    network, batch = network_and_batch("sum")
    step(DGL(), network, batch)
    expected = take_grads(network)
    for p in network.parameters():
        p.grad = torch.full_like(p, 2.0)
    step(DGL(), network, batch)
    for key, gradient in take_grads(network).items():
        wanted = expected[key]
        assert wanted is not None and gradient is not None
        torch.testing.assert_close(gradient - 2.0, wanted, rtol=1e-9, atol=1e-14)


def several_losses() -> tuple[nn.Module, nn.Module, Tensor, Mapping[str, Tensor]]:
    """An encoder with two unimodal losses, a fusion by a third head, and the joint loss."""
    model, inputs, labels = tasks_and_batch()
    fusion = linear().double()
    joint = cross_entropy(fusion(torch.cat([model.shared(inputs), inputs[:, :1]], 1)), labels)
    return model, fusion, joint, model.losses(inputs, labels)


@pytest.mark.parametrize("interaction", [False, True])
def test_several_unimodal_losses_on_one_encoder_are_summed(interaction: bool) -> None:
    model, fusion, joint, unimodal = several_losses()
    total = gradients_of(torch.stack([*unimodal.values()]).sum(), model.shared)
    outside = gradients_of(joint, fusion)
    report = DGL(3.0).backward(
        joint, unimodal, encoders={"shared": (model.shared, list(unimodal))}, interaction=interaction
    )
    assert_grads(total, 3.0)
    assert_grads(outside)
    assert report.losses == ["joint", *unimodal]
    assert all(p.grad is None for p in model.heads.parameters())


def test_a_parameter_that_only_one_of_several_losses_reaches() -> None:
    first, second, fusion = (nn.Parameter(torch.tensor([2.0, -1.0])) for _ in range(3))
    idle = nn.Parameter(torch.ones(2))
    losses = {"a": (first * second).sum(), "b": first.square().sum()}
    joint = (first * fusion).sum()
    DGL(2.0).backward(joint, losses, encoders={"both": ([first, second, idle], ["a", "b"])})
    assert first.grad is not None and first.grad.tolist() == [12.0, -6.0]  # 2·(second + 2·first)
    assert second.grad is not None and second.grad.tolist() == [4.0, -2.0]
    assert fusion.grad is not None and fusion.grad.tolist() == [2.0, -1.0]
    assert idle.grad is None


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_one_backward_pass_over_the_encoders(flags: tuple[bool, bool, bool]) -> None:
    """Every activation of an encoder receives a gradient once; never, if the encoder learns from no loss."""
    network, batch = network_and_batch("concat")
    seen: list[str] = []
    for name, encoder in network.encoders.items():
        encoder[0].register_forward_hook(
            lambda _module, _args, y, name=name: y.register_hook(lambda _gradient: seen.append(name)) and None
        )
    step(DGL(4.0, *flags), network, batch)
    unimodal_loss, truncate_joint, _ = flags
    assert sorted(seen) == (["audio", "visual"] if unimodal_loss or not truncate_joint else [])


def network_and_losses(kind: str) -> tuple[Any, Tensor, dict[str, Tensor]]:
    """A network with this fusion, with heads of its own, or with blocks, and the losses of a batch."""
    if kind == "own heads":
        model, batch = model_and_batch("three modalities")
        return model, *model.losses(*batch)
    network, batch = network_with_blocks(THREE) if kind == "blocks" else network_and_batch(kind)
    return network, *losses_of(network(batch[0]), batch[1])


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("kind", ["concat", "gated", "own heads", "blocks"])
def test_each_part_can_be_switched_off(kind: str, flags: tuple[bool, bool, bool]) -> None:
    """The released step by its definition: which loss leaves which gradient where."""
    unimodal_loss, truncate_joint, truncate_unimodal = flags
    network, joint, unimodal = network_and_losses(kind)
    of_joint = gradients_of(joint, network)
    of_unimodal = {name: gradients_of(loss, network) for name, loss in unimodal.items()}
    owner = {p: name for name, encoder in network.encoders.items() for p in encoder.parameters()}
    expected: Gradients = {}
    for p in network.parameters():
        if p in owner:
            terms = [] if truncate_joint else [of_joint[p]]
            own = of_unimodal[owner[p]][p]
            terms += [None if own is None else 3.0 * own] if unimodal_loss else []
        else:
            terms = [of_joint[p]]
            if unimodal_loss and not truncate_unimodal:
                terms += [None if g[p] is None else 3.0 * g[p] for g in of_unimodal.values()]
        expected[p] = plain_sum(terms)
    report = DGL(3.0, *flags).backward(
        joint, unimodal, encoders=dict(network.encoders.items()), interaction=kind == "blocks"
    )
    assert report.losses == ["joint", *(network.encoders if unimodal_loss else [])]
    for p, gradient in expected.items():
        assert (p.grad is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(p.grad, gradient, rtol=1e-9, atol=1e-15)


def test_the_controls_are_known_methods() -> None:
    """With neither truncation and α = 1, DGL is the uniform baseline; with no unimodal loss either, joint training."""
    network, batch = network_and_batch("film")
    step(DGL(1.0, truncate_joint=False, truncate_unimodal=False), network, batch)
    actual = take_grads(network)
    step(UniformSum(), network, batch)
    for key, gradient in take_grads(network).items():
        torch.testing.assert_close(actual[key], gradient, rtol=1e-9, atol=1e-15)
    step(DGL(unimodal_loss=False, truncate_joint=False), network, batch)
    actual = take_grads(network)
    step(JointLoss(), network, batch)
    for key, gradient in take_grads(network).items():
        torch.testing.assert_close(actual[key], gradient, rtol=1e-9, atol=1e-15)


def test_an_encoder_without_a_unimodal_loss_receives_no_gradient() -> None:
    network, batch = network_and_batch("concat")
    joint, unimodal = losses_of(network(batch[0]), batch[1])
    encoders = {"audio": network.encoders["audio"], "visual": (network.encoders["visual"], [])}
    DGL().backward(joint, {"audio": unimodal["audio"]}, encoders=encoders)
    assert all(p.grad is not None for p in network.encoders["audio"].parameters())
    assert all(p.grad is None for p in network.encoders["visual"].parameters())


@pytest.mark.parametrize("bad", ["joint", "audio"])
def test_a_nonfinite_loss_affects_its_own_part_only(bad: str) -> None:
    network, (inputs, labels) = network_and_batch("concat")
    joint, unimodal = losses_of(network(inputs), labels)
    if bad == "joint":
        joint = joint * float("nan")
    else:
        unimodal[bad] = unimodal[bad] * float("inf")
    report = DGL().backward(joint, unimodal, encoders=dict(network.encoders.items()))
    assert dict(zip(report.losses, report.finite.tolist(), strict=True)) == {
        name: name != bad for name in ("joint", "audio", "visual")
    }
    for key, p in network.named_parameters():
        spoilt = key.startswith("fusion." if bad == "joint" else f"encoders.{bad}.")
        assert p.grad is not None and bool(p.grad.isfinite().all()) != spoilt, key


def test_frozen_parts_receive_no_gradient() -> None:
    network, batch = network_and_batch("bilinear")
    network.encoders["audio"][0].requires_grad_(False)
    network.fusion.fc.requires_grad_(False)
    step(DGL(), network, batch)
    frozen = {"encoders.audio.0.weight", "encoders.audio.0.bias", "fusion.fc.weight", "fusion.fc.bias"}
    assert {key for key, g in take_grads(network).items() if g is None} == frozen


def test_it_requires_a_shared_fusion() -> None:
    assert dict(DGL.network) == {"heads": "shared"}
    method = DGL()
    assert method.descends_joint and method.descends_unimodal
    assert not DGL(unimodal_loss=False).descends_unimodal
    assert method.alpha == 4.0
    assert method.state_dict() == {}
    assert copy.deepcopy(method).alpha == 4.0


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("-inf"), float("nan")])
def test_alpha_is_a_positive_number(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be a positive number"):
        DGL(alpha)


def assert_rejected(match: str, network: nn.Module, joint: Tensor | None, unimodal: Mapping[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=match):
        DGL().backward(joint, unimodal, encoders=dict(network.encoders.items()))
    assert all(p.grad is None for p in network.parameters())


def test_wrong_losses_are_rejected_and_leave_no_gradient() -> None:
    network, (inputs, labels) = network_and_batch("concat")
    outputs = network(inputs)
    joint, unimodal = losses_of(outputs, labels)
    assert_rejected("joint loss: pass it", network, None, unimodal)
    assert_rejected("'joint' needs no gradient", network, joint.detach(), unimodal)
    assert_rejected("no unimodal loss", network, joint, {})
    assert_rejected("'text' has no encoder", network, joint, unimodal | {"text": unimodal["audio"]})
    assert_rejected("'audio' is no scalar", network, joint, unimodal | {"audio": torch.stack([joint, joint])})


@every_fusion
def test_detached_features_are_rejected(fusion: str, names: tuple[str, ...]) -> None:
    network, (inputs, labels) = network_and_batch(fusion, names)
    outputs = network(inputs)
    joint, unimodal = losses_of(outputs, labels)
    last = names[-1]
    unimodal[last] = cross_entropy(network.fusion.alone(last, outputs.features[last].detach()), labels)
    assert unimodal[last].requires_grad
    assert_rejected(f"'{last}' does not reach encoder '{last}'", network, joint, unimodal)


def test_losses_of_another_modality_are_rejected() -> None:
    network, (inputs, labels) = network_and_batch("sum")
    joint, unimodal = losses_of(network(inputs), labels)
    swapped = {"audio": unimodal["visual"], "visual": unimodal["audio"]}
    assert_rejected("does not reach encoder", network, joint, swapped)
