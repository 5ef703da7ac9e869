import dataclasses
import errno
import importlib.metadata
import json
import math
import multiprocessing
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpareto.data import DATASETS
from mmpareto.data.loading.layout import fingerprint
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import Split
from mmpareto.errors import InputError
from mmpareto.models.building import build_network
from mmpareto.training.checkpoints import save_checkpoint
from mmpareto.training.data import open_data
from mmpareto.training.run import make_stand_in, train
from mmpareto.training.run_folder import new_folder
from mmpareto.training.settings import parse
from mmpareto.training.summary import summarise, summary_text
from prepared_clips import open_clips, write_prepared
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tiny_runs import acting, arguments, metrics, read, run

HEADS = ("", "_audio", "_visual")
OF_A_SET = ("loss", "acc", "macro_f1", "map", "auroc", "per_class_accuracy")
OF_AN_ENCODER = ("conflict_rate", "cosine", "norm_joint", "norm_unimodal", "weight_joint", "weight_unimodal", "rescale")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=18, test=7)


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of MMPareto, with validation and TensorBoard."""
    made = tmp_path_factory.mktemp("runs") / "a" / "run"
    assert run(data, made, "--epochs", "3", "--use_tensorboard", "true", "--val_fraction", "0.3") == 0
    return made


def evaluated(data: Path, checkpoint: dict[str, Any], split: str, indices: list[int] | None = None) -> dict[str, float]:
    """Accuracy and mean cross-entropy of every head, one clip at a time, by hand."""
    network = build_network(**checkpoint["network"])
    network.load_state_dict(checkpoint["model"])
    network.eval()
    clips = open_clips(data, split, training=False, frames=1, image_size=24, audio_frames=64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    right, loss = dict.fromkeys(HEADS, 0.0), dict.fromkeys(HEADS, 0.0)
    indices = list(range(len(clips))) if indices is None else indices
    for index in indices:
        inputs, label, *_ = clips[index]
        visual = (inputs["visual"] / 255 - mean) / std
        with torch.no_grad():
            outputs = network({"audio": inputs["audio"][None], "visual": visual[None]})
        logits = {"": outputs.joint, **{f"_{name}": values for name, values in outputs.unimodal.items()}}
        for head, (scores,) in logits.items():
            right[head] += scores.tolist().index(max(scores.tolist())) == label
            loss[head] += math.log(sum(math.exp(s) for s in scores.tolist())) - scores[label].item()
    return {f"{k}{h}": v[h] / len(indices) for k, v in (("acc", right), ("loss", loss)) for h in HEADS}


def assert_metrics(line: dict[str, Any], prefix: str, expected: dict[str, float]) -> None:
    assert {key: line[prefix + key] for key in expected} == pytest.approx(expected, abs=1e-5)


def test_metrics_are_those_of_the_checkpoints(data: Path, folder: Path) -> None:
    lines = metrics(folder)
    validation = validation_indices(data, "--val_fraction", "0.3")
    last, best = read(folder / "last.pt"), read(folder / "best.pt")
    best_line = max(lines, key=lambda line: line["val_acc"])
    assert best["epoch"] == best_line["epoch"] and last["epoch"] == 4  # the epoch to continue with
    for checkpoint, line in ((last, lines[-1]), (best, best_line)):
        assert_metrics(line, "", evaluated(data, checkpoint, "test"))
        assert_metrics(line, "val_", evaluated(data, checkpoint, "train", validation))


def test_metrics_have_the_documented_keys_and_one_line_per_epoch(folder: Path) -> None:
    documented = {"epoch", "seconds", "samples_per_second", "data_wait", "learning_rate"}
    documented |= {f"{part}{key}{head}" for part in ("", "val_") for key in OF_A_SET for head in HEADS}
    documented |= {f"train_{key}{head}" for key in ("loss", "acc") for head in HEADS}
    documented |= {f"{key}_{m}" for key in OF_AN_ENCODER for m in ("audio", "visual")}
    lines = metrics(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert set(line) == documented
        assert {key for key in line if key.startswith("acc")} == {"acc", "acc_audio", "acc_visual"}
        accuracies = [line[f"{part}acc{head}"] for part in ("", "val_", "train_") for head in HEADS]
        rates = [line[f"conflict_rate_{m}"] for m in ("audio", "visual")]
        assert all(isinstance(value, float) and 0 <= value <= 1 for value in accuracies + rates)
        assert line["learning_rate"] == 0.05
        for m in ("audio", "visual"):
            assert line[f"weight_joint_{m}"] + line[f"weight_unimodal_{m}"] == pytest.approx(1)
            assert -1 <= line[f"cosine_{m}"] <= 1 and min(line[f"norm_joint_{m}"], line[f"norm_unimodal_{m}"]) > 0


def test_tensorboard_shows_the_same_numbers(folder: Path) -> None:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    lines = metrics(folder)
    parts, heads = (
        {"": "test", "val_": "validation", "train_": "train"},
        {"": "joint", "_audio": "audio", "_visual": "visual"},
    )
    quantities = {name: name for name in OF_A_SET} | {"acc": "accuracy"}
    tags = {f"{p}{q}{h}": f"{quantities[q]}/{parts[p]}/{heads[h]}" for p in parts for q in quantities for h in heads}
    tags |= {f"{key}_{m}": f"gradient/{key}/{m}" for key in OF_AN_ENCODER for m in ("audio", "visual")}
    tags |= {key: f"run/{key}" for key in ("seconds", "samples_per_second", "data_wait", "learning_rate")}
    numbers = {key for key, value in lines[0].items() if isinstance(value, float | int)} - {"epoch"}
    final = {"final/accuracy/last", "final/accuracy/best_val", "final/accuracy/best_test"}
    assert set(events.Tags()["scalars"]) == {tags[key] for key in numbers} | final
    for key in numbers:
        scalars = events.Scalars(tags[key])
        assert [scalar.step for scalar in scalars] == [1, 2, 3]
        assert [scalar.value for scalar in scalars] == pytest.approx([line[key] for line in lines], rel=1e-6)
    assert json.loads((folder / "config.json").read_text()) == json.loads(
        events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode().strip("`json\n")
    )
    summary = json.loads((folder / "summary.json").read_text())
    for kept in ("last", "best_val", "best_test"):
        (scalar,) = events.Scalars(f"final/accuracy/{kept}")
        assert scalar.value == pytest.approx(summary[kept]["acc"])
    # The HPARAMS tab: the session's hyper-parameters are those of the run.
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    session = HParamsPluginData.FromString(content).session_start_info.hparams
    assert session["learning_rate"].number_value == 0.05 and session["method"].string_value == "mmpareto"
    assert session["option/gamma"].number_value == 1.5


def test_config_holds_everything_needed_to_repeat_the_run(data: Path, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    line = arguments(data, folder, "--epochs", 3, "--use_tensorboard", "true", "--val_fraction", 0.3)
    expected = dataclasses.asdict(parse(line).settings)
    assert config["arguments"] == json.loads(json.dumps(expected))
    assert config["versions"]["torch"] == importlib.metadata.version("torch")
    assert {"python", "torch", "torchvision", "torchaudio", "numpy", "av"} == set(config["versions"])
    assert config["git_commit"] is None or len(config["git_commit"].rstrip("+")) == 40
    assert config["data"]["fingerprint"] == fingerprint(data)
    assert config["data"]["clips"] == {"train": 12, "val": 6, "test": 7}


def test_the_run_folder_holds_the_documented_files_only(folder: Path) -> None:
    names = {path.name for path in folder.iterdir() if "tfevents" not in path.name}
    assert names == {"config.json", "metrics.jsonl", "summary.json", "model_card.md", "last.pt", "best.pt", ".lock"}


def test_the_summary_of_a_run_with_validation(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    lines = metrics(folder)
    assert summary["protocol"] == "validation" and summary["last"] == lines[-1]
    assert summary["best_val"] == max(lines, key=lambda line: (line["val_acc"], -line["epoch"]))
    assert summary["best_test"] == max(lines, key=lambda line: (line["acc"], -line["epoch"]))
    assert "papers' protocol" in summary["best_test_note"]
    assert read(folder / "best.pt")["selected_on"] == "validation"


def test_the_summary_of_the_papers_protocol(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, tmp_path, "--protocol", "paper") == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["best_val"] is None and "--protocol paper" in summary["best_val_reason"]
    assert summary["last"]["epoch"] == 2 and "papers' protocol" in summary["best_test_note"]
    assert summary["data"]["clips"] == {"train": 18, "val": 0, "test": 7}
    assert not any(key.startswith("val_") for key in summary["last"])
    best = read(tmp_path / "best.pt")
    assert "test" in best["selected_on"] and best["epoch"] == summary["best_test"]["epoch"]
    printed = capsys.readouterr().out
    assert "best on test (papers' protocol)" in printed and f"{100 * summary['last']['acc']:.2f}" in printed
    assert "tensorboard" not in printed  # it writes no events


def test_the_end_of_a_run_says_how_to_see_its_curves(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--epochs", "1", "--use_tensorboard", "true", "--tensorboard_path", tmp_path / "board")
    assert run(data, tmp_path / "run", *more) == 0
    assert f"tensorboard --logdir {tmp_path / 'board'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ("--method mmpareto", "MMPareto (per_tensor)"),
        ("--method mmpareto --variant released --gamma 2", "MMPareto (released, gamma 2)"),
        ("--method uniform", "Uniform"),
    ],
)
def test_the_first_line_names_method_variant_and_options(
    more: str, name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(data, folder, "--epochs", 1, "--protocol", "paper", *more.split()) == 0
    method = more.split()[1]
    expected = f"cremad-{method}-seed0: {name}, 18 train, 7 test samples on cpu, into {folder}"
    assert capsys.readouterr().out.splitlines()[0] == expected


def test_the_summary_selects_the_earlier_epoch_in_a_tie() -> None:
    history = [{"epoch": n, "acc": a, "val_acc": v} for n, a, v in ((1, 0.1, 0.2), (2, 0.5, 0.9), (3, 0.5, 0.9))]
    summary = summarise(history, "validation")
    assert [summary[key]["epoch"] for key in ("last", "best_val", "best_test")] == [3, 2, 2]


def test_the_best_epoch_is_not_before_the_first_that_may_be_chosen() -> None:
    history = [{"epoch": n, "acc": a, "val_acc": a} for n, a in ((1, 0.9), (2, 0.5), (3, 0.4))]
    assert [summarise(history, "paper", first)["best_test"]["epoch"] for first in (1, 2, 3, 4)] == [1, 2, 3, 3]
    assert summarise(history, "validation", 2)["best_val"]["epoch"] == 2
    assert "best_from_epoch" not in summarise(history, "paper")


@pytest.mark.parametrize("first", [2, 3, 9])
def test_best_pt_is_not_before_the_first_epoch_that_may_be_chosen(first: int, data: Path, tmp_path: Path) -> None:
    more = ("--epochs", 3, "--learning_rate", 1e-12, "--momentum", 0, "--best_from_epoch", first)  # all epochs tie
    assert run(data, tmp_path, *more) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    chosen = min(first, 3)  # of a shorter run, the last
    assert (
        read(tmp_path / "best.pt")["epoch"] == summary["best_val"]["epoch"] == summary["best_test"]["epoch"] == chosen
    )


def test_best_pt_is_the_earlier_epoch_in_a_tie(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--learning_rate", "1e-12", "--momentum", "0", "--protocol", "paper") == 0
    lines = metrics(tmp_path)
    assert lines[0]["acc"] == lines[1]["acc"]
    assert read(tmp_path / "best.pt")["epoch"] == 1


def validation_indices(data: Path, *more: str) -> list[int]:
    opened = open_data(parse(arguments(data, None, *more)).settings)
    assert opened.val is not None
    names = open_clips(data, "train", training=False).names
    return [names.index(clip) for clip in opened.val.names]


def test_validation_clips_are_disjoint_stratified_and_seeded(data: Path) -> None:
    opened = open_data(parse(arguments(data, None, "--val_fraction", "0.3")).settings)
    assert opened.val is not None
    train_clips, val_clips = set(opened.train.names), set(opened.val.names)
    assert not train_clips & val_clips and len(train_clips | val_clips) == 18
    assert [opened.val.labels.count(label) for label in range(3)] == [2, 2, 2]
    assert opened.test.names == [f"clip_{n:03d}" for n in range(18, 25)]
    assert opened.train.training and not (opened.val.training or opened.test.training or opened.train_fixed.training)
    assert opened.train_fixed.names == opened.train.names
    assert validation_indices(data) == validation_indices(data)
    assert len({tuple(validation_indices(data, "--random_seed", str(seed))) for seed in range(4)}) > 1


def test_checkpoints_hold_plain_values_and_preprocessing_settings(folder: Path) -> None:
    def check(value: object) -> None:
        if isinstance(value, dict):
            assert type(value) is dict or type(value).__name__ == "OrderedDict"
            for key, inner in value.items():
                assert isinstance(key, str | int)
                check(inner)
        elif isinstance(value, list):
            for inner in value:
                check(inner)
        else:
            assert value is None or isinstance(value, torch.Tensor | str | int | float | bool), type(value)

    for name in ("last.pt", "best.pt"):
        content = read(folder / name)
        check(content)
        assert content["data"]["classes"] == ["ANG", "HAP", "SAD"]
        assert content["data"]["audio"] == "fbank" and content["data"]["fps"] == 1
        assert content["data"]["normalisation"]["visual"][0] == [0.485, 0.456, 0.406]
        assert (content["dataset"], content["method"], content["heads_trained"]) == ("cremad", "mmpareto", True)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """A limit of 100 kB per file simulates a full disk."""
    save_checkpoint(tmp_path / "last.pt", {"epoch": 1})
    before = (tmp_path / "last.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"last\.pt") as caught:
            save_checkpoint(tmp_path / "last.pt", {"epoch": 2, "weights": torch.randn(1000, 1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.errno == errno.EFBIG
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_run_folders_are_numbered(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cremad-joint-seed3", "cremad-joint-seed3-2", "cremad-joint-seed3-3"):
        more = ("--method", "joint", "--random_seed", 3, "--epochs", 1, "--encoder", "plain")
        assert train(parse(arguments(data, None, *more))) == 0
        assert (tmp_path / "runs" / name / "summary.json").exists()
    settings = parse(arguments(data, None, "--model", "mine")).settings
    assert new_folder(settings.name, settings.ckpt_path) == Path("runs/cremad-mine-seed0")


def test_an_occupied_folder_is_refused_and_untouched(data: Path, folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match=r"already holds a run.*--resume"):
        run(data, folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="--ckpt_path"):
            run(data, path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--n_classes 6", r"--n_classes is 6.*names 3"),
        ("--gpu_ids 99", "--gpu_ids names GPU 99"),
        ("--amp fp16", "fp16 needs a GPU"),
        ("--pretrained nowhere.pth", r"nowhere\.pth"),
        ("--data nowhere", "nowhere does not exist"),
        ("--data empty", "not a prepared data set"),
        ("--audio spectrogram", "without the feature 'spectrogram'"),
        ("--weights parameter --rescale encoder", "has no meaning"),
        ("--variant paper --weights parameter", "has no meaning"),
        ("--val_fraction 0.0001 --data single", "--val_fraction 0.0001 "),
        ("--audio_pool 65 1", "--audio_pool"),
        ("--audio_pool 1 129", "--audio_pool"),
        ("--image_size 3", r"encoder of visual, .*\(1, 3, 3, 3\), cannot take a batch of 2 .*--image_size"),
        ("--encoder normed --batch_size 1", "cannot take a batch of 1 .*more than 1 value per channel"),
        ("--encoder cnn", r"cnn takes images .*, but visual has clips of frames .*; take resnet18"),
        ("--encoder audio=tiny", "none for visual: add visual=resnet18"),
        ("--encoder tiny adio=cnn", "--encoder names adio, but the data has audio and visual"),
        ("--pretrained adio=x.pth", "--pretrained names adio"),
        ("--tensorboard_path single/stat.csv", "--tensorboard_path single/stat.csv is a file"),
    ],
)
def test_bad_input_gives_a_one_line_error_and_writes_nothing(
    more: str, message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_prepared(tmp_path / "single", train=2, test=1, classes=("A", "B", "C"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as error:
        train(parse(arguments(data, None, *more.split())))
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_gpu_is_refused_before_the_stand_in_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--gpu_ids names GPU 99"):
        train(parse(["--dataset", "cremad", "--stand_in", "--gpu_ids", "99"]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["audio/clip_004.pt", "visual/clip_004/frame_00001.jpg", "audio/clip_007.pt"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_named(file: str, workers: int, tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "cremad", frames=1)
    (data / file).write_bytes(b"no such thing")
    with pytest.raises(InputError, match=file) as error:
        run(data, tmp_path / "run", "--workers", workers, "--protocol", "paper")
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()


def test_two_concurrent_runs_make_the_stand_in_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def prepare(out: Path) -> PreparationReport:
        made.append(out)
        time.sleep(0.3)
        write_prepared(out)
        return PreparationReport(
            "synthetic", out, 9, Split([], [], "made up"), {}, [], 0, counts={"train": {}, "test": {}}
        )

    monkeypatch.setattr(DATASETS["synthetic"], "prepare", prepare)
    settings = parse(["--dataset", "synthetic", "--data", str(tmp_path / "stand-in")]).settings
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make_stand_in, [settings] * 2))
    assert made == [tmp_path / "stand-in"] and (made[0] / "prepared.json").exists()


def test_the_warning_of_the_stand_in_is_printed_and_stored(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mmpareto.data import DATASETS

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DATASETS["cremad"], "banner", "SYNTHETIC: proves nothing")
        assert run(data, tmp_path / "run", "--epochs", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "SYNTHETIC: proves nothing"
    assert lines.count("SYNTHETIC: proves nothing") == 2 and lines.index(lines[0], 1) > 3
    assert json.loads((tmp_path / "run/summary.json").read_text())["warning"] == lines[0]


def test_the_printed_table_shows_percentages_and_missing_values() -> None:
    line = {"epoch": 7, "acc": 0.75125, "acc_a": 0.5, "acc_v": None}
    summary = {"name": "n", "last": line, "best_val": None, "best_val_reason": "why", "best_test": line}
    summary["best_from_epoch"] = 2
    summary["data"] = {"clips": {"test": 704}, "available": {"test": 744}}
    text = summary_text(summary, ["a", "v"]).splitlines()
    assert "704 of its 744 clips" in text[0] and "from epoch 2 on" in text[5]
    assert text[2].split() == ["last", "epoch", "7", "75.12", "50.00", "–"] and "(why)" in text[3]


def test_initial_weights_depend_on_the_seed(data: Path, tmp_path: Path) -> None:
    more = ("--epochs", 1, "--learning_rate", 1e-12, "--method", "uniform", "--random_seed")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(data, tmp_path / name, *more, seed) == 0
    a, b, c = (read(tmp_path / name / "last.pt")["model"]["fusion.fc_out.weight"] for name in "abc")
    assert torch.equal(a, b) and not torch.allclose(a, c)


def test_a_run_that_fails_before_it_starts_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    import mmpareto.training.run as module

    def fail() -> None:
        raise InputError("no")

    with acting(module, "build_network", 1, fail), pytest.raises(InputError):
        run(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()
