"""Reading of run folders, and errors of one sentence that names the file."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import SETTINGS, accuracies, options_of, write_gradients, write_run
from mmpareto.analysis.finished_run import FinishedRun, identity, read_clip_results
from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.training.settings import parse, to_config, whole_arguments

CLIPS = "clip,class,joint,joint_a,joint_b,audio,audio_a,audio_b\n"


def finished(folder: Path, accuracy: float = 0.75, protocol: str = "validation", **summary: Any) -> FinishedRun:
    """A run of 4 epochs with a summary."""
    write_run(folder, accuracies(0), protocol=protocol)
    line = {"epoch": 4, "acc": accuracy, "acc_audio": None, "acc_visual": 0.25, "per_class_accuracy": [0.5], "loss": 1}
    content = {"protocol": protocol, "last": line, "best_val": line | {"epoch": 2}, "best_test": line | {"epoch": 1}}
    if protocol == "paper":
        content |= {"best_val": None, "best_val_reason": "no validation set"}
    (folder / "summary.json").write_text(json.dumps(content | summary))
    return FinishedRun(folder)


def write_clips(folder: Path, joint: list[bool], kept: str = "best") -> None:
    """Write evaluate.py's table; the joint head is correct where `joint` is true, the audio head never."""
    path = folder / f"evaluation-test-{kept}" / "per_clip.csv"
    path.parent.mkdir()
    rows = [f"clip{n},a,{'a' if right else 'b'},0,1,b,0,1\n" for n, right in enumerate(joint)]
    path.write_text(CLIPS + "".join(rows))


@contextlib.contextmanager
def refused(message: str, path: Path) -> Iterator[None]:
    """Expect an InputError of one sentence that names the path."""
    with pytest.raises(InputError, match=message) as caught:
        yield
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_settings_are_only_available_as_arguments(tmp_path: Path) -> None:
    settings = parse(
        ["--dataset", "cremad", "--method", "mmpareto", "--random_seed", "3", "--protocol", "paper"]
    ).settings
    run = FinishedRun(write_run(tmp_path / "a", accuracies(0), **(to_config(settings) | {"ckpt_path": None})))
    assert run.settings == settings
    assert (run.dataset, run.method, run.variant, run.seed) == ("cremad", "mmpareto", "per_tensor", 3)
    assert (run.protocol, run.label, run.title, run.banner) == ("paper", "MMPareto", "CREMA-D", None)
    other = FinishedRun(write_run(tmp_path / "b", accuracies(0), later_flag=1))
    assert other.arguments["later_flag"] == 1 and other.arguments["fused"] is False  # added in this version
    with refused("later_flag", other.folder):
        _ = other.settings


def test_title_and_warning_of_synthetic_and_unknown_data_sets(tmp_path: Path) -> None:
    run = FinishedRun(write_run(tmp_path / "a", accuracies(0), dataset="synthetic"))
    assert run.banner == DATASETS["synthetic"].banner and run.banner
    run = FinishedRun(write_run(tmp_path / "b", accuracies(0), dataset="lost"))
    assert (run.title, run.banner) == ("lost", None)


def test_identity_contains_only_what_the_result_depends_on(tmp_path: Path) -> None:
    run = FinishedRun(write_run(tmp_path / "a", accuracies(0)))
    irrelevant = {"data": "x", "ckpt_path": "x", "model": "x", "gpu_ids": "0", "workers": 3, "record_gradients": 5}
    irrelevant |= {"use_tensorboard": False, "tensorboard_path": "x"}
    assert FinishedRun(write_run(tmp_path / "b", accuracies(1), **irrelevant)).identity == run.identity
    for number, other in enumerate(({"random_seed": 1}, {"epochs": 9}, {"fusion": "film"}, {"fingerprint": "f"})):
        assert FinishedRun(write_run(tmp_path / str(number), accuracies(0), **other)).identity != run.identity
    assert run.identity == identity(whole_arguments({"arguments": SETTINGS}), "0123456789abcdef")
    assert run.identity["fused"] is False and run.identity["options"] == {"encoder_scale": 1.0}  # added since the run


