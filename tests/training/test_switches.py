"""Options for speed and memory: each run equals the run without the option, up to rounding."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from mmpareto.data.loading.batches import Batch, to_device
from mmpareto.errors import InputError
from mmpareto.training import devices
from mmpareto.training.loop import Trainer
from prepared_clips import write_prepared
from tiny_runs import acting, assert_same_run, read, resume, run, send_signal, trainer_of
from torch import Tensor, nn

SWITCHES = ("--channels_last", "--checkpoint_activations", "--tf32", "--compile", "--fused")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=10, test=4, prepared={})


@pytest.fixture(autouse=True)
def restored_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile without code generation, which takes a minute per program, and restore PyTorch's settings."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=True), torch._dynamo.config.patch(recompile_limit=8):
        yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


def batches(trainer: Trainer, dtype: torch.dtype = torch.float64) -> Iterator[Batch]:
    """Batches of the trainer's current epoch."""
    for batch in trainer.loader:
        batch = to_device(batch, trainer.device, trainer.data.train.normalisation)
        yield batch._replace(inputs={name: values.to(dtype) for name, values in batch.inputs.items()})


def trained(trainer: Trainer, epochs: int = 2, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Weights and statistics after some epochs, and metrics of the last step."""
    trainer.network.to(dtype)
    for trainer.epoch in range(1, epochs + 1):
        trainer.steps = 0
        trainer.begin_epoch()
        for batch in batches(trainer, dtype):
            metrics = trainer.step(batch)
    return dict(trainer.network.state_dict()) | metrics


def assert_equal(data: Path, folder: Path, switch: str, *more: str) -> None:
    """Compare in float64, to 1e-6: BatchNorm amplifies rounding in float32. With blocks: in float32, to 1e-3.

    (Programs compiled by PyTorch 2.11 do not increment a float64 scalar on the CPU, as the blocks' counter would be.)
    """
    dtype, rtol, atol = (torch.float32, 1e-3, 1e-5) if "greedy" in more else (torch.float64, 1e-6, 1e-8)
    common = ("--protocol", "paper", "--learning_rate", "0.01", *more)
    plain = trained(trainer_of(data, folder / "plain", *common), dtype=dtype)
    switched = trained(trainer_of(data, folder / "on", *common, *switch.split()), dtype=dtype)
    assert list(plain) == list(switched)
    for name in plain:
        # The gradient of a bias before BatchNorm is rounding only, which may or may not conflict.
        if not name.startswith(("weight_", "conflict_rate_", "rescale_")):
            torch.testing.assert_close(
                switched[name], plain[name], rtol=rtol, atol=atol, msg=partial("{} {}".format, name)
            )


@pytest.mark.parametrize("switch", [*SWITCHES[:3], " ".join(SWITCHES)])
def test_a_switch_changes_nothing_but_rounding(switch: str, data: Path, tmp_path: Path) -> None:
    assert_equal(data, tmp_path, switch, "--method", "mmpareto", "--frames", "2")


@pytest.mark.parametrize(
    ("switch", "method"),
    [
        *(("--checkpoint_activations", method) for method in ("dgl", "greedy --start_epoch 1", "agm")),
        ("--checkpoint_activations", "agm --variant released"),
        ("--compile", "dgl"),
        *(pytest.param("--compile", m, marks=pytest.mark.slow) for m in ("greedy --start_epoch 1", "agm")),
    ],
)
def test_methods_with_special_forward_and_backward_passes(switch: str, method: str, data: Path, tmp_path: Path) -> None:
    """Backward passes through part of the graph, held gates, and evaluation within a step."""
    assert_equal(data, tmp_path, switch, "--method", *method.split(), "--encoder", "tiny")


def test_resnet18_has_the_same_gradients(data: Path, tmp_path: Path) -> None:
    """Gradients and BatchNorm statistics for a batch of four 48×48 clips; float64, to 1e-8 of their norms."""
    results = []
    for switch in ("", "--channels_last", "--checkpoint_activations"):
        more = ("--encoder", "resnet18", "--image_size", "48", "--audio_frames", "32", *switch.split())
        trainer = trainer_of(data, tmp_path / f"run{switch}", *more)
        trainer.network.double()
        trainer.begin_epoch()
        batch = next(batches(trainer))
        loss = nn.functional.cross_entropy(trainer.model(batch.inputs).joint, batch.labels)
        parameters = [*trainer.network.encoders.parameters()]
        results.append([*torch.autograd.grad(loss, parameters), *trainer.network.buffers()])
    for plain, *switched in zip(*results, strict=True):
        for other in switched:
            assert (other - plain).double().norm() <= 1e-8 * plain.double().norm()


def test_all_convolutions_are_channels_last(data: Path, tmp_path: Path) -> None:
    """For inputs (B, T, C, H, W) and (B, C, H, W), and in the momentum buffers."""
    trainer = trainer_of(data, tmp_path / "run", "--channels_last", "--frames", "2", "--protocol", "paper")
    activations: list[Tensor] = []
    for module in trainer.network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, output: activations.extend([*inputs, output]))
    trainer.begin_epoch()
    batch = to_device(next(iter(trainer.loader)), "cpu", trainer.data.train.normalisation)
    assert batch.inputs["visual"].dim() == 5
    trainer.step(batch)
    weights = [p for p in trainer.network.parameters() if p.dim() == 4]
    assert len(activations) == 8
    for tensor in [*activations, *weights, *(trainer.optimizer.state[p]["momentum_buffer"] for p in weights)]:
        assert tensor.is_contiguous(memory_format=torch.channels_last), tensor.shape


@pytest.mark.parametrize("switch", ["--accumulate 2", "--channels_last --fused", "--checkpoint_activations"])
def test_resume_with_a_switch_continues_bit_identically(switch: str, data: Path, tmp_path: Path) -> None:
    more = ("--protocol", "paper", "--record_gradients", "2", *switch.split())
    assert run(data, tmp_path / "whole", *more) == 0
    with acting(Trainer, "step", 2, send_signal):
        assert run(data, tmp_path / "run", *more) == 143
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_checkpoints_do_not_depend_on_channels_last(data: Path, tmp_path: Path) -> None:
    """The code that reads a checkpoint does not depend on the layout."""
    assert run(data, tmp_path, "--channels_last", "--epochs", "1") == 0
    weights = read(tmp_path / "best.pt")["model"]
    network = trainer_of(data, tmp_path / "other").network
    network.load_state_dict(weights)
    assert all(torch.equal(p, weights[name]) for name, p in network.state_dict().items())
    assert network.encoders["visual"].layers[0].weight.is_contiguous()


@pytest.mark.parametrize("allowed", [False, True])
def test_tf32_follows_the_flag_and_has_no_effect_on_the_cpu(allowed: bool, data: Path, tmp_path: Path) -> None:
    more = ["--tf32"] if allowed else []
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not allowed
    result = trained(trainer_of(data, tmp_path / "run", *more))
    assert torch.backends.cuda.matmul.allow_tf32 is allowed
    assert torch.backends.cudnn.allow_tf32 is allowed
    other = trained(trainer_of(data, tmp_path / "other"))
    assert all(torch.equal(value, other[name]) for name, value in result.items())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("more", ["", "--fused", "--fused --channels_last"])
def test_the_fused_optimiser_equals_the_plain_one(optimizer: str, more: str, data: Path, tmp_path: Path) -> None:
    """Its steps are those of the plain optimiser, in either memory layout."""
    fused = trainer_of(data, tmp_path, "--optimizer", optimizer, *more.split()).optimizer.defaults["fused"]
    assert (fused is True) == ("--fused" in more)
    if fused:
        assert_equal(data, tmp_path, more, "--optimizer", optimizer)


def test_one_graph_is_compiled_per_batch_size_and_set_of_trained_parts(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path, "--compile", "--method", "pretrain_finetune", "--pretrain_epochs", "1")
    assert isinstance(trainer.model, torch._dynamo.eval_frame.OptimizedModule)
    torch._dynamo.utils.counters.clear()
    trained(trainer, epochs=3)  # 7 clips: batches of 4 and of 3
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 4 and not torch._dynamo.utils.counters["graph_break"]
    assert not next(trainer.network.heads.parameters()).requires_grad


def test_compiling_for_several_gpus_in_one_process_is_refused() -> None:
    with pytest.raises(InputError, match=r"--compile goes with one GPU.*--gpu_ids 0"):
        devices.wrap_model(nn.Linear(1, 1), [0, 1], compiled=True)


@pytest.mark.slow
def test_generated_code_trains_like_eager_pytorch(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", torch.compile.func)  # type: ignore[attr-defined]
    assert_equal(data, tmp_path, "--compile", "--encoder", "plain")


@pytest.mark.gpu
@pytest.mark.parametrize("switch", ["--channels_last", "--checkpoint_activations", "--compile", "--fused"])
def test_a_switch_on_a_gpu_changes_nothing_but_rounding(switch: str, data: Path, tmp_path: Path) -> None:
    assert_equal(data, tmp_path, switch, "--gpu_ids", "0", "--frames", "2")
