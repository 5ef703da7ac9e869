"""Gradients are averaged over the processes of a group, as DistributedDataParallel does, without a word of the user."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from every_method import FEATURE, Model, Outputs, assert_close, batch_of, losses_of, take_grads
from mmpareto import METHODS, MMPareto
from mmpareto.integration.method import Method
from mmpareto.integration.reduction import MeanReducer, SumReducer
from mmpareto.integration.report import Report
from processes import in_processes
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

SHARES = {2: (8, 4), 4: (5, 4, 2, 1)}
STEPS = 3
NAMES = ["joint", "uniform", "pareto", "mmpareto", "dgl", "pcgrad", "gradnorm"]

Grads = dict[str, Tensor | None]


class Partial(Model):
    """The model on batches that may lack a modality: the fusion adds up what is there."""

    def forward(self, inputs: Mapping[str, Tensor], hold: str | None = None) -> Outputs:
        features = {name: self.encoders[name](x) for name, x in inputs.items()}
        weights = dict(zip(self.encoders, self.fusion.weight.split(FEATURE, dim=1), strict=True))
        parts = {name: x @ weights[name].T for name, x in features.items()}
        joint = torch.stack([*parts.values()]).sum(0) + self.fusion.bias
        return Outputs(joint, {name: self.heads[name](x) for name, x in features.items()}, features, parts)


def step(
    method: Method, model: nn.Module, batch: tuple[Mapping[str, Tensor], Tensor], weight: float = 1.0, **options: Any
) -> tuple[Grads, Report]:
    """Take a step of gradient descent; return the gradients and the report."""
    network = model.module if isinstance(model, DistributedDataParallel) else model
    outputs = model(batch[0])
    joint, unimodal = losses_of(outputs, batch[1], weight)
    options = {"encoders": dict(network.encoders.items())} | options
    report = method.backward(joint, unimodal, outputs=outputs, labels=batch[1], **options)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    return take_grads(network), report


def share(sizes: tuple[int, ...], seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """This process's share of a batch."""
    inputs, labels = batch_of(size=sum(sizes), seed=seed)
    start = sum(sizes[: dist.get_rank()])
    chosen = slice(start, start + sizes[dist.get_rank()])
    return {name: x[chosen] for name, x in inputs.items()}, labels[chosen]


def assert_equal_everywhere(processes: list[Grads]) -> None:
    """Assert that gradients are bitwise equal in all processes, or their weights would drift apart."""
    for other in processes[1:]:
        for name, g in processes[0].items():
            assert (g is None and other[name] is None) or torch.equal(g, other[name]), name  # type: ignore[arg-type]


# --- every modality everywhere ---


def with_ddp(sizes: tuple[int, ...]) -> dict[str, list[Grads]]:
    """Method → gradients of every step, with unequal shares."""
    weight = sizes[dist.get_rank()] * dist.get_world_size() / sum(sizes)
    results = {}
    for name in NAMES:
        model, method = DistributedDataParallel(Model()), METHODS[name]()
        results[name] = [step(method, model, share(sizes, seed), weight)[0] for seed in range(STEPS)]
    return results


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_unequal_shares_weighted_by_the_user_give_the_update_of_the_whole_batch(count: int, tmp_path: Path) -> None:
    processes = in_processes(count, with_ddp, tmp_path, SHARES[count])
    for name in NAMES:
        model, method = Model(), METHODS[name]()
        for number in range(STEPS):
            wanted, _ = step(method, model, batch_of(size=sum(SHARES[count]), seed=number))
            assert_equal_everywhere([results[name][number] for results in processes])
            for results in processes:
                assert_close(results[name][number], wanted)


