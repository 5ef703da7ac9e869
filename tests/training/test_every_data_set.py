"""Every data set from its raw form to a trained run and its evaluation, by the commands of the README."""

import json
from collections.abc import Callable
from pathlib import Path

import evaluate
import numpy as np
import prepare
import pytest
import raw_clips
import raw_mp4
import test_avdigits
import test_ave
import test_kinetics_sounds
import test_mmsa
import test_modelnet40
import test_ucf101
import test_vggsound
import torch
import train
from mmpareto.data import DATASETS
from mmpareto.data.mmsa import CHSIMS, MOSEI, MOSI
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS
from mmpareto.training.data import recipe_options
from mmpareto.training.recipes import recipe
from PIL import Image
from tiny_runs import metrics

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
SMALL = ("--epochs", "1", "--batch_size", "2", "--gpu_ids", "cpu", "--workers", "0", "--use_tensorboard", "false")
IMAGES = ("--encoder", "tiny", "--image_size", "24", "--audio_frames", "64", "--allow_unused")


def clips(raw: Path) -> tuple[str, ...]:
    raw_clips.write_clips(raw, raw_clips.names(actors=2))
    return ()


def kinetics(raw: Path) -> tuple[str, ...]:
    raw_mp4.write_mp4s([raw / name for name in test_kinetics_sounds.RAW])
    test_kinetics_sounds.write_lists(raw)
    return ("--allow-missing",)


def sounding_clips(raw: Path) -> tuple[str, ...]:
    raw_mp4.write_mp4s([raw / name for name in test_vggsound.RAW])
    (raw / "vggsound.csv").write_text(test_vggsound.LIST)
    return ("--allow-missing",)


def events(raw: Path) -> tuple[str, ...]:
    raw_mp4.write_mp4s([raw / "AVE" / f"{video}.mp4" for video in test_ave.VIDEOS])
    test_ave.write_lists(raw)
    return ("--allow-missing",)


def digits(raw: Path) -> tuple[str, ...]:
    """MNIST's four files, with 40 and 20 images of squares."""
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 8:20, 8:20] = random.integers(100, 256, (count, 12, 12))
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
            (raw / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())
    return ()


def spoken_digits(raw: Path) -> tuple[str, ...]:
    test_avdigits.write_recordings(raw, numbers=(0, 49))
    digits(raw)
    return ()


def views(raw: Path) -> tuple[str, ...]:
    test_modelnet40.write_views(raw)
    return ()


def meshes(raw: Path) -> tuple[str, ...]:
    test_modelnet40.write_meshes(raw)
    return ()


def actions(raw: Path) -> tuple[str, ...]:
    test_ucf101.write_lists(raw)
    for clip, motion in zip(test_ucf101.CLIPS, [(3, -2), (-4, 1), (0, 5), (2, 2)], strict=True):
        raw_mp4.write_avi(raw / f"{clip}.avi", test_ucf101.moving(*motion), test_ucf101.RATE)
    return ()


def sentiment(data_set: type) -> Callable[[Path], tuple[str, ...]]:
    def write(raw: Path) -> tuple[str, ...]:
        test_mmsa.write(raw / data_set.published[0].name, test_mmsa.content(data_set))
        return ()

    return write


SETS: dict[str, tuple[str, Callable[[Path], tuple[str, ...]], tuple[str, ...]]] = {
    "cremad": ("cremad", clips, IMAGES),
    "kinetics_sounds": ("kinetics_sounds", kinetics, IMAGES),
    "vggsound": ("vggsound", sounding_clips, IMAGES),
    "ave": ("ave", events, IMAGES),
    "ucf101": ("ucf101", actions, (*IMAGES, "--pretrained", "none")),
    "modelnet40 views": ("modelnet40", views, IMAGES),
    "modelnet40 meshes": ("modelnet40", meshes, IMAGES),
    "cgmnist": ("cgmnist", digits, ()),
    "avdigits": ("avdigits", spoken_digits, ()),
    "mosi": ("mosi", sentiment(MOSI), ("--n_classes", "3")),
    "mosi regression": ("mosi", sentiment(MOSI), ("--n_classes", "1")),
    "mosei": ("mosei", sentiment(MOSEI), ("--n_classes", "2")),
    "chsims": ("chsims", sentiment(CHSIMS), ("--n_classes", "5")),
}


