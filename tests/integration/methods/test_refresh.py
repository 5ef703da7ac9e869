"""Refresh, which takes one backward pass at steps between two decisions, against separately derived gradients."""

import copy
import io
import itertools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from every_method import Batch, Model, Outputs, Overflow, assert_close, assert_same_state, batch_of, take_grads
from integration_reference import Options, flat, gradients_of, integrated
from mmpareto import MMPareto, Refresh
from mmpareto.errors import InputError
from mmpareto.integration.method import Method
from mmpareto.integration.reduction import SumReducer
from mmpareto.integration.report import Report
from mmpareto.training.method_options import make_method, read_options
from processes import in_processes
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import cross_entropy

K = 3
SHIFTS = (1, 0, 1, 0, 1, 1, 0, 1)  # shifts of the unimodal labels per step, which cause conflicts
PAPER = Options(weights="encoder", rescale="encoder")
Steps = list[tuple[Batch, int]]


def steps_of(count: int = 2) -> Steps:
    return [(batch_of(count, seed=number), shift) for number, shift in enumerate(SHIFTS)]


def losses_of(outputs: Outputs, labels: Tensor, shift: int, share: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
    unimodal = {name: share * cross_entropy(z, (labels + shift) % 3) for name, z in outputs.unimodal.items()}
    return share * cross_entropy(outputs.joint, labels), unimodal


def step(method: Method, model: Model, batch: Batch, shift: int, share: float = 1.0, **changes: Any) -> Report:
    outputs = model(batch[0])
    joint, unimodal = losses_of(outputs, batch[1], shift, share)
    given = {"encoders": dict(model.encoders.items()), "outputs": outputs} | changes
    return method.backward(given.pop("joint", joint), given.pop("unimodal", unimodal), **given)


class Slow:
    """Refresh by its definition: one pass per gradient, and factors from the reference's search."""

    def __init__(self, refresh: int, options: Options = PAPER) -> None:
        self.refresh, self.options, self.number = refresh, options, 0
        self.factors: dict[str, list[float]] = {}
        self.conflict: dict[str, bool] = {}

    def step(self, model: Model, batch: Batch, shift: int) -> dict[str, Tensor | None]:
        twin = copy.deepcopy(model)
        parameters = [p for p in twin.parameters() if p.requires_grad]
        joint, unimodal = losses_of(twin(batch[0]), batch[1], shift)
        each = {name: gradients_of(loss, parameters) for name, loss in [("joint", joint), *unimodal.items()]}
        total = {p: [g[p] for g in each.values() if g[p] is not None] for p in parameters}
        actual = {p: torch.stack(gs).sum(0) if gs else None for p, gs in total.items()}
        for name, encoder in twin.encoders.items():
            own = [p for p in encoder.parameters() if actual.get(p) is not None]
            pairs = [
                [torch.zeros_like(p) if each[loss][p] is None else each[loss][p] for p in own]
                for loss in ("joint", name)
            ]
            if self.number % self.refresh == 0:
                self.decide(name, *pairs)
            for p, one, two in zip(own, *pairs, strict=True):
                actual[p] = self.factors[name][0] * one + self.factors[name][1] * two
        self.number += 1
        names = {p: name for name, p in twin.named_parameters()}
        return dict.fromkeys(names.values()) | {names[p]: g for p, g in actual.items()}

    def decide(self, name: str, first: list[Tensor], second: list[Tensor]) -> None:
        expected = integrated(first, second, self.options, torch.finfo(torch.float64).eps)
        self.conflict[name] = bool(expected.conflict)
        boost = self.options.gamma if self.conflict[name] or self.options.boost == "always" else 1.0
        self.factors[name] = [2 * float(alpha) * float(expected.rescale) * boost for alpha in expected.weights[0]]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("boost", "rescale"), [("conflict", "encoder"), ("always", "encoder"), ("conflict", "none")])
