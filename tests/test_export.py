"""Exported networks: ONNX run by onnxruntime, programs of torch.export, and weights in safetensors."""

import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

import evaluate
import export
import mmpareto
import pytest
import torch
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS, FUSIONS
from mmpareto.models.building import build_network
from mmpareto.training.checkpoints import save_checkpoint
from torch import Tensor, nn

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
ENCODERS.add("fixed", "test_export:FixedBatchEncoder")
pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # of torch.export.load
CHANNELS = {"audio": 1, "visual": 3}
IMAGES = {"audio": (1, 40, 32), "visual": (2, 3, 40, 40)}
ONE_IMAGE = {"audio": (1, 28, 28), "visual": (3, 28, 28)}
SEQUENCES = {"audio": (7, 6), "visual": (9, 5)}
CLASSES = ["ANG", "HAP", "SAD"]


class FixedBatchEncoder(nn.Module):
    """Makes a number of the batch size, as many modules do."""

    feature_size = 8

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mean(dim=(-1, -2)).reshape(len(x), -1, self.layer.in_features).mean(1))


def checkpoint(
    folder: Path,
    shapes: dict[str, tuple[int, ...]] = IMAGES,
    channels: dict[str, int] = CHANNELS,
    method: str = "mmpareto",
    heads_trained: bool = True,
    **architecture: Any,
) -> Path:
    """A checkpoint as train.py writes it, of an untrained network whose BatchNorm has seen a batch."""
    torch.manual_seed(0)
    architecture = {"channels": channels, "n_classes": 3, "encoder": "tiny"} | architecture
    network = build_network(**architecture)
    with torch.no_grad():
        network({name: torch.randn(8, *shape) for name, shape in shapes.items()})
    description = {"audio": "fbank", "frames": 2, "image_size": 40, "audio_frames": 40, "audio_pool": [1, 1], "fps": 1}
    content = {
        "network": architecture,
        "model": network.state_dict(),
        "data": description | {"classes": CLASSES, "channels": channels, "normalisation": {}},
        "dataset": "cremad",
        "data_folder": "data/cremad",
        "epoch": 3,
        "selected_on": "validation",
        "heads_trained": heads_trained,
        "method": method,
        "input_shapes": {name: list(shape) for name, shape in shapes.items()},
    }
    save_checkpoint(folder / "best.pt", content)
    return folder / "best.pt"


