"""Training on one kind of loss at a time: joint, unimodal, and unimodal pre-training before joint fine-tuning."""

import copy
import io
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from integration_reference import (
    ENCODER_SETS,
    Batch,
    Multimodal,
    assert_gradients,
    dense_and_batch,
    gradients_of,
    model_and_batch,
)
from mmpareto import Ensemble, JointLoss, PretrainFinetune, Unimodal
from mmpareto.integration.method import Method
from mmpareto.integration.report import Report
from torch import Tensor, nn

SETS = list(ENCODER_SETS)
every_model = pytest.mark.parametrize("kind", [*SETS, "dense"])


def model_of(kind: str) -> tuple[Multimodal, Batch]:
    """Return the model and batch of that name; in "dense", encoders exchange activations."""
    return dense_and_batch() if kind == "dense" else model_and_batch(kind)


def step(method: Method, model: Multimodal, batch: Batch, **more: Any) -> Report:
    joint, unimodal = model.losses(*batch)
    return method.backward(joint, unimodal, encoders=dict(model.encoders.items()), **more)


def expected_of(model: Multimodal, batch: Batch, *names: str) -> dict[nn.Parameter, Tensor | None]:
    """Return autograd's gradients of the sum of these losses for the trainable parameters; None if unreached."""
    joint, unimodal = model.losses(*batch)
    losses = {"joint": joint, **unimodal}
    trainable = [p for p in model.parameters() if p.requires_grad]
    return gradients_of(torch.stack([losses[name] for name in names]).sum(), trainable)


def assert_exact(expected: Mapping[nn.Parameter, Tensor | None], model: Multimodal) -> None:
    """Assert that `.grad` is as expected, and None (not zero) if unreached or frozen."""
    assert_gradients(dict(expected))
    assert any(gradient is not None and bool(gradient.any()) for gradient in expected.values())
    for p in model.parameters():
        assert expected.get(p) is not None or p.grad is None


def without_gradient(model: nn.Module) -> set[str]:
    """Return the first two parts of the names of trainable parameters with `.grad` None."""
    return {".".join(key.split(".")[:2]) for key, p in model.named_parameters() if p.requires_grad and p.grad is None}


def context_of(epoch: int, epochs: int = 10, modalities: Sequence[str] = ()) -> Any:
    return SimpleNamespace(epoch=epoch, epochs=epochs, network=SimpleNamespace(modalities=list(modalities)))


def assert_rejected(method: Method, match: str, model: Multimodal, *losses: Any, encoders: Any = None) -> None:
    with pytest.raises(ValueError, match=match):
        method.backward(*losses, encoders=dict(model.encoders.items()) if encoders is None else encoders)
    assert all(p.grad is None for p in model.parameters())


# --- joint training ----------------------------------------------------------------------------------------------


@every_model
def test_joint_training_descends_the_joint_loss_alone(kind: str) -> None:
    model, batch = model_of(kind)
    expected = expected_of(model, batch, "joint")
    report = step(JointLoss(), model, batch, interaction=kind == "dense")
    assert_exact(expected, model)
    assert all(p.grad is None for p in model.heads.parameters())
    assert not report and report.losses == ["joint"] and report.finite.tolist() == [True] and not report.metrics


def test_joint_training_ignores_unimodal_losses() -> None:
    """They may be missing, without a graph, or not finite."""
    model, batch = model_and_batch("two linear")
    expected = expected_of(model, batch, "joint")
    cases: list[dict[str, Tensor]] = [{}, {"audio": torch.tensor(float("nan"))}, {"smell": torch.zeros(3)}]
    for unimodal in cases:
        joint, _ = model.losses(*batch)
        report = JointLoss().backward(joint, unimodal, encoders=dict(model.encoders.items()))
        assert_exact(expected, model)
        assert report.losses == ["joint"] and report.finite.tolist() == [True]
        model.zero_grad(set_to_none=True)


def test_an_encoder_that_the_joint_loss_does_not_reach_receives_no_gradient() -> None:
    model, batch = model_and_batch("two linear")
    encoded = model.encoders["audio"](batch[0]["audio"])
    JointLoss().backward(encoded.square().sum(), {}, encoders=dict(model.encoders.items()))
    assert model.encoders["audio"].weight.grad is not None
    assert all(p.grad is None for p in model.encoders["visual"].parameters())


def test_joint_training_rejects_wrong_losses() -> None:
    model, batch = model_and_batch("two linear")
    joint, unimodal = model.losses(*batch)
    other, _ = model_and_batch("two linear", seed=1)[0].losses(*batch)
    assert_rejected(JointLoss(), "joint training descends the joint loss: pass it", model, None, unimodal)
    assert_rejected(JointLoss(), "'joint' needs no gradient", model, joint.detach(), unimodal)
    assert_rejected(JointLoss(), "'joint' does not reach encoder", model, other, unimodal)