def test_history_and_series(tmp_path: Path) -> None:
    run = FinishedRun(write_run(tmp_path / "a", accuracies(1)))
    assert run.modalities == ["audio", "visual"] and len(run.history) == 4
    assert run.series("acc").tolist() == [values["acc"] for values in accuracies(1)]
    history = [{"acc": 0.5}, {"acc": None}, {"acc": float("nan")}, {"acc": float("inf")}, {}, {"acc": 1}]
    run = FinishedRun(write_run(tmp_path / "b", history))
    np.testing.assert_array_equal(run.series("acc"), [0.5, np.nan, np.nan, np.nan, np.nan, 1])
    assert np.isnan(run.series("acc_touch")).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epoch": 1, "acc": 0.5}\n{"epoch": 2, "ac', "line 2 is not JSON"),
        ('{"epoch": 1, "acc": 0.5}\n{"epoch": 3, "acc": 0.5}\n', "line 2 is not epoch 2"),
        ("[1]\n", "line 1"),
        ("\0\0\0\n", "line 1"),
        ("", "no finished epoch"),
        (None, "no finished epoch"),
        ('{"epoch": 1, "acc": "0.5"}\n', "acc in line 1"),
        ('{"epoch": 1, "acc": true}\n', "acc in line 1"),
    ],
)
def test_damaged_metrics_are_refused(text: str | None, message: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", accuracies(0))
    (folder / "metrics.jsonl").unlink()
    if text is not None:
        (folder / "metrics.jsonl").write_text(text)
    with refused(message, folder):
        FinishedRun(folder).series("acc")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"arguments": {"dataset": "cremad"}}', '{"arguments": 3}', None]
)  # fmt: skip
def test_a_damaged_config_is_refused(text: str | None, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", accuracies(0))
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with refused("config.json|no run", folder):
        _ = FinishedRun(folder).label
    with refused("config.json|no run", folder):
        _ = FinishedRun(folder).identity
    assert not FinishedRun(folder).is_finished


def test_a_config_without_data_has_no_identity(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", accuracies(0))
    (folder / "config.json").write_text(json.dumps({"arguments": SETTINGS}))
    assert FinishedRun(folder).label == "Uniform"
    with refused("fingerprint", folder):
        _ = FinishedRun(folder).identity


def test_each_protocol_chooses_its_own_epoch(tmp_path: Path) -> None:
    run = finished(tmp_path / "a")
    assert [run.epoch_line(protocol)["epoch"] for protocol in ("last", "validation", "paper")] == [4, 2, 1]
    assert run.accuracies("last") == {"acc": 0.75, "acc_visual": 0.25}
    paper = finished(tmp_path / "b", protocol="paper")
    assert paper.epoch_line("paper")["epoch"] == 1
    with refused("no epoch chosen by validation: no validation set", paper.folder):
        paper.epoch_line("validation")


def test_a_run_is_finished_when_its_summary_is_of_the_last_epoch(tmp_path: Path) -> None:
    assert finished(tmp_path / "a").is_finished
    assert not finished(tmp_path / "b", last={"epoch": 3, "acc": 0.5}).is_finished  # extended by --resume --epochs 4
    (tmp_path / "a" / "summary.json").unlink()
    run = FinishedRun(tmp_path / "a")
    assert not run.is_finished
    with refused("is not finished .*--resume", run.folder):
        _ = run.summary


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"last": {"epoch": 1}}', '{"last": 3}', "", '{"last": {"acc": 1}}'])
def test_a_damaged_summary_is_refused(tmp_path: Path, text: str) -> None:
    run = finished(tmp_path / "a")
    (run.folder / "summary.json").write_text(text)
    with refused("summary.json", run.folder):
        run.accuracies("last")
    assert not run.is_finished


def test_gradients_are_read_if_they_were_recorded(tmp_path: Path) -> None:
    run = FinishedRun(write_run(tmp_path / "a", accuracies(0)))
    assert run.gradients is None
    with refused("train with --record_gradients N", run.folder):
        run.recorded_gradients()
    truth = write_gradients(run.folder, 0)["audio"]
    records = FinishedRun(run.folder).recorded_gradients()
    assert records.every == 10 and records.steps.tolist() == [1, 11, 21, 31, 41, 51]
    norms = np.linalg.norm(truth, axis=2).T
    np.testing.assert_allclose([records.encoders["audio"].whole_norm(name) for name in ("joint", "unimodal")], norms)
    cosine = (truth[:, 0] * truth[:, 1]).sum(1) / norms.prod(0)
    np.testing.assert_allclose(records.encoders["audio"].whole_cosine(), cosine)
    whole = (run.folder / "gradients.npz").read_bytes()
    for damage, message in ((whole[:500], "damaged"), (b"", "damaged")):
        (run.folder / "gradients.npz").write_bytes(damage)
        with refused(message, run.folder):
            FinishedRun(run.folder).recorded_gradients()
    write_gradients(run.folder, 0, steps=0)
    with refused("no step", run.folder):
        FinishedRun(run.folder).recorded_gradients()
    with refused("no run", tmp_path / "nowhere"):
        FinishedRun(tmp_path / "nowhere").recorded_gradients()


def test_a_measurement_is_read_or_absent_or_refused(tmp_path: Path) -> None:
    run = FinishedRun(write_run(tmp_path / "a", accuracies(0)))
    assert run.measurement("covariance") is None
    (run.folder / "covariance.json").write_text('{"epoch": 2}')
    assert run.measurement("covariance") == {"epoch": 2}
    for text in ("{ torn", "[]"):
        (run.folder / "covariance.json").write_text(text)
        with refused("covariance.json is damaged.*figures.py covariance", run.folder):
            run.measurement("covariance")


def test_clip_results_are_those_of_the_chosen_epoch(tmp_path: Path) -> None:
    run = finished(tmp_path / "a")
    assert run.clip_results("last").clips == () and not run.clip_results("last").correct
    write_clips(run.folder, [True, False, True, True], "best")
    write_clips(run.folder, [True, True, True, False], "last")
    assert run.clip_results("last").correct["joint"].tolist() == [True, True, True, False]
    assert run.clip_results("validation").correct["joint"].tolist() == [True, False, True, True]
    assert not run.clip_results("validation").correct["audio"].any()
    assert run.clip_results("validation").clips == ("clip0", "clip1", "clip2", "clip3")
    assert run.clip_results("paper").clips == ()  # best.pt was chosen on the validation set


def test_an_evaluation_of_other_weights_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path / "a", accuracy=0.9)
    write_clips(run.folder, [True, False] * 10)
    with refused("0.5000.*0.9000 in epoch 2", run.folder):
        run.clip_results("validation")


