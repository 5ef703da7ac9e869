"""Training in several processes compared with training in one, on the CPU with gloo."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmpareto.data.loading.batches import EpochOrder, Shard, ShardedBatches
from mmpareto.errors import InputError
from mmpareto.models.mmtm import MMTM
from mmpareto.models.network import MultimodalNetwork
from mmpareto.training import loop
from mmpareto.training.distributed import Processes
from mmpareto.training.run import train
from mmpareto.training.settings import parse
from prepared_clips import write_prepared
from processes import in_processes
from tiny_runs import acting, arguments, assert_same_run, metrics, read, send_signal, untimed
from torch import Tensor, distributed, nn

# 15 clips in batches of 7: only the first process has a clip of the last batch. Of four processes, one has no
# validation clip.
BATCH = ("--batch_size", "7", "--epochs", "1")
PLAIN = ("--encoder", "plain", *BATCH, "--epochs", "2")
STAGED = ("--encoder", "staged", *BATCH)
# Methods that use more of the training loop than losses and outputs, or another network; the steps of all methods are
# tested in tests/integration/test_reduction.py. The encoders have (synchronised) BatchNorm unless they are "plain".
RUNS: dict[str, tuple[str, ...]] = {
    name: ("--method", name, *BATCH) for name in ("mmpareto", "joint", "ogm_ge", "pmr", "agm")
} | {
    "greedy": ("--method", "greedy", "--start_epoch", "1", *BATCH),
    "gblending": ("--method", "gblending", "--trial_epochs", "1", *BATCH),
    "inforeg": ("--method", "inforeg", "--variant", "released", *BATCH),
    "relearning": ("--method", "relearning", "--reinit_epoch", "1", *BATCH, "--epochs", "3"),
    "mla": ("--method", "mla", "--record-gradients", "2", "--accumulate", "2", *BATCH),
    "reconboost": ("--method", "reconboost", "--boost_epochs", "1", "--rectify_epochs", "1", *PLAIN),
    "blocks": ("--method", "mmpareto", "--blocks", "mmtm", "--record-gradients", "2", *STAGED),
    "smv": ("--method", "smv", "--warmup", "1", *PLAIN),
    "plain": ("--random_seed", "1", "--optimizer", "adam", "--clip_grad", "1", *PLAIN),
    "parts": ("--accumulate", "3", "--record-gradients", "2", *PLAIN),
    "contrastive": ("--objective", "contrastive", "--method", "pareto", *PLAIN),
    "drop_last": ("--drop_last", "all", *PLAIN, "--protocol", "paper", "--batch_size", "5", "--epochs", "1"),
}
NOISY = ("conflict_rate_", "rescale_", "weight_")
WITH_FOUR = ("parts", "greedy")
# Networks are in float64, where runs in several processes and in one differ by 1e-15 per step: anything above 1e-9 is
# an error. (In float32, rounding hid that held gates used the mean over one process's samples only.) Logits are
# float32, so evaluation metrics agree to 1e-5 only.
EXACT, METRIC = 1e-9, 1e-5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=18, test=7, prepared={})


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Create networks in float64, and share an existing process group between several runs."""
    original = MultimodalNetwork.__init__

    def init(network: MultimodalNetwork, *given: Any) -> None:
        original(network, *given)
        network.double()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MultimodalNetwork, "__init__", init)
        patch.setattr(distributed, "init_process_group", lambda *_, **__: None)
        patch.setattr(distributed, "destroy_process_group", lambda *_: None)
        yield


def run_all(data: Path, folder: Path, names: list[str]) -> list[int]:
    with exact():
        return [train(parse(arguments(data, folder / name, *RUNS[name]))) for name in names]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run in one process."""
    folder = tmp_path_factory.mktemp("one")
    assert run_all(data, folder, list(RUNS)) == [0] * len(RUNS)
    return folder


@pytest.fixture(scope="module")
def with_two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run in two processes."""
    return run_in_processes(2, list(RUNS), data, tmp_path_factory)


