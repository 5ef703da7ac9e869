"""Backward passes encoder by encoder, where the outputs allow it: the same gradients with less memory."""

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import Batch, Loop, Model, Overflow, assert_same_state, batch_of, make, take_grads
from every_method import losses_of as model_losses
from integration_reference import (
    ENCODER_SETS,
    PAPER,
    PER_TENSOR,
    RELEASED,
    Multimodal,
    Options,
    assert_gradients,
    assert_report,
    dense_and_batch,
    expectation,
    finite_flags,
    model_and_batch,
    option_name,
    reference_gradients,
)
from mmpareto import MMPareto
from mmpareto.analysis.speed.tensor_memory import TensorMemory
from mmpareto.integration.features import find_cut
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import collect
from mmpareto.integration.report import Report
from mmpareto.models.building import build_network
from torch import Tensor, nn

TWO_GRADIENTS = ["pareto", "mmpareto", "gradnorm", "pcgrad", "metabalance"]


def can_be_cut(model: Any, joint: Tensor, unimodal: dict[str, Tensor], features: dict[str, Tensor]) -> bool:
    objectives = collect(joint, unimodal, dict(model.encoders.items()))
    objectives.features = features
    return find_cut(objectives).features == features


@pytest.mark.parametrize("name", ENCODER_SETS)
@pytest.mark.parametrize("options", [PER_TENSOR, PAPER, RELEASED], ids=option_name)
def test_a_step_matches_the_equations(options: Options, name: str) -> None:
    for seed in range(3):
        model, batch = model_and_batch(name, seed)
        expected, reports = expectation("mmpareto", model, batch, options)
        features = model.features(batch[0])
        joint, unimodal = model.losses_of(features, batch[1])
        assert can_be_cut(model, joint, unimodal, features)
        outputs = SimpleNamespace(features=features)
        report = MMPareto(**options.arguments()).backward(
            joint, unimodal, encoders=dict(model.encoders.items()), outputs=outputs
        )
        assert_gradients(expected)
        assert finite_flags(report) == [True] * (1 + len(unimodal))
        for modality, wanted in reports.items():
            assert_report(report[modality], wanted)


@pytest.mark.parametrize("scale", [None, 1024.0])
@pytest.mark.parametrize("name", TWO_GRADIENTS)
def test_a_step_is_bit_identical_with_and_without_outputs(name: str, scale: float | None) -> None:
    model, batch = Model(3), batch_of(3)

    def grads(outputs_given: bool) -> tuple[dict[str, Tensor | None], Report]:
        method = make(name)
        method.begin_training(Loop(model, batch))
        with method.accumulate():
            one_backward(method, model, batch, outputs_given, scale)
        report = one_backward(method, model, batch, outputs_given, scale)
        return take_grads(model), report

    (result, report), (expected, wanted) = grads(True), grads(False)
    assert_same_state(result, expected)
    assert finite_flags(report) == finite_flags(wanted)
    for modality, encoder in wanted.items():
        assert_same_state(vars(report[modality]), vars(encoder))


def one_backward(method: Method, model: Model, batch: Batch, outputs_given: bool, scale: float | None) -> Report:
    outputs = model(batch[0])
    joint, unimodal = model_losses(outputs, batch[1])
    encoders = dict(model.encoders.items())
    return method.backward(
        joint, unimodal, encoders=encoders, outputs=outputs if outputs_given else None, labels=batch[1], scale=scale
    )


def order_of_passes(model: Multimodal) -> list[str]:
    """Return a list to which each part of the model appends its name during its backward pass."""
    order: list[str] = []
    for name, part in [("fusion", model.fusion), *model.encoders.items()]:
        next(part.parameters()).register_hook(lambda _, name=name: order.append(name))
    return order


