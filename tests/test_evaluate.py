"""Evaluation of checkpoints: metrics, predictions per clip, single raw clips, and errors."""

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import raw_clips
import raw_mp4
import torch
import torchvision
from mmpareto import cli
from mmpareto.analysis.checkpoint_evaluation import open_split
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.trained import load
from mmpareto.data import DATASETS
from mmpareto.data.loading.batches import Batch, make_loader, to_device
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS
from mmpareto.training.data import open_data
from mmpareto.training.run import train
from mmpareto.training.settings import parse
from PIL import Image
from prepared_clips import write_prepared
from torch import nn
from torch.nn.functional import cross_entropy

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
HEADS = ("joint", "audio", "visual")
CLASSES = ["ANG", "HAP", "SAD"]
CPU = ("--gpu_ids", "cpu")
SMALL = ["--dataset=cremad", "--encoder=tiny", "--epochs=2", "--batch_size=4", "--workers=0", "--image_size=32", *CPU]


def trained_run(data: Path, folder: Path, *more: str) -> Path:
    assert train(parse([*SMALL, "--data", str(data), "--ckpt_path", str(folder), *more])) == 0
    return folder


def evaluated(*arguments: object) -> int:
    return evaluate.main([*map(str, arguments), *CPU])


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    """Clips with different numbers of frames, and three classes that stat.csv does not list in order."""
    return write_prepared(folder / "my data", train=12, test=7, frames=[3, 5], size=(40, 30))


@pytest.fixture(scope="module")
def mmpareto_run(data: Path, folder: Path) -> Path:
    return trained_run(data, folder / "run", "--protocol", "paper")


@pytest.fixture(scope="module")
def joint_run(data: Path, folder: Path) -> Path:
    return trained_run(data, folder / "joint", "--method", "joint", "--protocol", "paper")


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_metrics(result: dict[str, Any], expected: dict[str, Any]) -> None:
    names = [f"{kind}{head}" for kind in ("acc", "loss", "macro_f1", "map") for head in ("", "_audio", "_visual")]
    for name in names:
        assert result[name] == pytest.approx(expected[name], rel=1e-5), name
    for head in ("", "_audio", "_visual"):
        assert result[f"per_class_accuracy{head}"] == expected[f"per_class_accuracy{head}"]


