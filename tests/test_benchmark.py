"""benchmark.py, with tiny encoders."""

import functools
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import benchmark
import pytest
import torch
from mmpareto import METHODS
from mmpareto.analysis.speed import cost, loading
from mmpareto.analysis.speed.released_step import ReleasedStep
from mmpareto.errors import InputError
from mmpareto.integration.methods.pareto import Pareto
from mmpareto.integration.methods.plain_sum import UniformSum
from mmpareto.models import ENCODERS
from mmpareto.models.building import build_network
from torch import Tensor, nn

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
ENCODERS.add("wide", "test_benchmark:WideEncoder")
TINY = ["--gpu_ids", "cpu", "--batch_size", "2", "--image_size", "33", "--audio_frames", "32", "--rounds", "1"]
STEP = [*TINY, "--frames", "1"]


class WideEncoder(nn.Module):
    """An encoder with about a million parameters and few activations; its size depends on the channels."""

    feature_size = 1000

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(100 * channels, 1000), nn.ReLU(), nn.Linear(1000, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)[:, : self.layers[0].in_features])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "build_network", functools.partial(build_network, encoder="tiny"))


def measured(tmp_path: Path, *words: str) -> dict[str, Any]:
    """Run benchmark.py and return its measurements."""
    assert benchmark.main([*STEP, *words, "--out", str(tmp_path / "cost.json")]) == 0
    return json.loads((tmp_path / "cost.json").read_text())


