import json
from pathlib import Path

import numpy as np
import pytest
from fake_runs import CREMAD, MMPARETO, SYNTHETIC, UNIFORM, cell_of, finished, table_of, write_clips
from mmpareto.analysis import checkpoint_evaluation as evaluation
from mmpareto.analysis.report.gather import gather
from mmpareto.analysis.report.results import read_correct, read_result
from mmpareto.analysis.report.sheet import make_sheet
from mmpareto.analysis.report.writers import write_report
from mmpareto.analysis.tables.cells import Outcome
from mmpareto.analysis.trained import open_trained
from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS
from mmpareto.training.devices import choose_devices
from mmpareto.training.run import train
from mmpareto.training.run_folder import read_config
from mmpareto.training.settings import from_config, parse
from prepared_clips import write_prepared
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
LINE = (
    "--dataset cremad --method uniform --encoder tiny --gpu_ids cpu --workers 0 --batch_size 4 --epochs 3 "
    "--learning_rate 0.05 --frames 1 --image_size 24 --audio_frames 64 --val_fraction 0.3"
)
HEADS = ("", "_audio", "_visual")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train.py that TensorBoard watched, evaluated by evaluate.py's functions."""
    data = write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=18, test=9)
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(parse([*LINE.split(), "--data", str(data), "--ckpt_path", str(folder)])) == 0
    device, _ = choose_devices("cpu")
    for kept in ("best", "last"):
        one = open_trained(folder / f"{kept}.pt")
        dataset = evaluation.open_split(one, "test")
        predictions = evaluation.predict_split(one, dataset, device, 4, 0)
        evaluation.write_results(folder / f"evaluation-test-{kept}", one, dataset, predictions)
    return folder


@pytest.mark.parametrize("protocol", ["last", "validation"])
def test_tensorboard_metrics_and_report_show_the_same_figures(trained: Path, protocol: str, tmp_path: Path) -> None:
    found = read_result(trained, protocol)
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    chosen = len(lines) if protocol == "last" else max(lines, key=lambda line: line["val_acc"])["epoch"]
    assert found.epoch == chosen
    events = EventAccumulator(str(trained)).Reload()
    for head in HEADS:
        shown = {event.step: event.value for event in events.Scalars(f"acc{head}")}
        assert lines[chosen - 1][f"acc{head}"] == found.accuracies[f"acc{head}"] == pytest.approx(shown[chosen])
    settings = from_config(read_config(trained))
    cell = cell_of(UNIFORM, CREMAD, 0)
    outcome = Outcome(type(cell)(UNIFORM, CREMAD, 0, settings, cell.words), trained, None)
    sheet = make_sheet(table_of(), [outcome], protocol)
    write_report(sheet, tmp_path)
    acc = f"{100 * lines[chosen - 1]['acc']:.2f}"
    assert sheet.rows[0].cells[0].text == acc
    for name in ("table.md", "table.csv", "table.tex", "report.html"):
        assert acc in (tmp_path / name).read_text(), name


@pytest.mark.parametrize("protocol", ["last", "validation"])
def test_clip_by_clip_the_run_is_as_accurate_as_it_says(trained: Path, protocol: str) -> None:
    found = read_result(trained, protocol)
    assert list(found.correct) == ["joint", "audio", "visual"] and len(found.clips) == 9
    for head, correct in found.correct.items():
        key = "acc" if head == "joint" else f"acc_{head}"
        assert correct.mean() == pytest.approx(found.accuracies[key])


@pytest.mark.parametrize(
    ("protocol", "entry"), [("last", "last"), ("validation", "best_val"), ("paper", "best_test")]
)  # fmt: skip
def test_a_protocol_takes_its_own_epoch(tmp_path: Path, protocol: str, entry: str) -> None:
    folder = finished(tmp_path, UNIFORM, CREMAD, 0, 0.5).folder
    assert folder is not None
    summary = json.loads((folder / "summary.json").read_text())
    summary[entry] = {"epoch": 7, "acc": 0.625, "acc_audio": None, "acc_visual": 0.25, "accuracy_of_a_friend": 1}
    (folder / "summary.json").write_text(json.dumps(summary))
    found = read_result(folder, protocol)
    assert (found.epoch, found.accuracies) == (7, {"acc": 0.625, "acc_visual": 0.25})
    assert (found.banner, found.commit, found.fingerprint) == (None, "c" * 40, "f" * 64)
    assert found.correct == {} and found.clips == ()


def test_synthetic_data_bear_their_banner(tmp_path: Path) -> None:
    folder = finished(tmp_path, UNIFORM, SYNTHETIC, 0, 0.5).folder
    assert folder is not None
    assert read_result(folder, "last").banner == DATASETS["synthetic"].banner