@pytest.fixture(scope="module")
def with_four(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some runs in four processes."""
    return run_in_processes(4, list(WITH_FOUR), data, tmp_path_factory)


def run_in_processes(count: int, names: list[str], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, results = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("processes")
    assert in_processes(count, run_all, results, data, folder, names) == [[0] * len(names)] * count
    return folder


def assert_close(a: Any, b: Any, where: str = "", tolerance: float = EXACT) -> None:
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_close(a[key], b[key], f"{where}/{key}", tolerance)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_close(x, y, f"{where}/{number}", tolerance)
    elif isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text: f"{where}: {text}")
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=10 * tolerance, abs=tolerance), where
    else:
        assert a == b, where


@pytest.mark.parametrize("name", RUNS)
def test_a_run_in_two_processes_equals_the_run_in_one(name: str, with_two: Path, whole: Path) -> None:
    assert_same_but_for_rounding(with_two / name, whole / name, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_FOUR)
def test_a_run_in_four_processes_equals_the_run_in_one(name: str, with_four: Path, whole: Path) -> None:
    assert_same_but_for_rounding(with_four / name, whole / name, name)


def assert_same_but_for_rounding(ours: Path, theirs: Path, name: str) -> None:
    assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir())
    for checkpoint in ("last.pt", "best.pt"):
        assert_close(read(ours / checkpoint)["model"], read(theirs / checkpoint)["model"], name)
    assert_close(comparable(metrics(ours), name), comparable(metrics(theirs), name), name, METRIC)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (ours, theirs)]
    assert_close(*(comparable(summary, name) for summary in summaries), name, METRIC)
    if (ours / "gradients.npz").exists():
        records = [dict(np.load(folder / "gradients.npz")) for folder in (ours, theirs)]
        assert_close(*({key: values.tolist() for key, values in one.items()} for one in records), name, METRIC)


def comparable(value: Any, name: str) -> Any:
    """Drop times and, with BatchNorm, conflicts and λ: the gradient of a bias before it is rounding only."""
    value = untimed(value)
    if isinstance(value, dict) and "--encoder" not in RUNS[name]:
        return {key: comparable(inner, name) for key, inner in value.items() if not key.startswith(NOISY)}
    return [comparable(inner, name) for inner in value] if isinstance(value, list) else value


def compiled_run(data: Path, folder: Path) -> int:
    with exact(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # code generation is slow
        return train(parse(arguments(data, folder, *RUNS["joint"], "--compile")))


@pytest.mark.slow
def test_a_compiled_run_in_two_processes_equals_the_run_in_one(data: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "processes").mkdir()
    assert in_processes(2, compiled_run, tmp_path / "processes", data, tmp_path / "run") == [0, 0]
    assert_close(read(tmp_path / "run" / "last.pt")["model"], read(whole / "joint" / "last.pt")["model"])


def stop_and_resume(data: Path, folder: Path) -> list[tuple[int, int, int]]:
    """Stop a run by a signal to process 1 only, in epoch 2 and then in its evaluation; then resume it to its end."""
    more = arguments(data, folder, *RUNS["plain"])
    results = []
    for name, call in (("step", 4), ("predict", 1), ("", 0)):
        stopping: Any = contextlib.nullcontext()
        if name and os.environ["RANK"] == "1":
            owner = loop.Trainer if name == "step" else loop
            stopping = acting(owner, name, call, send_signal, before=name == "predict")
        with exact(), stopping:
            status = train(parse(more))
        content = read(folder / "last.pt")
        results.append((status, content["epoch"], content["steps"]))
        more = ["--resume", str(folder)]
    return results


def test_a_signal_to_one_process_stops_all_and_the_run_resumes_bit_identically(
    data: Path, with_two: Path, tmp_path: Path
) -> None:
    (tmp_path / "processes").mkdir()
    results = in_processes(2, stop_and_resume, tmp_path / "processes", data, tmp_path / "run")
    assert results == [[(143, 2, 1), (143, 2, 3), (0, 3, 0)]] * 2  # three steps per epoch
    assert_same_run(tmp_path / "run", with_two / "plain")


def stop(data: Path, folder: Path) -> int:
    """Stop a run by a signal after the fourth of six steps."""
    with (
        exact(),
        acting(loop.Trainer, "step", 4, send_signal),
    ):
        return train(parse(arguments(data, folder, *RUNS["plain"])))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_resumes_in_another_number_of_processes(
    before: int, after: int, data: Path, whole: Path, tmp_path: Path
) -> None:
    def work(count: int, task: Any, *given: Any) -> Any:
        meeting = tmp_path / f"processes of {task.__name__}"
        meeting.mkdir()
        return in_processes(count, task, meeting, *given) if count > 1 else [task(*given)]

    run = tmp_path / "run"
    assert work(before, stop, data, run) == [143] * before
    assert work(after, resume_exact, run) == [0] * after
    assert_close(read(run / "last.pt")["model"], read(whole / "plain" / "last.pt")["model"])
    assert_close(untimed(metrics(run)), untimed(metrics(whole / "plain")), tolerance=METRIC)


def resume_exact(folder: Path) -> int:
    with exact():
        return train(parse(["--resume", str(folder)]))


# Collective operations


def rows(samples: int, rank: int, count: int) -> Tensor:
    return torch.arange(2.0 * samples).view(samples, 2)[list(Shard(rank, count).indices(samples))]


def group_of_three() -> Processes:
    return Processes(Shard(distributed.get_rank(), 3), is_distributed=True)


def collectives() -> dict[str, Any]:
    processes = group_of_three()
    rank = processes.share.rank
    module = nn.Linear(2, 2)
    module.register_buffer("mean", torch.full((2,), float("nan") if rank == 2 else rank + 1.0))
    processes.average_buffers(module, [3, 1, 0][rank])
    with processes.per_rank_rng(torch.device("cpu"), 5):
        drawn = torch.rand(rank + 1)[0].item()

    def refused() -> None:
        raise InputError("not so")

    with pytest.raises(InputError if rank == 0 else SystemExit):
        processes.run_on_rank0(refused)
    with pytest.raises(InputError if rank == 0 else SystemExit):
        processes.rank0_first(refused)
    return {
        "gathered": [processes.all_gather(rows(n, rank, 3), n).tolist() for n in (1, 5, 6)],
        "sum": {name: value.item() for name, value in processes.all_reduce_sum({"a": torch.tensor(rank)}).items()},
        "max": processes.all_reduce_max(rank),
        "on rank 0": processes.run_on_rank0(lambda: "first"),
        "rank 0 first": processes.rank0_first(lambda: "each"),
        "mean": module.mean.tolist(),
        "random": torch.initial_seed(),
    }, drawn


def test_collective_operations(tmp_path: Path) -> None:
    results, drawn = zip(*in_processes(3, collectives, tmp_path), strict=True)
    for result in results:
        assert result["gathered"] == [rows(n, 0, 1).tolist() for n in (1, 5, 6)]
        assert result["sum"] == {"a": 3.0} and result["max"] == 2
        assert (result["on rank 0"], result["rank 0 first"]) == ("first", "each")
        assert result["mean"] == [1.25, 1.25]  # (3·1 + 1·2)/4
    assert len(set(drawn)) == 3


def test_the_shards_of_a_batch_cover_it() -> None:
    order = EpochOrder(15, seed=3)
    order.set_epoch(2, start=7)
    parts = [list(ShardedBatches(order, 7, Shard(rank, 3))) for rank in range(3)]
    whole = [key for _, key in list(order)]
    assert [sorted(key for part in parts for _, key in part[0]), len(parts[0])] == [sorted(whole[:7]), 2]
    # The last batch has one sample: every rank loads it, and all but the first drop it.
    assert [[key for _, key in part[1]] for part in parts] == [whole[7:]] * 3


SHARES = [slice(0, 4), slice(4, 6), slice(6, 6)]
SHAPES = {nn.BatchNorm1d: (6, 3), nn.BatchNorm2d: (6, 3, 2, 4)}
KINDS = [(kind, momentum) for kind in SHAPES for momentum in (0.1, None)]


def normed(kind: type[nn.Module], share: slice, network: nn.Module) -> dict[str, list[Tensor]]:
    """Two training steps, then an evaluation output: tensors per sample, gradients of parameters, and buffers."""
    by_sample, gradients = [], []
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        x, cotangent = (torch.randn(SHAPES[kind], generator=generator).double()[share] for _ in range(2))
        x = (3 + 2 * x).requires_grad_()
        y = network(x)
        gradient, *more = torch.autograd.grad(y, [x, *network.parameters()], cotangent)
        by_sample += [y.detach(), gradient]
        gradients += more
    network.eval()
    return {"by sample": [*by_sample, network(x).detach()], "summed": gradients, "equal": [*network.buffers()]}


def gated(share: slice, block: MMTM) -> dict[str, list[Tensor]]:
    """Three training steps, the last of which holds a modality."""
    by_sample = []
    for hold in (None, None, "a"):
        generator = torch.Generator().manual_seed(len(by_sample))
        maps = {name: torch.randn(6, size, 2, 2, generator=generator).double()[share] for name, size in WIDTHS.items()}
        by_sample += block(maps, share.stop - share.start, hold).values()
    return {"by sample": [x.detach() for x in by_sample], "summed": [], "equal": [*block.buffers()]}


WIDTHS = {"a": 4, "b": 2}


def network_of(kind: type[nn.Module], momentum: float | None) -> nn.Module:
    return nn.Sequential(kind(3, momentum=momentum)).double()  # type: ignore[call-arg]


def block() -> MMTM:
    torch.manual_seed(distributed.get_rank() if distributed.is_initialized() else 0)  # rank 0's weights are used
    return MMTM(WIDTHS).double()


def batch_statistics() -> list[dict[str, list[Tensor]]]:
    processes, share, cpu = group_of_three(), SHARES[distributed.get_rank()], torch.device("cpu")
    results = [normed(one[0], share, processes.synchronise(network_of(*one), cpu)) for one in KINDS]
    return [*results, gated(share, processes.synchronise(block(), cpu))]


@pytest.mark.slow
def test_batch_statistics_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    """Statistics of BatchNorm and mean gates of MMTM, including those used in the same forward pass."""
    results = in_processes(3, batch_statistics, tmp_path)
    everything = slice(0, 6)
    expected = [*(normed(one[0], everything, network_of(*one)) for one in KINDS), gated(everything, block())]
    for number, whole in enumerate(expected):
        shares = [result[number] for result in results]
        for kind, tensors in whole.items():
            for index, tensor in enumerate(tensors):
                parts = [share[kind][index] for share in shares]
                if kind != "equal":
                    parts = [torch.cat(parts) if kind == "by sample" else torch.stack(parts).sum(0)]
                for one in parts:
                    torch.testing.assert_close(one, tensor, rtol=1e-9, atol=1e-12)


# The process group of a run


def own_group(data: Path, folder: Path, fails: bool) -> tuple[Any, str]:
    """A run that creates its process group: its exit status, or the type of its exception, and its printed text."""

    def failing() -> None:
        raise ZeroDivisionError("process 1 fails")

    failure: Any = contextlib.nullcontext()
    if fails and os.environ["RANK"] == "1":
        failure = acting(loop.Trainer, "step", 2, failing)
    printed = io.StringIO()
    try:
        with failure, contextlib.redirect_stdout(printed):
            result: Any = train(parse(arguments(data, folder, *RUNS["plain"])))
    except Exception as error:
        result = type(error)
    assert fails or not distributed.is_initialized()
    return result, printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_a_run_creates_and_destroys_its_process_group(fails: bool, data: Path, tmp_path: Path) -> None:
    """Only rank 0 prints; a process that fails exits without waiting, and the others fail with it."""
    (tmp_path / "processes").mkdir()
    folder = tmp_path / "run"
    (first, text), (second, nothing) = in_processes(
        2, own_group, tmp_path / "processes", data, folder, fails, grouped=False
    )
    assert nothing == "" and text.count("into") == 1
    assert (first, second) == (RuntimeError, ZeroDivisionError) if fails else (0, 0)
    assert (folder / "summary.json").exists() is not fails


# torchrun itself


DRIVER = """
import sys
sys.path[:0] = {path!r}
import torch
torch.set_num_threads(1)
import tiny_runs
from mmpareto.cli import run
from train import main
run(main)
"""


@pytest.mark.slow
def test_torchrun_saves_a_checkpoint_when_terminated(data: Path, tmp_path: Path) -> None:
    folder, driver, tests = tmp_path / "run", tmp_path / "driver.py", Path(__file__).resolve().parents[1]
    driver.write_text(DRIVER.format(path=[str(tests.parent / "code"), str(tests), str(tests / "training")]))
    line = arguments(data, folder, *RUNS["plain"], "--epochs", "100000")
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(driver), *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 100
        while not (folder / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        process.terminate()
        output, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    last = output.splitlines()[-1]
    assert last.startswith("stopped by SIGTERM in epoch ") and f"--resume {folder}" in last, errors
    content = read(folder / "last.pt")
    assert f"in epoch {content['epoch']} after step {content['steps']}," in last or content["steps"] == 0