def test_every_step_matches_the_definition(count: int, boost: str, rescale: str) -> None:
    options = Options(2.0, "encoder", rescale, boost)
    model, slow, method = Model(count), Slow(K, options), Refresh(MMPareto(**options.arguments()), K)
    seen = set()
    for batch, shift in steps_of(count):
        expected = slow.step(model, batch, shift)
        report = step(method, model, batch, shift)
        assert_close(take_grads(model), expected, 1e-9)
        for name, wanted in slow.conflict.items():
            assert bool(report[name].conflict) == wanted
            seen.add(wanted)
    assert seen == {True, False}


def test_steps_that_decide_are_bit_identical_to_exact_steps() -> None:
    model, method, exact = Model(), Refresh(MMPareto.paper(), K), MMPareto.paper()
    differing = 0
    for number, (batch, shift) in enumerate(steps_of()):
        report, wanted = step(method, model, batch, shift), None
        actual = take_grads(model)
        wanted = step(exact, model, batch, shift)
        expected = take_grads(model)
        if number % K == 0:
            assert_same_state(actual, expected)
            for name, encoder in wanted.items():
                assert_same_state(vars(report[name]), vars(encoder))
        else:
            cosine = torch.nn.functional.cosine_similarity(
                *(
                    torch.from_numpy(flat(g for n, g in gs.items() if n.startswith("encoders")))
                    for gs in (actual, expected)
                ),
                dim=0,
            )
            differing += float(cosine) < 0.999
    assert differing  # the steps between use an earlier decision


def test_the_report_between_decisions() -> None:
    model, method = Model(), Refresh(MMPareto.paper(), K)
    first = step(method, model, *steps_of()[0])
    second = step(method, model, *steps_of()[1])
    assert second.losses == first.losses and bool(second.finite.all())
    for name, encoder in second.items():
        for field in ("weights", "conflict", "rescale"):
            assert torch.equal(getattr(encoder, field), getattr(first[name], field))
        assert encoder.cosine.shape == () and encoder.cosine.isnan()
        assert encoder.norms.shape == (2,) and bool(encoder.norms.isnan().all())


def test_micro_batches_count_as_one_step_and_decide_once() -> None:
    model, method, whole = Model(), Refresh(MMPareto.paper(), K), Refresh(MMPareto.paper(), K)
    for (inputs, labels), shift in steps_of():
        step(whole, model, (inputs, labels), shift)
        expected = take_grads(model)
        for start, end in ((0, 3), (3, 7), (7, 12)):
            part = {m: x[start:end] for m, x in inputs.items()}, labels[start:end]
            if end < 12:
                with method.accumulate():
                    step(method, model, part, shift, (end - start) / 12)
                assert all(g is None for g in take_grads(model).values())
            else:
                step(method, model, part, shift, (end - start) / 12)
        assert_close(take_grads(model), expected, 1e-9)
        assert method.age == whole.age


def test_a_loss_scale_changes_nothing_but_the_scale() -> None:
    model, method, plain = Model(), Refresh(MMPareto.paper(), K), Refresh(MMPareto.paper(), K)
    for batch, shift in steps_of():
        step(plain, model, batch, shift)
        expected = take_grads(model)
        step(method, model, batch, shift, scale=torch.tensor(1024.0))
        assert_close({name: None if g is None else g / 1024 for name, g in take_grads(model).items()}, expected, 1e-9)


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_a_loaded_state_continues_bit_for_bit(after: int) -> None:
    model, method, fresh = Model(), Refresh(MMPareto.paper(), K), Refresh(MMPareto.paper(), K)
    for batch, shift in steps_of()[:after]:
        step(method, model, batch, shift)
    take_grads(model)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for batch, shift in steps_of()[after:]:
        step(method, model, batch, shift)
        expected = take_grads(model)
        step(fresh, model, batch, shift)
        assert_same_state(take_grads(model), expected)
    assert_same_state(fresh.state_dict(), method.state_dict())


def spoilt(batch: Batch) -> Batch:
    return {name: torch.full_like(x, math.nan) for name, x in batch[0].items()}, batch[1]