class WithNorm(Model):
    """The model with a BatchNorm, whose buffers DistributedDataParallel broadcasts before each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2).double()

    def forward(self, inputs: Mapping[str, Tensor], hold: str | None = None) -> Outputs:
        return super().forward({name: self.norm(x) for name, x in inputs.items()})


def beside_ddp(options: dict[str, Any]) -> dict[str, Any]:
    """Gradients and buffers of the uniform sum, and those of DistributedDataParallel's own backward pass."""
    results: dict[str, Any] = {}
    for name in ("ours", "theirs"):
        model = DistributedDataParallel(WithNorm(), **options)
        reduced: list[int] = []

        def hook(state: list[int], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            state.append(bucket.index())
            work = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
            assert work is not None
            return work.get_future().then(lambda future: future.value()[0])

        model.register_comm_hook(reduced, hook)
        grads: list[Grads] = []
        for seed in range(STEPS):
            batch = share((6, 6), seed)
            if name == "ours":
                grads.append(step(METHODS["uniform"](), model, batch)[0])
            else:
                joint, unimodal = losses_of(model(batch[0]), batch[1])
                (joint + sum(unimodal.values())).backward()
                with torch.no_grad():
                    for parameter in model.parameters():
                        if parameter.grad is not None:
                            parameter -= 0.1 * parameter.grad
                # clones, since DistributedDataParallel may write into the same buckets again
                grads.append({key: None if g is None else g.clone() for key, g in take_grads(model.module).items()})
        buffers = {key: value.clone() for key, value in model.module.named_buffers()}
        results[name] = grads, buffers, len(reduced)
    return results


@pytest.mark.parametrize(
    "options",
    [{}, {"find_unused_parameters": True}, {"static_graph": True}, {"gradient_as_bucket_view": True}],
    ids=str,
)
def test_the_uniform_sum_is_what_ddp_itself_computes(options: dict[str, Any], tmp_path: Path) -> None:
    """Gradients and buffers are the same, and DistributedDataParallel reduces nothing a second time."""
    for results in in_processes(2, beside_ddp, tmp_path, options):
        (ours, our_buffers, our_buckets), (theirs, their_buffers, their_buckets) = results["ours"], results["theirs"]
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b)
        assert all(torch.allclose(value, their_buffers[key]) for key, value in our_buffers.items())
        # With a static graph, the first forward pass schedules one reduction, here of nothing.
        assert our_buckets == ("static_graph" in options) < their_buckets


# --- a modality that a process lacks ---


def lacking(reducer: str) -> dict[str, list[Any]]:
    """Method → (gradients, norms at the visual encoder) of every step; "visual" is absent as written in the table."""
    absent = [{1}, set(), {0, 1}, {0}]  # the processes that lack it, by step
    results: dict[str, list[Any]] = {}
    for name in [*NAMES, "metabalance"]:
        network = Partial()
        method = METHODS[name]()
        if reducer == "model":
            method.reduce = MeanReducer(network)
        model = DistributedDataParallel(network)
        results[name] = []
        for number, without in enumerate(absent):
            inputs, labels = share((6, 6), number)
            if dist.get_rank() in without:
                del inputs["visual"]
            grads, report = step(method, model, (inputs, labels))
            norms = report["visual"].norms.tolist() if "visual" in report else None
            results[name].append((grads, norms, report.losses, report.finite.tolist()))
    return results


