"""The results in a report, compared with those in TensorBoard, in metrics.jsonl and per clip."""

import json
from pathlib import Path

import pytest
from fake_runs import CREMAD, MMPARETO, UNIFORM, cell_of, finished, table_of
from mmpareto.analysis import checkpoint_evaluation as evaluation
from mmpareto.analysis.report.results import RunResult, gather, paired_differences
from mmpareto.analysis.report.run_sheet import make_run_sheet
from mmpareto.analysis.report.writers import write_report
from mmpareto.analysis.tables.cells import Outcome
from mmpareto.analysis.trained import load
from mmpareto.models import ENCODERS
from mmpareto.training.devices import choose_devices
from mmpareto.training.run import train
from mmpareto.training.settings import parse
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
    """A run of train.py with TensorBoard, evaluated by evaluate.py's functions."""
    data = write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=18, test=9)
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(parse([*LINE.split(), "--data", str(data), "--ckpt_path", str(folder)])) == 0
    device, _ = choose_devices("cpu")
    for checkpoint in ("best", "last"):
        opened = load(folder / f"{checkpoint}.pt")
        dataset = evaluation.open_split(opened, "test")
        predictions = evaluation.predict_split(opened, dataset, device, 4, 0)
        evaluation.write_results(folder / f"evaluation-test-{checkpoint}", opened, dataset, predictions)
    return folder


def result_of(folder: Path, protocol: str) -> RunResult:
    (cell,) = gather([Outcome(cell_of(UNIFORM, CREMAD, 0), folder, None)], protocol).values()
    assert not cell.missing
    return cell.results[0]


@pytest.mark.parametrize("protocol", ["last", "validation"])
def test_tensorboard_metrics_and_report_have_the_same_accuracies(trained: Path, protocol: str, tmp_path: Path) -> None:
    result = result_of(trained, protocol)
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    epoch = len(lines) if protocol == "last" else max(lines, key=lambda line: line["val_acc"])["epoch"]
    events = EventAccumulator(str(trained)).Reload()
    for head in HEADS:
        shown = {event.step: event.value for event in events.Scalars(f"accuracy/test/{head[1:] or 'joint'}")}
        assert lines[epoch - 1][f"acc{head}"] == result.accuracies[f"acc{head}"] == pytest.approx(shown[epoch])
    outcome = Outcome(cell_of(UNIFORM, CREMAD, 0), trained, None)
    sheet = make_run_sheet(table_of(), [outcome], protocol)
    write_report(sheet, tmp_path)
    accuracy = f"{100 * lines[epoch - 1]['acc']:.2f}"
    assert sheet.rows[0].cells[0].text == accuracy
    for name in ("table.md", "table.csv", "table.tex", "report.html"):
        assert accuracy in (tmp_path / name).read_text(), name


@pytest.mark.parametrize("protocol", ["last", "validation"])
def test_results_per_clip_have_the_accuracy_of_the_summary(trained: Path, protocol: str) -> None:
    result = result_of(trained, protocol)
    clips, correct = result.test_clips.clips, result.test_clips.correct
    assert list(correct) == ["joint", "audio", "visual"] and len(clips) == 9
    for head, right in correct.items():
        assert right.mean() == pytest.approx(result.accuracies["acc" if head == "joint" else f"acc_{head}"])


def test_seeds_are_sorted(tmp_path: Path) -> None:
    outcomes = [finished(tmp_path, UNIFORM, CREMAD, seed, 0.5 + seed / 100) for seed in (2, 0, 1)]
    (cell,) = gather(outcomes, "validation").values()
    assert [*cell.accuracies().items()] == [(0, 0.5), (1, 0.51), (2, 0.52)] and cell.seeds == [0, 1, 2]


def test_unreadable_runs_are_missing_and_only_common_seeds_are_paired(tmp_path: Path) -> None:
    outcomes = [finished(tmp_path, UNIFORM, CREMAD, seed, 0.5) for seed in range(3)]
    outcomes += [finished(tmp_path, MMPARETO, CREMAD, seed, 0.5 + seed / 10) for seed in range(3)]
    assert outcomes[1].folder and outcomes[5].folder
    (outcomes[1].folder / "summary.json").write_text("{")
    (outcomes[5].folder / "summary.json").unlink()
    uniform, mmpareto = gather(outcomes, "validation").values()
    assert "damaged" in uniform.missing[1] and "is not finished" in mmpareto.missing[2]
    assert paired_differences(mmpareto, uniform) == [0.0]
    uniform, mmpareto = gather(outcomes[:1] + outcomes[3:4], "paper").values()
    assert uniform.missing == {} and paired_differences(mmpareto, uniform) == [0.0]