def test_a_nonfinite_step_decides_nothing() -> None:
    model, method = Model(), Refresh(MMPareto.paper(), 2)
    steps = steps_of()
    step(method, model, *steps[0])
    step(method, model, *steps[1])
    before = copy.deepcopy(method.decided)
    take_grads(model)
    report = step(method, model, spoilt(steps[2][0]), 1)
    assert not bool(report.finite.any())
    assert not any(bool(g.isfinite().all()) for g in take_grads(model).values() if g is not None)
    assert_same_state(method.decided, before)
    report = step(method, model, *steps[3])
    assert bool(report.finite.all()) and bool(report["visual"].conflict)  # as step 0 decided


def test_a_nonfinite_loss_decides_nothing_for_any_encoder() -> None:
    model, method = Model(), Refresh(MMPareto.paper(), 2)
    batch, shift = steps_of()[0]
    outputs = model(batch[0])
    joint, unimodal = losses_of(outputs, batch[1], shift)
    step(
        method,
        model,
        batch,
        shift,
        outputs=outputs,
        joint=joint,
        unimodal=unimodal | {"audio": unimodal["audio"] * math.nan},
    )
    assert all(float(kept["magnitude"]) == 1 and not bool(kept["conflict"]) for kept in method.decided.values())


def test_before_the_first_decision_a_step_is_the_plain_sum() -> None:
    model, method = Model(), Refresh(MMPareto.paper(), K)
    batch, shift = steps_of()[0]
    step(method, model, spoilt(batch), shift)
    take_grads(model)
    step(method, model, batch, shift)
    actual = take_grads(model)
    joint, unimodal = losses_of(model(batch[0]), batch[1], shift)
    (joint + sum(unimodal.values())).backward()
    assert_close(actual, take_grads(model), 1e-9)


@pytest.mark.parametrize("bad", ["joint", "audio", "visual"])
def test_the_flags_between_decisions(bad: str) -> None:
    model, method = Model(), Refresh(MMPareto.paper(), K)
    batch, shift = steps_of()[0]
    step(method, model, batch, shift)
    take_grads(model)
    outputs = model(batch[0])
    joint, unimodal = losses_of(outputs, batch[1], shift)
    losses = {"joint": joint, **unimodal}
    losses[bad] = losses[bad] * math.inf
    report = step(method, model, batch, shift, outputs=outputs, joint=losses.pop("joint"), unimodal=losses)
    assert dict(zip(report.losses, report.finite.tolist(), strict=True)) == {
        name: name != bad for name in ("joint", "audio", "visual")
    }
    actual = take_grads(model)
    wrong = {name for name, g in actual.items() if g is not None and not bool(g.isfinite().all())}
    reached = [name for name in model.modalities if bad in ("joint", name)]
    assert {name.split(".")[1] for name in wrong if name.startswith("encoders")} == set(reached)


def test_an_overflow_inside_an_encoder_is_flagged_between_decisions() -> None:
    model, method = Model(), Refresh(MMPareto.paper(), K)
    batch, shift = steps_of()[0]
    step(method, model, batch, shift)
    model.encoders["audio"].conv.register_forward_hook(lambda _module, _inputs, x: Overflow.apply(x))
    report = step(method, model, batch, shift)
    assert report.finite.tolist() == [False, False, True]


def partly_frozen() -> Model:
    model = Model()
    model.encoders["audio"].conv.requires_grad_(False)
    model.encoders["visual"].idle = nn.Linear(2, 2).double()
    model.heads["visual"].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "make", [partly_frozen, lambda: Model(recompute=True)], ids=["frozen and idle", "checkpointed"]
)
def test_frozen_and_checkpointed_models(make: Callable[[], Model]) -> None:
    model, slow, method = make(), Slow(K), Refresh(MMPareto.paper(), K)
    for batch, shift in steps_of()[:5]:
        expected = slow.step(model, batch, shift)
        step(method, model, batch, shift)
        assert_close(take_grads(model), expected, 1e-9)