def test_the_two_passes_of_an_encoder_are_consecutive() -> None:
    """The number of passes is the same: two per encoder, one through the fusion; no graph is retained."""
    model, (inputs, labels) = model_and_batch("three modalities")
    order = order_of_passes(model)
    features = model.features(inputs)
    joint, unimodal = model.losses_of(features, labels)
    encoders = dict(model.encoders.items())
    MMPareto().backward(joint, unimodal, encoders=encoders, outputs=SimpleNamespace(features=features))
    assert order == ["fusion", *(name for name in encoders for _ in range(2))]
    for feature in features.values():
        with pytest.raises(RuntimeError, match="second time"):
            feature.sum().backward()


@functools.cache
def peak(name: str, outputs_given: bool) -> int:
    """Return the peak memory of a step, in bytes: ResNet-18s, 16 samples of two images and a filterbank.

    On the meta device, where tensors have sizes but no values, a step needs as much as on the CPU.
    """
    inputs = {"audio": torch.empty(16, 1, 256, 128), "visual": torch.empty(16, 2, 3, 96, 96)}
    inputs = {modality: x.to("meta") for modality, x in inputs.items()}
    labels = torch.empty(16, dtype=torch.long, device="meta")
    network, method = build_network({"audio": 1, "visual": 3}, 6).to("meta"), make(name)
    with TensorMemory() as counted:
        outputs = network(inputs)
        joint, unimodal = model_losses(outputs, labels)
        encoders = dict(network.encoders.items())
        method.backward(joint, unimodal, encoders=encoders, outputs=outputs if outputs_given else None)
    return counted.peak


@pytest.mark.parametrize("name", ["mmpareto", pytest.param("pareto", marks=pytest.mark.slow)])
def test_memory_beyond_that_of_the_plain_sum(name: str) -> None:
    network = build_network({"audio": 1, "visual": 3}, 6)
    copy = sum(p.numel() * p.element_size() for p in network.encoders.parameters())
    plain = peak("uniform", True)
    assert peak(name, True) - plain <= 0.9 * copy
    assert copy < peak(name, False) - plain <= 1.4 * copy


# --- where a loss depends on an encoder other than through its output ---


def step_with_penalty(model: Multimodal, batch: Any, outputs_given: bool) -> tuple[Tensor, dict[str, Tensor], Any]:
    features = model.features(batch[0])
    joint, unimodal = model.losses_of(features, batch[1])
    joint = (
        joint + model.encoders["visual"][0].weight.square().sum()
    )  # depends on the encoder other than through its output
    return joint, unimodal, SimpleNamespace(features=features) if outputs_given else None


def test_a_loss_on_an_encoders_weights() -> None:
    model, batch = model_and_batch("convolution and mlp")
    joint, unimodal, outputs = step_with_penalty(model, batch, True)
    assert not can_be_cut(model, joint, unimodal, outputs.features)
    expected, _ = reference_gradients("mmpareto", joint, unimodal, model.parameters(), model.encoder_parameters())
    MMPareto().backward(joint, unimodal, encoders=dict(model.encoders.items()), outputs=outputs)
    assert_gradients(expected)


def test_encoders_that_exchange_features() -> None:
    model, (inputs, labels) = dense_and_batch()
    features = model.features(inputs)
    joint, unimodal = model.losses_of(features, labels)
    assert not can_be_cut(model, joint, unimodal, features)
    expected, _ = expectation("mmpareto", model, (inputs, labels))
    MMPareto().backward(
        joint,
        unimodal,
        encoders=dict(model.encoders.items()),
        outputs=SimpleNamespace(features=features),
        interaction=True,
    )
    assert_gradients(expected)


def test_a_parameter_before_all_encoders() -> None:
    model, (inputs, labels) = model_and_batch("two linear")
    offset = nn.Parameter(torch.ones((), dtype=torch.float64))
    features = model.features({name: offset * x for name, x in inputs.items()})
    joint, unimodal = model.losses_of(features, labels)
    assert not can_be_cut(model, joint, unimodal, features)
    everything = [*model.parameters(), offset]
    expected, _ = reference_gradients("mmpareto", joint, unimodal, everything, model.encoder_parameters())
    outputs = SimpleNamespace(features=features)
    MMPareto().backward(joint, unimodal, encoders=dict(model.encoders.items()), outputs=outputs)
    assert_gradients(expected)
    assert offset.grad is not None and offset.grad != 0


