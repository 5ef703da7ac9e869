"""Accuracy and gap over training: the lines are means over seeds, computed here anew."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import accuracies, write_run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmpareto.analysis.pictures.curves import accuracy_figure, gap_figure
from mmpareto.analysis.pictures.runs import Run, read_runs
from mmpareto.data import DATASETS
from mmpareto.errors import InputError


def made(folder: Path, method: str, histories: Sequence[list[dict[str, Any]]], **more: Any) -> list[Run]:
    """Runs with seeds 0, 1, …"""
    return read_runs(
        write_run(folder / f"{method}-{seed}", history, method=method, random_seed=seed, **more)
        for seed, history in enumerate(histories)
    )


def panel(figure: Figure, title: str) -> Axes:
    (axes,) = [axes for axes in figure.axes if axes.get_title() == title]
    return axes


def line(axes: Axes, label: str) -> np.ndarray:
    """(2, E) of the line."""
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return np.asarray(found.get_data(), dtype=float)


def band(axes: Axes, place: int = 0) -> np.ndarray:
    """(2, E) lower and upper edge."""
    vertices = np.concatenate([path.vertices for path in axes.collections[place].get_paths()])
    x = np.unique(vertices[:, 0])
    return np.array([[bound(vertices[vertices[:, 0] == one, 1]) for one in x] for bound in (min, max)])


def written(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def names(figure: Figure) -> list[str]:
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("draw", [accuracy_figure, gap_figure])
def test_lines_are_means_and_bands_sample_deviations_over_seeds(draw: Callable[..., Figure], tmp_path: Path) -> None:
    histories = {
        "uniform": [accuracies(seed) for seed in range(5)],
        "dgl": [accuracies(seed + 9) for seed in range(3)],
    }
    runs = [run for method, some in histories.items() for run in made(tmp_path, method, some)]
    figure = draw(runs[::-1])  # the order of seeds does not count

    def figures_at(method: str, head: str, epoch: int) -> list[float]:
        lines = [history[epoch] for history in histories[method]]
        return [
            100 * (one[f"acc{head}"] if draw is accuracy_figure else one[f"train_acc{head}"] - one[f"acc{head}"])
            for one in lines
        ]

    assert [axes.get_title() for axes in figure.axes] == ["joint head", "audio head", "visual head"]
    for title, head in (("joint head", ""), ("audio head", "_audio"), ("visual head", "_visual")):
        axes = panel(figure, title)
        for place, method in enumerate(("dgl", "uniform")):
            x, mean = line(axes, method)
            assert x.tolist() == [1, 2, 3, 4]
            assert mean == pytest.approx([statistics.mean(figures_at(method, head, e)) for e in range(4)])
            spread = np.array([statistics.stdev(figures_at(method, head, e)) for e in range(4)])
            np.testing.assert_allclose(band(axes, place), [mean - spread, mean + spread], rtol=1e-9)
    assert names(figure) == ["dgl", "uniform"]
    assert "test" in figure.axes[0].get_ylabel() and figure.axes[0].get_xlabel() == "epoch"


def test_it_says_data_set_seeds_protocol_and_that_it_is_the_test_set(tmp_path: Path) -> None:
    runs = made(tmp_path, "uniform", [accuracies(seed) for seed in range(3)])
    text = written(accuracy_figure(runs))
    assert "CREMA-D" in text and "Seeds 0–2." in text and "test set after every epoch" in text
    assert "Protocol validation (10% of the training set held out)." in text and "SYNTHETIC" not in text
    other = made(tmp_path, "joint", [accuracies(0)], protocol="paper")
    text = written(accuracy_figure([*runs, *other]))
    assert "Seeds: uniform 0–2; joint 0." in text
    assert "paper (trained on the whole training set): joint" in text
    assert "held out): uniform" in text
    assert "standard deviation" in text
    assert "One seed: no band." in written(accuracy_figure(other))


@pytest.mark.parametrize("draw", [accuracy_figure, gap_figure])
def test_synthetic_data_are_called_so(draw: Callable[..., Figure], tmp_path: Path) -> None:
    figure = draw(made(tmp_path, "uniform", [accuracies(0)], dataset="synthetic"))
    assert " ".join(DATASETS["synthetic"].banner.split()) in written(figure)
    top = max(figure.texts, key=lambda text: text.get_position()[1])
    assert top.get_text().startswith("SYNTHETIC")


def test_a_seed_alone_has_no_band(tmp_path: Path) -> None:
    history = accuracies(0)
    figure = accuracy_figure(made(tmp_path, "uniform", [history]))
    axes = panel(figure, "joint head")
    assert line(axes, "uniform")[1] == pytest.approx([100 * one["acc"] for one in history])
    assert not axes.collections


def test_untrained_heads_have_no_line_and_it_says_so(tmp_path: Path) -> None:
    runs = made(tmp_path, "joint", [accuracies(0, heads=False), accuracies(1, heads=False)])
    figure = accuracy_figure(runs)
    assert [axes.get_title() for axes in figure.axes] == ["joint head"] and "not trained" not in written(figure)
    runs += made(tmp_path, "uniform", [accuracies(2)])
    figure = accuracy_figure(runs)
    assert len(figure.axes) == 3 and "not trained: joint." in written(figure)
    assert [one.get_label() for one in panel(figure, "audio head").lines] == ["uniform"]
    assert names(figure) == ["joint", "uniform"]


def test_a_gap_in_one_seed_is_a_gap_in_the_mean(tmp_path: Path) -> None:
    histories = [accuracies(0), accuracies(1)]
    histories[1][2]["acc"] = None
    figure = accuracy_figure(made(tmp_path, "uniform", histories))
    assert np.isnan(line(panel(figure, "joint head"), "uniform")[1]).tolist() == [False, False, True, False]
    figure.draw_without_rendering()


def test_runs_of_other_lengths_have_their_common_epochs(tmp_path: Path) -> None:
    histories = [accuracies(0, epochs=6), accuracies(1, epochs=3)]
    runs = made(tmp_path, "uniform", histories) + made(tmp_path, "joint", [accuracies(2, epochs=5)])
    figure = accuracy_figure(runs)
    axes = panel(figure, "joint head")
    assert line(axes, "uniform")[1] == pytest.approx(
        [50 * (one["acc"] + other["acc"]) for one, other in zip(*histories, strict=False)]
    )
    assert line(axes, "joint").shape == (2, 5)
    text = written(figure)
    assert (
        "uniform: epochs 1 to 3, which all its seeds have finished (seed 0: 6)." in text and "joint: epochs" not in text
    )


def test_modalities_are_any(tmp_path: Path) -> None:
    names_ = ("text", "audio", "vision", "touch")
    runs = made(tmp_path, "uniform", [accuracies(0, modalities=names_)], dataset="mosi")
    runs += made(
        tmp_path, "unimodal", [accuracies(0, modalities=("touch",))], dataset="mosi", options={"modality": "touch"}
    )
    figure = accuracy_figure(runs)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["joint head", *(f"{name} head" for name in names_)]
    figure.draw_without_rendering()
    assert shown[0].get_position().y0 > shown[4].get_position().y1  # the fifth begins a second row
    assert len(names(figure)) == 2
    assert len(panel(figure, "touch head").lines) == 2 and len(panel(figure, "text head").lines) == 1


def test_settings_that_differ_are_said(tmp_path: Path) -> None:
    runs = made(tmp_path, "uniform", [accuracies(0)]) + made(tmp_path, "joint", [accuracies(1)], learning_rate=0.1)
    assert "The runs differ in learning_rate, too." in written(accuracy_figure(runs))
    assert "differ in" not in written(accuracy_figure(runs[:1]))


def test_runs_of_two_data_sets_or_none_are_refused(tmp_path: Path) -> None:
    runs = made(tmp_path, "uniform", [accuracies(0)]) + made(tmp_path, "joint", [accuracies(1)], dataset="ave")
    for draw in (accuracy_figure, gap_figure):
        with pytest.raises(InputError, match=r"uniform-0 is of data set cremad and .*joint-0 of ave"):
            draw(runs)
        with pytest.raises(InputError, match="no run"):
            draw([])
