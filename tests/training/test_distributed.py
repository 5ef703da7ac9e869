"""Training in several processes, as torchrun starts them, against one process; on the CPU, by gloo."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpareto.data.prepared.batches import EpochOrder, Share, SharedBatches
from mmpareto.errors import InputError
from mmpareto.training import loop
from mmpareto.training.batch_norm import convert_sync_batchnorm
from mmpareto.training.distributed import Processes
from mmpareto.training.run import train
from mmpareto.training.settings import parse
from prepared_clips import write_prepared
from processes import in_processes
from tiny_runs import acting, arguments, assert_same_run, metrics, read, send_signal, untimed
from torch import Tensor, distributed, nn

# 15 clips in batches of 7: in the last batch, of one, all processes but the first have no sample. 7 clips test, 3
# validate: of four processes, one has none.
BATCH = ("--batch_size", "7", "--epochs", "2")
PLAIN = ("--encoder", "plain", *BATCH)
# The methods that take from the loop more than losses and outputs, or need another network; the steps of all methods
# are tests/integration/test_reduction.py's. The encoders have
# (synchronised) BatchNorm unless they are "plain".
NAMES = ("mmpareto", "joint", "dgl", "ogm_ge", "greedy", "pmr", "agm", "pretrain_finetune")
RUNS: dict[str, tuple[str, ...]] = {name: ("--method", name, *BATCH) for name in NAMES} | {
    "unimodal": ("--method", "unimodal", "--modality", "audio", *BATCH),
    "gblending": ("--method", "gblending", "--trial_epochs", "1", *BATCH),
    "plain": ("--random_seed", "1", *PLAIN),
    "parts": ("--accumulate", "3", "--record-gradients", "2", *PLAIN),
    "paper": ("--protocol", "paper", "--optimizer", "adam", "--clip_grad", "1", *PLAIN),
}
NOISY = ("conflict_rate_", "rescale_", "weight_")
WITH_FOUR = ("plain", "parts", "greedy")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=18, test=7, prepared={})


def run_all(data: Path, folder: Path, names: list[str]) -> list[int]:
    return [train(parse(arguments(data, folder / name, *RUNS[name]))) for name in names]


@contextlib.contextmanager
def group_there() -> Iterator[None]:
    """The group of processes that there is stays for many runs; torchrun's own tests are below."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "init_process_group", lambda *_, **__: None)
        patch.setattr(distributed, "destroy_process_group", lambda *_: None)
        yield


def run_share_of_all(*given: Any) -> list[int]:
    with group_there():
        return run_all(*given)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run in one process."""
    folder = tmp_path_factory.mktemp("one")
    assert run_all(data, folder, list(RUNS)) == [0] * len(RUNS)
    return folder


@pytest.fixture(scope="module")
def shared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Every run in two processes, and some in four."""
    folders = {}
    for count, names in ((2, list(RUNS)), (4, list(WITH_FOUR))):
        folders[count] = tmp_path_factory.mktemp("shared")
        meeting = tmp_path_factory.mktemp("processes")
        statuses = in_processes(count, run_share_of_all, meeting, data, folders[count], names)
        assert statuses == [[0] * len(names)] * count
    return folders


def assert_close(a: Any, b: Any, where: str = "", tolerance: float = 1e-5) -> None:
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


@pytest.mark.parametrize(("count", "name"), [(2, name) for name in RUNS] + [(4, name) for name in WITH_FOUR])
def test_a_run_in_processes_is_the_run_in_one(count: int, name: str, shared: dict[int, Path], whole: Path) -> None:
    ours, theirs = shared[count] / name, whole / name
    assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir())
    for checkpoint in ("last.pt", "best.pt"):
        assert_close(read(ours / checkpoint)["model"], read(theirs / checkpoint)["model"], name)
    assert_close(told(metrics(ours), name), told(metrics(theirs), name), name, 1e-4)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (ours, theirs)]
    assert_close(*(told(summary, name) for summary in summaries), name, 1e-4)


def told(value: Any, name: str) -> Any:
    """Without times and, behind BatchNorm, conflicts and λ: a convolution's bias there has the gradient 0 and noise."""
    value = untimed(value)
    if isinstance(value, dict) and "--encoder" not in RUNS[name]:
        return {key: told(inner, name) for key, inner in value.items() if not key.startswith(NOISY)}
    return [told(inner, name) for inner in value] if isinstance(value, list) else value