def test_the_clips_are_those_of_the_epochs_own_weights(tmp_path: Path) -> None:
    right, wrong = [True, True, True, False], [True, False, True, True]
    folder = finished(tmp_path, UNIFORM, CREMAD, 0, 0.75, correct=right).folder
    assert folder is not None
    write_clips(folder / "evaluation-test-best" / "per_clip.csv", wrong)
    assert [*read_result(folder, "last").correct["joint"]] == right
    assert [*read_result(folder, "validation").correct["joint"]] == wrong
    assert read_result(folder, "paper").correct == {}  # best.pt was chosen on the validation set
    assert not read_result(folder, "last").correct["audio"].any()


def test_an_evaluation_of_other_weights_is_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path, UNIFORM, CREMAD, 0, 0.9, correct=[True, False] * 10).folder
    assert folder is not None
    with pytest.raises(InputError, match="evaluate anew"):
        read_result(folder, "validation")


def test_without_validation_there_is_no_such_epoch(tmp_path: Path) -> None:
    folder = finished(tmp_path, MMPARETO, CREMAD, 0, 0.9, protocol="paper").folder
    assert folder is not None
    with pytest.raises(InputError, match="no epoch chosen by validation: no validation set"):
        read_result(folder, "validation")
    assert read_result(folder, "paper").accuracies == {"acc": 0.9}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"last": {"epoch": 1}}', '{"last": 3}', ""])
def test_a_damaged_summary_is_an_input_error(tmp_path: Path, text: str) -> None:
    folder = finished(tmp_path, UNIFORM, CREMAD, 0, 0.5).folder
    assert folder is not None
    (folder / "summary.json").write_text(text)
    with pytest.raises(InputError, match="train the run anew"):
        read_result(folder, "last")


def test_what_is_unfinished_or_no_run_is_an_input_error(tmp_path: Path) -> None:
    folder = finished(tmp_path, UNIFORM, CREMAD, 0, 0.5).folder
    assert folder is not None
    (folder / "summary.json").unlink()
    with pytest.raises(InputError, match=r"is not finished .* --resume"):
        read_result(folder, "last")
    with pytest.raises(InputError, match="holds no run"):
        read_result(tmp_path / "nothing", "last")


def test_no_accuracy_is_an_input_error(tmp_path: Path) -> None:
    folder = finished(tmp_path, UNIFORM, CREMAD, 0, {"acc_audio": 0.3}).folder
    assert folder is not None
    with pytest.raises(InputError, match="no accuracy of epoch 2"):
        read_result(folder, "last")


def test_a_regression_is_right_where_the_sign_is(tmp_path: Path) -> None:
    path = tmp_path / "per_clip.csv"
    path.write_text("clip,score,joint,text\na,1.0,0.2,-1\nb,-2.0,0.1,-1\nc,0,-0.5,0.3\n")
    clips, correct = read_correct(path)
    assert clips == ("a", "b", "c")
    assert {head: [*right] for head, right in correct.items()} == {
        "joint": [True, False, True],
        "text": [False, True, False],
    }


def test_class_names_may_have_underscores(tmp_path: Path) -> None:
    path = tmp_path / "per_clip.csv"
    path.write_text(
        "clip,class,joint,joint_a_b,joint_joint_c,front,front_a_b,front_joint_c\n"
        "x,a_b,a_b,1,0,joint_c,0,1\ny,joint_c,a_b,1,0,joint_c,0,1\n"
    )
    _, correct = read_correct(path)
    assert {head: [*right] for head, right in correct.items()} == {"joint": [True, False], "front": [False, True]}
    assert all(right.dtype == np.bool_ for right in correct.values())


@pytest.mark.parametrize(
    "text", ["", "clip,class\n", "a,b\n1,2\n", "clip,class,joint\nx,a\n", "clip,class,audio\nx,a,a\n"]
)
def test_a_damaged_table_of_clips_is_an_input_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "per_clip.csv"
    path.write_text(text)
    with pytest.raises(InputError, match="evaluate the run anew"):
        read_correct(path)


def test_a_clip_that_is_there_twice_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "per_clip.csv"
    path.write_text("clip,class,joint,joint_a\nx,a,a,1\nx,a,a,1\n")
    with pytest.raises(InputError, match="twice"):
        read_correct(path)


def test_figures_are_by_ascending_seed_in_whatever_order_runs_come(tmp_path: Path) -> None:
    outcomes = [finished(tmp_path, UNIFORM, CREMAD, seed, 0.5 + seed / 100) for seed in (2, 0, 1)]
    (cell,) = gather(outcomes, "validation").values()
    assert [*cell.figures("acc").items()] == [(0, 0.5), (1, 0.51), (2, 0.52)] and cell.seeds == [0, 1, 2]