# --- unimodal training -------------------------------------------------------------------------------------------


@every_model
def test_unimodal_training_descends_one_unimodal_loss_alone(kind: str) -> None:
    for name in model_of(kind)[0].encoders:
        model, batch = model_of(kind)
        expected = expected_of(model, batch, name)
        report = step(Unimodal(name), model, batch)
        assert not report and report.losses == [name] and report.finite.tolist() == [True]
        assert_exact(expected, model)
        if kind == "dense":  # there the loss also reaches the other encoders
            continue
        others = {m for m in model.encoders if m != name}
        for module in [*(model.encoders[m] for m in others), *(model.heads[m] for m in others)]:
            assert all(p.grad is None for p in module.parameters())
        for module in (model.fusion, model.joint_head):
            assert all(p.grad is None for p in module.parameters())


def test_a_single_modality_need_not_be_chosen() -> None:
    model, batch = model_and_batch("one modality")
    expected = expected_of(model, batch, "touch")
    method = Unimodal()
    method.begin_training(context_of(1, modalities=["touch"]))
    assert step(method, model, batch).losses == ["touch"]
    assert_exact(expected, model)


def test_unimodal_training_needs_no_other_losses_or_encoders() -> None:
    """No joint loss, no other losses, no other encoders."""
    model, batch = model_and_batch("three modalities")
    expected = expected_of(model, batch, "visual")
    _, unimodal = model.losses(*batch)
    Unimodal("visual").backward(None, {"visual": unimodal["visual"]}, encoders={"visual": model.encoders["visual"]})
    assert_exact(expected, model)
    model.zero_grad(set_to_none=True)
    joint, unimodal = model.losses(*batch)
    given = {**unimodal, "audio": torch.tensor(float("nan")), "text": torch.zeros(2)}
    report = Unimodal("visual").backward(joint.detach(), given, encoders=dict(model.encoders.items()))
    assert_exact(expected, model)
    assert report.finite.tolist() == [True]


def test_the_choice_of_a_modality_is_checked() -> None:
    model, batch = model_and_batch("two linear")
    joint, unimodal = model.losses(*batch)
    assert_rejected(Unimodal(), "audio, visual: choose it by `modality`", model, joint, unimodal)
    assert_rejected(Unimodal("text"), "'text' is not among the modalities, audio, visual", model, joint, unimodal)
    assert_rejected(Unimodal("audio"), "no loss was given", model, joint, {})
    assert_rejected(Unimodal(), "audio, visual: choose it", model, joint, {})
    only = {"visual": model.encoders["visual"]}
    assert_rejected(Unimodal("audio"), "'audio' has no encoder: add encoders", model, joint, unimodal, encoders=only)
    assert_rejected(Unimodal("audio"), "'audio' needs no gradient", model, joint, {"audio": unimodal["audio"].detach()})
    assert_rejected(Unimodal("audio"), "'audio' does not reach", model, joint, {"audio": unimodal["visual"]})


@pytest.mark.parametrize(
    ("modality", "match"), [(None, "audio, visual: choose it"), ("text", "'text' is not among"), ("audio", None)]
)
def test_a_network_without_the_modality_is_rejected_before_training(modality: str | None, match: str | None) -> None:
    method = Unimodal(modality)
    if match is None:
        method.begin_training(context_of(1, modalities=["audio", "visual"]))
        return
    with pytest.raises(ValueError, match=match):
        method.begin_training(context_of(1, modalities=["audio", "visual"]))


def test_requirements_of_joint_and_unimodal_training() -> None:
    assert Unimodal("audio").modalities == ("audio",)
    assert Unimodal().modalities is None
    assert dict(Unimodal.network) == {"heads": "shared"}
    assert not Unimodal.descends_joint and Unimodal.descends_unimodal
    assert JointLoss.descends_joint and not JointLoss.descends_unimodal


# --- pre-training and fine-tuning --------------------------------------------------------------------------------


@every_model
def test_pretraining_descends_the_unimodal_losses_and_fine_tuning_the_joint_loss(kind: str) -> None:
    model, batch = model_of(kind)
    names = list(model.encoders)
    first, second = expected_of(model, batch, *names), expected_of(model, batch, "joint")
    method = PretrainFinetune()
    assert step(method, model, batch).losses == names
    assert_exact(first, model)
    outside = {"fusion.weight", "fusion.bias", "joint_head.weight", "joint_head.bias"}
    assert outside <= without_gradient(model)
    model.zero_grad(set_to_none=True)
    method.finetune()
    assert step(method, model, batch).losses == ["joint"]
    assert_exact(second, model)
    assert {f"heads.{name}" for name in names} <= without_gradient(model)


