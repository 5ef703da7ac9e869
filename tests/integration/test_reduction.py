"""N processes that share a batch, compared with one process that has the whole batch, in float64."""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from every_method import CONTROLS, Batch, Loop, Model, assert_close, batch_of, make, ready, take_grads, turns_of
from mmpareto import METHODS, MMPareto, Refresh
from mmpareto.integration import reduction
from mmpareto.integration.method import Method
from mmpareto.integration.reduction import SumReducer
from mmpareto.integration.report import Report
from mmpareto.training.losses import loss_of
from processes import in_processes
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import cross_entropy

SIZE = 12
# Samples per process at each step; at the last step, one process has none.
SHARES = {2: [(7, 5), (6, 6), (12, 0)], 4: [(3, 3, 3, 3), (5, 4, 2, 1), (6, 5, 0, 1)]}
REFRESHED = "mmpareto, refreshed every second step"
NAMES = [name for name in (*METHODS, *CONTROLS) if not make(name).needs_whole_batch]
NAMES += ["torchjd:UPGrad"] if importlib.util.find_spec("torchjd") else []


def part(batch: Batch, start: int, size: int) -> Batch:
    return {name: x[start : start + size] for name, x in batch[0].items()}, batch[1][start : start + size]


def step(method: Method, loop: Loop, batch: Batch, number: int) -> Report:
    """Like `every_method.step`, on a share of SIZE samples; losses sum to the batch mean over all processes."""
    for turn in turns_of(method, batch):
        report = take_turn(method, loop, turn, number)
    return report


def take_turn(method: Method, loop: Loop, batch: Batch, number: int) -> Report:
    inputs, labels = batch
    forward_arguments = method.before_forward(loop, inputs, labels)
    outputs = loop.network(inputs, **forward_arguments)
    joint, *own = (
        cross_entropy(z, labels, reduction="sum") / SIZE for z in (outputs.joint, *outputs.unimodal.values())
    )
    torch.manual_seed(number)
    return method.backward(
        joint,
        dict(zip(outputs.unimodal, own, strict=True)),
        encoders=dict(loop.network.encoders.items()),
        outputs=outputs,
        labels=labels,
        interaction=loop.network.interaction,
        share=len(labels) / SIZE,
    )


def descend(model: nn.Module) -> dict[str, Tensor | None]:
    """Take a step of gradient descent; return the gradients."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    return take_grads(model)


def plain(report: Report) -> dict[str, Tensor]:
    result = {f"{m}.{name}": value.double() for m, encoder in report.items() for name, value in vars(encoder).items()}
    return result | {"finite": report.finite.double()} | report.metrics


def trained(name: str, shares: list[tuple[int, ...]] | None, mixed: bool) -> list[tuple[Any, Any, Any]]:
    """Return gradients, report and state of every step, on this process's share or on the whole batch."""
    model = Model(mixed=mixed)
    steps: list[tuple[Any, Any, Any]] = []
    if name == REFRESHED:
        method: Method = Refresh(MMPareto.paper(), 2)
        loop = Loop(model, batch_of(size=SIZE))
    else:
        method, loop = ready(name, model, batch_of(size=SIZE))
    method.reduce = None if shares is None else SumReducer(same_graph=True)
    method.loss = loss_of  # 0 without samples
    for number in range(len(SHARES[2])):
        batch = batch_of(size=SIZE, seed=number)
        if shares is not None:
            sizes = shares[number]
            batch = part(batch, sum(sizes[: dist.get_rank()]), sizes[dist.get_rank()])
        report = step(method, loop, batch, number)
        steps.append((descend(model), plain(report), copy.deepcopy(method.state_dict())))
    return steps


DRAWS_PER_PROCESS = ("opm",)  # from the second step on
RUNS = [(name, name == "greedy") for name in NAMES] + [
    ("mmpareto", True),
    ("pmr", True),
    (REFRESHED, False),
]


def every_method(count: int) -> dict[tuple[str, bool], Any]:
    return {(name, mixed): trained(name, SHARES[count], mixed) for name, mixed in RUNS}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return in_processes(request.param, every_method, tmp_path_factory.mktemp("processes"), request.param)


def assert_state_close(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_state_close(a[key], b[key])
    elif isinstance(a, list):
        for x, y in zip(a, b, strict=True):
            assert_state_close(x, y)
    elif isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12, equal_nan=True)
    else:
        assert a == b