def test_a_process_that_lacks_a_modality_counts_as_zero(tmp_path: Path) -> None:
    """Mean over the processes of each objective's gradient, with zeros where it is absent, then the equations."""
    processes = in_processes(2, lacking, tmp_path, "model")
    for name in [*NAMES, "metabalance"]:
        model, method = Partial(), METHODS[name]()
        method.reduce = None
        for number, without in enumerate([{1}, set(), {0, 1}, {0}]):
            inputs, labels = batch_of(size=12, seed=number)
            halves = [({m: x[part] for m, x in inputs.items()}, labels[part]) for part in (slice(0, 6), slice(6, 12))]
            joint: list[Tensor] = []
            unimodal: dict[str, list[Tensor]] = {}
            for rank, (half, its_labels) in enumerate(halves):
                if rank in without:
                    del half["visual"]
                one, own = losses_of(model(half), its_labels, 0.5)
                joint.append(one)
                for modality, loss in own.items():
                    unimodal.setdefault(modality, []).append(loss)
            method.backward(
                torch.stack(joint).sum(),
                {modality: torch.stack(losses).sum() for modality, losses in unimodal.items()},
                encoders=dict(model.encoders.items()),
                labels=labels,
            )
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
            wanted = {key: torch.zeros(()) if g is None else g for key, g in take_grads(model).items()}
            assert_equal_everywhere([results[name][number][0] for results in processes])
            for results in processes:
                grads, norms, losses, finite = results[name][number]
                # What no process reaches is zero, since no process knows what the others reach.
                assert_close({key: torch.zeros(()) if g is None else g for key, g in grads.items()}, wanted)
                assert set(losses) == {"joint", "audio", "visual"} or name == "joint"
                assert all(finite)
                assert norms is None or len(norms) == 2


def refused() -> list[str]:
    """The errors of calls that do not fit together."""
    rank = dist.get_rank()
    batch = share((6, 6))
    errors = []

    def attempt(model: nn.Module, method: Method, batch: Any, **options: Any) -> None:
        with pytest.raises(ValueError) as caught:
            step(method, model, batch, **options)
        assert all(g is None for g in take_grads(model).values())
        errors.append(str(caught.value))

    without = ({"audio": batch[0]["audio"]} if rank == 1 else batch[0], batch[1])
    attempt(Partial(), MMPareto(), without)  # rank 0 reaches the visual head, rank 1 does not
    model = Partial()
    only = {"audio": model.encoders["audio"]} if rank == 1 else dict(model.encoders.items())
    attempt(model, MMPareto(), without, encoders=only)
    attempt(Model(seed=rank), MMPareto(), batch)
    return errors


def test_processes_that_do_not_fit_together_are_told_so_in_all_of_them(tmp_path: Path) -> None:
    first, second = in_processes(2, refused, tmp_path)
    assert first == second
    assert "MeanReducer(model)" in first[0]
    assert "same encoders" in first[1]
    assert "other weights" in first[2] and "reduce = None" in first[2]


def unlike() -> dict[str, Any]:
    """Gradients of steps in which the processes differ in what they have, or in its order."""
    rank, results = dist.get_rank(), {}
    here = {name: share((6, 6), seed) for seed, name in enumerate("ab")}

    def descend(
        model: Model, method: Method, batch: Any, joint: bool = True, names: tuple[str, ...] = ("audio", "visual")
    ) -> Grads:
        outputs = model(batch[0])
        loss, unimodal = losses_of(outputs, batch[1])
        encoders = {name: model.encoders[name] for name in ("audio", "visual")[:: 1 if rank == 0 else -1]}
        chosen = {name: unimodal[name] for name in names}
        method.backward(loss if joint else None, chosen, encoders=encoders, features=outputs.features)
        return take_grads(model)

    for reducer in ("plain", "model"):
        model, method = Model(), METHODS["gradnorm"]()
        nn.init.zeros_(model.heads["audio"].bias), nn.init.zeros_(model.heads["visual"].bias)  # not told apart
        method.reduce = MeanReducer(model) if reducer == "model" else "mean"
        results[f"order, {reducer}"] = [descend(model, method, batch) for batch in here.values()]
    model, method = Model(), METHODS["mmpareto"]()
    method.reduce = MeanReducer(model)
    results["joint"] = [descend(model, method, here["a"], joint=rank == absent) for absent in (0, 1, 0)]
    model, method = Model(), METHODS["gradnorm"]()
    model.encoders["visual"].requires_grad_(False)
    method.reduce = MeanReducer(model)
    later = ("audio", "visual") if rank == 0 else ("audio",)
    results["frozen"] = [descend(model, method, here["a"], names=names) for names in (("audio",), later)]
    method.reduce, results["head"] = MeanReducer(model), []
    for trained in (False, True):
        model.heads["audio"].requires_grad_(trained)
        results["head"].append(descend(model, method, here["a"]))
    model, method = Model(), METHODS["mmpareto"]()
    results["in part"] = [descend(model, method, here["a"])]
    model.encoders["audio"].conv.requires_grad_(False)  # type: ignore[union-attr]
    with method.accumulate():
        descend(model, method, here["a"])
    results["in part"].append(descend(model, method, here["b"]))
    inputs = {name: x.clone().requires_grad_() for name, x in here["a"][0].items()}
    results["inputs"] = [descend(Model(), MMPareto(), (inputs, here["a"][1]))]
    results["at inputs"] = [{name: x.grad for name, x in inputs.items()}]
    method.reduce = MeanReducer(group=dist.new_group())
    results["in part"].append(descend(model, copy.deepcopy(method), here["a"]))
    return results