def stages(method: PretrainFinetune, epochs: int) -> list[bool]:
    """Return for each epoch of a run whether a step descends the joint loss."""
    model, batch = model_and_batch("two linear")
    result = []
    for epoch in range(1, epochs + 1):
        method.begin_epoch(context_of(epoch, epochs))
        joint = step(method, model, batch).losses == ["joint"]
        assert (method.descends_joint, method.descends_unimodal) == (joint, not joint)
        result.append(joint)
    return result


@pytest.mark.parametrize(
    ("pretrain_epochs", "epochs", "first"),
    [(None, 10, 5), (None, 7, 3), (None, 1, 0), (0, 4, 0), (1, 4, 1), (3, 4, 3), (4, 4, 4), (9, 4, 4)],
)
def test_fine_tuning_begins_after_the_chosen_epochs(pretrain_epochs: int | None, epochs: int, first: int) -> None:
    """None means half of the run's epochs; 0 means joint training from the start."""
    assert stages(PretrainFinetune(pretrain_epochs), epochs) == [False] * first + [True] * (epochs - first)


def test_pretraining_takes_half_of_the_run_by_default() -> None:
    assert PretrainFinetune().pretrain_epochs is None
    assert not PretrainFinetune().descends_joint and PretrainFinetune().descends_unimodal


def test_the_stage_belongs_to_the_object() -> None:
    PretrainFinetune().finetune()
    assert not PretrainFinetune().descends_joint


@pytest.mark.parametrize(("at", "joint"), [(2, False), (3, False), (4, True), (5, True)])
@pytest.mark.parametrize("pretrain_epochs", [3, None])
def test_the_state_keeps_the_stage(pretrain_epochs: int | None, at: int, joint: bool) -> None:
    """The stage is kept if the run is resumed in mid-epoch, where no epoch begins, or with more epochs than before."""
    method = PretrainFinetune(pretrain_epochs)
    for epoch in range(1, at + 1):
        method.begin_epoch(context_of(epoch, 6))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    fresh = PretrainFinetune()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    model, batch = model_and_batch("two linear")
    expected = expected_of(model, batch, *(["joint"] if joint else ["audio", "visual"]))
    step(fresh, model, batch)
    assert_exact(expected, model)
    assert (fresh.descends_joint, fresh.descends_unimodal) == (joint, not joint)
    for epoch in range(at + 1, 13):
        fresh.begin_epoch(context_of(epoch, 12))
        assert fresh.descends_joint == (epoch > 3)


def test_a_state_of_another_method_is_rejected() -> None:
    with pytest.raises(ValueError, match="PretrainFinetune"):
        PretrainFinetune().load_state_dict({})
    with pytest.raises(ValueError, match="JointLoss"):
        JointLoss().load_state_dict(PretrainFinetune().state_dict())


def test_each_stage_requires_its_losses() -> None:
    model, batch = model_and_batch("two linear")
    joint, unimodal = model.losses(*batch)
    method = PretrainFinetune()
    assert_rejected(method, "no loss was given", model, joint, {})
    method.finetune()
    assert_rejected(method, "joint fine-tuning descends the joint loss: pass it", model, None, unimodal)


def test_each_stage_needs_no_losses_of_the_other() -> None:
    model, batch = model_and_batch("two linear")
    first, second = expected_of(model, batch, "audio", "visual"), expected_of(model, batch, "joint")
    method = PretrainFinetune()
    method.backward(None, model.losses(*batch)[1], encoders=dict(model.encoders.items()))
    assert_exact(first, model)
    model.zero_grad(set_to_none=True)
    method.finetune()
    method.backward(model.losses(*batch)[0], {}, encoders=dict(model.encoders.items()))
    assert_exact(second, model)


@pytest.mark.parametrize("pretrain_epochs", [-1, -100])
def test_a_negative_number_of_epochs_is_rejected(pretrain_epochs: int) -> None:
    with pytest.raises(ValueError, match="pretrain_epochs must be at least 0"):
        PretrainFinetune(pretrain_epochs)


def freeze(model: Multimodal) -> None:
    for encoder in model.encoders.values():
        encoder.requires_grad_(False).eval()