def batch(shapes: dict[str, tuple[int, ...]], size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(size)
    return {name: torch.randn(size, *shape, generator=generator) for name, shape in shapes.items()}


def expected(path: Path, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        outputs = mmpareto.load(path).model(inputs)
    return ({} if outputs.joint is None else {"joint": outputs.joint}) | outputs.unimodal  # None: several tasks


def run_onnx(path: Path, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Outputs by name, and the metadata."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert {one.name: one.shape for one in session.get_inputs()} == {
        f"{name}_input": ["batch", *x.shape[1:]] for name, x in inputs.items()
    }
    values = session.run(None, {f"{name}_input": x.numpy() for name, x in inputs.items()})
    outputs = {one.name: torch.from_numpy(v) for one, v in zip(session.get_outputs(), values, strict=True)}
    return outputs, json.loads(session.get_modelmeta().custom_metadata_map["mmpareto"])


def run_torch_export(path: Path, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    extra = {"mmpareto.json": ""}
    program = torch.export.load(path, extra_files=extra)
    return program.module()(inputs), json.loads(extra["mmpareto.json"])


def needs_onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)


@pytest.mark.parametrize("to", ["onnx", "torch_export"])
def test_the_exported_network_gives_the_same_logits(
    to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For any batch size, by the names of modalities and heads; with a fusion and unimodal logits of its own."""
    if to == "onnx":
        needs_onnx()
    path = checkpoint(tmp_path, fusion="gated", heads="shared")
    assert export.main([str(path), "--to", to]) == 0
    printed = capsys.readouterr().out
    out = tmp_path / {"onnx": "best.onnx", "torch_export": "best.pt2"}[to]
    assert str(out) in printed and "logits differ by at most" in printed
    for size in (1, 5):
        inputs = batch(IMAGES, size)
        outputs, metadata = (run_onnx if to == "onnx" else run_torch_export)(out, inputs)
        assert list(outputs) == metadata["outputs"] == ["joint", "audio", "visual"]
        for head, logits in expected(path, inputs).items():
            torch.testing.assert_close(outputs[head], logits, rtol=1e-4, atol=1e-5)
    assert metadata["classes"] == CLASSES and metadata["task"] == "classification"
    assert metadata["inputs"]["visual"]["shape"] == ["batch", 2, 3, 40, 40]
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", out.name}


def test_safetensors_load_back(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = checkpoint(tmp_path, method="ogm_ge", heads_trained=False)
    content = torch.load(path, weights_only=True)
    probe = {name: {"weight": torch.randn(3, 8), "bias": torch.randn(3)} for name in CHANNELS}
    torch.save(content | {"probe": probe}, path)
    assert export.main([str(path), "--to", "safetensors", "--out", str(tmp_path / "a" / "x.safetensors")]) == 0
    before, after = mmpareto.load(path), mmpareto.load(tmp_path / "a" / "x.safetensors")
    state = after.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in before.model.state_dict().items())
    assert torch.equal(state["heads.audio.bias"], probe["audio"]["bias"])
    for name in ("classes", "modalities", "unimodal_heads", "method", "notes", "epoch", "description"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.model.absent == "contribution" and after.preprocess.shapes == before.preprocess.shapes


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    (tmp_path / "text.safetensors").write_text("hello")
    safetensors.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for metadata in ("{}", "[]", '{"network": {}, "data": []}'):
        safetensors.save_file({"a": torch.zeros(1)}, tmp_path / "wrong.safetensors", {"mmpareto": metadata})
        with pytest.raises(InputError, match=r"wrong.safetensors"):
            mmpareto.load(tmp_path / "wrong.safetensors")
    for name in ("text", "other", "absent"):
        with pytest.raises(InputError, match=f"{name}.safetensors"):
            evaluate.main([str(tmp_path / f"{name}.safetensors"), "--gpu_ids", "cpu"])


def test_without_a_modality_and_without_untrained_heads(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, method="agm", heads_trained=False)
    assert export.main([str(path), "--to", "torch_export", "--without", "audio"]) == 0
    inputs = batch({"visual": IMAGES["visual"]}, 3)
    outputs, metadata = run_torch_export(tmp_path / "best-without-audio.pt2", inputs)
    assert list(outputs) == metadata["outputs"] == ["joint"] and list(metadata["inputs"]) == ["visual"]
    zeros = inputs | {"audio": torch.zeros(3, *IMAGES["audio"])}  # AGM's way
    torch.testing.assert_close(outputs["joint"], expected(path, zeros)["joint"], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(tmp_path, encoder="fixed")
    before = {file.name for file in tmp_path.iterdir()}
    complaints = {
        ("torch_export",): r"x\.shape\[0\], not len\(x\)",
        ("torch_export", "--without", "smell"): "--without smell: .* takes audio, visual",
        ("torch_export", "--without", "audio", "visual"): "leaves none",
        ("safetensors", "--without", "audio"): "leave --without out",
        ("torch_export", "--out", str(path / "below")): "cannot write",
    }
    for words, complaint in complaints.items():
        with pytest.raises(InputError, match=complaint) as caught:
            export.main([str(path), "--to", *words])
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for to, package in (("onnx", "onnx"), ("safetensors", "safetensors")):
        with pytest.raises(InputError, match=f"needs the package {package}: pip install"):
            export.main([str(path), "--to", to])
    assert {file.name for file in tmp_path.iterdir()} == before


SMALL_MODEL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VIT = {"model_type": "vit", "image_size": 32, "patch_size": 8, "num_channels": 3} | SMALL_MODEL
BERT = {"model_type": "bert", "vocab_size": 20} | SMALL_MODEL
PICTURES = {"audio": (1, 64, 64), "visual": (2, 3, 160, 160)}
CASES = [
    *(("tiny", fusion, IMAGES, CHANNELS, {}) for fusion in FUSIONS),
    ("tiny", "concat", IMAGES, CHANNELS, {"blocks": "mmtm"}),
    ("resnet18", "concat", IMAGES, CHANNELS, {}),
    ("resnet18", "concat", IMAGES, CHANNELS, {"blocks": "mmtm"}),
    ("cnn", "sum", ONE_IMAGE, CHANNELS, {}),
    ("transformer", "average", SEQUENCES, {"audio": 5, "visual": 4}, {"heads": "shared"}),
    ("mbt-tiny", "average_logits", IMAGES, CHANNELS, {"input_shapes": IMAGES}),
    ("lenet", "concat", {"image": (1, 28, 42)}, {"image": 1}, {"tasks": ["left", "right"]}),
    ("mlp", "concat", {"audio": (5,), "visual": (4,)}, {"audio": 5, "visual": 4}, {}),
    ({"audio": "resnet34", "visual": "resnet50"}, "film", IMAGES, CHANNELS, {}),
    ({"audio": "timm:test_resnet", "visual": "timm:test_vit"}, "concat", PICTURES, CHANNELS, {}),
    (
        {"audio": f"hf:{json.dumps(BERT)}", "visual": f"hf:{json.dumps(VIT)}"},
        "concat", {"audio": (7, 6), "visual": (2, 3, 32, 32)}, {"audio": 5, "visual": 3}, {},
    ),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "to"),
    [*itertools.product(CASES, ["onnx", "torch_export"])],
    ids=lambda value: value if isinstance(value, str) else f"{str(value[0])[:60]}-{value[1]}",
)
def test_every_encoder_and_fusion_is_exported(case: Any, to: str, tmp_path: Path) -> None:
    encoder, fusion, shapes, channels, more = case
    if to == "onnx":
        needs_onnx()
    for prefix, library in (("timm:", "timm"), ("hf:", "transformers")):
        if prefix in str(encoder):
            pytest.importorskip(library)
    path = checkpoint(tmp_path, shapes, channels, encoder=encoder, fusion=fusion, **more)
    assert export.main([str(path), "--to", to, "--out", str(tmp_path / "out.x")]) == 0
    for size in (1, 4):
        inputs = batch(shapes, size)
        outputs, _ = (run_onnx if to == "onnx" else run_torch_export)(tmp_path / "out.x", inputs)
        for head, logits in expected(path, inputs).items():
            torch.testing.assert_close(outputs[head], logits, rtol=1e-3, atol=1e-4)