def stop_and_resume(data: Path, folder: Path) -> list[tuple[int, int, int]]:
    """A run that one process alone is told to stop, in the second epoch; then, in its evaluation; then it goes on."""
    more = arguments(data, folder, *RUNS["plain"])
    found = []
    for place, number in (("step", 4), ("predict", 1), ("", 0)):
        stopping: Any = contextlib.nullcontext()
        if place and os.environ["RANK"] == "1":
            owner = loop.Trainer if place == "step" else loop
            stopping = acting(owner, place, number, send_signal, before=place == "predict")
        with group_there(), stopping:
            status = train(parse(more))
        content = read(folder / "last.pt")
        found.append((status, content["epoch"], content["steps"]))
        more = ["--resume", str(folder)]
    return found


def test_one_process_told_to_stop_stops_all_and_they_go_on_as_if_never_stopped(
    data: Path, shared: dict[int, Path], tmp_path: Path
) -> None:
    (tmp_path / "processes").mkdir()
    found = in_processes(2, stop_and_resume, tmp_path / "processes", data, tmp_path / "run")
    assert found == [[(143, 2, 1), (143, 2, 3), (0, 3, 0)]] * 2  # three steps are an epoch
    assert_same_run(tmp_path / "run", shared[2] / "plain")


def stop(data: Path, folder: Path) -> int:
    """A run that is told to stop after the fourth of six steps."""
    with group_there(), acting(loop.Trainer, "step", 4, send_signal):
        return train(parse(arguments(data, folder, *RUNS["plain"])))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_in_another_number_of_processes(
    before: int, after: int, data: Path, whole: Path, tmp_path: Path
) -> None:
    def work(count: int, task: Any, *given: Any) -> Any:
        meeting = tmp_path / f"processes of {task.__name__}"
        meeting.mkdir()
        return in_processes(count, task, meeting, *given) if count > 1 else [task(*given)]

    run = tmp_path / "run"
    assert work(before, stop, data, run) == [143] * before
    assert work(after, go_on, run) == [0] * after
    assert_close(read(run / "last.pt")["model"], read(whole / "plain" / "last.pt")["model"])
    assert_close(untimed(metrics(run)), untimed(metrics(whole / "plain")), tolerance=1e-4)


def go_on(folder: Path) -> int:
    with group_there():
        return train(parse(["--resume", str(folder)]))


# What the processes tell each other


def rows(samples: int, rank: int, count: int) -> Tensor:
    return torch.arange(2.0 * samples).view(samples, 2)[list(Share(rank, count).of(samples))]


def tell() -> dict[str, Any]:
    processes = Processes(Share(distributed.get_rank(), 3), is_distributed=True)
    rank = processes.share.rank
    module = nn.Linear(2, 2)
    module.register_buffer("mean", torch.full((2,), float("nan") if rank == 2 else rank + 1.0))
    processes.average_buffers(module, [3, 1, 0][rank])
    with processes.per_rank_rng(torch.device("cpu"), 5):
        own = torch.rand(rank + 1)[0].item()

    def refused() -> None:
        raise InputError("not so")

    with pytest.raises(InputError if rank == 0 else SystemExit):
        processes.run_on_rank0(refused)
    with pytest.raises(InputError if rank == 0 else SystemExit):
        processes.rank0_first(refused)
    return {
        "gathered": [processes.all_gather(rows(n, rank, 3), n).tolist() for n in (1, 5, 6)],
        "summed": {name: value.item() for name, value in processes.all_reduce_sum({"a": torch.tensor(rank)}).items()},
        "largest": processes.all_reduce_max(rank),
        "of first": processes.run_on_rank0(lambda: "first"),
        "after first": processes.rank0_first(lambda: "each"),
        "mean": module.mean.tolist(),
        "random": torch.initial_seed(),
    }, own


def test_what_they_tell_each_other(tmp_path: Path) -> None:
    told, own = zip(*in_processes(3, tell, tmp_path), strict=True)
    for found in told:
        assert found["gathered"] == [rows(n, 0, 1).tolist() for n in (1, 5, 6)]
        assert found["summed"] == {"a": 3.0} and found["largest"] == 2
        assert (found["of first"], found["after first"]) == ("first", "each")
        assert found["mean"] == [1.25, 1.25]  # (3·1 + 1·2)/4
    assert len(set(own)) == 3