@pytest.mark.parametrize("given", [{}, {"audio": None}, {"audio": torch.ones(8, 4, dtype=torch.float64)}], ids=str)
def test_missing_features(given: dict[str, Any]) -> None:
    model, batch = model_and_batch("two linear")
    expected, _ = expectation("mmpareto", model, batch)
    joint, unimodal = model.losses(*batch)
    outputs = SimpleNamespace(features=given)
    MMPareto().backward(joint, unimodal, encoders=dict(model.encoders.items()), outputs=outputs)
    assert_gradients(expected)


# --- edges ---


def test_an_encoder_that_the_joint_loss_does_not_reach() -> None:
    """For example, one whose feature is dropped for a batch."""
    model, (inputs, labels) = model_and_batch("two linear")
    stray = nn.Linear(2, 2).double()
    expected, _ = expectation("mmpareto", model, (inputs, labels), PER_TENSOR)
    features = model.features(inputs)
    joint, unimodal = model.losses_of(features, labels)
    features["touch"] = stray(torch.ones(3, 2, dtype=torch.float64))
    unimodal["touch"] = features["touch"].square().sum()
    wanted = torch.autograd.grad(unimodal["touch"], list(stray.parameters()), retain_graph=True)
    encoders = {**dict(model.encoders.items()), "touch": stray}
    report = MMPareto().backward(joint, unimodal, encoders=encoders, outputs=SimpleNamespace(features=features))
    assert_gradients(expected)
    for parameter, gradient in zip(stray.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert report["touch"].norms[0] == 0 and not bool(report["touch"].conflict.any())


@pytest.mark.parametrize("bad", ["joint", "audio", "visual"])
def test_a_nonfinite_loss_is_flagged(bad: str) -> None:
    model, (inputs, labels) = model_and_batch("two linear")
    flags = []
    for outputs_given in (True, False):
        features = model.features(inputs)
        joint, unimodal = model.losses_of(features, labels)
        losses = {"joint": joint, **unimodal}
        losses[bad] = losses[bad] * torch.nan
        report = MMPareto().backward(
            losses.pop("joint"),
            losses,
            encoders=dict(model.encoders.items()),
            outputs=SimpleNamespace(features=features) if outputs_given else None,
        )
        flags.append(finite_flags(report))
        model.zero_grad()
    assert flags[0] == flags[1] == [name != bad for name in ("joint", "audio", "visual")]


def test_an_overflow_inside_an_encoder_is_flagged() -> None:
    model, (inputs, labels) = model_and_batch("two linear")
    features = model.features(inputs)
    features["visual"] = Overflow.apply(model.encoders["visual"](inputs["visual"]))
    inputs_of_fusion = {"audio": features["audio"], "visual": features["visual"].view_as(features["visual"])}
    joint, unimodal = model.losses_of(inputs_of_fusion, labels)
    outputs = SimpleNamespace(features=features)
    report = MMPareto().backward(joint, unimodal, encoders=dict(model.encoders.items()), outputs=outputs)
    assert finite_flags(report) == [False, True, False]


def test_a_rejected_call_does_not_change_grad() -> None:
    model, (inputs, labels) = model_and_batch("two linear")
    features = model.features(inputs)
    joint, unimodal = model.losses_of(features, labels)
    _, stray = model.losses_of({name: x.detach() for name, x in features.items()}, labels)
    with pytest.raises(ValueError, match="loss 'visual' does not reach encoder 'visual'"):
        MMPareto().backward(
            joint,
            {**unimodal, "visual": stray["visual"]},
            encoders=dict(model.encoders.items()),
            outputs=SimpleNamespace(features=features),
        )
    assert all(p.grad is None for p in model.parameters())