@pytest.mark.parametrize("kind", ["two linear", "convolution and mlp", "dense"])
def test_fine_tuning_of_frozen_encoders_trains_fusion_and_joint_head_alone(kind: str) -> None:
    model, batch = model_of(kind)
    method = PretrainFinetune(freeze_encoders=True)
    assert method.trains_encoders
    first = expected_of(model, batch, *model.encoders)
    step(method, model, batch, interaction=kind == "dense")
    assert_exact(first, model)
    model.zero_grad(set_to_none=True)
    method.finetune()
    assert not method.trains_encoders
    freeze(model)
    before = {name: buffer.clone() for name, buffer in model.encoders.named_buffers()}
    expected = expected_of(model, batch, "joint")
    report = step(method, model, batch, interaction=kind == "dense")
    assert report.losses == ["joint"] and not report
    assert_exact(expected, model)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"fusion", "joint_head"}
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.encoders.named_buffers())


def test_encoders_that_should_be_frozen_but_are_not_are_rejected() -> None:
    model, batch = model_and_batch("two linear")
    joint, unimodal = model.losses(*batch)
    method = PretrainFinetune(freeze_encoders=True)
    method.finetune()
    assert_rejected(method, "encoder 'audio' frozen: call its requires_grad_", model, joint, unimodal)
    given = {"audio": list(model.encoders["audio"].parameters()), "visual": (model.encoders["visual"], ["visual"])}
    model.encoders["audio"].requires_grad_(False)
    assert_rejected(method, "encoder 'visual' frozen", model, joint, unimodal, encoders=given)
    freeze(model)
    assert_rejected(method, "fine-tuning descends the joint loss: pass it", model, None, unimodal)


# --- ensemble ----------------------------------------------------------------------------------------------------


@every_model
def test_an_ensemble_descends_every_unimodal_loss_and_not_the_joint_loss(kind: str) -> None:
    model, batch = model_of(kind)
    expected = expected_of(model, batch, *model.encoders)
    assert step(Ensemble(), model, batch).losses == list(model.encoders)
    assert_exact(expected, model)
    outside = {"fusion.weight", "fusion.bias", "joint_head.weight", "joint_head.bias"}
    assert outside <= without_gradient(model)


def test_each_member_of_an_ensemble_learns_as_if_alone() -> None:
    model, batch = model_and_batch("three modalities")
    for name, encoder in model.encoders.items():
        alone = copy.deepcopy(model)
        step(Unimodal(name), alone, batch)
        model.zero_grad(set_to_none=True)
        step(Ensemble(), model, batch)
        for ours, theirs in (
            *zip(encoder.parameters(), alone.encoders[name].parameters(), strict=True),
            *zip(model.heads[name].parameters(), alone.heads[name].parameters(), strict=True),
        ):
            assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad)


# --- all of these methods ----------------------------------------------------------------------------------------


def finetuning() -> Method:
    method = PretrainFinetune()
    method.finetune()
    return method


ALL = {
    "joint": (JointLoss, ["joint"]),
    "unimodal": (lambda: Unimodal("visual"), ["visual"]),
    "ensemble": (Ensemble, ["text", "audio", "visual"]),
    "pre-training": (PretrainFinetune, ["text", "audio", "visual"]),
    "fine-tuning": (finetuning, ["joint"]),
}
each = pytest.mark.parametrize("name", list(ALL))


@each
def test_scaled_gradients_are_added_to_existing_ones(name: str) -> None:
    make, losses = ALL[name]
    model, batch = model_and_batch("three modalities")
    expected = expected_of(model, batch, *losses)
    before = {}
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.5)
        before[p] = p.grad.clone()
    step(make(), model, batch, scale=64.0)
    assert_gradients({p: None if g is None else 64 * g for p, g in expected.items()}, before)


@each
def test_micro_batches_give_the_full_batch(name: str) -> None:
    make, losses = ALL[name]
    model, (inputs, labels) = model_and_batch("three modalities")
    expected = expected_of(model, (inputs, labels), *losses)
    method = make()

    def part(start: int, end: int) -> None:
        share = (end - start) / len(labels)
        joint, unimodal = model.losses({m: x[start:end] for m, x in inputs.items()}, labels[start:end])
        unimodal = {m: share * loss for m, loss in unimodal.items()}
        method.backward(share * joint, unimodal, encoders=dict(model.encoders.items()))

    with method.accumulate():
        part(0, 1)
        part(1, 5)
    assert all(p.grad is None for p in model.parameters())
    part(5, 8)
    assert_exact(expected, model)


@each
def test_a_nonfinite_loss_is_reported(name: str) -> None:
    make, losses = ALL[name]
    model, batch = model_and_batch("three modalities")
    joint, unimodal = model.losses(*batch)
    bad = losses[-1]
    given = {"joint": joint, **unimodal}
    given[bad] = given[bad] * float("nan")
    joint = given.pop("joint")
    report = make().backward(joint, given, encoders=dict(model.encoders.items()))
    assert report.losses == losses
    assert report.finite.tolist() == [loss != bad for loss in losses]
