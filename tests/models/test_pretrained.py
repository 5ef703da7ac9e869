import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS
from mmpareto.models.building import build_network
from mmpareto.models.pretrained import load_pretrained, read_released
from mmpareto.models.resnet import ResNet18
from torch import nn

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in torchvision's format, with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18-00000000.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize("channels", [1, 2])
def test_a_stem_of_other_channels_keeps_its_initial_weights(imagenet: Path, channels: int) -> None:
    """As in the released code's RFClassifier, whose flow network is loaded without conv1.weight."""
    encoder, file = ResNet18(channels), torch.load(imagenet, weights_only=True)
    initial = encoder.conv1.weight.clone()
    load_pretrained(encoder, imagenet)
    assert torch.equal(encoder.conv1.weight, initial)
    others = {name: tensor for name, tensor in encoder.state_dict().items() if name != "conv1.weight"}
    assert all(torch.equal(tensor, file[name]) for name, tensor in others.items())


def test_pretrained_weights_are_those_of_the_file(imagenet: Path) -> None:
    encoder = ResNet18(3)
    load_pretrained(encoder, imagenet)
    file = torch.load(imagenet, weights_only=True)
    assert all(torch.equal(tensor, file[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize(("prefix", "entry"), [("", "model"), ("module.", "state_dict"), ("module.encoder_q.", None)])
def test_checkpoints_and_prefixes_are_unwrapped(imagenet: Path, tmp_path: Path, prefix: str, entry: str | None) -> None:
    weights = torch.load(imagenet, weights_only=True)
    state = {prefix + name: tensor for name, tensor in weights.items()}
    state |= {"queue": torch.zeros(1)} if prefix else {}
    torch.save({entry: state, "epoch": 3, "optimizer": {"step": 1}} if entry else state, tmp_path / "x.pth")
    encoder = ResNet18(3)
    note = load_pretrained(encoder, tmp_path / "x.pth", "film")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in encoder.state_dict().items())
    assert "film starts from" in note and "120 tensors" in note
    assert all(name in note for name in ({*state} - {prefix + name for name in encoder.state_dict()}))


def test_safetensors_are_read(imagenet: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    weights = torch.load(imagenet, weights_only=True)
    safetensors.save_file(weights, tmp_path / "x.safetensors")
    encoder = ResNet18(3)
    load_pretrained(encoder, tmp_path / "x.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in encoder.state_dict().items())
    (tmp_path / "x.safetensors").write_bytes(b"no such file")
    with pytest.raises(InputError, match=r"x\.safetensors is not a readable file of weights"):
        load_pretrained(encoder, tmp_path / "x.safetensors")


def test_the_encoder_of_the_same_modality_is_taken_from_a_checkpoint(tmp_path: Path) -> None:
    network = build_network({"audio": 3, "visual": 3}, 6, encoder="tiny")
    torch.save({"model": network.state_dict(), "epoch": 2}, tmp_path / "best.pt")
    fresh = build_network({"visual": 3, "touch": 3}, 6, encoder="tiny")
    load_pretrained(fresh.encoders["visual"], tmp_path / "best.pt", "visual")
    expected = network.encoders["visual"].state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in fresh.encoders["visual"].state_dict().items())
    with pytest.raises(InputError, match=r"several encoders \(encoders\.audio\., encoders\.visual\.\)"):
        load_pretrained(fresh.encoders["touch"], tmp_path / "best.pt", "touch")


def test_old_files_without_batch_counters_load(imagenet: Path, tmp_path: Path) -> None:
    state = torch.load(imagenet, weights_only=True)
    torch.save({name: t for name, t in state.items() if "num_batches" not in name}, tmp_path / "old.pth")
    load_pretrained(ResNet18(1), tmp_path / "old.pth")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layer1.0.conv1.weight": None}, "missing: layer1.0.conv1.weight"),
        ({"layer1.2.conv1.weight": torch.zeros(1)}, "unexpected: layer1.2.conv1.weight"),
        ({"bn1.weight": torch.zeros(3)}, "of another shape: bn1.weight"),
    ],
)
def test_mismatched_weights_are_named_and_nothing_is_changed(
    imagenet: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    state = {**torch.load(imagenet, weights_only=True), **change}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "x.pth")
    encoder = ResNet18(3)
    before = encoder.conv1.weight.clone()
    with pytest.raises(InputError, match=named):
        load_pretrained(encoder, tmp_path / "x.pth")
    assert torch.equal(encoder.conv1.weight, before)


class _Trap:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_bad_files_are_input_errors_and_execute_no_code(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "trap.pth").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung"), protocol=2))
    torch.save({"model": _Trap(tmp_path / "sprung")}, tmp_path / "trap2.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    torch.save({"model": {"fc.weight": torch.zeros(2)}}, tmp_path / "foreign.pth")
    for name in ("absent", "text", "empty", "trap", "trap2", "list", "other", "foreign"):
        for read in (read_released, lambda path: load_pretrained(nn.Linear(2, 2), path)):
            with pytest.raises(InputError, match=f"{name}.pth"):
                read(tmp_path / f"{name}.pth")
    assert not (tmp_path / "sprung").exists()


class ReleasedLayout(nn.Module):
    """Modules with the names of the released code's classifier."""

    def __init__(self, first: str, channels: int, head: str) -> None:
        super().__init__()
        self.add_module(f"{first}_net", ResNet18(channels))
        self.visual_net = ResNet18(3)
        self.head = nn.Linear(1024, 6)
        self.add_module(f"head_{head}", nn.Linear(512, 6))
        self.head_video = nn.Linear(512, 6)


@pytest.mark.parametrize(("first", "channels", "prefix"), [("audio", 1, "module."), ("flow", 2, "")])
def test_released_checkpoints(tmp_path: Path, first: str, channels: int, prefix: str) -> None:
    released = ReleasedLayout(first, channels, first).eval()
    optimizer = torch.optim.SGD(released.parameters(), lr=0.002, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30, 0.1)
    saved = {
        "saved_epoch": 3,
        "acc": 0.75,
        "model": {prefix + name: tensor for name, tensor in released.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    saved["model"][prefix + "extra.weight"] = torch.zeros(1)
    torch.save(saved, tmp_path / "best_model.pth")
    state, unmatched = read_released(tmp_path / "best_model.pth")
    assert unmatched == ["extra.weight"]
    order = list(dict.fromkeys(name.split(".")[1] for name in state if name.startswith("encoders.")))
    assert order == [first, "visual"]
    network = build_network({first: channels, "visual": 3}, 6).eval()
    network.load_state_dict(state)

    a, v = torch.randn(2, channels, 32, 32), torch.randn(2, 2, 3, 32, 32)
    feature_a = released.get_submodule(f"{first}_net")(a)
    feature_v = released.visual_net(v)
    outputs = network({first: a, "visual": v})
    torch.testing.assert_close(outputs.joint, released.head(torch.cat((feature_a, feature_v), dim=1)))
    torch.testing.assert_close(outputs.unimodal["visual"], released.head_video(feature_v))
    torch.testing.assert_close(outputs.unimodal[first], released.get_submodule(f"head_{first}")(feature_a))


@pytest.mark.parametrize("accuracy", [np.float64(0.75), np.float32(0.75), np.int64(1), np.bool_(True)])
@pytest.mark.parametrize("numpy_1", [False, True])
def test_an_accuracy_may_be_a_numpy_scalar(tmp_path: Path, accuracy: Any, numpy_1: bool) -> None:
    path = tmp_path / "best_model.pth"
    torch.save({"acc": accuracy, "model": {"head.bias": torch.ones(6)}}, path, _use_new_zipfile_serialization=False)
    core, old_core = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    if core in path.read_bytes() and numpy_1:  # numpy 1 wrote the same under the older name
        path.write_bytes(path.read_bytes().replace(core, old_core))
    state, unmatched = read_released(path)
    assert list(state) == ["fusion.fc_out.bias"] and unmatched == []
