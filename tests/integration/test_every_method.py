"""Properties of every method, for any number of modalities."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from every_method import (
    COMBINING,
    CONTROLS,
    NAMES,
    OWN_JOINT_LOSS,
    STATEFUL,
    Encoder,
    Loop,
    Model,
    assert_close,
    assert_same_state,
    batch_of,
    losses_of,
    make,
    ready,
    step,
    take_grads,
    take_turn,
    tensors_in,
    turns_of,
)
from mmpareto import METHODS
from mmpareto.integration.method import Method
from torch import nn
from torch.nn.functional import cross_entropy

every = pytest.mark.parametrize("name", list(METHODS))
every_path = pytest.mark.parametrize("name", [*METHODS, *CONTROLS])
JOINT_ONLY = [name for name in METHODS if not METHODS[name].descends_unimodal]


@every
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_any_number_of_modalities(name: str, count: int) -> None:
    model, batch = Model(count), batch_of(count)
    method, loop = ready(name, model, batch)
    for _ in range(2):
        report = step(method, loop, batch)
        assert bool(report.finite.all()) and len(report.losses) == len(report.finite)
        actual = take_grads(model)
        trained = ["audio"] if name in ("unimodal", "reconboost") else NAMES[:count]  # in its first stage
        for modality in NAMES[:count]:
            grads = [g for key, g in actual.items() if key.startswith(f"encoders.{modality}.")]
            assert all((g is not None and bool(g.isfinite().all())) == (modality in trained) for g in grads), modality


@pytest.mark.parametrize("name", [*JOINT_ONLY, "pretrain_finetune"])
def test_one_modality_is_plain_training(name: str) -> None:
    """Methods that modulate the joint loss's gradient leave it unchanged (except by noise, prototypes, a teacher)."""
    if name in ("ogm_ge", "pmr", "umt"):
        pytest.skip("adds noise, or a loss of prototypes or of a teacher, for any number of modalities")
    model, batch = Model(1), batch_of(1)
    method, loop = ready(name, model, batch)
    step(method, loop, batch)
    actual = take_grads(model)
    cross_entropy(model(batch[0]).joint, batch[1]).backward()
    assert_close(actual, take_grads(model), 1e-12)


@every_path
@pytest.mark.parametrize("count", [2, 3])
def test_micro_batches_give_the_full_batch(name: str, count: int) -> None:
    model, batch = Model(count), batch_of(count)
    (method, loop), (other, _) = ready(name, model, batch), ready(name, model, batch)
    if method.needs_whole_batch:
        pytest.skip("compares the samples of a batch")
    for number in range(2):
        whole = step(method, loop, batch, seed=number)
        expected = take_grads(model)
        for (inputs, labels), end in itertools.product(turns_of(other, batch), (3, 7, 12)):
            start = {3: 0, 7: 3, 12: 7}[end]
            part = {m: x[start:end] for m, x in inputs.items()}, labels[start:end]
            share, before = (end - start) / len(labels), [p.grad for p in model.parameters()]
            if end < len(labels):
                with other.accumulate():
                    take_turn(other, loop, part, share=share, seed=number)
                assert all(p.grad is g for p, g in zip(model.parameters(), before, strict=True))
            else:
                report = take_turn(other, loop, part, share=share, seed=number)
        assert_close(take_grads(model), expected)
        assert list(report) == list(whole) and list(report.metrics) == list(whole.metrics)
        for key, value in whole.metrics.items():
            torch.testing.assert_close(report.metrics[key], value, rtol=1e-6, atol=1e-12)


@every_path
def test_loss_scaling_changes_nothing_but_the_scale(name: str) -> None:
    model, batch = Model(), batch_of()
    (method, loop), (other, _) = ready(name, model, batch), ready(name, model, batch)
    for number in range(3):
        plain, scaled = step(method, loop, batch, seed=number), None
        expected = take_grads(model)
        scaled = step(other, loop, batch, scale=1024.0, seed=number)
        actual = {key: None if g is None else g / 1024 for key, g in take_grads(model).items()}
        assert_close(actual, expected, 1e-9)
        for modality, encoder in plain.items():
            for field in ("cosine", "norms", "weights", "conflict", "rescale"):
                torch.testing.assert_close(getattr(scaled[modality], field), getattr(encoder, field))
    for a, b in zip(tensors_in(method.state_dict()), tensors_in(other.state_dict()), strict=True):
        torch.testing.assert_close(a, b)


