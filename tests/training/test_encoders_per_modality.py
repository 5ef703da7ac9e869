"""Runs with an encoder and with weights per modality."""

import json
from pathlib import Path

import pytest
import torch
from mmpareto.training.checkpoints import load_checkpoint, network_of
from prepared_clips import write_prepared
from tiny_runs import read, resume, run, trainer_of

KINDS = ("--encoder", "visual=plain", "audio=tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "prepared", train=8, test=4)


def test_a_run_has_the_encoders_and_starts_from_the_weights_of_its_words(data: Path, tmp_path: Path) -> None:
    source = trainer_of(data, tmp_path / "source", "--random_seed", 1).network.encoders["audio"].state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in source.items()}}, tmp_path / "x.pth")
    words = (*KINDS, "--pretrained", f"audio={tmp_path / 'x.pth'}")
    network = trainer_of(data, tmp_path / "made", *words).network
    assert {name: type(encoder).__name__ for name, encoder in network.encoders.items()} == {
        "audio": "TinyEncoder",
        "visual": "PlainEncoder",
    }
    assert all(torch.equal(tensor, source[name]) for name, tensor in network.encoders["audio"].state_dict().items())

    assert run(data, tmp_path / "run", *words, "--epochs", 1) == 0
    arguments = json.loads((tmp_path / "run/config.json").read_text())["arguments"]
    assert arguments["encoder"] == ["audio=tiny", "visual=plain"]
    assert read(tmp_path / "run/best.pt")["network"]["encoder"] == {"audio": "tiny", "visual": "plain"}
    (tmp_path / "x.pth").unlink()
    assert resume(tmp_path / "run", "--epochs", 2) == 0
    path = tmp_path / "run/last.pt"
    assert network_of(load_checkpoint(path), path).modalities == ["audio", "visual"]


def test_a_run_of_one_modality_takes_its_own_encoder(data: Path, tmp_path: Path) -> None:
    words = (*KINDS, "--method", "unimodal", "--modality", "visual")
    network = trainer_of(data, tmp_path / "run", *words).network
    assert [type(encoder).__name__ for encoder in network.encoders.values()] == ["PlainEncoder"]


def test_the_encoders_of_older_checkpoints_are_one_name(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "run", "--epochs", 1) == 0
    path = tmp_path / "run/best.pt"
    content = read(path)
    content["network"]["encoder"] = "tiny"
    del content["plugins"]
    torch.save(content, path)
    assert {type(encoder).__name__ for encoder in network_of(load_checkpoint(path), path).encoders.values()} == {
        "TinyEncoder"
    }