def test_metrics_equal_those_of_the_run(mmpareto_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = history(mmpareto_run)
    best = max(lines, key=lambda line: (line["acc"], -line["epoch"]))
    for name, line in (("best", best), ("last", lines[-1])):
        assert evaluated(mmpareto_run / f"{name}.pt", "--batch_size", 2) == 0
        out = mmpareto_run / f"evaluation-test-{name}"
        assert {path.name for path in out.iterdir()} == {"metrics.json", "per_clip.csv", "confusion.png"}
        assert_same_metrics(json.loads((out / "metrics.json").read_text()), line)
        printed = capsys.readouterr().out
        assert re.search(rf"^joint +{line['acc']:.4f} ", printed, re.M) and str(out) in printed
        assert f"epoch {line['epoch']}, chosen on: test" in printed or f"the last epoch, {line['epoch']}\n" in printed


def test_evaluation_uses_the_precision_of_the_run(data: Path, tmp_path: Path) -> None:
    run = trained_run(data, tmp_path / "run", "--protocol", "paper", "--amp", "bf16")
    assert evaluated(run / "last.pt", "--batch_size", 4) == 0
    assert_same_metrics(json.loads((run / "evaluation-test-last" / "metrics.json").read_text()), history(run)[-1])


def test_the_table_has_every_clip_once(mmpareto_run: Path, data: Path) -> None:
    assert evaluated(mmpareto_run / "best.pt", "--workers", 1) == 0
    out = mmpareto_run / "evaluation-test-best"
    rows = read_table(out / "per_clip.csv")
    assert [(row["clip"], row["class"]) for row in rows] == [
        tuple(line.split(",")) for line in (data / "test.csv").read_text().splitlines()
    ]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["classes"] == CLASSES and metrics["clips"] == len(rows) == 7
    for head in HEADS:
        counts = [[0] * len(CLASSES) for _ in CLASSES]
        for row in rows:
            probabilities = [float(row[f"{head}_{name}"]) for name in CLASSES]
            assert sum(probabilities) == pytest.approx(1, abs=1e-7)
            assert row[head] == CLASSES[int(np.argmax(probabilities))]
            counts[CLASSES.index(row["class"])][CLASSES.index(row[head])] += 1
        assert metrics["confusion"][head] == counts
        right = sum(row["class"] == row[head] for row in rows)
        assert metrics["acc" if head == "joint" else f"acc_{head}"] == pytest.approx(right / 7)
    picture = np.asarray(Image.open(out / "confusion.png").convert("RGB"))
    assert picture.shape[1] > picture.shape[0] > 200 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_split_and_output_folder_can_be_chosen(mmpareto_run: Path, data: Path, tmp_path: Path) -> None:
    assert evaluated(mmpareto_run / "last.pt", "--split", "train", "--data", data, "--out", tmp_path / "a" / "b") == 0
    assert len(read_table(tmp_path / "a" / "b" / "per_clip.csv")) == 12


def test_a_joint_run_is_evaluated_with_its_probe(joint_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((joint_run / "summary.json").read_text())
    for name, key in (("best", "best_test"), ("last", "last")):
        assert evaluated(joint_run / f"{name}.pt") == 0
        assert "a linear probe's" in capsys.readouterr().out
        metrics = json.loads((joint_run / f"evaluation-test-{name}" / "metrics.json").read_text())
        assert_same_metrics(metrics, summary[key])


def test_unimodal_predictions_use_the_probe_weights(joint_run: Path, tmp_path: Path) -> None:
    """The unimodal columns of the table come from the probe, not from the network's own heads."""
    checkpoint = torch.load(joint_run / "best.pt", weights_only=True)
    for head in checkpoint["probe"].values():
        head["weight"].zero_()
        head["bias"].copy_(torch.tensor([0.0, 2.0, 1.0]))
    torch.save(checkpoint, tmp_path / "best.pt")
    assert evaluated(tmp_path / "best.pt") == 0
    expected = np.exp([0, 2, 1]) / np.exp([0, 2, 1]).sum()
    for row in read_table(tmp_path / "evaluation-test-best" / "per_clip.csv"):
        for head in ("audio", "visual"):
            assert row[head] == "HAP"
            np.testing.assert_allclose([float(row[f"{head}_{name}"]) for name in CLASSES], expected, rtol=1e-6)


def test_untrained_heads_without_a_probe_are_reported(joint_run: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(joint_run / "last.pt", weights_only=True)
    del checkpoint["probe"]
    torch.save(checkpoint | {"epoch": 2, "steps": 1}, tmp_path / "last.pt")
    stopped, heads = load(tmp_path / "last.pt").notes
    assert "stopped in epoch 2, after step 1" in stopped and "untrained" in heads


class _Trap:
    """A pickle that creates the folder `marker` if its code is executed."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def changed(run: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = torch.load(run / "best.pt", weights_only=True)
    change(content)
    torch.save(content, to)
    return to


def other_shape(content: dict[str, Any]) -> None:
    content["model"]["heads.audio.bias"] = torch.zeros(5)


def other_encoder(content: dict[str, Any]) -> None:
    content["network"]["encoder"] = "resnet18"


def unknown_encoder(content: dict[str, Any]) -> None:
    content["network"]["encoder"] = "tinny"


def other_names(content: dict[str, Any]) -> None:
    content["data"]["classes"] = ["ANG", "HAP", "NEU"]


def older(content: dict[str, Any]) -> None:
    del content["heads_trained"], content["data_folder"]


def moved(content: dict[str, Any]) -> None:
    content["data_folder"] = "gone"


def no_weights(content: dict[str, Any]) -> None:
    content["model"] = list(content["model"].values())


def numbers_for_weights(content: dict[str, Any]) -> None:
    content["model"]["heads.audio.bias"] = 3.0


def no_network(content: dict[str, Any]) -> None:
    content["network"] = "resnet18"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (no_weights, r"x.pt is damaged, or not what train.py wrote \(model: "),
        (numbers_for_weights, r"x.pt is damaged, .* \(model.heads.audio.bias: "),
        (no_network, r"x.pt is damaged, .* \(network: "),
        (other_shape, r"is of another architecture: heads\.audio\.bias"),
        (other_encoder, "is of another architecture: "),
        (unknown_encoder, "unknown encoder 'tinny'. Did you mean 'tiny'"),
        (other_names, "has the 3 classes ANG, HAP, SAD, but .* distinguishes 3 other classes"),
        (older, "is of another version of this code: it lacks data_folder, heads_trained"),
        (moved, "is not in gone.*--data"),
    ],
)
def test_an_incompatible_checkpoint_is_refused(
    mmpareto_run: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    checkpoint = changed(mmpareto_run, tmp_path / "x.pt", change)
    with pytest.raises(InputError, match=complaint) as caught:
        evaluated(checkpoint)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_a_file_that_is_not_a_checkpoint_is_refused(mmpareto_run: Path, tmp_path: Path) -> None:
    whole = (mmpareto_run / "best.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"format": 1, "model": _Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    torch.save({"model": _Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    torch.save([1], tmp_path / "list.pt")
    for name in ("cut.pt", "text.pt", "text.pth", "trap.pt", "trap.pth", "list.pt", "absent.pt", "absent.pth"):
        with pytest.raises(InputError, match=re.escape(name)) as caught:
            evaluated(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no checkpoint"):
        evaluated(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_incompatible_data_are_refused(mmpareto_run: Path, tmp_path: Path) -> None:
    four = write_prepared(tmp_path / "four", classes=("A", "B", "C", "D"))
    for data, complaint in (
        (four, "has the 4 classes A, B, C, D, but .*best.pt distinguishes 3 classes"),
        ("gone", "gone"),
    ):
        with pytest.raises(InputError, match=complaint):
            evaluated(mmpareto_run / "best.pt", "--data", data)
    with pytest.raises(InputError, match="was trained on cremad, not on synthetic"):
        evaluated(mmpareto_run / "best.pt", "--dataset", "synthetic")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the folder"):
        evaluated(mmpareto_run / "best.pt", "--out", tmp_path / "file")


@pytest.mark.parametrize("flags", [["--batch_size", "0"], ["--workers", "-1"], ["--fps", "x"], ["--split", "val"]])
def test_wrong_usage_exits_with_status_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        evaluate.main(["best.pt", *flags])
    assert caught.value.code == 2 and f"argument {flags[0]}: " in capsys.readouterr().err


def test_bad_input_prints_one_line_and_exits_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(tmp_path / "absent.pt"), "--gpu-ids", "cpu"])
    monkeypatch.setattr("signal.signal", lambda *arguments: None)  # pytest's own handlers must stay
    with pytest.raises(SystemExit) as caught:
        cli.run(evaluate.main)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert err.startswith("error: ") and "absent.pt" in err and err.count("\n") == 1


def test_results_on_synthetic_data_have_the_warning(
    data: Path, mmpareto_run: Path, tmp_path: Path, capsys: Any
) -> None:
    checkpoint = changed(mmpareto_run, tmp_path / "x.pt", lambda content: content.update(dataset="synthetic"))
    assert evaluated(checkpoint) == 0
    banner = DATASETS["synthetic"].banner
    assert capsys.readouterr().out.rstrip().endswith(banner.rstrip())
    assert json.loads((tmp_path / "evaluation-test-x" / "metrics.json").read_text())["warning"] == banner


# The released code's checkpoints


class ReleasedModel:
    """The released code's network, built from torchvision's modules."""

    def __init__(self, n_classes: int, channels: int = 1) -> None:
        torch.manual_seed(3)
        self.parts: dict[str, nn.Module] = {
            "audio_net": torchvision.models.resnet18(weights=None),
            "visual_net": torchvision.models.resnet18(weights=None),
            "head": nn.Linear(1024, n_classes),
            "head_audio": nn.Linear(512, n_classes),
            "head_video": nn.Linear(512, n_classes),
        }
        self.parts["audio_net"].conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        for name in ("audio_net", "visual_net"):
            self.parts[name].fc = nn.Identity()
        for part in self.parts.values():
            part.eval()

    def save(self, path: Path, accuracy: object, **extra: torch.Tensor) -> Path:
        state = {f"module.{a}.{b}": t for a, part in self.parts.items() for b, t in part.state_dict().items()} | extra
        optimizer = torch.optim.SGD(nn.ModuleDict(self.parts).parameters(), lr=0.002, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30, 0.1)
        content = {"saved_epoch": 4, "acc": accuracy, "model": state}
        torch.save(content | {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, path)
        return path

    @torch.no_grad()
    def probabilities(self, data: Path, clip: str, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Head → probabilities (C,) of a prepared clip, whose images are read by PIL."""
        feature = torch.load(data / "audio" / f"{clip}.pt", weights_only=True)
        frames = [
            np.asarray(Image.open(data / "visual" / clip / f"frame_{number:05d}.jpg").resize((224, 224), 2))
            for number in numbers
        ]
        pictures = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
        pictures = (pictures - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
            [0.229, 0.224, 0.225]
        ).view(3, 1, 1)
        audio = self.parts["audio_net"](feature[None, None])
        visual = self.parts["visual_net"](pictures).mean(0, keepdim=True)
        logits = {
            "joint": self.parts["head"](torch.cat([audio, visual], 1)),
            "audio": self.parts["head_audio"](audio),
            "visual": self.parts["head_video"](visual),
        }
        return {head: values[0].softmax(0).numpy() for head, values in logits.items()}


def test_a_checkpoint_of_the_released_code_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_prepared(tmp_path / "data" / "cremad", train=3, test=3, frames=5, size=(48, 60), prepared={})
    released = ReleasedModel(len(CLASSES))
    extra = {"module.fusion_module.gate": torch.zeros(2), "module.tau": torch.zeros(())}
    path = released.save(tmp_path / "best_model_of_cremad.pth", np.float64(0.75), **extra)
    monkeypatch.chdir(tmp_path)
    assert evaluated(path) == 0
    printed = capsys.readouterr().out
    assert "released code" in printed and "fusion_module.gate, tau" in printed
    for row in read_table(tmp_path / "evaluation-test-best_model_of_cremad" / "per_clip.csv"):
        # 5 frames give two segments of 2; the chosen frames are 0·2 + 1 and 1·2 + 1.
        for head, expected in released.probabilities(data, row["clip"], [1, 3]).items():
            result = [float(row[f"{head}_{name}"]) for name in CLASSES]
            np.testing.assert_allclose(result, expected, atol=2e-5)
    with pytest.raises(InputError, match="does not name its classes"):
        evaluated(path, "--clip", "a.wav", "a.flv", "--fps", 1)


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda state: state.pop("module.head.weight"), "lacks the encoders or the joint head"),
        (lambda state: state.pop("module.audio_net.conv1.weight"), "is of another architecture: encoders.audio"),
        (lambda state: state.pop("module.visual_net.bn1.bias"), "is of another architecture: encoders.visual.bn1.bias"),
    ],
)
def test_a_released_checkpoint_of_another_architecture_is_refused(
    tmp_path: Path, break_it: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    path = ReleasedModel(3).save(tmp_path / "x.pth", 0.5)
    content = torch.load(path, weights_only=True)
    break_it(content["model"])
    torch.save(content, path)
    with pytest.raises(InputError, match=complaint):
        evaluated(path)


# Clips that are not prepared


@pytest.fixture(scope="module")
def raw(folder: Path) -> Path:
    for seed, name in enumerate(raw_clips.names(actors=1)):
        raw_clips.write_clip(folder / "my raw", name, seconds=2.2 + 0.1 * seed, seed=seed)
    return folder / "my raw"


@pytest.fixture(scope="module")
def prepared(raw: Path, folder: Path) -> Path:
    report = DATASETS["cremad"].prepare(
        raw=raw, out=folder / "prepared", fps=2, audio=("fbank", "spectrogram", "waveform"), split="random", workers=1
    )
    assert report.complete
    return folder / "prepared"


def clip_files(raw: Path, name: str) -> tuple[Path, Path]:
    return raw / "AudioWAV" / f"{name}.wav", raw / "VideoFlash" / f"{name}.flv"


def printed_probabilities(text: str) -> dict[str, list[float]]:
    """Head → probabilities, from the table that `--clip` prints."""
    lines = [line.split() for line in text.splitlines()]
    start = lines.index(list(HEADS))
    table = [line for line in lines[start + 1 :] if line[0].isupper() and len(line) == 4 and line[1][0].isdigit()]
    return {head: [float(line[column]) for line in table] for column, head in enumerate(HEADS, start=1)}


@pytest.mark.parametrize(("audio", "method"), [("fbank", "mmpareto"), ("spectrogram", "joint"), ("stft", "joint")])
def test_a_raw_clip_gives_the_result_of_the_prepared_clip(
    raw: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], audio: str, method: str
) -> None:
    more = ["--audio", audio, "--audio_frames", "150", "--audio_pool", "2", "1", "--epochs", "1", "--method", method]
    run = trained_run(prepared, tmp_path / "run", "--protocol", "paper", *more)
    assert evaluated(run / "best.pt") == 0
    rows = read_table(run / "evaluation-test-best" / "per_clip.csv")
    trained = load(run / "best.pt")
    classes = trained.classes
    for row in rows:
        result = trained.predict(clip_files(raw, row["clip"]))
        for head in HEADS:
            expected = [float(row[f"{head}_{name}"]) for name in classes]
            np.testing.assert_allclose([*result[head].values()], expected, atol=1e-5, rtol=0)
    capsys.readouterr()
    row = rows[0]
    assert evaluated(run / "best.pt", "--clip", *clip_files(raw, row["clip"])) == 0
    for head, values in printed_probabilities(capsys.readouterr().out).items():
        np.testing.assert_allclose(values, [float(row[f"{head}_{name}"]) for name in classes], atol=6e-4)