def test_it_adds_to_existing_gradients() -> None:
    model, method, other = Model(), Refresh(MMPareto.paper(), K), Refresh(MMPareto.paper(), K)
    for batch, shift in steps_of()[:2]:
        take_grads(model)
        step(method, model, batch, shift)
        expected = take_grads(model)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        step(other, model, batch, shift)
    actual = take_grads(model)
    assert_close({name: g - 1 for name, g in actual.items()}, expected, 1e-9)


class Twice(nn.Module):
    """Two parameters for whose gradients autograd returns the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(4).double()), nn.Parameter(torch.ones(4).double())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4] * (self.a + self.b)


def test_gradients_that_share_memory_are_multiplied_once() -> None:
    model = Model()
    model.encoders["audio"] = Twice()
    options = Options(2.0, "encoder", "encoder", "always")
    slow, method = Slow(K, options), Refresh(MMPareto(**options.arguments()), K)
    for batch, shift in steps_of()[:3]:
        expected = slow.step(model, batch, shift)
        step(method, model, batch, shift)
        assert_close(take_grads(model), expected, 1e-9)


def test_two_tasks_on_one_encoder() -> None:
    model, heads = Model(1), nn.ModuleDict({f"task{i}": nn.Linear(4, 3) for i in range(2)}).double()
    shared, method = model.encoders["audio"], Refresh(MMPareto.paper(), 2)
    (inputs, labels), _ = steps_of()[0]
    parameters = list(shared.parameters())
    decided: list[Tensor] = []
    for _ in range(2):
        x = shared(inputs["audio"])
        losses = {task: cross_entropy(head(x), (labels + i) % 3) for i, (task, head) in enumerate(heads.items())}
        pairs = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses.values()]
        outputs = Outputs(x, {}, {"shared": x}, {})
        report = method.backward(None, losses, encoders={"shared": (shared, list(losses))}, outputs=outputs)
        expected = integrated(pairs[0], pairs[1], PAPER, torch.finfo(torch.float64).eps)
        assert bool(report["shared"].conflict) == bool(expected.conflict)
        decided.append(torch.cat([p.grad.flatten() for p in parameters]))
        shared.zero_grad()
    torch.testing.assert_close(decided[0], torch.from_numpy(flat(expected.h)), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(decided[1], decided[0], rtol=1e-9, atol=1e-12)


def test_a_new_encoder_causes_a_decision() -> None:
    model, method, exact = Model(), Refresh(MMPareto.paper(), K), MMPareto.paper()
    batch, shift = steps_of()[0]
    outputs = model(batch[0])
    _, unimodal = losses_of(outputs, batch[1], shift)
    audio = {"audio": model.encoders["audio"]}
    method.backward(unimodal["audio"], {"audio": unimodal["audio"]}, encoders=audio, outputs=outputs)
    take_grads(model)
    step(method, model, batch, shift)
    actual = take_grads(model)
    step(exact, model, batch, shift)
    assert_same_state(actual, take_grads(model))


def shared_steps(cuts: list[tuple[int, int]]) -> list[dict[str, Tensor | None]]:
    """Return the gradients of all steps, on this process's share of each batch; `cuts` are (start, end) by rank."""
    model, method = Model(), Refresh(MMPareto.paper(), K)
    method.reduce = SumReducer(same_graph=True)
    start, end = cuts[dist.get_rank()]
    actual = []
    for (inputs, labels), shift in steps_of():
        part = {name: x[start:end] for name, x in inputs.items()}, labels[start:end]
        step(method, model, part, shift, (end - start) / 12)
        actual.append(take_grads(model))
    return actual


def test_processes_that_share_a_batch_give_the_full_batch(tmp_path: Path) -> None:
    model, method = Model(), Refresh(MMPareto.paper(), K)
    shared = in_processes(2, shared_steps, tmp_path, [(0, 5), (5, 12)])
    for number, (batch, shift) in enumerate(steps_of()):
        step(method, model, batch, shift)
        expected = take_grads(model)
        for actual in shared:
            assert_close(actual[number], expected, 1e-9)


# --- cost of a step between decisions ---


