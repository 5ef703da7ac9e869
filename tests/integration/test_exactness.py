"""One step in float64 matches the equations to 1e-6, for every method, option and kind of model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from integration_reference import (
    ALL_OPTIONS,
    ENCODER_SETS,
    PAPER,
    PER_TENSOR,
    RELEASED,
    Options,
    assert_gradients,
    assert_report,
    closed_form_weights,
    expectation,
    finite_flags,
    model_and_batch,
    option_name,
    reference_gradients,
    searched_weights,
    tasks_and_batch,
)
from mmpareto import METHODS, MMPareto

SEEDS = range(3)
VARIANTS: dict[str, tuple[Callable[[], Any], Options]] = {
    "default": (MMPareto, PER_TENSOR),
    "per_tensor": (MMPareto.per_tensor, PER_TENSOR),
    "paper": (MMPareto.paper, PAPER),
    "released": (MMPareto.released, RELEASED),
}
by_model = pytest.mark.parametrize("name", ENCODER_SETS)


def test_searched_weights_agree_with_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 5, 50):
        for _ in range(20):
            pair = torch.randn(2, size, generator=generator, dtype=torch.float64)
            first, second = (row.numpy() for row in pair)
            assert searched_weights(first, second) == pytest.approx(closed_form_weights(first, second), abs=1e-12)


def test_models_have_groups_with_and_without_conflict() -> None:
    """Otherwise the comparisons would cover only one of the cases."""
    for options in (PER_TENSOR, PAPER):
        flags = []
        for name in ENCODER_SETS:
            for seed in SEEDS:
                _, reports = expectation("mmpareto", *model_and_batch(name, seed), options)
                flags += [flag for report in reports.values() for flag in report.conflict.tolist()]
        assert min(sum(flags), len(flags) - sum(flags)) >= 5


@by_model
@pytest.mark.parametrize("method", ["joint", "uniform"])
def test_plain_methods(method: str, name: str) -> None:
    model, batch = model_and_batch(name)
    expected, _ = expectation(method, model, batch)
    joint, unimodal = model.losses(*batch)
    report = METHODS[method]().backward(joint, unimodal, encoders=dict(model.encoders.items()))
    assert_gradients(expected)
    assert list(report) == []
    flags = finite_flags(report)  # joint training ignores the unimodal losses
    assert flags == [True] * (1 if method == "joint" else 1 + len(unimodal))


def check_mmpareto(integrate: Any, options: Options, name: str) -> None:
    for seed in SEEDS:
        model, batch = model_and_batch(name, seed)
        expected, reports = expectation("mmpareto", model, batch, options)
        joint, unimodal = model.losses(*batch)
        report = integrate.backward(joint, unimodal, encoders=dict(model.encoders.items()))
        assert_gradients(expected)
        assert list(report) == list(reports)
        assert finite_flags(report) == [True] * (1 + len(unimodal))
        for modality, wanted in reports.items():
            assert_report(report[modality], wanted)


@by_model
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str, name: str) -> None:
    make, options = VARIANTS[variant]
    check_mmpareto(make(), options, name)


@by_model
@pytest.mark.parametrize("options", ALL_OPTIONS, ids=option_name)
def test_options(options: Options, name: str) -> None:
    check_mmpareto(MMPareto(**options.arguments()), options, name)


@pytest.mark.parametrize("gamma", [0.25, 1.0, 4.0])
def test_gamma(gamma: float) -> None:
    for options in (PER_TENSOR, PAPER, RELEASED):
        other = Options(**{**options.arguments(), "gamma": gamma})
        check_mmpareto(MMPareto(**other.arguments()), other, "convolution and mlp")


@pytest.mark.parametrize("method", ["joint", "uniform", "mmpareto"])
def test_registry_and_state(method: str) -> None:
    assert METHODS["mmpareto"] is MMPareto
    assert {"joint", "uniform", "mmpareto"} <= set(METHODS)
    integrate = METHODS[method]()
    assert integrate.state_dict() == {}
    integrate.load_state_dict({})


@pytest.mark.parametrize("method", ["joint", "uniform", "mmpareto"])
def test_grad_accumulates(method: str) -> None:
    """Like `Tensor.backward`, a step adds to `.grad`; parameters that no loss reaches keep theirs."""
    model, batch = model_and_batch("unused and frozen")
    expected, _ = expectation(method, model, batch)
    before = {p: torch.full_like(p, 0.5) for p in model.parameters() if p.requires_grad}
    for parameter, start in before.items():
        parameter.grad = start.clone()
    joint, unimodal = model.losses(*batch)
    METHODS[method]().backward(joint, unimodal, encoders=dict(model.encoders.items()))
    assert_gradients(expected, before)


def test_unreached_and_frozen_parameters() -> None:
    model, batch = model_and_batch("unused and frozen")
    joint, unimodal = model.losses(*batch)
    report = MMPareto().backward(joint, unimodal, encoders=dict(model.encoders.items()))
    assert all(p.grad is None for p in model.encoders["audio"].idle.parameters())
    frozen = [p for p in model.encoders["visual"].parameters() if not p.requires_grad]
    assert len(frozen) == 2
    assert all(p.grad is None for p in frozen)
    assert report["visual"].weights.shape == (2, 2)
    assert report["audio"].weights.shape == (4, 2)


def test_an_encoder_that_its_loss_does_not_reach_is_rejected() -> None:
    model, batch = model_and_batch("two linear")
    joint, unimodal = model.losses(*batch)
    encoders = {**dict(model.encoders.items()), "touch": torch.nn.Linear(2, 2).double()}
    head = next(model.heads["audio"].parameters())
    with pytest.raises(ValueError, match="'touch' does not reach encoder 'touch'"):
        MMPareto().backward(joint, {**unimodal, "touch": head.sum()}, encoders=encoders)
    assert all(p.grad is None for p in [*model.parameters(), *encoders["touch"].parameters()])


def test_an_encoder_that_the_joint_loss_does_not_reach_descends_its_own_loss() -> None:
    """For example, a modality whose feature is dropped for a batch."""
    model, batch = model_and_batch("two linear")
    joint, unimodal = model.losses(*batch)
    stray = torch.nn.Linear(2, 2).double()
    expected, _ = expectation("mmpareto", model, batch, PER_TENSOR)
    loss = stray.weight.square().sum()
    report = MMPareto().backward(
        joint, {**unimodal, "touch": loss}, encoders={**dict(model.encoders.items()), "touch": [stray.weight]}
    )
    assert_gradients(expected)
    torch.testing.assert_close(stray.weight.grad, 2 * stray.weight)
    assert report["touch"].norms[0] == 0 and not bool(report["touch"].conflict.any())


def test_joint_training_leaves_no_gradient_on_unimodal_heads() -> None:
    model, batch = model_and_batch("two linear")
    joint, unimodal = model.losses(*batch)
    METHODS["joint"]().backward(joint, unimodal, encoders=dict(model.encoders.items()))
    assert all(p.grad is None for p in model.heads.parameters())
    assert all(p.grad is not None for p in model.joint_head.parameters())


@pytest.mark.parametrize("method", ["joint", "uniform", "mmpareto"])
@pytest.mark.parametrize("form", ["list", "tuple", "generator", "named task"])
def test_forms_of_encoders(form: str, method: str) -> None:
    model, batch = model_and_batch("convolution and mlp", seed=1)
    expected, reports = expectation(method, model, batch)
    forms: dict[str, Callable[[str, Any], Any]] = {
        "list": lambda _, net: list(net.parameters()),
        "tuple": lambda _, net: tuple(net.parameters()),
        "generator": lambda _, net: net.parameters(),
        "named task": lambda name, net: (net, [name]),
    }
    encoders = {modality: forms[form](modality, net) for modality, net in model.encoders.items()}
    joint, unimodal = model.losses(*batch)
    report = METHODS[method]().backward(joint, unimodal, encoders=encoders)
    assert_gradients(expected)
    for modality, wanted in reports.items():
        assert_report(report[modality], wanted)


def test_tensors_are_reported_in_the_order_given() -> None:
    model, batch = model_and_batch("three modalities", seed=2)
    joint, unimodal = model.losses(*batch)
    original = MMPareto().backward(joint, unimodal, encoders=model.encoder_parameters())
    joint, unimodal = model.losses(*batch)
    reordered = MMPareto().backward(
        joint, unimodal, encoders={name: members[::-1] for name, members in model.encoder_parameters().items()}
    )
    for modality in model.encoders:
        torch.testing.assert_close(reordered[modality].weights, original[modality].weights.flip(0))
        torch.testing.assert_close(reordered[modality].rescale, original[modality].rescale.flip(0))


@pytest.mark.filterwarnings("ignore:.*have no field .features.")
@pytest.mark.parametrize("method", ["joint", "uniform", "mmpareto"])
def test_outputs_and_labels_are_ignored(method: str) -> None:
    model, batch = model_and_batch("two linear")
    expected, _ = expectation(method, model, batch)
    joint, unimodal = model.losses(*batch)
    METHODS[method]().backward(
        joint, unimodal, encoders=dict(model.encoders.items()), outputs={"joint": joint}, labels=batch[1]
    )
    assert_gradients(expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("order", [["depth", "normals"], ["normals", "depth"]], ids=" ".join)
def test_two_tasks_on_one_encoder(order: list[str], variant: str) -> None:
    make, options = VARIANTS[variant]
    for seed in SEEDS:
        model, inputs, labels = tasks_and_batch(seed)
        losses = model.losses(inputs, labels)
        members = {"shared": list(model.shared.parameters())}
        expected, reports = reference_gradients(
            "mmpareto", None, losses, model.parameters(), members, options, {"shared": order}
        )
        report = make().backward(None, losses, encoders={"shared": (model.shared, order)})
        assert_gradients(expected)
        assert list(report) == ["shared"]
        assert finite_flags(report) == [True, True]
        assert_report(report["shared"], reports["shared"])


def test_uniform_with_two_tasks_on_one_encoder() -> None:
    model, inputs, labels = tasks_and_batch()
    losses = model.losses(inputs, labels)
    expected, _ = reference_gradients("uniform", None, losses, model.parameters(), {})
    METHODS["uniform"]().backward(None, losses, encoders={"shared": (model.shared, ["depth", "normals"])})
    assert_gradients(expected)


def test_one_object_can_take_many_steps() -> None:
    """A step does not depend on earlier steps."""
    integrate = MMPareto()
    for seed in SEEDS:
        for name in ENCODER_SETS:
            model, batch = model_and_batch(name, seed)
            expected, _ = expectation("mmpareto", model, batch)
            joint, unimodal = model.losses(*batch)
            integrate.backward(joint, unimodal, encoders=dict(model.encoders.items()))
            assert_gradients(expected)