def test_processes_that_differ(tmp_path: Path) -> None:
    processes = in_processes(2, unlike, tmp_path)
    for key in processes[0]:
        if key != "at inputs":
            for step_of in zip(*(results[key] for results in processes), strict=True):
                assert_equal_everywhere([*step_of])

    def expected(
        name: str, model: Model, parts: list[tuple[int, float, tuple[str, ...]]], method: Method | None = None
    ) -> Grads:
        """From (seed, 1 with or 0 without the joint loss, its unimodal losses) of rank 0, rank 1, rank 0, …"""
        total, unimodal = torch.zeros(()).double(), dict.fromkeys(("audio", "visual"), torch.zeros(()).double())
        for index, (seed, joint, names) in enumerate(parts):
            inputs, labels = batch_of(size=12, seed=seed)
            half = slice(6 * (index % 2), 6 * (index % 2) + 6)
            one, own = losses_of(model({m: x[half] for m, x in inputs.items()}), labels[half], 0.5)
            total = total + joint * one
            unimodal |= {m: unimodal[m] + own[m] for m in names}
        given = {m: loss for m, loss in unimodal.items() if loss.requires_grad}
        (method or METHODS[name]()).backward(total, given, encoders=dict(model.encoders.items()))
        return take_grads(model)

    def assert_steps(key: str, wanted: list[Grads]) -> None:
        for ours, theirs in zip(processes[0][key], wanted, strict=True):
            filled = {
                k: torch.zeros_like(ours[k]) if g is None and ours[k] is not None else g for k, g in theirs.items()
            }
            assert_close(ours, filled)

    both = ("audio", "visual")
    for reducer in ("plain", "model"):
        model, method = Model(), METHODS["gradnorm"]()
        nn.init.zeros_(model.heads["audio"].bias), nn.init.zeros_(model.heads["visual"].bias)
        wanted = [expected("gradnorm", model, [(seed, 1, both)] * 2, method) for seed in (0, 1)]
        assert_steps(f"order, {reducer}", wanted)
    flags = [(1, 0), (0, 1), (1, 0)]
    assert_steps("joint", [expected("mmpareto", Model(), [(0, a, both), (0, b, both)]) for a, b in flags])
    model, method, only = Model(), METHODS["gradnorm"](), ("audio",)
    model.encoders["visual"].requires_grad_(False)
    wanted = [expected("gradnorm", model, [(0, 1, a), (0, 1, only)], method) for a in (only, both)]
    assert_steps("frozen", wanted)
    wanted = []
    for trained in (False, True):
        model.heads["audio"].requires_grad_(trained)
        wanted.append(expected("gradnorm", model, [(0, 1, both)] * 2, method))
    assert_steps("head", wanted)
    whole, part = Model(), Model()
    part.encoders["audio"].conv.requires_grad_(False)  # type: ignore[union-attr]
    two = [(0, 1.0, both), (0, 1.0, both)]
    wanted = [
        expected("mmpareto", whole, two),
        expected("mmpareto", part, [*two, (1, 1, both), (1, 1, both)]),
        expected("mmpareto", part, two),
    ]
    assert_steps("in part", wanted)
    assert_steps("inputs", [expected("mmpareto", Model(), two)])
    for rank, results in enumerate(processes):  # a process's inputs have the gradient of its own losses
        inputs = {m: x[6 * rank : 6 * rank + 6].requires_grad_() for m, x in batch_of(size=12)[0].items()}
        joint, own = losses_of(Model()(inputs), batch_of(size=12)[1][6 * rank : 6 * rank + 6])
        (joint + sum(own.values())).backward()
        assert_close(results["at inputs"][0], {m: x.grad for m, x in inputs.items()})