class Count(torch.autograd.Function):
    """The identity; counts its backward passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, passes: Counter[str]) -> Tensor:
        ctx.name, ctx.passes = name, passes
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.passes[ctx.name] += 1
        return gradient, None, None


@pytest.mark.parametrize("count", [2, 3])
def test_a_step_between_decisions_takes_one_pass_per_encoder_and_retains_no_graph(count: int) -> None:
    model, method = Model(count), Refresh(MMPareto.paper(), 2)
    passes: Counter[str] = Counter()
    for name, encoder in model.encoders.items():
        encoder.conv.register_forward_hook(lambda _module, _inputs, x, name=name: Count.apply(x, name, passes))
    for wanted in (2, 1, 2):
        passes.clear()
        batch, shift = steps_of(count)[0]
        outputs = model(batch[0])
        joint, unimodal = losses_of(outputs, batch[1], shift)
        step(method, model, batch, shift, outputs=outputs, joint=joint, unimodal=unimodal)
        assert passes == dict.fromkeys(model.modalities, wanted)
        for loss in (joint, *unimodal.values()):
            with pytest.raises(RuntimeError, match="second time"):
                loss.backward()


def test_a_step_reads_no_value() -> None:
    """On the meta device, values cannot be read; a step that runs there never waits for the device."""
    model, method = Model().to("meta"), Refresh(MMPareto.paper(), 2)
    (inputs, labels), shift = steps_of()[0]
    batch = {name: x.to("meta") for name, x in inputs.items()}, labels.to("meta")
    for scale in (None, 8.0, torch.ones((), device="meta")):
        with method.accumulate():
            step(method, model, batch, shift, scale=scale)
        step(method, model, batch, shift, scale=scale)
        step(method, model, batch, shift, scale=scale)


def test_bf16_autocast() -> None:
    model, method, exact = Model().float(), Refresh(MMPareto.paper(), 2), MMPareto.paper()
    (inputs, labels), _ = steps_of()[0]
    batch = {name: x.float() for name, x in inputs.items()}, labels
    for _ in range(2):
        for each in (exact, method):
            take_grads(model)
            with torch.autocast("cpu", torch.bfloat16):
                outputs = model(batch[0])
                joint, unimodal = losses_of(outputs, batch[1], 1)
            step(each, model, batch, 1, outputs=outputs, joint=joint, unimodal=unimodal)
            if each is exact:
                expected = take_grads(model)
        assert outputs.features["audio"].dtype == torch.bfloat16
        actual = take_grads(model)
        assert all(g is not None and g.dtype == torch.float32 for g in actual.values())
        assert_close(actual, expected, 0.05)


# --- errors ---


@pytest.mark.parametrize("weights", ["parameter", "encoder"])
@pytest.mark.parametrize("rescale", ["parameter", "encoder", "none"])
def test_it_requires_factors_of_the_whole_encoder(weights: str, rescale: str) -> None:
    for boost, zero, refresh in itertools.product(("conflict", "always"), (False, True), (2, 10)):
        if weights == "encoder" and rescale != "parameter":
            assert Refresh(MMPareto(1.5, weights, rescale, boost, zero), refresh).every == refresh
        else:
            with pytest.raises(ValueError, match=r"refresh|no meaning"):
                Refresh(MMPareto(1.5, weights, rescale, boost, zero), refresh)


@pytest.mark.parametrize("refresh", [0, -1])
def test_refresh_is_at_least_one(refresh: int) -> None:
    with pytest.raises(ValueError, match="refresh must be at least 1"):
        Refresh(MMPareto.paper(), refresh)


def test_command_line_options() -> None:
    assert read_options("mmpareto", "paper", ["--refresh", "10"], [])[1]["refresh"] == 10
    assert read_options("mmpareto", None, [], [])[1]["refresh"] == 1
    assert isinstance(make_method("mmpareto", {"refresh": 1}), MMPareto)
    wrapped = make_method("mmpareto", {"weights": "encoder", "rescale": "encoder", "gamma": 2.0, "refresh": 7})
    assert isinstance(wrapped, Refresh) and wrapped.every == 7 and wrapped.method.gamma == 2
    for variant in (None, "released"):
        with pytest.raises(InputError, match="refresh=10 goes with"):
            read_options("mmpareto", variant, ["--refresh", "10"], [])


class Beside(nn.Module):
    """An encoder with a second output, which a loss may use in addition to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(50, 8).double()

    def forward(self, x: Tensor) -> Tensor:
        first, self.second = self.layer(x.flatten(1)).chunk(2, dim=1)
        return first