@every
def test_a_nonfinite_step_does_not_change_the_state(name: str) -> None:
    model, batch = Model(), batch_of()
    method, loop = ready(name, model, batch)
    step(method, loop, batch)
    take_grads(model)
    before = copy.deepcopy(method.state_dict())
    bad = {m: torch.full_like(x, float("nan")) for m, x in batch[0].items()}, batch[1]
    report = step(method, loop, bad)
    assert not bool(report.finite.any())
    actual = [g for g in take_grads(model).values() if g is not None]
    assert actual and not any(bool(g.isfinite().all()) for g in actual)
    for a, b in zip(tensors_in(method.state_dict()), tensors_in(before), strict=True):
        assert_same_state(a, b)


@every
def test_a_loaded_state_continues_bit_for_bit(name: str) -> None:
    model, batches = Model(), [batch_of(seed=seed) for seed in range(4)]
    method, loop = ready(name, model, batches[0])
    for batch in batches[:2]:
        step(method, loop, batch)
    take_grads(model)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    fresh = make(name)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    fresh.begin_training(loop)  # as with --resume in mid-epoch: no epoch begins
    for batch in batches[2:]:
        step(method, loop, batch, seed=7)
        expected = take_grads(model)
        step(fresh, loop, batch, seed=7)
        actual = take_grads(model)
        assert_same_state(actual, expected)
    assert_same_state(fresh.state_dict(), method.state_dict())


@pytest.mark.parametrize("name", STATEFUL)
def test_stateful_methods_have_a_state(name: str) -> None:
    model, batch = Model(), batch_of()
    method, loop = ready(name, model, batch)
    step(method, loop, batch)
    assert method.state_dict()
    with pytest.raises(ValueError, match="is not"):
        method.load_state_dict({"nothing": 1})


# One method per way of using the model: passes, forward arguments, features, forward passes in evaluation mode.
@pytest.mark.parametrize("name", ["joint", "mmpareto", "dgl", "greedy", "pmr", "agm"])
def test_a_compiled_model_gives_the_same_gradients(name: str) -> None:
    """In a compiled model, the gradient of an unreached parameter may be zero instead of None."""
    model, batch = Model(), batch_of()
    method, loop = ready(name, model, batch)
    step(method, loop, batch)
    expected = take_grads(model)
    other, _ = ready(name, model, batch)
    torch._dynamo.reset()
    step(other, loop, batch, model=torch.compile(model, backend="aot_eager"))
    actual = take_grads(model)
    for key, gradient in actual.items():
        if expected[key] is None:
            assert gradient is None or not bool(gradient.any()), key
            actual[key] = None
    assert_close(actual, expected, 1e-9)


@every
def test_recomputed_activations_give_the_same_gradients(name: str) -> None:
    model, batch = Model(), batch_of()
    method, loop = ready(name, model, batch)
    step(method, loop, batch)
    expected = take_grads(model)
    twin = Model(recompute=True)
    other, its_loop = ready(name, twin, batch)
    step(other, its_loop, batch)
    assert_close(take_grads(twin), expected, 1e-12)


@every
def test_frozen_parameters_receive_no_gradient(name: str) -> None:
    if name in ("ogm", "ogm_ge"):
        pytest.skip("refuses encoders without trainable convolutions")
    model, batch = Model(), batch_of()
    for encoder in model.encoders.values():
        encoder.conv.requires_grad_(False)
    method, loop = ready(name, model, batch)
    step(method, loop, batch)
    actual = take_grads(model)
    assert all(g is None for key, g in actual.items() if ".conv." in key)
    assert actual["encoders.audio.layer.weight"] is not None