@pytest.mark.usefixtures("tiny")
def test_every_method_is_compared_with_uniform(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = measured(tmp_path)
    names = {*METHODS, "released code"} | ({"torchjd:MGDA"} if importlib.util.find_spec("torchjd") else set())
    assert set(result["methods"]) == names
    conditions: dict[str, Any] = {"batch_size": 2, "image_size": 33, "audio_frames": 32, "frames": 1, "gpu_ids": "cpu"}
    conditions |= dict.fromkeys(("amp", "blocks", "cross_terms", "modalities")) | dict.fromkeys(
        ("tf32", "channels_last", "fused", "compile"), False
    )
    assert result["conditions"] == conditions
    assert result["rounds"] == 1
    for values in result["methods"].values():
        for spread in (values["seconds"], values["ratio"]):
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        assert "arithmetic" not in values
    assert result["methods"]["uniform"]["ratio"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    printed = capsys.readouterr().out
    for name in names:
        assert f"\n{name} " in printed


def test_memory_is_reported_in_copies_of_the_encoder_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak memory with few activations consists of the gradients that a method holds."""
    monkeypatch.setattr(cost, "build_network", functools.partial(build_network, encoder="wide"))
    result = measured(tmp_path, "--methods", "unimodal", "released_code")
    channels = {"audio": 1, "visual": 3}
    sizes = {name: 4 * sum(p.numel() for p in WideEncoder(count).parameters()) for name, count in channels.items()}
    copy = result["encoder_gradient_bytes"]
    assert copy == sum(sizes.values())
    methods = result["methods"]
    assert methods["uniform"]["extra_copies"] == 0
    for values in methods.values():
        assert values["extra_copies"] == (values["peak_bytes"] - methods["uniform"]["peak_bytes"]) / copy
    # Each encoder's gradient and the copy that becomes `.grad`; with one modality, there is only one encoder.
    assert methods["uniform"]["peak_bytes"] / copy == pytest.approx(2, abs=0.1)
    assert methods["unimodal"]["peak_bytes"] / (2 * sizes["audio"]) == pytest.approx(1, abs=0.1)
    # Two gradients per encoder, each as tensors and as a vector; the gradient of the sum; and one or two temporaries.
    assert methods["released code"]["peak_bytes"] / copy == pytest.approx(6, abs=0.7)


@pytest.mark.usefixtures("tiny")
def test_the_share_of_integration_time_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fake clock advances equally in integration and in the rest of the step."""
    clock = [0.0]
    integrate, begin = Pareto.integrate, Pareto.passes

    def slow_integrate(self: Pareto, *arguments: Any) -> Any:
        clock[0] += 1  # called once for each of two encoders
        return integrate(self, *arguments)

    def slow_passes(self: Pareto, *arguments: Any) -> Any:
        clock[0] += 2
        return begin(self, *arguments)

    uniform = UniformSum.passes
    monkeypatch.setattr(Pareto, "integrate", slow_integrate)
    monkeypatch.setattr(Pareto, "passes", slow_passes)
    monkeypatch.setattr(UniformSum, "passes", lambda self, o: (clock.__setitem__(0, clock[0] + 1), uniform(self, o))[1])
    monkeypatch.setattr(ReleasedStep, "begin_epoch", lambda self, loop: None)
    monkeypatch.setattr(ReleasedStep, "before_forward", lambda *_: clock.__setitem__(0, clock[0] + 5) or {})
    monkeypatch.setattr(cost.time, "process_time", lambda: clock[0])
    result = measured(tmp_path, "--methods", "pareto", "released_code", "--integration", "--rounds", "2")["methods"]
    assert result["pareto"]["arithmetic"] == {"median": 0.5, "min": 0.5, "max": 0.5}
    assert result["pareto"]["seconds"]["median"] == result["pareto"]["ratio"]["median"] == 4
    assert result["uniform"]["arithmetic"]["max"] == 0
    assert result["released code"]["arithmetic"] is None and result["released code"]["ratio"]["median"] == 5
    assert "50.0 (50.0 – 50.0)" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_chosen_methods_and_always_uniform_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("torchjd")
    result = measured(tmp_path, "--methods", "MM-Pareto", "MMPareto:paper", "torchjd:Mean")
    assert list(result["methods"]) == ["uniform", "mmpareto", "mmpareto:paper", "torchjd:Mean"]


@pytest.mark.usefixtures("tiny")
def test_a_variant_is_measured_with_its_options() -> None:
    conditions = cost.Conditions(batch_size=2, image_size=33, audio_frames=32, frames=1, gpu_ids="cpu")
    inputs, labels = {"audio": torch.zeros(2, 1, 32, 128)}, torch.zeros(2, dtype=torch.long)
    method = cost.Contender("mmpareto:paper", inputs, labels, conditions).method
    assert (method.weights, method.rescale, method.boost) == ("encoder", "encoder", "conflict")


@pytest.mark.usefixtures("tiny")
def test_precision_and_layout_reach_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes = []
    monkeypatch.setattr(Pareto, "statistics", lambda self, outputs, *_: dtypes.append(outputs.joint.dtype) or {})
    result = measured(tmp_path, "--methods", "pareto", "--amp", "bf16", "--channels_last")
    assert result["conditions"]["amp"] == "bf16" and result["conditions"]["channels_last"] is True
    assert dtypes == [torch.bfloat16] * 3
    conditions = cost.Conditions(gpu_ids="cpu", amp="bf16", channels_last=True)
    inputs, labels = {"visual": torch.zeros(2, 1, 3, 33, 33)}, torch.zeros(2, dtype=torch.long)
    contender = cost.Contender("joint", inputs, labels, conditions)
    assert contender.eval_forward(inputs).joint.dtype is torch.bfloat16
    weight = contender.network.encoders["visual"].layers[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


@pytest.mark.usefixtures("tiny")
def test_the_machine_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = measured(tmp_path, "--methods", "joint")["machine"]
    if (info := Path("/proc/cpuinfo")).exists() and "model name" in info.read_text():
        assert f": {named['cpu']}\n" in info.read_text()
    assert named["cpu"] and named["cores"] == os.cpu_count() and named["threads"] == torch.get_num_threads()
    assert named["gpu"] is None and named["torch"] == torch.__version__
    assert f"{named['cpu']} ({named['threads']} of {named['cores']} cores), torch" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.parametrize("words", [[], ["--tf32"], ["--amp", "bf16", "--channels_last"], ["--amp", "fp16"]], ids=str)
def test_a_gpu_is_measured(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["--methods", "joint", "mmpareto", "released_code"]
    result = measured(tmp_path, *methods, "--integration", "--gpu_ids", "0", *words)
    assert result["machine"]["gpu"] == torch.cuda.get_device_name(0)
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is ("--tf32" in words)
    assert 0 < result["methods"]["mmpareto"]["arithmetic"]["median"] < 1
    for values in result["methods"].values():
        assert values["peak_bytes"] > result["encoder_gradient_bytes"]
    assert f"{result['machine']['gpu']}, torch" in capsys.readouterr().out


def test_gpu_only_options_are_refused_on_a_cpu() -> None:
    for words in (["--tf32"], ["--amp", "fp16"]):
        with pytest.raises(InputError, match=f"{words[0]}.* needs a GPU"):
            benchmark.main([*STEP, "--methods", "joint", *words])


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown method 'unifrom'.*'uniform'"):
        benchmark.main([*STEP, "--methods", "unifrom"])
    with pytest.raises(InputError, match=r"'mmpareto' has no variant 'papers'.*per_tensor, paper"):
        benchmark.main([*STEP, "--methods", "mmpareto:papers"])


def test_loading_is_compared_with_the_released_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "BATCHES_PER_WORKER", 1)
    monkeypatch.setattr(loading, "PARALLEL_ROUNDS", 1)
    threads = torch.get_num_threads()
    words = ["loading", "--clips", "4", "--rounds", "1", "--workers", "1", "--out", str(tmp_path / "loading.json")]
    assert benchmark.main(words) == 0
    torch.set_num_threads(threads)
    result = json.loads((tmp_path / "loading.json").read_text())
    assert set(result["seconds"]) == set(result["speed"]) == {"released loader", "this loader", "this loader, --cache"}
    assert result["speed"]["released loader"] == 1 and all(seconds > 0 for seconds in result["seconds"].values())
    assert set(result["samples_per_second"]) == {"this loader", "this loader, --cache"} and result["workers"] == 1
    assert all(rate > 0 for rate in result["samples_per_second"].values())
    assert "released loader" in capsys.readouterr().out


@pytest.mark.parametrize("modalities", [2, 8])
def test_a_step_takes_as_many_passes_whatever_the_number_of_modalities(modalities: int) -> None:
    conditions = cost.Conditions(batch_size=4, modalities=modalities, gpu_ids="cpu")
    passes = {
        name: tuple(cost.passes_per_encoder(name, conditions).values())
        for name in ("uniform", "mmpareto", "pareto", "dgl", "gradnorm")
    }
    assert passes == {"uniform": (1, 1), "mmpareto": (1, 2), "pareto": (1, 2), "dgl": (1, 1), "gradnorm": (1, 2)}


def test_all_methods_that_apply_to_vectors_take_a_step() -> None:
    conditions = cost.Conditions(batch_size=4, modalities=2, gpu_ids="cpu")
    names = cost.contender_names(None, conditions)
    assert {*METHODS} - {*names} == {"greedy", "ogm", "ogm_ge"}
    batch = cost._random_batch(conditions, torch.device("cpu"))
    for name in names:
        cost.Contender(name, *batch, conditions).step()
    with pytest.raises(InputError, match="method 'ogm': OGM multiplies the gradients of 4-D weights"):
        cost.Contender("ogm", *batch, conditions)


def test_agm_takes_a_forward_pass_per_coalition() -> None:
    conditions = cost.Conditions(batch_size=4, modalities=4, gpu_ids="cpu")
    assert cost.passes_per_encoder("agm", conditions) == {"forward": 1 + 2**4 - 1, "backward": 1}


def test_vectors_are_measured_without_flags_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--modalities", "3", "--batch_size", "4", "--methods", "mmpareto", "--rounds", "1", "--gpu_ids", "cpu"]
    assert benchmark.main([*words, "--out", str(tmp_path / "cost.json")]) == 0
    printed = capsys.readouterr().out
    assert "modalities 3" in printed and "image_size" not in printed
    assert json.loads((tmp_path / "cost.json").read_text())["conditions"]["modalities"] == 3
    with pytest.raises(SystemExit):
        benchmark.main([*words, "--image_size", "32"])
    assert "--image_size has no effect on the measurement 'step on vectors'" in capsys.readouterr().err
    with pytest.raises(InputError, match="--cross_terms has no effect without --blocks"):
        benchmark.main([*words, "--cross_terms", "included"])
