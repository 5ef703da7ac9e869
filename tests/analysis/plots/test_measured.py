"""Measurement of runs at a checkpoint from the command line, with `covariance` as the example."""

import json
import shutil
from pathlib import Path
from typing import Any

import figures
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots import covariance
from mmpareto.analysis.plots.covariance import covariance_plot
from mmpareto.analysis.plots.measured import Subject, open_run
from mmpareto.errors import InputError

pytest_plugins = ["plot_fixtures"]

pytestmark = pytest.mark.usefixtures("unsaved")
CPU = torch.device("cpu")


def measured(run: Path) -> dict[str, Any]:
    return json.loads((run / "covariance.json").read_text())


def draw(*runs: Path, more: tuple[str, ...] = ()) -> None:
    folders = [str(run) for run in runs]
    assert figures.main(["covariance", "--run", *folders, "--batches", "5", "--gpu_ids", "cpu", *more]) == 0


def plot(*runs: Path) -> Figure:
    return covariance_plot([FinishedRun(run) for run in runs])


def opened(run: Path, checkpoint: str = "last.pt") -> Subject:
    return open_run(FinishedRun(run), checkpoint, CPU)


def test_runs_are_measured_written_and_drawn_together(
    runs: list[Path], unsaved: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(*runs[:3])
    printed = capsys.readouterr().out
    assert "N = 5 batches of 4" in printed and "Uniform, visual" in printed
    content = measured(runs[1])
    about = {"checkpoint": "last.pt", "epoch": 2, "batches": 5, "batch_size": 4, "dataset": "cremad", "seed": 1}
    about |= {"method": "uniform", "variant": None, "banner": None, "unimodal_heads": "trained"}
    assert {key: content[key] for key in about} == about
    for modality in ("audio", "visual"):
        for objective in ("joint", "unimodal"):
            metrics = content["encoders"][modality][objective]
            assert 0 < metrics["largest_eigenvalue"] < metrics["trace"] and metrics["mean_norm"] > 0
    assert measured(runs[2])["unimodal_heads"] == "a linear probe"

    (figure,) = unsaved
    (axes,) = [axes for axes in figure.axes if axes.get_title() == "audio encoder"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Uniform", "Joint loss"]
    truth = [measured(run)["encoders"]["audio"]["joint"]["trace"] for run in runs[:3]]
    shown = [float(line.get_xdata()[0]) for line in axes.lines if line.get_label() == "joint gradient"]
    again = [float(line.get_xdata()[0]) for line in axes.lines if line.get_label() == "_again"]
    assert shown == [pytest.approx(np.mean(truth[:2]))] and pytest.approx(truth[2]) in again
    notes = " ".join(text.get_text() for text in figure.texts)
    assert "N = 5 independent batches of 4" in notes and "last.pt, after epoch 2" in notes and "validation" in notes
    assert "linear probe" in notes and "Seeds: Uniform 0, 1; Joint loss 0" in notes and "CREMA-D" in notes


def test_a_run_is_measured_again_only_if_something_changed(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    draw(runs[0])
    first = measured(runs[0])
    count = 0
    real = covariance.measure

    def counting(*arguments: Any) -> dict[str, Any]:
        nonlocal count
        count += 1
        return real(*arguments)

    monkeypatch.setattr(covariance, "measure", counting)
    monkeypatch.setattr(covariance, "covariance_plot", lambda runs: None)
    draw(runs[0])
    assert count == 0
    draw(runs[0], runs[1])
    assert count == 1  # the second run alone
    draw(runs[0], more=("--anew",))
    assert count == 2 and measured(runs[0]) == first  # repeatable
    draw(runs[0], more=("--batch_size", "3"))
    assert count == 3 and measured(runs[0])["batch_size"] == 3
    draw(runs[0])
    assert count == 4  # the run's own batch size again
    shutil.copy(runs[1] / "last.pt", runs[0] / "last.pt")
    draw(runs[0])
    assert count == 5 and measured(runs[0])["encoders"] != first["encoders"]  # other weights under the same name
    (runs[0] / "covariance.json").write_text("{ torn")
    draw(runs[0])
    assert count == 6


def test_a_run_is_measured_on_the_clips_that_it_was_trained_on(runs: list[Path]) -> None:
    subject = opened(runs[0])
    config = json.loads((runs[0] / "config.json").read_text())
    assert len(subject.samples) == config["data"]["clips"]["train"] < 18
    assert not subject.network.training and not subject.samples.training
    assert opened(runs[0], "best.pt").epoch in (1, 2)


def test_a_linear_probe_replaces_untrained_heads(runs: list[Path]) -> None:
    subject = opened(runs[2])
    content = torch.load(runs[2] / "last.pt", weights_only=True)
    assert subject.losses == ["joint", "audio", "visual"]
    for name, head in subject.network.heads.items():
        assert torch.equal(head.weight, content["probe"][name]["weight"])
        assert not torch.equal(head.weight, content["model"][f"heads.{name}.weight"])
    del content["probe"]
    torch.save(content, runs[2] / "last.pt")
    assert opened(runs[2]).losses == ["joint"]


def test_runs_that_were_measured_differently_are_not_drawn_together(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(covariance, "covariance_plot", lambda runs: None)
        draw(runs[0])
        draw(runs[1], more=("--batch_size", "3"))
    with pytest.raises(InputError, match=r"--batch_size 4 and 3"):
        plot(*runs[:2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no run", "no run"),
        ("no checkpoint", r"no checkpoint last.pt \(it has: best.pt\); .*--checkpoint"),
        ("data gone", "nowhere"),
        ("other data", "is not what .* was trained on.*--data"),
        ("not finite", "NaN or infinite"),
        ("not measured", r"covariance.json: run `python code/figures.py covariance --run"),
        ("damaged", "checkpoint: Field required"),
    ],
)
def test_a_run_that_cannot_be_measured_is_refused_in_one_sentence(
    damage: str, message: str, runs: list[Path], unsaved: list[Figure], tmp_path: Path
) -> None:
    run = runs[0]
    config = json.loads((run / "config.json").read_text())
    if damage == "no checkpoint":
        (run / "last.pt").unlink()
    if damage == "data gone":
        config["arguments"]["data"] = str(tmp_path / "nowhere")
    if damage == "other data":
        config["data"]["fingerprint"] = "another"
    (run / "config.json").write_text(json.dumps(config))
    if damage == "no run":
        (run / "config.json").unlink()
    if damage == "not finite":
        content = torch.load(run / "last.pt", weights_only=True)
        content["model"]["fusion.fc_out.weight"].fill_(float("nan"))
        torch.save(content, run / "last.pt")
    if damage == "damaged":
        (run / "covariance.json").write_text("{}")
    with pytest.raises(InputError, match=message) as caught:
        if damage in ("not measured", "damaged"):
            plot(run)
        else:
            draw(run)
    assert "\n" not in str(caught.value) and (str(run) in str(caught.value) or damage == "data gone")
    assert not unsaved and (damage == "damaged" or not (run / "covariance.json").exists())


def test_nothing_is_measured_if_one_run_cannot_be(runs: list[Path]) -> None:
    (runs[1] / "last.pt").unlink()
    with pytest.raises(InputError, match="no checkpoint"):
        draw(*runs[:2])
    assert not (runs[0] / "covariance.json").exists()


def test_data_that_moved_are_given_by_a_flag(runs: list[Path]) -> None:
    config = json.loads((runs[0] / "config.json").read_text())
    data = config["arguments"]["data"]
    config["arguments"]["data"] = "nowhere"
    (runs[0] / "config.json").write_text(json.dumps(config))
    draw(runs[0], more=("--data", data))
