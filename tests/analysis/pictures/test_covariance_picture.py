"""The figure of gradient noise, from the command line on, with what all measurements of checkpoints share."""

import json
import shutil
from pathlib import Path
from typing import Any

import figures
import numpy as np
import pytest
import torch
from measured_runs import train_runs
from mmpareto.analysis.measurements.runs import open_run
from mmpareto.analysis.pictures import covariance as covariance_picture
from mmpareto.analysis.pictures.covariance import covariance_figure
from mmpareto.analysis.pictures.runs import read_runs
from mmpareto.errors import InputError
from PIL import Image

CPU = ("--gpu_ids", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [*train_runs(folder, "uniform", seeds=2), *train_runs(folder, "joint")]


@pytest.fixture
def runs(trained: list[Path], tmp_path: Path) -> list[Path]:
    """Copies of two seeds of `uniform`, and of `joint`."""
    return [Path(shutil.copytree(one, tmp_path / one.name)) for one in trained]


def measured(run: Path) -> dict[str, Any]:
    return json.loads((run / "covariance.json").read_text())


def draw(*runs: Path, out: Path, more: tuple[str, ...] = ()) -> None:
    folders = [str(run) for run in runs]
    arguments = ["covariance", "--run", *folders, "--out", str(out), "--batches", "5", *CPU, *more]
    assert figures.main(arguments) == 0


def test_it_measures_runs_writes_what_it_found_and_draws_them_together(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(*runs, out=tmp_path / "x.png")
    printed = capsys.readouterr().out
    assert "N = 5 batches of 4" in printed and "uniform, visual" in printed and str(tmp_path / "x.pdf") in printed
    with Image.open(tmp_path / "x.png") as picture:
        assert min(picture.size) > 300
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    found = measured(runs[1])
    about = {"checkpoint": "last.pt", "epoch": 2, "batches": 5, "batch_size": 4, "dataset": "cremad", "seed": 1}
    about |= {"method": "uniform", "variant": None, "banner": None, "unimodal_heads": "trained"}
    assert {key: found[key] for key in about} == about
    for modality in ("audio", "visual"):
        for objective in ("joint", "unimodal"):
            figures_of = found["encoders"][modality][objective]
            assert 0 < figures_of["largest_eigenvalue"] < figures_of["trace"] and figures_of["mean_norm"] > 0
    assert measured(runs[2])["unimodal_heads"] == "a linear probe"


def test_figure_and_text_show_the_files_numbers(runs: list[Path], tmp_path: Path) -> None:
    draw(*runs, out=tmp_path / "x.png")
    known = read_runs(runs)
    figure = covariance_figure(known)
    panels = {(axes.get_title() or axes.get_xlabel()): axes for axes in figure.axes}
    axes = panels["audio encoder"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["uniform", "joint"]
    truth = [measured(run)["encoders"]["audio"]["joint"]["trace"] for run in runs]
    shown = [float(line.get_xdata()[0]) for line in axes.lines if line.get_label() == "joint gradient"]
    again = [float(line.get_xdata()[0]) for line in axes.lines if line.get_label() == "_again"]
    assert shown == [pytest.approx(np.mean(truth[:2]))] and pytest.approx(truth[2]) in again
    notes = " ".join(text.get_text() for text in figure.texts)
    assert "N = 5 independent batches of 4" in notes and "last.pt, after epoch 2" in notes and "validation" in notes
    assert "linear probe" in notes and "Seeds: uniform 0, 1; joint 0" in notes and "CREMA-D" in notes


def test_what_has_been_measured_so_is_not_measured_again(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covariance_picture, "save", lambda *arguments: [])  # drawing takes longer
    draw(runs[0], out=tmp_path / "x.png")
    first = measured(runs[0])
    count = 0
    real = covariance_picture.covariance.measure

    def counting(*arguments: Any) -> dict[str, Any]:
        nonlocal count
        count += 1
        return real(*arguments)

    monkeypatch.setattr(covariance_picture.covariance, "measure", counting)
    draw(runs[0], out=tmp_path / "x.png")
    assert count == 0
    draw(runs[0], runs[1], out=tmp_path / "x.png")
    assert count == 1  # the second run's alone
    draw(runs[0], out=tmp_path / "x.png", more=("--anew",))
    assert count == 2 and measured(runs[0]) == first  # repeatable
    draw(runs[0], out=tmp_path / "x.png", more=("--batch_size", "3"))
    assert count == 3 and measured(runs[0])["batch_size"] == 3
    draw(runs[0], out=tmp_path / "x.png")
    assert count == 4  # the run's own batch size again
    shutil.copy(runs[1] / "last.pt", runs[0] / "last.pt")
    draw(runs[0], out=tmp_path / "x.png")
    assert count == 5 and measured(runs[0])["encoders"] != first["encoders"]  # other weights under the same name
    (runs[0] / "covariance.json").write_text("{ torn")
    draw(runs[0], out=tmp_path / "x.png")
    assert count == 6


def test_a_run_is_measured_on_the_clips_that_it_was_trained_on(runs: list[Path]) -> None:
    subject = open_run(runs[0], "last.pt", torch.device("cpu"))
    config = json.loads((runs[0] / "config.json").read_text())
    assert len(subject.samples) == config["data"]["clips"]["train"] < 18
    assert not subject.network.training and not subject.samples.training
    assert open_run(runs[0], "best.pt", torch.device("cpu")).epoch in (1, 2)


def test_a_linear_probe_takes_the_place_of_untrained_heads(runs: list[Path]) -> None:
    subject = open_run(runs[2], "last.pt", torch.device("cpu"))
    content = torch.load(runs[2] / "last.pt", weights_only=True)
    assert subject.losses == ["joint", "audio", "visual"]
    for name, head in subject.network.heads.items():
        assert torch.equal(head.weight, content["probe"][name]["weight"])
        assert not torch.equal(head.weight, content["model"][f"heads.{name}.weight"])
    del content["probe"]
    torch.save(content, runs[2] / "last.pt")
    assert open_run(runs[2], "last.pt", torch.device("cpu")).losses == ["joint"]


def test_runs_that_were_measured_otherwise_are_not_drawn_together(runs: list[Path], tmp_path: Path) -> None:
    draw(runs[0], out=tmp_path / "x.png")
    draw(runs[1], out=tmp_path / "x.png", more=("--batch_size", "3"))
    with pytest.raises(InputError, match=r"measured with --batch_size 4 and 3"):
        covariance_figure(read_runs(runs[:2]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no run", "holds no run"),
        ("no checkpoint", r"holds no checkpoint last.pt \(there: best.pt\); choose one with --checkpoint"),
        ("data gone", "does not exist"),
        ("other data", "is not what .* was trained on; say where that is with --data"),
        ("not finite", "NaN or infinite"),
        ("not measured", r"holds no covariance.json: run `python code/figures.py covariance --run"),
        ("damaged", "lacks checkpoint"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(
    damage: str, message: str, runs: list[Path], tmp_path: Path
) -> None:
    run, out = runs[0], tmp_path / "out.png"
    config = json.loads((run / "config.json").read_text())
    if damage == "no run":
        (run / "config.json").unlink()
    if damage == "no checkpoint":
        (run / "last.pt").unlink()
    if damage == "data gone":
        config["arguments"]["data"] = str(tmp_path / "nowhere")
    if damage == "other data":
        config["data"]["fingerprint"] = "another"
    if damage != "no run":
        (run / "config.json").write_text(json.dumps(config))
    if damage == "not finite":
        content = torch.load(run / "last.pt", weights_only=True)
        content["model"]["fusion.fc_out.weight"].fill_(float("nan"))
        torch.save(content, run / "last.pt")
    with pytest.raises(InputError, match=message) as caught:
        if damage == "not measured":
            covariance_figure(read_runs(runs))
        elif damage == "damaged":
            (run / "covariance.json").write_text("{}")
            covariance_figure(read_runs(runs[:1]))
        else:
            draw(run, out=out)
    assert "\n" not in str(caught.value) and (str(run) in str(caught.value) or damage == "data gone")
    assert not out.exists() and (damage == "damaged" or not (run / "covariance.json").exists())


def test_data_that_moved_are_found_by_a_flag(runs: list[Path], tmp_path: Path) -> None:
    config = json.loads((runs[0] / "config.json").read_text())
    data = config["arguments"]["data"]
    config["arguments"]["data"] = "nowhere"
    (runs[0] / "config.json").write_text(json.dumps(config))
    draw(runs[0], out=tmp_path / "x.png", more=("--data", data))