def with_features(outputs: Outputs, **features: Any) -> Outputs:
    return outputs._replace(features=outputs.features | features)


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        "no outputs",
        "no features",
        "one absent",
        "detached",
        "a copy",
        "past it",
        "another's",
        "deeper",
        "interaction",
        "three",
    ],
)
def test_models_for_which_it_would_be_wrong_are_rejected(case: str, between: bool) -> None:
    model, method = Model(), Refresh(MMPareto.paper(), K)
    if case == "past it":
        model.encoders["audio"] = Beside()
    batch, shift = steps_of()[0]
    if between:
        step(method, model, batch, shift)
        take_grads(model)
    outputs = model(batch[0])
    joint, unimodal = losses_of(outputs, batch[1], shift)
    given: dict[str, Any] = {"outputs": outputs, "joint": joint, "unimodal": unimodal}
    features = outputs.features
    match = r"outputs\.features"
    if case == "no outputs":
        given["outputs"] = None
    elif case == "no features":
        given["outputs"] = outputs._replace(features=None)
    elif case == "one absent":
        given["outputs"] = outputs._replace(features={"audio": features["audio"]})
    elif case == "detached":
        given["outputs"] = with_features(outputs, visual=features["visual"].detach())
    elif case == "a copy":
        match = "'joint' reaches encoder 'visual' in another way"
        given["outputs"] = with_features(outputs, visual=features["visual"] * 1)
    elif case == "past it":
        match = "'audio' reaches encoder 'audio' in another way"
        given["unimodal"] = unimodal | {"audio": unimodal["audio"] + model.encoders["audio"].second.square().mean()}
    elif case == "another's":
        match = "depend on encoder 'visual' alone"
        given["outputs"] = with_features(outputs, visual=features["audio"])
    elif case == "deeper":
        match = "depend on encoder 'audio' alone"
        given["outputs"] = with_features(outputs, audio=model.heads["audio"](features["audio"]))
    elif case == "interaction":
        match = "interaction"
        given["interaction"] = True
    else:
        match = "two objectives"
        given["encoders"] = {
            "audio": (model.encoders["audio"], ["audio", "visual"]),
            "visual": model.encoders["visual"],
        }
    with pytest.raises(ValueError, match=match):
        step(method, model, batch, shift, **given)
    assert all(g is None for g in take_grads(model).values())


def test_a_compiled_model_is_rejected() -> None:
    """Features are separate outputs of the compiled graph, so losses do not depend on the encoders through them."""
    model, method = Model(), Refresh(MMPareto.paper(), K)
    batch, shift = steps_of()[0]
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        outputs = torch.compile(model, backend="aot_eager")(batch[0])
    joint, unimodal = losses_of(outputs, batch[1], shift)
    with pytest.raises(ValueError, match=r"outputs\.features"):
        step(method, model, batch, shift, outputs=outputs, joint=joint, unimodal=unimodal)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_matches_the_definition_and_never_waits() -> None:
    model, slow, method = Model(), Slow(K), Refresh(MMPareto.paper(), K)
    on_device = copy.deepcopy(model).cuda()
    for number, ((inputs, labels), shift) in enumerate(steps_of()):
        expected = slow.step(model, (inputs, labels), shift)
        outputs = on_device({name: x.cuda() for name, x in inputs.items()})
        joint, unimodal = losses_of(outputs, labels.cuda(), shift)
        torch.cuda.set_sync_debug_mode("error" if number >= 2 else "default")  # libraries load on first use
        try:
            method.backward(joint, unimodal, encoders=dict(on_device.encoders.items()), outputs=outputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        actual = {name: None if g is None else g.cpu() for name, g in take_grads(on_device).items()}
        assert_close(actual, expected, 1e-9)
