"""Encoders of timm and of HuggingFace Transformers, compared with the libraries' own models."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS
from mmpareto.models.building import build_network
from mmpareto.models.pretrained import load_pretrained
from torch import Tensor

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_missing_library_is_one_sentence(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    name = {"timm": "timm:resnet10t", "transformers": "hf:folder"}[library]
    with pytest.raises(InputError, match=f"{name} needs the library {library}: pip install {library}"):
        ENCODERS[name]


# timm


@pytest.mark.slow  # timm takes seconds to import, and so does Transformers
def test_a_timm_encoder_is_the_model_and_averages_frames(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("resnet10t", pretrained=False).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "x.pth")
    encoder = ENCODERS["timm:resnet10t"](3)
    assert "not used: module.fc.weight, module.fc.bias" in load_pretrained(encoder, tmp_path / "x.pth", "film")
    frames = torch.randn(2, 3, 3, 32, 32)
    expected = torch.stack([model.forward_head(model.forward_features(f), pre_logits=True) for f in frames])
    assert encoder.feature_size == expected.shape[-1]
    torch.testing.assert_close(encoder.eval()(frames), expected.mean(1))
    torch.testing.assert_close(encoder(frames[:, 0]), expected[:, 0])


@pytest.mark.slow
def test_timm_downloads_nothing_and_keeps_its_initial_weights() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    for name in ("resnet10x", "hf_hub:timm/resnet10t.c3_in1k", ""):
        with pytest.raises(InputError, match=f"--encoder timm:{name}: .* has no model"):
            ENCODERS[f"timm:{name}"]
    torch.manual_seed(1)
    expected = timm.create_model("resnet10t", pretrained=False, in_chans=1, num_classes=0).state_dict()
    torch.manual_seed(1)
    network = build_network({"scan": 1}, 3, encoder="timm:resnet10t")
    own = network.encoders["scan"].model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in expected.items())


# HuggingFace


def saved(folder: Path, kind: str, **config: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    made = getattr(transformers, f"{kind}Config")(**TINY, **config)
    model = getattr(transformers, f"{kind}Model")(made).eval()
    model.save_pretrained(folder)
    return model


def same_without_its_folder(encoder: Any, channels: int, x: Tensor) -> None:
    other = ENCODERS[encoder.without_files](channels).eval()
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(x), encoder(x))


@pytest.mark.slow
def test_an_image_model_of_a_folder(tmp_path: Path) -> None:
    model = saved(tmp_path, "ViT", image_size=32, patch_size=16)
    kind = ENCODERS[f"hf:{tmp_path}"]
    encoder, frames = kind(3).eval(), torch.randn(2, 3, 3, 32, 32)
    expected = torch.stack([model(clip).pooler_output for clip in frames])
    torch.testing.assert_close(encoder(frames), expected.mean(1))
    torch.testing.assert_close(encoder(frames[:, 0]), expected[:, 0])
    assert kind.takes == ("images", "clips") and encoder.feature_size == 16
    same_without_its_folder(encoder, 3, frames)
    network = build_network({"film": 3}, 3, encoder=f"hf:{tmp_path}")  # whose initialisation leaves it as it is
    torch.testing.assert_close(network.encoders["film"].eval()(frames), expected.mean(1))
    with pytest.raises(InputError, match="images of 3 channels, not 1"):
        kind(1)


@pytest.mark.slow
def test_a_text_model_of_a_folder_encodes_sequences_of_features(tmp_path: Path) -> None:
    model = saved(tmp_path, "Bert", vocab_size=11)
    encoder, x = ENCODERS[f"hf:{tmp_path}"](16).eval(), torch.randn(3, 5, 17)
    x[:, :, -1] = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    features = encoder(x)
    torch.testing.assert_close(features[1], model(inputs_embeds=x[1:2, :2, :-1]).last_hidden_state[0].mean(0))
    assert torch.equal(features[2], torch.zeros(16))
    projecting = ENCODERS[f"hf:{tmp_path}"](4).eval()
    assert projecting(torch.ones(2, 5, 5)).shape == (2, 16)
    same_without_its_folder(projecting, 4, torch.ones(2, 5, 5))


@pytest.mark.slow
def test_an_audio_spectrogram_transformer_of_a_folder(tmp_path: Path) -> None:
    model = saved(tmp_path, "AST", max_length=64, num_mel_bins=32)
    x = torch.randn(2, 1, 64, 32)
    torch.testing.assert_close(ENCODERS[f"hf:{tmp_path}"](1).eval()(x), model(x[:, 0]).pooler_output)


@pytest.mark.slow
def test_what_is_no_folder_of_a_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    (tmp_path / "config.json").write_text('{"model_type": "none such"}')
    for source, message in (
        ("bert-base-uncased", "no folder with a config.json; nothing is downloaded"),
        (str(tmp_path), "not a model of Transformers"),
    ):
        with pytest.raises(InputError, match=message):
            ENCODERS[f"hf:{source}"]


@pytest.mark.slow
def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "Bert", vocab_size=11)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="its weights cannot be loaded"):
        ENCODERS[f"hf:{tmp_path}"](16)
