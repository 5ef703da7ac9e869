"""The figure of loss landscapes, from the command line on; `test_covariance_picture` tests what measurements share."""

import json
from pathlib import Path
from typing import Any

import figures
import numpy as np
import pytest
from measured_runs import train_runs
from mmpareto.analysis.pictures import landscape as landscape_picture
from mmpareto.analysis.pictures.landscape import landscape_figure
from mmpareto.analysis.pictures.runs import read_runs
from mmpareto.errors import InputError
from PIL import Image

FLAGS = ("--samples", "6", "--points", "5", "--gpu_ids", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [*train_runs(folder, "uniform", seeds=2), *train_runs(folder, "pareto")]


@pytest.fixture
def runs(trained: list[Path]) -> list[Path]:
    for run in trained:
        (run / "landscape.json").unlink(missing_ok=True)
    return trained


def draw(*runs: Path, more: tuple[str, ...] = ()) -> None:
    assert figures.main(["landscape", "--run", *map(str, runs), *FLAGS, *more]) == 0


def measured(run: Path) -> dict[str, Any]:
    return json.loads((run / "landscape.json").read_text())


def test_a_line_is_drawn_a_label_as_mean_over_seeds(runs: list[Path]) -> None:
    draw(*runs)
    with Image.open(runs[0].parent / "landscape.png") as picture:
        assert min(picture.size) > 400
    found = [measured(run) for run in runs]
    assert found[0]["distances"] == [-1, -0.5, 0, 0.5, 1] and found[0]["plane"] is None
    assert found[0]["directions_seed"] == 0 and "running statistics" in found[0]["batch_norm"]
    figure = landscape_figure(read_runs(runs))
    loss, accuracy = figure.axes
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in loss.lines}
    np.testing.assert_allclose(lines["uniform"], np.mean([one["line"]["loss"] for one in found[:2]], axis=0))
    np.testing.assert_allclose(lines["pareto"], found[2]["line"]["loss"])
    shares = {line.get_label(): np.asarray(line.get_ydata()) for line in accuracy.lines}
    np.testing.assert_allclose(shares["pareto"], 100 * np.array(found[2]["line"]["acc"]))
    notes = " ".join(text.get_text() for text in figure.texts)
    assert "6 training samples" in notes and "seed 0, the same draws" in notes and "BatchNorm: running" in notes


def test_a_plane_is_drawn_a_label_by_the_same_colours(runs: list[Path]) -> None:
    draw(runs[0], runs[2], more=("--plane", "3"))
    found = measured(runs[2])
    assert np.shape(found["plane"]["loss"]) == np.shape(found["plane"]["acc"]) == (3, 3)
    assert found["plane"]["loss"][1][1] == found["line"]["loss"][2]
    figure = landscape_figure(read_runs([runs[0], runs[2]]))
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert "uniform" in titles and "pareto" in titles
    assert "Planes: of the first seed" in " ".join(text.get_text() for text in figure.texts)
    assert "joint loss" in [axes.get_ylabel() for axes in figure.axes]  # the colour bar


def test_a_line_is_not_measured_again_where_a_plane_was(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    draw(runs[0], more=("--plane", "3"))
    before = measured(runs[0])
    monkeypatch.setattr(landscape_picture.landscape, "measure", None)
    draw(runs[0])
    assert measured(runs[0]) == before
    with pytest.raises(TypeError):  # which would call it
        draw(runs[0], more=("--plane", "5"))


def test_runs_along_other_directions_are_not_drawn_together(runs: list[Path]) -> None:
    draw(runs[0])
    draw(runs[1], more=("--directions_seed", "4"))
    assert measured(runs[1])["directions_seed"] == 4
    with pytest.raises(InputError, match="--directions_seed 0 and 4"):
        landscape_figure(read_runs(runs[:2]))


@pytest.mark.parametrize("flag", ["--points", "--plane"])
def test_the_minimum_is_always_one_of_the_points(
    flag: str, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        draw(runs[0], more=(flag, "4"))
    assert caught.value.code == 2 and "3, 5, 7" in capsys.readouterr().err