@pytest.mark.parametrize(("name", "mixed"), RUNS)
def test_shares_of_a_batch_give_the_update_of_the_whole_batch(name: str, mixed: bool, shared: list[Any]) -> None:
    whole = trained(name, None, mixed)
    whole = whole[:1] if name in DRAWS_PER_PROCESS else whole
    for process in shared:
        for (grads, report, state), (wanted, report_wanted, state_wanted) in zip(
            process[name, mixed][: len(whole)], whole, strict=True
        ):
            assert_close(grads, wanted)
            assert_state_close(report, report_wanted)
            assert_state_close(state, state_wanted)
    for process in shared[1:]:  # bit-identical on all processes, or their weights would drift apart
        for ours, theirs in zip(process[name, mixed], shared[0][name, mixed], strict=True):
            assert all(g is None or torch.equal(g, theirs[0][key]) for key, g in ours[0].items())


def in_parts() -> tuple[dict[str, Tensor | None], list[str]]:
    """Return the gradients and the all-reduces; process 0 has three micro-batches, process 1 has one."""
    model, method = Model(), MMPareto()
    method.reduce, loop = SumReducer(same_graph=True), Loop(model, batch_of(size=SIZE))
    calls = count_sums()
    sizes = [(0, 3), (3, 2), (5, 2)] if dist.get_rank() == 0 else [(7, 5)]
    with method.accumulate():
        for start, size in sizes[:-1]:
            step(method, loop, part(batch_of(size=SIZE), start, size), 0)
    assert set(calls) == {"pass"} or not calls  # no all-reduce before the last micro-batch
    step(method, loop, part(batch_of(size=SIZE), *sizes[-1]), 0)
    return take_grads(model), calls


def count_sums() -> list[str]:
    """Return a list to which every later all-reduce and backward pass is appended."""
    calls: list[str] = []
    all_reduce, grad = dist.all_reduce, torch.autograd.grad

    def summing(buffer: Tensor, **options: Any) -> Any:
        assert options["async_op"] and buffer.dim() == 1
        calls.append(f"sum of {buffer.numel()}")
        return all_reduce(buffer, **options)

    def differentiating(*arguments: Any, **options: Any) -> Any:
        calls.append("pass")
        return grad(*arguments, **options)

    reduction.dist.all_reduce, torch.autograd.grad = summing, differentiating  # type: ignore[assignment]
    return calls


def at_once() -> list[str]:
    model, method = Model(), MMPareto()
    method.over = reduction.SumOver(same_graph=True)  # the former names of `reduce` and `SumReducer`
    calls = count_sums()
    step(method, Loop(model, batch_of(size=SIZE)), batch_of(size=SIZE), 0)
    return calls


def test_micro_batches_are_reduced_over_processes_once(tmp_path: Path) -> None:
    model, method = Model(), MMPareto()
    step(method, Loop(model, batch_of(size=SIZE)), batch_of(size=SIZE), 0)
    wanted = take_grads(model)
    for grads, calls in in_processes(2, in_parts, tmp_path):
        assert_close(grads, wanted)
        assert len([what for what in calls if what != "pass"]) == 4


def test_each_pass_has_one_all_reduce_that_overlaps_the_next_pass(tmp_path: Path) -> None:
    model = Model()
    inside = sum(p.numel() for p in model.encoders.parameters())
    outside = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoders."))
    for calls in in_processes(2, at_once, tmp_path):
        # The last three numbers flag which of the three losses are not finite.
        assert calls == ["pass", f"sum of {inside}", "pass", f"sum of {inside}", f"sum of {outside}", "sum of 3"]


def not_finite() -> tuple[list[bool], bool]:
    model, method = Model(), MMPareto()
    method.reduce = SumReducer(same_graph=True)
    inputs, labels = part(batch_of(size=SIZE), 6 * dist.get_rank(), 6)
    if dist.get_rank() == 1:
        inputs["visual"] = inputs["visual"] * torch.inf
    report = step(method, Loop(model, (inputs, labels)), (inputs, labels), 0)
    return report.finite.tolist(), all(bool(p.grad.isfinite().all()) for p in model.encoders["audio"].parameters())  # type: ignore[union-attr]


def test_a_nonfinite_loss_on_one_process_is_reported_on_all(tmp_path: Path) -> None:
    assert [flags for flags, _ in in_processes(2, not_finite, tmp_path)] == [[False, True, False]] * 2


def as_laid_out() -> list[Any]:
    """Return the strides of a convolution's gradient and of its weight, in channels-last format."""
    model = Model().to(memory_format=torch.channels_last)
    method = MMPareto()
    method.reduce = SumReducer(same_graph=True)
    step(method, Loop(model, batch_of(size=SIZE)), batch_of(size=SIZE), 0)
    weight = model.encoders["audio"].conv.weight  # type: ignore[union-attr]
    return [weight.grad.stride(), weight.stride()]  # type: ignore[union-attr]


def test_gradients_have_the_memory_format_of_their_parameters(tmp_path: Path) -> None:
    for gradient, weight in in_processes(2, as_laid_out, tmp_path):
        assert gradient == weight and weight[1] == 1
