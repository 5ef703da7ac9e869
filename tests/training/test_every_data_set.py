"""Every data set from its raw form to a trained run and its evaluation, by the commands of the README."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import evaluate
import mmpareto
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
from mmpareto.analysis.checkpoint_evaluation import open_split
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.data import DATASETS
from mmpareto.data.clip_dataset_builder import ClipDatasetBuilder
from mmpareto.data.mmsa import CHSIMS, MOSEI, MOSI
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS
from mmpareto.training.data import recipe_options
from mmpareto.training.recipes import RECIPES, recipe
from PIL import Image
from tiny_runs import metrics

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
SMALL = ("--epochs", "1", "--batch_size", "2", "--gpu_ids", "cpu", "--workers", "0", "--use_tensorboard", "false")
IMAGES = ("--encoder", "tiny", "--image_size", "24", "--audio_frames", "64", "--allow_unused")
ENCODED = ("--encoder", "auto", "photo=cnn")


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


def own_clips(raw: Path) -> tuple[str, ...]:
    raw_mp4.write_mp4s([raw / kind / f"{number}.mp4" for kind in ("cat", "dog") for number in range(3)])
    return ("--test_fraction", "0.4")


def own_features(task: str) -> Callable[[Path], tuple[str, ...]]:
    """Images, vectors and sequences of 30 samples."""

    def write(raw: Path) -> tuple[str, ...]:
        random = np.random.default_rng(0)
        labels = {
            "classification": np.array(["sick", "well"] * 15),
            "multilabel": random.random((30, 3)) < 0.5,
            "regression": random.normal(60, 15, 30),
        }
        raw.rmdir()
        with raw.open("wb") as file:  # the archive itself
            np.savez(
                file,
                photo=random.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8),
                vitals=random.normal(size=(30, 4)),
                ecg=random.normal(size=(30, 5, 2)),
                labels=labels[task],
            )
        raw.rename(raw.with_suffix(".npz"))
        return ("--raw", str(raw.with_suffix(".npz")))

    return write


def made(raw: Path) -> tuple[str, ...]:
    return ("--modalities", "3", "--samples", "20")


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
    "multimnist": ("multimnist", digits, ()),
    "mosi": ("mosi", sentiment(MOSI), ("--n_classes", "3")),
    "mosi regression": ("mosi", sentiment(MOSI), ("--n_classes", "1")),
    "mosei": ("mosei", sentiment(MOSEI), ("--n_classes", "2")),
    "chsims": ("chsims", sentiment(CHSIMS), ("--n_classes", "5")),
    "folder": ("folder", own_clips, IMAGES),
    "modalities": ("modalities", made, ()),
    "features, classes": ("features", own_features("classification"), ENCODED),
    "features, several labels": ("features", own_features("multilabel"), (*ENCODED, "--drop_last", "train")),
    "features, scores": ("features", own_features("regression"), ENCODED),
}
WHOLE = (  # prepared in this process
    *("mosi", "mosei", "chsims", "cgmnist", "avdigits", "multimnist", "features", "modalities"),
)


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
    workers = () if name in WHOLE else ("--workers", "1")
    source = () if DATASETS[name].made_here else ("--raw", str(raw))
    assert prepare.main([name, *source, "--out", str(out), *more, *workers]) == 0
    assert prepare.main([name, "--out", str(out), "--check"]) == 0
    assert "wrong            0" in capsys.readouterr().out
    assert prepare.main([name, "--out", str(out), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert Image.open(tmp_path / "sheet.png").width == 1200

    words = ["--dataset", name, "--data", str(out), "--ckpt_path", str(run), "--protocol", "paper", *SMALL, *options]
    assert train.main(words) == 0
    dataset = DATASETS[name].open(out, "train", training=False)
    (line,) = metrics(run)
    assert {f"conflict_rate_{m}" for m in dataset.sources} <= set(line)
    heads = dataset.tasks or [*dataset.sources]
    assert all(line[f"acc_{head}"] is not None for head in heads) and np.isfinite(line["train_loss"])
    kept = json.loads((run / "config.json").read_text())["data"]["fingerprint"]
    capsys.readouterr()
    prepare.main([name, "--out", str(out), "--check"])
    assert kept in capsys.readouterr().out

    assert evaluate.main([str(run / "last.pt"), "--gpu_ids", "cpu"]) == 0
    results = run / "evaluation-test-last"
    evaluated = json.loads((results / "metrics.json").read_text())
    for key in {"acc", "loss", "map", "auroc", "mae", "rmse"} & set(line):
        assert evaluated[key] == pytest.approx(line[key], rel=1e-4), key
    literature = {key for key in line if key.startswith("sentiment_")}
    assert literature == {key for key in evaluated if key.startswith("sentiment_")}
    assert bool(literature) == (name in ("mosi", "mosei", "chsims"))
    if not dataset.tasks and (name != "features" or "classes" in case):  # else a prediction is not just right or wrong
        assert FinishedRun(run).clip_results("last").correct["joint"].mean() == pytest.approx(line["acc"])
    if not issubclass(DATASETS[name], ClipDatasetBuilder):  # of clips, see test_evaluate.py
        assert_predicted_without_the_data(run, out, results / "per_clip.csv")


def assert_predicted_without_the_data(run: Path, data: Path, table: Path) -> None:
    """`mmpareto.load` predicts the first test sample, given as arrays, as evaluate.py does."""
    trained = mmpareto.load(run / "last.pt")
    sample = {name: x.numpy() for name, x in open_split(trained, "test")[0].inputs.items()}
    for name, x in sample.items():  # as they were before they were masked and standardised
        entry = trained.description.get("arrays", {}).get(name, {})
        if trained.dataset in ("mosi", "mosei", "chsims") or entry.get("kind") == "sequence":
            sample[name] = x = x[x[:, -1] > 0, :-1]
        if "mean" in entry:
            shape = (-1, 1, 1) if entry["kind"] == "map" else -1
            sample[name] = x * np.reshape(entry["std"], shape) + np.reshape(entry["mean"], shape)
    data.rename(data.with_name("gone"))
    with table.open(newline="") as file:
        row = next(csv.DictReader(file))
    heads = trained.predict(sample)
    assert list(heads) == (trained.tasks or ["joint", *trained.modalities])
    for head, values in heads.items():
        for label, value in values.items():
            assert value == pytest.approx(float(row[head if label == "score" else f"{head}_{label}"]), abs=1e-5)
    first = trained.modalities[0]
    assert list(trained.predict({first: sample[first]})) == (trained.tasks or ["joint", first])


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
    for name, recipes in RECIPES.items():
        for kind in recipes:
            for value, source in recipe(name, kind).values():
                assert source and value is not NotImplemented
        options = recipe_options(name)
        assert options.image_size >= 28 and options.frames >= 1


def test_clips_are_refused_by_networks_for_other_inputs(mosi: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main(["--dataset", "mosi", "--data", str(mosi), "--ckpt_path", str(run), *SMALL]) == 0
    with pytest.raises(InputError, match=r"was trained on mosi .*; --clip is for data sets of sound and pictures"):
        evaluate.main([str(run / "last.pt"), "--clip", "a.wav", "a.flv"])


def test_an_own_regression_is_validated_by_its_error_in_its_unit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vitals = random.normal(size=(60, 3))
    np.savez(tmp_path / "mine.npz", vitals=vitals, labels=100 + 20 * vitals[:, 0])
    out, run = tmp_path / "mine", tmp_path / "run"
    assert prepare.main(["features", "--raw", str(tmp_path / "mine.npz"), "--out", str(out)]) == 0
    words = ["--dataset", "features", "--data", str(out), "--ckpt_path", str(run), *SMALL]
    assert train.main([*words, "--batch_size", "16", "--epochs", "4", "--learning_rate", "0.05"]) == 0
    best = min(metrics(run), key=lambda line: line["val_mae"])
    assert torch.load(run / "best.pt", weights_only=True)["epoch"] == best["epoch"]
    assert json.loads((run / "summary.json").read_text())["best_val"]["epoch"] == best["epoch"]

    assert evaluate.main([str(run), "--out", str(tmp_path / "results"), "--gpu_ids", "cpu"]) == 0
    with (tmp_path / "results" / "per_clip.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["score"]) for row in rows] == pytest.approx([100 + 20 * vitals[int(r["clip"]), 0] for r in rows])
    errors = [abs(float(row["joint"]) - float(row["score"])) for row in rows]
    assert best["mae"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_weights_by_entropy_are_refused_for_several_labels(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    source, out = own_features("multilabel")(tmp_path / "raw"), tmp_path / "features"
    assert prepare.main(["features", *source, "--out", str(out)]) == 0
    words = ["--dataset", "features", "--data", str(out), "--ckpt_path", str(tmp_path / "run"), *ENCODED]
    with pytest.raises(InputError, match="--fusion entropy is for one label per sample"):
        train.main([*words, "--fusion", "entropy"])
    assert not (tmp_path / "run").exists()
