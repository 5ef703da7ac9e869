import copy
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmpareto.data.loading.batches import Batch, to_device
from mmpareto.errors import InputError
from mmpareto.models.network import Outputs
from mmpareto.training.devices import Precision, check_bf16, choose_devices, loader_workers, seed_everything
from mmpareto.training.loop import Trainer
from prepared_clips import write_prepared
from tiny_runs import metrics, read, run, trainer_of
from torch import Tensor, nn

METHODS = [
    *("--method uniform", "--method joint"),
    *("--variant per_tensor", "--variant paper", "--variant released"),
]
INFOREG = ["--method inforeg --variant released", "--method inforeg --modulation_starts 0"]
IN_TURNS = "--method mla"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=12, test=4)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("available", "gpu_ids", "device", "ids"),
    [
        (0, "auto", "cpu", []),
        (0, "cpu", "cpu", []),
        (4, "cpu", "cpu", []),
        (1, "auto", "cuda:0", [0]),
        (4, "auto", "cuda:0", [0, 1]),  # as many as the paper uses
        (4, "3", "cuda:3", [3]),
        (4, "2,0", "cuda:2", [2, 0]),
        (4, "0, 1", "cuda:0", [0, 1]),
    ],
)
def test_devices(available: int, gpu_ids: str, device: str, ids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, available)
    assert choose_devices(gpu_ids) == (torch.device(device), ids)


@pytest.mark.parametrize(
    ("available", "gpu_ids", "message"),
    [
        (0, "0", r"GPU 0.*no GPU that PyTorch can use.*--gpu_ids cpu"),
        (1, "1", r"GPU 1, but this machine has 1 GPU \(ids from 0\)"),
        (2, "0,7", r"GPU 7, but this machine has 2 GPUs"),
        (2, "-1", r"'-1'; give ids such as 0 or 0,1"),
        (2, "1,1", r"a GPU twice: 1,1"),
        (2, "gpu0", r"'gpu0'; give ids such as 0 or 0,1"),
        (2, "", "give ids"),
        (2, "0,", "give ids"),
    ],
)
def test_missing_devices_are_refused(
    available: int, gpu_ids: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, available)
    with pytest.raises(InputError, match=message):
        choose_devices(gpu_ids)


@pytest.mark.parametrize(
    ("given", "device", "cores", "workers"),
    [(None, "cpu", 8, 0), (None, "cuda", 2, 2), (None, "cuda", 64, 16), (0, "cuda", 8, 0), (3, "cpu", 1, 3)],
)
def test_number_of_loader_processes(
    given: int | None, device: str, cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert loader_workers(given, torch.device(device)) == workers


def test_seeding_repeats_random_numbers_and_makes_cudnn_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks cuDNN's flags, too, which have no effect on a CPU run."""
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "deterministic", False)
    monkeypatch.setattr(cudnn, "benchmark", True)
    drawn = []
    for _ in range(2):
        seed_everything(3)
        drawn.append((random.random(), np.random.random(), torch.rand(()).item()))
    assert drawn[0] == drawn[1]
    assert cudnn.deterministic and not cudnn.benchmark


def test_fp16_needs_a_gpu_and_bf16_does_not(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--amp bf16"):
        Precision("fp16", torch.device("cpu"))
    assert run(data, tmp_path / "half", "--amp", "bf16", "--method", "uniform") == 0
    assert run(data, tmp_path / "full", "--method", "uniform") == 0
    half, full = metrics(tmp_path / "half"), metrics(tmp_path / "full")
    assert half[0]["train_loss"] == pytest.approx(full[0]["train_loss"], rel=0.05)
    assert half[0]["train_loss"] != full[0]["train_loss"]
    assert all(t.dtype != torch.bfloat16 for t in read(tmp_path / "half/last.pt")["model"].values())


def scaled(trainer: Trainer, scale: float) -> Trainer:
    """Give the trainer the gradient scaler of fp16, which also works on the CPU in float32."""
    trainer.precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return trainer


@pytest.mark.parametrize("clip", [[], ["--clip_grad", "0.3"]])
@pytest.mark.parametrize("line", [*METHODS, IN_TURNS])
def test_loss_scaling_does_not_change_the_results(line: str, clip: list[str], data: Path, tmp_path: Path) -> None:
    more = ("--encoder", "plain", "--protocol", "paper", *line.split(), *clip)
    plain = trainer_of(data, tmp_path / "plain", *more)
    with_scaler = scaled(trainer_of(data, tmp_path / "scaled", *more), 2.0**12)
    for batch in batches(plain):
        one, two = plain.step(batch), with_scaler.step(batch)
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        dict(with_scaler.network.state_dict()), dict(plain.network.state_dict()), rtol=1e-5, atol=1e-7
    )