# --- choices ---


def chosen() -> dict[str, Any]:
    batch, results = share((6, 6)), {}
    for name, reducer in {"none": None, "sum": SumReducer(), "mean": "mean", "own": Halved()}.items():
        method, model = METHODS["uniform"](), Model()
        method.reduce = reducer  # type: ignore[assignment]
        results[name] = step(method, model, batch)[0]
    method, model = MMPareto(), Model()
    results["frozen"] = []
    for frozen in (False, True, False):
        model.encoders["visual"].requires_grad_(not frozen)
        results["frozen"].append(step(method, model, batch)[0])
    model.encoders["visual"].requires_grad_(True)
    results["found"] = step(MMPareto(), Model(), batch, encoders=None)[0]
    return results


class Halved(MeanReducer):
    """A reducer of one's own."""

    def all_reduce(self, buffer: Tensor) -> Any:
        return super().all_reduce(buffer.mul_(0.5) if buffer.dtype == torch.float64 and len(buffer) > 20 else buffer)


def test_the_users_choice_of_a_reducer(tmp_path: Path) -> None:
    processes = in_processes(2, chosen, tmp_path)
    wanted, _ = step(METHODS["uniform"](), Model(), batch_of(size=12))
    for rank, results in enumerate(processes):
        assert_close(results["mean"], wanted)
        assert_close(results["sum"], {k: None if g is None else 2 * g for k, g in wanted.items()})
        assert_close(results["own"], {k: None if g is None else 0.5 * g for k, g in wanted.items()})
        inputs, labels = batch_of(size=12)
        half = slice(0, 6) if rank == 0 else slice(6, 12)
        alone, _ = step(METHODS["uniform"](), Model(), ({m: x[half] for m, x in inputs.items()}, labels[half]))
        assert_close(results["none"], alone)
        method, model = MMPareto(), Model()
        for frozen, grads in zip((False, True, False), results["frozen"], strict=True):
            model.encoders["visual"].requires_grad_(not frozen)
            assert_close(grads, step(method, model, batch_of(size=12))[0])
        assert_close(results["found"], step(MMPareto(), Model(), batch_of(size=12))[0])
    assert_equal_everywhere([results["found"] for results in processes])


def sharded() -> list[str]:
    errors = []
    mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    for wrap in (
        lambda model: fully_shard(model, mesh=mesh),
        lambda model: FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True),
    ):
        model = wrap(Model())
        network = model.module if isinstance(model, FullyShardedDataParallel) else model
        outputs = model(share((6, 6))[0])
        joint, unimodal = losses_of(outputs, share((6, 6))[1])
        with pytest.raises(ValueError) as caught:
            MMPareto().backward(joint, unimodal, encoders=dict(network.encoders.items()))
        errors.append(str(caught.value))
    return errors


def test_sharded_parameters_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for errors in in_processes(2, sharded, tmp_path):
        assert all("sharded parameters" in error and "DistributedDataParallel" in error for error in errors)


def test_reduce_takes_a_reducer_mean_or_none() -> None:
    method = MMPareto()
    assert isinstance(method.reduce, MeanReducer)
    method.over = None  # the former name
    assert method.reduce is None
    for other in ("sum", True, MeanReducer, dist):
        with pytest.raises(ValueError, match="reduce must be"):
            method.reduce = other  # type: ignore[assignment]