def test_the_shares_of_a_batch_are_all_of_it() -> None:
    order = EpochOrder(15, seed=3)
    order.set_epoch(2, start=7)
    parts = [list(SharedBatches(order, 7, Share(rank, 3))) for rank in range(3)]
    whole = [key for _, key in list(order)]
    assert [sorted(key for part in parts for _, key in part[0]), len(parts[0])] == [sorted(whole[:7]), 2]
    assert [[key for _, key in part[1]] for part in parts] == [whole[7:]] * 3  # one sample: the others cut it off


SHAPES = {nn.BatchNorm1d: (6, 3), nn.BatchNorm2d: (6, 3, 2, 4)}


def normed(kind: type[nn.Module], share: slice, network: nn.Module) -> list[Tensor]:
    """Output, gradients of input and parameters, and averages after two steps, then an output in evaluation."""
    found = []
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        x, cotangent = (torch.randn(SHAPES[kind], generator=generator).double()[share] for _ in range(2))
        x = (3 + 2 * x).requires_grad_()
        y = network(x)
        found += [y, *torch.autograd.grad(y, [x, *network.parameters()], cotangent)]
    network.eval()
    return [t.detach() for t in [*found, *network.buffers(), network(x)]]


KINDS = [(kind, momentum) for kind in SHAPES for momentum in (0.1, None)]


def network_of(kind: type[nn.Module], momentum: float | None) -> nn.Module:
    return nn.Sequential(kind(3, momentum=momentum)).double()  # type: ignore[call-arg]


def batch_norm() -> list[list[Tensor]]:
    share = [slice(0, 4), slice(4, 6), slice(6, 6)][distributed.get_rank()]
    return [normed(one[0], share, convert_sync_batchnorm(network_of(*one), torch.device("cpu"))) for one in KINDS]


def test_batch_norm_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    found = in_processes(3, batch_norm, tmp_path)
    for number, (kind, momentum) in enumerate(KINDS):
        wanted = normed(kind, slice(None), network_of(kind, momentum))
        assert_shares_of(wanted, [process[number] for process in found])


def assert_shares_of(wanted: list[Tensor], shares: list[list[Tensor]]) -> None:
    for place, value in enumerate(wanted):
        parts = [share[place] for share in shares]
        if place in (0, 1, 4, 5) or place == len(wanted) - 1:  # of samples
            torch.testing.assert_close(torch.cat(parts), value, rtol=1e-9, atol=1e-12)
        elif place in (2, 3, 6, 7):  # of parameters: to be summed
            torch.testing.assert_close(sum(parts), value, rtol=1e-9, atol=1e-12)
        else:
            assert all(torch.allclose(part, value, rtol=1e-9) for part in parts)


# torchrun itself


DRIVER = """
import os, sys
sys.path[:0] = {path!r}
import torch
torch.set_num_threads(1)
import tiny_runs
from mmpareto.cli import run
from mmpareto.training import loop
from train import main
step = loop.Trainer.step
def failing(self, *rest):
    if os.environ["RANK"] == "1" and self.steps == 1:
        raise ZeroDivisionError("process 1 fails")
    return step(self, *rest)
if {fails}:
    loop.Trainer.step = failing
run(main)
"""


def torchrun(folder: Path, *more: object, fails: bool = False) -> "subprocess.Popen[str]":
    tests = Path(__file__).resolve().parents[1]
    path = [str(tests.parent / "code"), str(tests), str(tests / "training")]
    driver = folder / "driver.py"
    driver.write_text(DRIVER.format(path=path, fails=fails))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(driver)]
    return subprocess.Popen(
        [*command, *map(str, more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_process_that_fails_ends_the_run_with_its_error(data: Path, tmp_path: Path) -> None:
    process = torchrun(tmp_path, *arguments(data, tmp_path / "run", *RUNS["plain"]), fails=True)
    try:
        output, errors = process.communicate(timeout=100)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode not in (0, None)
    assert "ZeroDivisionError: process 1 fails" in errors
    assert not (tmp_path / "run" / "summary.json").exists() and output.count("into") == 1


@pytest.mark.slow
def test_torchrun_told_to_stop_saves_first(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = torchrun(tmp_path, *arguments(data, folder, *RUNS["plain"], "--epochs", "100000"))
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