def overflow_as_fp16(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
    """A forward hook: gradients of the logits above 65504 become infinite, as they do in fp16."""
    logits.register_hook(lambda gradient: gradient.half().float())


@pytest.mark.parametrize("line", METHODS)
def test_steps_that_overflow_are_skipped_until_the_scale_fits(line: str, data: Path, tmp_path: Path) -> None:
    trainer = scaled(trainer_of(data, tmp_path, "--encoder", "plain", *line.split()), 2.0**24)
    for head in (trainer.network.fusion, *trainer.network.heads.values()):
        head.register_forward_hook(overflow_as_fp16)
    batch, moved = batches(trainer)[0], []
    for _ in range(12):
        before = copy.deepcopy(trainer.network.state_dict())
        trainer.meter.add(trainer.step(batch), weight=4)
        moved.append(any(not torch.equal(t, before[name]) for name, t in trainer.network.state_dict().items()))
    assert not moved[0] and moved[-1] and moved == sorted(moved)
    trainer.finite_monitor.check()  # no error
    assert not [name for name, value in trainer.meter.means().items() if value != value]
    assert all(tensor.isfinite().all() for tensor in trainer.network.state_dict().values())


class Copies(torch.autograd.Function):
    """Two copies of every parameter, as from DataParallel's Broadcast: unreached parameters get zeros, not None."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        copies = [p.clone() for _ in range(2) for p in parameters]
        ctx.mark_non_differentiable(*(c for c, p in zip(copies, parameters * 2, strict=True) if not p.requires_grad))
        return tuple(copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        half = len(gradients) // 2
        return tuple(a + b for a, b in zip(gradients[:half], gradients[half:], strict=True))


class Replicas(nn.Module):
    """DataParallel over two devices, on the CPU: replicas run on the halves of a batch; outputs are gathered."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> Outputs:
        names = [name for name, _ in self.network.named_parameters()]
        copies = Copies.apply(*self.network.parameters())
        halves = [{name: values.chunk(2)[number] for name, values in inputs.items()} for number in (0, 1)]
        first, second = (
            torch.func.functional_call(
                self.network, dict(zip(names, copies[number * len(names) :], strict=False)), (halves[number],)
            )
            for number in (0, 1)
        )
        joined = [
            {name: torch.cat([a[name], b[name]]) for name in a} for a, b in zip(first[1:], second[1:], strict=True)
        ]
        return Outputs(torch.cat([first.joint, second.joint]), *joined)


def batches(trainer: Trainer) -> list[Batch]:
    trainer.order.set_epoch(1)
    return [to_device(batch, trainer.device, trainer.data.train.normalisation) for batch in trainer.loader]


@pytest.mark.parametrize("line", [*METHODS, IN_TURNS])
def test_replicas_on_halves_of_a_batch_train_like_one_device(line: str, data: Path, tmp_path: Path) -> None:
    more = ("--encoder", "plain", "--weight_decay", "0.3", "--protocol", "paper", *line.split())
    single = trainer_of(data, tmp_path / "single", *more)
    double = trainer_of(data, tmp_path / "double", *more)
    double.model = Replicas(double.network)
    heads = copy.deepcopy(single.network.heads.state_dict())
    double.begin_epoch()
    single.begin_epoch()
    for batch in batches(single):
        one, two = single.step(batch), double.step(batch)
        assert list(one) == list(two)
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        dict(double.network.state_dict()), dict(single.network.state_dict()), rtol=1e-4, atol=1e-6
    )
    if line == "--method joint":  # with zero gradients, weight decay would shrink untrained heads
        assert all(torch.equal(t, heads[name]) for name, t in double.network.heads.state_dict().items())


def on_gpu(data: Path, folder: Path, *more: str) -> Trainer:
    return trainer_of(data, folder, "--gpu_ids", "0", "--protocol", "paper", *more)


@pytest.mark.gpu
@pytest.mark.parametrize("line", METHODS)
def test_a_step_on_a_gpu_equals_one_on_the_cpu(line: str, data: Path, tmp_path: Path) -> None:
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        cpu = trainer_of(data, tmp_path / "cpu", "--encoder", "plain", "--protocol", "paper", *line.split())
        gpu = on_gpu(data, tmp_path / "gpu", "--encoder", "plain", *line.split())
        cpu.step(batches(cpu)[0])
        gpu.step(batches(gpu)[0])
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution
    result = {name: tensor.cpu() for name, tensor in gpu.network.state_dict().items()}
    torch.testing.assert_close(result, dict(cpu.network.state_dict()), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("line", [*METHODS, *INFOREG, "--clip_grad 1", "--optimizer adam", "--amp bf16"])
def test_a_step_never_synchronises_with_the_gpu(line: str, data: Path, tmp_path: Path) -> None:
    trainer = on_gpu(data, tmp_path / "run", *line.split())
    first, *rest = batches(trainer)
    trainer.meter.add(trainer.step(first), weight=4)  # creates the optimiser's state and cuDNN's plans
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in rest:
            trainer.meter.add(trainer.step(batch), weight=4)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("line", METHODS)
def test_fp16_trains_and_resumes(line: str, data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "half", "--gpu_ids", "0", "--amp", "fp16", *line.split()) == 0
    content = read(tmp_path / "half/last.pt")
    assert content["scaler"]["scale"] > 0
    assert all(t.isfinite().all() and t.dtype != torch.float16 for t in content["model"].values())
    assert run(data, tmp_path / "full", "--gpu_ids", "0", *line.split()) == 0
    half, full = metrics(tmp_path / "half"), metrics(tmp_path / "full")
    assert half[0]["train_loss"] == pytest.approx(full[0]["train_loss"], rel=0.2)


def test_bf16_is_refused_where_cpu_gradients_are_wrong() -> None:
    """On maps one pixel wide, those of convolutions with a stride; wider maps are as exact as bf16 allows."""

    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(16, 32, kernel_size=3, padding=1)
            self.second = nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1)
            self.norm = nn.BatchNorm2d(64)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.norm(self.second(self.first(inputs["audio"])))

    with pytest.raises(InputError, match="second is one pixel wide"):
        check_bf16(Convolutions(), {"audio": (16, 8, 1)})
    network = Convolutions()
    before = copy.deepcopy(network.state_dict())
    check_bf16(network, {"audio": (16, 8, 2)})
    assert network.training and not network.second._forward_pre_hooks
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    x = torch.randn(4, 16, 8, 2)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = network({"audio": x}).float().square().mul(torch.arange(4).view(4, 1, 1, 1)).sum()
        gradients.append(torch.autograd.grad(loss, network.second.weight)[0])
    assert (gradients[1] - gradients[0]).norm() < 0.05 * gradients[0].norm()
