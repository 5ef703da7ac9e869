"""What users' own loops have, and what is said in place of a step that would be another method's."""

from typing import Any

import pytest
import torch
from every_method import (
    Loop,
    Model,
    Overflow,
    assert_close,
    batch_of,
    losses_of,
    ready,
    step,
    take_grads,
    take_turn,
    turns_of,
)
from mmpareto import METHODS, MMPareto
from mmpareto.integration.method import Method
from torch import Tensor, nn
from torch.amp import GradScaler

NAMES = ["uniform", "mmpareto", "pareto", "dgl"]
every = pytest.mark.parametrize("name", list(METHODS))
WHOLE = [
    (name, options)
    for name in METHODS
    for options in METHODS[name].variants.values()
    if METHODS[name](**options).needs_whole_batch
]
# Methods with losses of their own, which are means over a micro-batch.
OWN_LOSSES = ["opm", "umt", "reconboost", "cml", "lfm, gap of predictions", "inforeg, released"]
# Method → the call without which its step would be another method's.
CALLS = {
    "opm": "use_fusion",
    "cml": "use_fusion",
    "smv": "use_fusion",
    "umt": "teach",
    "inforeg": "set_epoch",
    "lfm": "set_epoch",
    "reconboost": "set_epoch",
    "relearning": "begin_training",
    "agm": "observe",
    "greedy": "watch",
    "pmr": "update_prototypes",
    "gblending": "set_weights",
}


def losses(model: Model) -> tuple[Tensor, dict[str, Tensor]]:
    return losses_of(model(batch_of()[0]), batch_of()[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_scaler_itself(name: str) -> None:
    model = Model()
    encoders = dict(model.encoders.items())
    METHODS[name]().backward(*losses(model), encoders=encoders)
    wanted = take_grads(model)
    scaler = GradScaler("cpu", init_scale=1024.0)
    METHODS[name]().backward(*losses(model), encoders=encoders, scale=scaler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler.unscale_(optimizer)
    assert_close(take_grads(model), wanted)
    METHODS[name]().backward(*losses(model), encoders=encoders, scale=GradScaler("cpu", enabled=False))
    assert_close(take_grads(model), wanted)


def test_the_scaler_skips_a_step_that_overflows() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = GradScaler("cpu", init_scale=1024.0)
    before = {key: p.clone() for key, p in model.named_parameters()}
    joint, unimodal = losses(model)
    report = MMPareto().backward(Overflow.apply(joint), unimodal, encoders=dict(model.encoders.items()), scale=scaler)
    assert not report.all_finite and report.finite.tolist() == [False, True, True]
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert all(torch.equal(p, before[key]) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_in_the_backward_pass(name: str) -> None:
    """Hooks of register_post_accumulate_grad_hook run once per step, with the integrated gradient."""
    ordinary, hooked = Model(), Model()
    optimizer = torch.optim.SGD(ordinary.parameters(), lr=0.1, momentum=0.9)
    calls = []
    for key, parameter in hooked.named_parameters():
        own = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)

        def hook(p: Tensor, own: torch.optim.SGD = own, key: str = key) -> None:
            calls.append(key)
            own.step()
            own.zero_grad()

        parameter.register_post_accumulate_grad_hook(hook)
    for model in (ordinary, hooked):
        method = METHODS[name]()
        for _ in range(3):
            with method.accumulate():
                method.backward(*losses(model), encoders=dict(model.encoders.items()))
            method.backward(*losses(model), encoders=dict(model.encoders.items()))
            if model is ordinary:
                optimizer.step()
                optimizer.zero_grad()
    for (key, ours), (_, wanted) in zip(hooked.named_parameters(), ordinary.named_parameters(), strict=True):
        assert torch.allclose(ours, wanted), key
        assert calls.count(key) in (0, 3)
    assert calls


@pytest.mark.parametrize(("name", "options"), WHOLE)
def test_micro_batches_are_refused_where_the_whole_batch_is_needed(name: str, options: dict[str, Any]) -> None:
    model, method = Model(), METHODS[name](**options)
    loop = Loop(model, batch_of(), epoch=9)  # the released OPM begins with the seventh
    method.begin_training(loop)
    method.begin_epoch(loop)
    with pytest.raises(ValueError, match="needs the whole batch at once"), method.accumulate():
        step(method, loop, batch_of(), share=0.5)
    assert all(g is None for g in take_grads(model).values())


def unshared(method: Method, loop: Loop) -> None:
    """Take the first turn of a step without a share of the samples."""
    inputs, labels = turns_of(method, batch_of())[0]
    outputs = loop.network(inputs, **method.before_forward(loop, inputs, labels))
    encoders = dict(loop.network.encoders.items())
    method.backward(*losses_of(outputs, labels), encoders=encoders, outputs=outputs, labels=labels)


@pytest.mark.parametrize("name", OWN_LOSSES)
def test_losses_of_a_methods_own_need_the_share_of_a_micro_batch(name: str) -> None:
    method, loop = ready(name, Model(), batch_of())
    unshared(method, loop)
    with pytest.raises(ValueError, match="share="), method.accumulate():
        unshared(method, loop)
    with method.accumulate():
        take_turn(method, loop, turns_of(method, batch_of())[0], share=0.5)
    with pytest.raises(ValueError, match="share="):  # the last one, too
        unshared(method, loop)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("unimodal", "mla")])
def test_no_method_is_another_one_in_silence_without_its_hooks(name: str) -> None:
    """A loop that calls `backward` alone trains by the method, or is told what to call."""
    model = Model()
    outputs = model(batch_of()[0])
    arguments = {"encoders": dict(model.encoders.items()), "outputs": outputs, "labels": batch_of()[1]}
    if name in CALLS:
        with pytest.raises(ValueError, match=rf"{CALLS[name]}\("):
            METHODS[name]().backward(*losses_of(outputs, batch_of()[1]), **arguments)
    else:
        METHODS[name]().backward(*losses_of(outputs, batch_of()[1]), **arguments)
        assert any(g is not None for g in take_grads(model).values())


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].needs_classes])
@pytest.mark.parametrize("labels", [torch.ones(12), torch.ones(12, 3), torch.ones(12, 3).long()])
def test_methods_that_compare_classes_refuse_other_labels(labels: Tensor, name: str) -> None:
    model = Model()
    method, loop = ready(name, model, batch_of())
    inputs, _ = turns_of(method, batch_of())[0]
    outputs = model(inputs, **method.before_forward(loop, inputs, batch_of()[1]))
    with pytest.raises(ValueError, match=r"labels are class indices \(B,\)"):
        method.backward(*losses_of(outputs, batch_of()[1]), outputs=outputs, features=outputs.features, labels=labels)