def test_clips_that_training_dropped_are_left_out(tmp_path: Path) -> None:
    """evaluate.py evaluates all test clips, training with --drop_last all the first ones only."""
    run = finished(tmp_path / "a", accuracy=0.5)
    write_clips(run.folder, [True, False] * 8 + [True] * 4)
    config = json.loads((run.folder / "config.json").read_text())
    config["arguments"]["drop_last"] = "all"
    config["data"] |= {"clips": {"test": 16}, "available": {"test": 20}}
    (run.folder / "config.json").write_text(json.dumps(config))
    results = FinishedRun(run.folder).clip_results("validation")
    assert results.clips == tuple(f"clip{n}" for n in range(16)) and results.correct["joint"].mean() == 0.5


def test_a_score_is_correct_if_its_sign_is(tmp_path: Path) -> None:
    path = tmp_path / "per_clip.csv"
    path.write_text("clip,score,joint,text\na,1.0,0.2,-1\nb,-2.0,0.1,-1\nc,0,-0.5,0.3\n")
    results = read_clip_results(path)
    assert results.clips == ("a", "b", "c")
    assert {head: right.tolist() for head, right in results.correct.items()} == {
        "joint": [True, False, True],
        "text": [False, True, False],
    }


def test_class_names_may_have_underscores(tmp_path: Path) -> None:
    path = tmp_path / "per_clip.csv"
    path.write_text(
        "clip,class,joint,joint_a_b,joint_joint_c,front,front_a_b,front_joint_c\n"
        "x,a_b,a_b,1,0,joint_c,0,1\ny,joint_c,a_b,1,0,joint_c,0,1\n"
    )
    correct = read_clip_results(path).correct
    assert {head: right.tolist() for head, right in correct.items()} == {"joint": [True, False], "front": [False, True]}
    assert all(right.dtype == np.bool_ for right in correct.values())


@pytest.mark.parametrize(
    "text",
    [
        *("", "clip,class\n", "a,b\n1,2\n", "clip,class,joint\nx,a\n", "clip,class,audio\nx,a,a\n"),
        "clip,class,joint,joint_a\nx,a,a,1\nx,a,a,1\n",  # a duplicate clip
    ],
)
def test_a_damaged_table_of_clips_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "per_clip.csv"
    path.write_text(text)
    with refused("evaluate the run again", path):
        read_clip_results(path)


def test_a_renamed_variant_has_its_current_name(tmp_path: Path) -> None:
    arguments = {"method": "mmpareto", "options": options_of()}
    old, new = (
        FinishedRun(write_run(tmp_path / variant, accuracies(0), variant=variant, **arguments))
        for variant in ("brief", "per_tensor")
    )
    assert old.variant == "per_tensor" and old.label == "MMPareto" and old.identity == new.identity