@every
def test_it_adds_to_existing_gradients(name: str) -> None:
    model, batch = Model(), batch_of()
    method, loop = ready(name, model, batch)
    step(method, loop, batch)
    expected = take_grads(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    other, _ = ready(name, model, batch)
    step(other, loop, batch)
    actual = take_grads(model)
    assert_close(
        {key: g - 1 for key, g in actual.items() if g is not None},
        {key: torch.zeros_like(actual[key]) if g is None else g for key, g in expected.items()},
        1e-9,
    )


@every
def test_encoders_that_exchange_information(name: str) -> None:
    """Each loss also reaches the other encoders; the step is finite and trains the encoders."""
    model, batch = Model(3, mixed=True), batch_of(3)
    method, loop = ready(name, model, batch)
    report = step(method, loop, batch)
    assert bool(report.finite.all())
    actual = take_grads(model)
    assert all(g is not None for key, g in actual.items() if key.startswith("encoders.audio."))


def backward_on(method: Method, model: Model, **changes: object) -> None:
    """Call `backward` with valid arguments, except for `changes`; of several turns, the first one's."""
    batch = turns_of(method, batch_of(len(model.modalities)))[0]
    forward_arguments = method.before_forward(Loop(model, batch), *batch)
    outputs = model(batch[0], **forward_arguments)
    joint, unimodal = losses_of(outputs, batch[1])
    given = {
        "joint": joint,
        "unimodal": unimodal,
        "encoders": dict(model.encoders.items()),
        "outputs": outputs,
        "labels": batch[1],
    } | changes
    method.backward(given.pop("joint"), given.pop("unimodal"), **given)


@every
def test_bad_input_is_rejected_and_leaves_no_gradient(name: str) -> None:
    model = Model()
    tied = Model()
    tied.encoders["visual"].conv = tied.encoders["audio"].conv
    outputs = Model(seed=1)(batch_of()[0])
    joint, unimodal = losses_of(outputs, batch_of()[1])
    cases: list[tuple[str, Model, dict[str, object]]] = []
    cls, _ = ready(name, model, batch_of())
    stray = {m: unimodal[m] for m in turns_of(cls, batch_of())[0][0]}
    if name not in ("unimodal", "mla", "reconboost"):  # they look at one encoder
        cases.append(("two encoders", tied, {}))
    if cls.descends_joint and name not in OWN_JOINT_LOSS:
        cases.append(("'joint' needs no gradient", model, {"joint": joint.detach()}))
        if name != "dgl":  # it accepts a fusion of detached features
            cases.append(("'joint' does not reach encoder", model, {"joint": joint}))
        cases.append(("'joint' is no scalar", model, {"joint": torch.ones(2, requires_grad=True)}))
    if cls.descends_unimodal and name != "reconboost":  # computes its own losses
        cases.append(("'audio' needs no gradient", model, {"unimodal": {m: x.detach() for m, x in stray.items()}}))
        cases.append(("'audio' does not reach encoder 'audio'", model, {"unimodal": stray}))
        cases.append(("no (unimodal )?loss was given", model, {"unimodal": {}}))
        cases.append(("audio", model, {"encoders": {"visual": model.encoders["visual"]}}))
    for match, network, changes in cases:
        method, _ = ready(name, network, batch_of())
        with pytest.raises(ValueError, match=match):
            backward_on(method, network, **changes)
        assert all(g is None for g in take_grads(network).values())


@pytest.mark.parametrize("name", [n for n in METHODS if n not in COMBINING])
def test_methods_that_descend_the_joint_loss_require_it(name: str) -> None:
    if not make(name).descends_joint or name == "gblending":
        pytest.skip("descends unimodal losses")
    model = Model()
    method, _ = ready(name, model, batch_of())
    with pytest.raises(ValueError, match="joint loss"):
        backward_on(method, model, joint=None)


@pytest.mark.parametrize("name", ["ogm", "ogm_ge", "opm", "agm", "pmr", "cggm"])
def test_methods_that_read_outputs_require_them(name: str) -> None:
    model = Model()
    for missing in ("labels", "outputs") if name != "agm" else ():
        method, _ = ready(name, model, batch_of())
        with pytest.raises(ValueError, match=missing):
            backward_on(method, model, **{missing: None})


@pytest.mark.parametrize("name", COMBINING)
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_several_tasks_on_one_encoder(name: str, count: int) -> None:
    torch.manual_seed(0)
    shared = Encoder().double()
    heads = nn.ModuleDict({f"task{i}": nn.Linear(4, 3) for i in range(count)}).double()
    inputs, labels = batch_of()
    method: Method = METHODS[name]()
    for _ in range(2):
        x = shared(inputs["audio"])
        losses = {task: cross_entropy(head(x), (labels + i) % 3) for i, (task, head) in enumerate(heads.items())}
        wanted = {
            task: torch.autograd.grad(loss, list(heads[task].parameters()), retain_graph=True)
            for task, loss in losses.items()
        }
        total = sum(losses.values())
        plain = torch.autograd.grad(total, list(shared.parameters()), retain_graph=True)
        report = method.backward(None, losses, encoders={"shared": (shared, list(losses))})
        assert report.losses == list(losses)
        for task, gradients in wanted.items():
            for p, g in zip(heads[task].parameters(), gradients, strict=True):
                torch.testing.assert_close(p.grad, g)
        if count == 1:  # one task is plain training
            for p, g in zip(shared.parameters(), plain, strict=True):
                torch.testing.assert_close(p.grad, g, rtol=1e-9, atol=1e-14)
        for encoder in report.values():
            assert encoder.norms.shape == (count,) and encoder.weights.shape[1] == count
        for p in [*shared.parameters(), *heads.parameters()]:
            assert p.grad is not None and bool(p.grad.isfinite().all())
            p.grad = None


@every
def test_methods_can_be_copied(name: str) -> None:
    method = make(name)
    assert type(pickle.loads(pickle.dumps(copy.deepcopy(method)))) is type(method)