def in_precision(name: str, model: Model, autocast: bool) -> Tensor:
    """The gradients of a step as one vector, with inputs and teachers in the model's precision."""
    dtype = next(model.parameters()).dtype
    batch = {modality: x.to(dtype) for modality, x in batch_of()[0].items()}, batch_of()[1]
    method, loop = ready(name, model, batch)
    for network in getattr(method, "_networks", []):
        network.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        step(method, loop, batch)
    grads = [g for g in take_grads(model).values() if g is not None]
    assert all(g.dtype == dtype for g in grads)
    return torch.cat([g.flatten().double() for g in grads])


@every
def test_bfloat16(name: str) -> None:
    """Gradients are close to those of float32, under autocast and with weights of that type."""
    model = Model().float()
    wanted = in_precision(name, model, autocast=False)
    for found in (in_precision(name, model, autocast=True), in_precision(name, model.bfloat16(), autocast=False)):
        assert torch.cosine_similarity(found, wanted, 0) > 0.99


@every
def test_a_batch_of_one(name: str) -> None:
    model = Model(3)
    method, loop = ready(name, model, batch_of(3))
    for _ in range(2):
        report = step(method, loop, batch_of(3, size=1))
        assert bool(report.all_finite)
        assert all(bool(g.isfinite().all()) for g in take_grads(model).values() if g is not None)


class Additive(nn.Module):
    """A fusion that leaves absent features out."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.layer, self.names = model.fusion, model.modalities

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        weights = dict(zip(self.names, self.layer.weight.chunk(len(self.names), 1), strict=True))
        return torch.stack([x @ weights[name].T for name, x in features.items()]).sum(0) + self.layer.bias


@every
@pytest.mark.parametrize("absent", ["audio", "visual"])
def test_a_batch_without_a_modality(absent: str, name: str) -> None:
    """The others are trained, or the modality is named; the next whole batch is trained on as ever."""
    if name == "unimodal":
        pytest.skip("has one modality")
    model, (inputs, labels) = Model(3), batch_of(3)
    method, loop = ready(name, model, (inputs, labels))
    if hasattr(method, "use_fusion"):
        method.use_fusion(Additive(model))
    step(method, loop, (inputs, labels))
    take_grads(model)
    try:
        report = step(method, loop, ({key: x for key, x in inputs.items() if key != absent}, labels))
        assert bool(report.all_finite)
        grads = take_grads(model)
        assert all(g is None for key, g in grads.items() if key.startswith(f"encoders.{absent}."))
        assert any(g is not None and bool(g.any()) for key, g in grads.items() if key.startswith("encoders."))
    except ValueError as error:
        assert repr(absent) in str(error)
    assert bool(step(method, loop, (inputs, labels)).all_finite)
