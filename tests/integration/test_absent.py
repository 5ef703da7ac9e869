"""Modalities that a batch lacks, and frozen encoders: what is there is integrated as if it had been all."""

import importlib.util

import pytest
import torch
from every_method import COMBINING, Model, assert_close, assert_same_state, batch_of, losses_of, make, ready, take_grads
from mmpareto import METHODS, MMPareto, Refresh
from mmpareto.integration.method import Method
from torch import Tensor, nn

NAMES = [
    *COMBINING,
    "joint",
    "dgl",
    "ensemble",
    *(["torchjd:UPGrad", "torchjd:MGDA"] if importlib.util.find_spec("torchjd") else []),
]
Grads = dict[str, Tensor | None]


def with_names(model: Model, *names: str) -> dict[str, nn.Module]:
    return {name: model.encoders[name] for name in names}


def losses_without(model: Model, absent: str, count: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses of a batch that lacks a modality: neither fusion nor head sees its encoder."""
    outputs = model(batch_of(count)[0])
    fused = torch.stack([part for name, part in outputs.contributions.items() if name != absent]).sum(0)
    joint, unimodal = losses_of(outputs._replace(joint=fused), batch_of(count)[1])
    return joint, {name: loss for name, loss in unimodal.items() if name != absent}


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_others_learn_as_if_there_were_no_more(name: str, explicit: bool) -> None:
    model = Model(3)
    joint, unimodal = losses_without(model, "visual")
    make(name).backward(joint, unimodal, encoders=with_names(model, "audio", "text"))
    wanted = take_grads(model)
    joint, unimodal = losses_without(model, "visual")
    given = unimodal | ({"visual": None} if explicit else {})
    report = make(name).backward(joint, given, encoders=with_names(model, "audio", "visual", "text"))
    grads = take_grads(model)
    assert_close(grads, wanted)
    assert all(g is None for key, g in grads.items() if key.startswith("encoders.visual"))
    assert bool(report.all_finite)
    if "visual" in report:
        assert report["visual"].norms.tolist() == [0.0, 0.0] and not report["visual"].conflict.any()


@pytest.mark.parametrize("name", [*COMBINING, *(n for n in NAMES if n.startswith("torchjd"))])
@pytest.mark.parametrize("absent", ["audio", "visual"])
def test_an_absent_task_on_a_shared_encoder_is_no_objective(name: str, absent: str) -> None:
    """Not one with a zero gradient, which would be a minimum for the min-norm methods."""
    model = Model(3)
    tasks = ["audio", "visual", "text"]
    shared = list(model.encoders.parameters())

    def losses() -> dict[str, Tensor]:
        return {
            name: loss for name, loss in losses_of(model(batch_of(3)[0]), batch_of(3)[1])[1].items() if name != absent
        }

    make(name).backward(None, losses(), encoders={"all": (shared, [task for task in tasks if task != absent])})
    wanted = take_grads(model)
    report = make(name).backward(None, losses(), encoders={"all": (shared, tasks)})
    assert_close(take_grads(model), wanted, 1e-5)
    if "all" in report:
        assert report["all"].norms[tasks.index(absent)] == 0
        assert report.losses[-1] == absent and report.finite.tolist() == [True] * 3


@pytest.mark.parametrize("name", ["gradnorm", "metabalance"])
def test_a_step_with_an_absent_loss_leaves_the_state_alone(name: str) -> None:
    model, method = Model(), make(name)

    def step(absent: str | None) -> None:
        joint, unimodal = losses_of(model(batch_of()[0]), batch_of()[1])
        method.backward(
            joint, {k: v for k, v in unimodal.items() if k != absent}, encoders=with_names(model, "audio", "visual")
        )
        take_grads(model)

    step("visual")  # before the first complete step
    step(None)
    before = dict(method.state_dict())
    step("visual")
    after = method.state_dict()
    for key, values in before.items():
        assert_same_state(values["visual"], after[key]["visual"])


def test_micro_batches_may_lack_different_modalities() -> None:
    """The sums over micro-batches are integrated, of each objective over those that have it."""
    for name in ("mmpareto", "pareto", "gradnorm", "dgl"):
        model, method = Model(3), make(name)
        first, second = losses_without(model, "visual"), losses_without(model, "text")
        total = {
            key: sum(part[key] for _, part in (first, second) if key in part) for key in ("audio", "visual", "text")
        }
        method.backward(first[0] + second[0], total, encoders=dict(model.encoders.items()))
        wanted = take_grads(model)
        method = make(name)
        with method.accumulate():
            joint, unimodal = losses_without(model, "visual")
            method.backward(joint, unimodal, encoders=dict(model.encoders.items()))
        joint, unimodal = losses_without(model, "text")
        report = method.backward(joint, unimodal, encoders=dict(model.encoders.items()))
        assert_close(take_grads(model), wanted)
        assert set(report.losses) == ({"joint", "audio", "visual", "text"})


@pytest.mark.parametrize("order", [(False, True), (True, False)])
def test_a_modality_of_one_micro_batch_alone(order: tuple[bool, bool]) -> None:
    """With encoders found behind features; "text" is at no time a loss, and so no objective of MGDA."""
    model, method = Model(3), make("pareto")

    def losses(whole: bool) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """All modalities, or audio alone."""
        outputs = model(batch_of(3)[0])
        joint, unimodal = losses_of(outputs, batch_of(3)[1])
        if whole:
            return joint, {"audio": unimodal["audio"], "visual": unimodal["visual"]}, outputs.features
        joint = losses_of(outputs._replace(joint=outputs.contributions["audio"]), batch_of(3)[1])[0]
        return joint, {"audio": unimodal["audio"]}, {"audio": outputs.features["audio"]}

    (joint, unimodal, _), (part, own, _) = losses(True), losses(False)
    unimodal["audio"] = unimodal["audio"] + own["audio"]
    method.backward(joint + part, unimodal, encoders=dict(model.encoders.items()))
    wanted = take_grads(model)
    with method.accumulate():
        joint, unimodal, features = losses(order[0])
        method.backward(joint, unimodal, features=features)
    joint, unimodal, features = losses(order[1])
    report = method.backward(joint, unimodal, features=features)
    assert_close(take_grads(model), wanted)
    assert report.all_finite and set(report.losses) == {"joint", "audio", "visual", "text"}


def test_the_graph_is_freed_where_a_loss_is_absent() -> None:
    model = Model()
    outputs = model(batch_of()[0])
    joint, unimodal = losses_of(outputs, batch_of()[1])
    MMPareto().backward(joint, {"audio": unimodal["audio"]}, encoders=dict(model.encoders.items()), outputs=outputs)
    with pytest.raises(RuntimeError, match="second time"):
        outputs.features["visual"].sum().backward()


@pytest.mark.parametrize("name", ["uniform", "mmpareto", "pareto", "dgl", "gradnorm"])
def test_a_frozen_encoder_trains_its_head_alone(name: str) -> None:
    model = Model()
    joint, unimodal = losses_of(model(batch_of()[0]), batch_of()[1])
    METHODS["uniform"]().backward(joint, unimodal, encoders=dict(model.encoders.items()))
    plain = take_grads(model)
    model.encoders["visual"].requires_grad_(False)
    joint, unimodal = losses_of(model(batch_of()[0]), batch_of()[1])
    report = make(name).backward(joint, unimodal, encoders=dict(model.encoders.items()))
    grads = take_grads(model)
    assert all(g is None for key, g in grads.items() if key.startswith("encoders.visual"))
    if name != "dgl":  # which trains no heads
        head = {key: g for key, g in grads.items() if key.startswith("heads.visual")}
        assert_close(head, {key: plain[key] for key in head})
    assert "visual" not in report
    model.heads["visual"].requires_grad_(False)  # then there is nothing left that this loss could train
    outputs = model(batch_of()[0])
    joint, unimodal = losses_of(outputs, batch_of()[1])
    assert not unimodal["visual"].requires_grad
    report = make(name).backward(joint, unimodal, encoders=dict(model.encoders.items()))
    assert report.losses == ["joint", "audio"]


def test_refresh_decides_nothing_at_a_step_that_lacks_a_modality() -> None:
    """Every second step decides; the encoder of a lacking step descends the joint loss alone."""

    def step(model: Model, method: Method, absent: str | None) -> Grads:
        outputs = model(batch_of()[0])
        features = dict(outputs.features)
        joint, unimodal = losses_of(outputs, batch_of()[1])
        if absent is not None:
            (other,) = (part for name, part in outputs.contributions.items() if name != absent)
            joint = losses_of(outputs._replace(joint=other), batch_of()[1])[0]
            del unimodal[absent], features[absent]
        method.backward(joint, unimodal, encoders=dict(model.encoders.items()), features=features)
        return take_grads(model)

    model = Model()
    refreshed, plain = Refresh(MMPareto.paper(), 2), METHODS["uniform"]()
    for absent in ("visual", None):
        ours, wanted = step(model, refreshed, absent), step(model, plain, absent)
        assert_close(ours, wanted)  # nothing has been decided yet: the plain sum
    decided = Refresh(MMPareto.paper(), 2)
    step(model, decided, None)
    before = dict(decided.decided)
    assert_close(
        {key: g for key, g in step(model, decided, "visual").items() if not key.startswith("encoders.audio")},
        {key: g for key, g in step(model, plain, "visual").items() if not key.startswith("encoders.audio")},
    )
    # A decision that is kept does not boost the lone gradient of a modality that has no unimodal loss.
    decided.decided = {
        name: kept | {"magnitude": torch.full_like(kept["magnitude"], 1.5)} for name, kept in decided.decided.items()
    }
    before, decided.age = dict(decided.decided), 1
    outputs = model(batch_of()[0])
    joint, unimodal = losses_of(outputs, batch_of()[1])
    encoders = dict(model.encoders.items())
    decided.backward(joint, {"audio": unimodal["audio"]}, encoders=encoders, features=outputs.features)
    lone = {key: g for key, g in take_grads(model).items() if key.startswith("encoders.visual")}
    outputs = model(batch_of()[0])
    joint, unimodal = losses_of(outputs, batch_of()[1])
    plain.backward(joint, {"audio": unimodal["audio"]}, encoders=encoders)
    assert_close(lone, {key: g for key, g in take_grads(model).items() if key in lone})
    step(model, decided, "visual")  # would decide
    assert_same_state(decided.decided, before)


def test_refresh_decides_without_the_loss_of_a_frozen_encoder() -> None:
    model, refreshed = Model(), Refresh(MMPareto.paper(), 2)
    model.encoders["visual"].requires_grad_(False)
    for _ in range(2):
        reports = []
        for method in (MMPareto.paper(), refreshed):
            outputs = model(batch_of()[0])
            joint, unimodal = losses_of(outputs, batch_of()[1])
            audio = unimodal["audio"]
            encoders = dict(model.encoders.items())
            reports.append(method.backward(joint - 2 * audio, {"audio": audio}, encoders=encoders, outputs=outputs))
        assert reports[0]["audio"].conflict.all()
        assert torch.allclose(reports[1]["audio"].weights, reports[0]["audio"].weights)


def test_methods_that_compare_modalities_say_so() -> None:
    """OGM and PMR need logits or features of every modality in every batch."""
    for name, match in (("ogm", "needs logits of 'visual'"), ("pmr", "needs the features of 'visual'")):
        model = Model()
        method, _ = ready(name, model, batch_of())
        outputs = model(batch_of()[0])
        joint, unimodal = losses_of(outputs, batch_of()[1])
        partial = outputs._replace(
            features={"audio": outputs.features["audio"]}, contributions={"audio": outputs.contributions["audio"]}
        )
        with pytest.raises(ValueError, match=match):
            method.backward(
                joint, unimodal, encoders=dict(model.encoders.items()), outputs=partial, labels=batch_of()[1]
            )