def test_every_data_set_has_a_case() -> None:
    assert {name for name, *_ in SETS.values()} | {"synthetic"} == set(DATASETS)


@pytest.mark.parametrize("case", SETS)
def test_from_raw_files_to_a_trained_run(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, write, options = SETS[case]
    raw, out, run = tmp_path / "raw", tmp_path / name, tmp_path / "run"
    raw.mkdir()
    more = write(raw)
    workers = () if name in ("mosi", "mosei", "chsims", "cgmnist", "avdigits") else ("--workers", "1")
    assert prepare.main([name, "--raw", str(raw), "--out", str(out), *more, *workers]) == 0
    assert prepare.main([name, "--out", str(out), "--check"]) == 0
    assert "wrong            0" in capsys.readouterr().out
    assert prepare.main([name, "--out", str(out), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert Image.open(tmp_path / "sheet.png").width == 1200

    words = ["--dataset", name, "--data", str(out), "--ckpt_path", str(run), "--protocol", "paper", *SMALL, *options]
    assert train.main(words) == 0
    dataset = DATASETS[name].open(out, "train", training=False)
    (line,) = metrics(run)
    assert {f"conflict_rate_{m}" for m in dataset.sources} <= set(line)
    assert all(line[f"acc_{m}"] is not None for m in dataset.sources) and np.isfinite(line["train_loss"])
    kept = json.loads((run / "config.json").read_text())["data"]["fingerprint"]
    capsys.readouterr()
    prepare.main([name, "--out", str(out), "--check"])
    assert kept in capsys.readouterr().out

    assert evaluate.main([str(run / "last.pt"), "--out", str(tmp_path / "results"), "--gpu_ids", "cpu"]) == 0
    evaluated = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert evaluated["acc"] == pytest.approx(line["acc"]) and evaluated["loss"] == pytest.approx(line["loss"], rel=1e-4)
    literature = {key for key in line if key.startswith("sentiment_")}
    assert literature == {key for key in evaluated if key.startswith("sentiment_")}
    assert bool(literature) == (name in ("mosi", "mosei", "chsims"))


@pytest.fixture(scope="module")
def mosi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    sentiment(MOSI)(folder / "raw")
    assert prepare.main(["mosi", "--raw", str(folder / "raw"), "--out", str(folder / "mosi")]) == 0
    return folder / "mosi"


def test_a_regression_reports_its_error(mosi: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--dataset", "mosi", "--data", str(mosi), "--n_classes", "1", "--ckpt_path", str(run), *SMALL]
    assert train.main([*words, "--method", "joint"]) == 0
    (line,) = metrics(run)
    dataset = DATASETS["mosi"].open(mosi, "test", training=False)
    network = torch.load(run / "last.pt", weights_only=True)["network"]
    assert network["n_classes"] == 1 and len(dataset.scores) == 4
    assert line["mae"] == pytest.approx(line["loss"], rel=1e-5) == pytest.approx(line["sentiment_mae"], rel=1e-5)
    assert line["val_mae"] > 0  # on MMSA's own validation set
    summary = json.loads((run / "summary.json").read_text())
    assert summary["last"]["mae_text"] > 0  # from a linear probe


def test_every_data_set_has_recipes_with_sources() -> None:
    for name in DATASETS:
        for kind in ("released", "paper"):
            for value, source in recipe(name, kind).values():
                assert source and value is not NotImplemented
        options = recipe_options(name)
        assert options.image_size >= 28 and options.frames >= 1


def test_clips_are_refused_by_networks_for_other_inputs(mosi: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main(["--dataset", "mosi", "--data", str(mosi), "--ckpt_path", str(run), *SMALL]) == 0
    with pytest.raises(InputError, match="was trained on mosi; --clip is for data sets of sound and pictures"):
        evaluate.main([str(run / "last.pt"), "--clip", "a.wav", "a.flv"])
