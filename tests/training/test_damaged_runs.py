"""Checkpoints and config.json that are damaged, or that somebody else has made: one sentence each."""

import inspect
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmpareto.training.loop as loop
import pytest
import torch
from mmpareto.errors import InputError
from mmpareto.models.building import build_network
from mmpareto.tensor_files import read_tensors
from mmpareto.training.checkpoints import load_checkpoint
from mmpareto.training.schema import Network
from prepared_clips import write_prepared
from tiny_runs import acting, read, resume, run, send_signal

Content = dict[str, Any]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its first epoch."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    data = write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=12, test=4, prepared={})
    with acting(loop.Trainer, "_finish_epoch", 1, send_signal):
        assert run(data, folder) == 143
    return folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_is_noticed(seed: int, folder: Path) -> None:
    path = folder / "last.pt"
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:  # anywhere in the tensors, of which each is a part of the archive
        part = random.Random(seed).choice([p for p in archive.infolist() if "/data/" in p.filename and p.file_size])
        start = content.index(part.filename.encode()) + len(part.filename)
    start += int.from_bytes(content[start - len(part.filename) - 2 : start - len(part.filename)], "little")
    content[start + random.Random(seed).randrange(part.file_size)] ^= 1 << seed % 8
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # which does not notice
    with pytest.raises(InputError, match="not a readable checkpoint: it is damaged"):
        resume(folder)


def test_a_compressed_archive_is_refused(folder: Path) -> None:
    """It might be a bomb: 10 MB that become 10 GB."""
    with zipfile.ZipFile(folder / "last.pt") as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(folder / "last.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_checkpoint(folder / "last.pt")


def test_weights_in_the_place_of_last_pt_are_refused(folder: Path) -> None:
    shutil.copy(folder / "best.pt", folder / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt has weights but no state of training"):
        resume(folder)


def changed(folder: Path, change: Callable[[Content], None]) -> None:
    content = read(folder / "last.pt")
    change(content)
    torch.save(content, folder / "last.pt")


def put(*keys: Any, value: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def first_weight(value: Any) -> Callable[[Content], None]:
    return lambda content: content["model"].update({next(iter(content["model"])): value})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(put("epoch", value="2"), id="epoch"),
        pytest.param(put("epoch", value=-1), id="epoch below 1"),
        pytest.param(put("steps", value=None), id="steps"),
        pytest.param(put("history", value=[3]), id="history"),
        pytest.param(put("optimizer", "state", value=3), id="state of the optimizer"),
        pytest.param(put("optimizer", "param_groups", value=[]), id="no parameter groups"),
        pytest.param(put("meter", value={}), id="meter"),
        pytest.param(put("random_state", "cpu", value=torch.zeros(3)), id="random state"),
        pytest.param(put("method_state", value={"momentum": 1}), id="state of another method"),
        pytest.param(put("network", "n_classes", value=10**9), id="a network that fills the memory"),
        pytest.param(put("network", "channels", value={"audio": "1"}), id="channels"),
        pytest.param(put("network", "wheels", value=4), id="unknown part of the network"),
        pytest.param(put("dataset", value=["cremad"]), id="data set"),
        pytest.param(put("plugins", value="os"), id="plug-ins"),
        pytest.param(put("model", value=[]), id="no model"),
        pytest.param(first_weight(torch.eye(3).to_sparse()), id="sparse tensor"),
        pytest.param(first_weight("weight"), id="no tensor"),
        pytest.param(lambda content: content.pop("waited"), id="entry missing"),
        pytest.param(lambda content: content.pop("network"), id="network missing"),
    ],
)
def test_entries_that_train_py_would_not_write_are_named(change: Callable[[Content], None], folder: Path) -> None:
    changed(folder, change)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(InputError, match=r"last\.pt.*(damaged|lacks)"):
        resume(folder)
    assert sorted({*before, ".lock"}) == sorted(path.name for path in folder.iterdir())


def test_the_schema_has_every_argument_of_a_network() -> None:
    assert set(Network.__annotations__) == set(inspect.signature(build_network).parameters)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "3"),
        ("epochs", 10**4000),
        ("learning_rate", [0.1]),
        ("crop_scale", [1]),
        ("amp", "fp8"),
        ("method", ["mmpareto"]),
        ("plugin", 3),
        ("options", None),
    ],
)
def test_arguments_of_another_type_are_named(name: str, value: Any, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["arguments"][name] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"(config\.json is damaged \({name}|--{name})"):
        resume(folder)


def test_json_nested_without_end_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="damaged"):
        resume(folder)


@pytest.mark.parametrize("legacy", [False, True])
def test_tuples_nested_without_end_are_refused(legacy: bool, tmp_path: Path) -> None:
    """Hashing them would crash the interpreter."""
    program, path = b"\x80\x04})" + b"\x85" * 200_000 + b"Ns.", tmp_path / "last.pt"
    if legacy:
        path.write_bytes(program)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (("data.pkl", program), ("version", b"3\n"), ("byteorder", b"little")):
                archive.writestr(f"x/{name}", content)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_tensors(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(put("data", "classes", value=[3]), id="classes"),
        pytest.param(put("settings", "options", value={torch.float16: 1}), id="key of the settings"),
        pytest.param(put("amp", value="nan"), id="precision"),
        pytest.param(put("meter", value={"names": [], "sums": torch.ones(1).to_sparse(), "weight": 0}), id="meter"),
        pytest.param(put("optimizer", "state", 0, value={"momentum_buffer": torch.ones(1)}), id="optimizer"),
    ],
)
def test_entries_that_would_fail_later_are_named(change: Callable[[Content], None], folder: Path) -> None:
    changed(folder, change)
    with pytest.raises(InputError, match=r"last\.pt.*damaged"):
        resume(folder)