def test_an_unreadable_clip_is_refused(mmpareto_run: Path, raw: Path, tmp_path: Path) -> None:
    wav, flv = clip_files(raw, raw_clips.names(actors=1)[0])
    (tmp_path / "text.flv").write_text("hello")
    short = tmp_path / "short.wav"
    raw_clips.write_wav(short, raw_clips.noise(0.01))
    for files, complaint in (
        ((tmp_path / "absent.wav", flv), "absent.wav"),
        ((wav, tmp_path / "absent.flv"), "absent.flv"),
        ((wav, tmp_path / "text.flv"), "text.flv"),
        ((wav, wav), "no video stream"),
        ((flv, flv), "no audio stream"),
        ((short, flv), "too short"),
    ):
        with pytest.raises(InputError, match=complaint) as caught:
            evaluated(mmpareto_run / "best.pt", "--clip", *files)
        assert "\n" not in str(caught.value)


def test_one_file_with_sound_and_video_is_a_clip(
    mmpareto_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mp4"
    raw_mp4.write_mp4(path)
    printed = []
    run, best = mmpareto_run, mmpareto_run / "best.pt"
    for words in ((best, "--clip", path, path), (best, "--clip", path), (run, "--clip", path), ("--clip", path, run)):
        assert evaluated(*words) == 0
        printed.append(capsys.readouterr().out)
    assert len(set(printed)) == 1
    assert sum(printed_probabilities(printed[0])["joint"]) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(
    "words", [[], ["--clip", "a.mp4"], ["best.pt", "--clip", "a", "b", "c"], ["--clip", "a", "b", "c", "best.pt"]]
)
def test_a_wrong_number_of_files_exits_with_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        evaluate.main(words)
    assert caught.value.code == 2 and "error: " in capsys.readouterr().err


def test_a_run_folder_means_its_best_checkpoint(mmpareto_run: Path, tmp_path: Path) -> None:
    assert evaluated(mmpareto_run / "best.pt", "--out", tmp_path) == 0
    assert evaluated(mmpareto_run) == 0
    for name in ("metrics.json", "per_clip.csv"):
        by_folder = (mmpareto_run / "evaluation-test-best" / name).read_bytes()
        assert by_folder == (tmp_path / name).read_bytes()


def test_the_frame_rate_comes_from_the_checkpoint_or_from_fps(
    mmpareto_run: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = clip_files(raw, raw_clips.names(actors=1)[0])
    assert evaluated(mmpareto_run / "best.pt", "--clip", *files) == 0
    known = capsys.readouterr().out
    with pytest.raises(InputError, match="1 frames per second, not 2"):
        evaluated(mmpareto_run / "best.pt", "--clip", *files, "--fps", 2)

    checkpoint = changed(mmpareto_run, tmp_path / "x.pt", lambda content: content["data"].update(fps=None))
    with pytest.raises(InputError, match=r"frames per second .*--fps"):
        evaluated(checkpoint, "--clip", *files)
    capsys.readouterr()
    assert evaluated(checkpoint, "--clip", *files, "--fps", 1) == 0
    assert capsys.readouterr().out == known


# Without a modality, and with temperatures


@pytest.fixture(scope="module")
def validated_run(data: Path, folder: Path) -> Path:
    """A run that holds out six clips for validation."""
    return trained_run(data, folder / "validated", "--val_fraction", "0.5", "--method", "uniform")


def whole_batch(dataset: PreparedDataset) -> Batch:
    return to_device(next(iter(make_loader(dataset, batch_size=99))), "cpu", dataset.normalisation)


def probabilities_of(row: dict[str, str], head: str) -> list[float]:
    return [float(row[f"{head}_{name}"]) for name in CLASSES]


def test_without_a_modality(mmpareto_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The joint prediction has zeros in place of its feature; that of the other head does not change."""
    assert evaluated(mmpareto_run, "--without", "audio") == 0
    out = mmpareto_run / "evaluation-test-best-without-audio"
    assert str(out) in capsys.readouterr().out and evaluated(mmpareto_run) == 0
    rows, whole = (read_table(folder / "per_clip.csv") for folder in (out, mmpareto_run / "evaluation-test-best"))
    trained = load(mmpareto_run)
    inputs = whole_batch(open_split(trained, "test")).inputs
    with torch.no_grad():
        features = trained.model(inputs).features
        features["audio"].zero_()
        expected = trained.model.fusion(features).softmax(1)
    for index, (row, before) in enumerate(zip(rows, whole, strict=True)):
        assert probabilities_of(row, "joint") == pytest.approx(expected[index].tolist(), abs=1e-6)
        assert probabilities_of(row, "visual") == pytest.approx(probabilities_of(before, "visual"), abs=1e-6)
        assert "audio" not in row
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["without"] == ["audio"] and "acc_visual" in metrics and "acc_audio" not in metrics


def test_a_probed_run_without_a_modality(joint_run: Path, tmp_path: Path) -> None:
    assert evaluated(joint_run, "--without", "visual", "--out", tmp_path) == 0
    summary = json.loads((joint_run / "summary.json").read_text())
    assert json.loads((tmp_path / "metrics.json").read_text())["acc_audio"] == summary["best_test"]["acc_audio"]


def test_a_silent_clip_is_classified(mmpareto_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw_mp4.write_mp4(tmp_path / "a.mp4", sound=False)
    with pytest.raises(InputError, match=r"no audio stream\. --without audio"):
        evaluated(mmpareto_run, "--clip", tmp_path / "a.mp4")
    capsys.readouterr()
    assert evaluated("--clip", tmp_path / "a.mp4", "--without", "audio", mmpareto_run) == 0
    assert re.search(r"^ +joint +visual$", capsys.readouterr().out, re.M)


@pytest.mark.parametrize(
    ("names", "complaint"), [(["smell"], "best.pt takes audio, visual"), (["audio", "visual"], "leaves none")]
)
def test_modalities_that_cannot_be_absent(mmpareto_run: Path, names: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        evaluated(mmpareto_run, "--without", *names)


def test_temperatures_are_fitted_to_the_clips_that_were_held_out(validated_run: Path, capsys: Any) -> None:
    """At 0.98 and 1.02 of each temperature, their loss on exactly these clips is larger."""
    assert evaluated(validated_run, "--temperature") == 0
    assert "validation set, 6 samples" in capsys.readouterr().out
    out = validated_run / "evaluation-test-best"
    calibration = json.loads((out / "metrics.json").read_text())["calibration"]
    trained = load(validated_run)
    val = open_data(FinishedRun(validated_run).settings).val
    assert val is not None and len(val) == 6
    batches = {"val": whole_batch(val), "test": whole_batch(open_split(trained, "test"))}
    with torch.no_grad():
        logits = {part: trained.heads(trained.model(batch.inputs)) for part, batch in batches.items()}

    def loss(part: str, head: str, temperature: float) -> float:
        return cross_entropy(logits[part][head].double() / temperature, batches[part].labels).item()

    for head in HEADS:
        temperature = calibration[head]["temperature"]
        if temperature is not None:  # else there is no minimum on so few clips
            best = loss("val", head, temperature)
            assert min(loss("val", head, 0.98 * temperature), loss("val", head, 1.02 * temperature)) > best
        temperature = temperature or 1.0
        assert calibration[head]["nll"] == pytest.approx(loss("test", head, temperature), rel=1e-5)
        for index, row in enumerate(read_table(out / "per_clip.csv")):
            expected = (logits["test"][head][index].double() / temperature).softmax(0).tolist()
            assert probabilities_of(row, head) == pytest.approx(expected, abs=1e-5)
    assert any(calibration[head]["temperature"] is not None for head in HEADS)


def test_temperatures_need_the_validation_set_of_the_run(
    mmpareto_run: Path, validated_run: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"trained on the whole training set .*no validation set"):
        evaluated(mmpareto_run, "--temperature")
    shutil.copytree(data, tmp_path / "other")
    lines = (data / "train.csv").read_text().splitlines()
    (tmp_path / "other" / "train.csv").write_text("\n".join(reversed(lines)) + "\n")
    with pytest.raises(InputError, match=r"other is not what .*validated was trained on"):
        evaluated(validated_run, "--temperature", "--data", tmp_path / "other")
    shutil.copy(validated_run / "best.pt", tmp_path)
    with pytest.raises(InputError, match="holds no run"):
        evaluated(tmp_path / "best.pt", "--temperature")


def test_calibration_of_a_run(validated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated(validated_run, "--out", tmp_path) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    cells = rf"{metrics['ece']:.4f} +{metrics['nll']:.4f} +{metrics['brier']:.4f}"
    assert re.search(rf"^joint .* {cells}$", capsys.readouterr().out, re.M)
    for suffix in ("", "_audio", "_visual"):
        assert metrics[f"nll{suffix}"] == pytest.approx(metrics[f"loss{suffix}"], rel=1e-5)
    assert "calibration" not in metrics


def test_a_run_without_a_model_card_gets_one(mmpareto_run: Path, tmp_path: Path) -> None:
    """Runs from before there were cards; training writes the same."""
    card = mmpareto_run / "model_card.md"
    text = card.read_text()
    assert "CREMA-D" in text and "optimistic" in text
    card.unlink()
    assert evaluated(mmpareto_run, "--out", tmp_path) == 0
    assert card.read_text() == text
