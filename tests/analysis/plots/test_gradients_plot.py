"""The plot of one run's gradients, from known records."""

from pathlib import Path
from typing import Any

import figures
import numpy as np
import pytest
from made_runs import accuracies, options_of, write_gradients, write_run
from matplotlib.figure import Figure
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots import style
from mmpareto.analysis.plots.gradients import gradients_plot, quartiles
from mmpareto.errors import InputError

pytest_plugins = ["plot_fixtures"]

ALL_ROWS = ["cosine", "cosine by layer", "in conflict", "norm", "weight α", "λ"]


def run_of(folder: Path, dataset: str = "cremad") -> Path:
    options = {"method": "mmpareto", "variant": "per_tensor", "options": options_of()}
    return write_run(folder, accuracies(0), random_seed=7, dataset=dataset, **options)


def plot(folder: Path, dataset: str = "cremad", **records: Any) -> Figure:
    """The plot of a new run that recorded random gradients."""
    write_gradients(run_of(folder, dataset), 0, **records)
    return gradients_plot(FinishedRun(folder))


def labels(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def line(figure: Figure, row: str, label: str) -> np.ndarray:
    """The y values of a line in the first column."""
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel() == row]
    (result,) = [one for one in axes.lines if str(one.get_label()).startswith(label)]
    return np.asarray(result.get_ydata())


def test_lines_are_norms_and_cosines_of_the_whole_gradients(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run")
    truth = write_gradients(folder, 0)["audio"]
    figure = gradients_plot(FinishedRun(folder))
    joint, unimodal = truth[:, 0], truth[:, 1]
    norms = np.linalg.norm(joint, axis=1), np.linalg.norm(unimodal, axis=1)
    assert line(figure, "norm", "joint") == pytest.approx(norms[0])
    assert line(figure, "norm", "unimodal") == pytest.approx(norms[1])
    assert line(figure, "cosine", "whole") == pytest.approx((joint * unimodal).sum(1) / (norms[0] * norms[1]))
    arrays = np.load(folder / "gradients.npz")
    layers = arrays["cosine_audio"]
    median = np.sort(layers, axis=1)[:, 1]  # of three layers
    assert line(figure, "cosine", "layers") == pytest.approx(median)
    assert line(figure, "in conflict", "share") == pytest.approx((layers < 0).sum(1) / 3)
    assert line(figure, "weight α", "unimodal") == pytest.approx(np.sort(arrays["weights_audio"][..., 1], axis=1)[:, 1])
    assert line(figure, "λ", "λ") == pytest.approx(np.sort(arrays["rescale_audio"], axis=1)[:, 1])
    (image,) = [image for axes in figure.axes if axes.get_ylabel() == "cosine by layer" for image in axes.images]
    np.testing.assert_allclose(image.get_array(), layers.T)
    colours = {one.get_color() for axes in figure.axes for one in axes.lines}
    assert {style.JOINT, style.UNIMODAL, style.MMPARETO} <= colours
    text = " ".join(text.get_text() for text in figure.texts)
    assert "CREMA-D" in text and "MMPareto, seed 7" in text and "SYNTHETIC" not in text


@pytest.mark.parametrize(
    ("records", "rows"),
    [
        ({}, ALL_ROWS),
        ({"groups": None}, ALL_ROWS[:4]),
        ({"groups": None, "alone": True}, ["norm"]),
        ({"steps": 1}, ALL_ROWS),
    ],
)
def test_each_recorded_metric_has_a_row(records: dict[str, Any], rows: list[str], tmp_path: Path) -> None:
    figure = plot(tmp_path / "run", **records)
    assert [label for label in labels(figure) if label in rows] == rows
    assert set(labels(figure)) - set(rows) <= {"cosine"}  # the label of the colour bar
    figure.draw_without_rendering()


def test_plots_of_synthetic_data_have_the_warning(tmp_path: Path) -> None:
    figure = plot(tmp_path / "run", dataset="synthetic", groups=None, alone=True)
    assert "SYNTHETIC" in max(figure.texts, key=lambda text: text.get_position()[1]).get_text()


def test_points_of_a_long_run_are_medians_of_successive_records(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run")
    norms = np.linalg.norm(write_gradients(folder, 0, steps=500)["audio"][:, 0], axis=1)
    figure = gradients_plot(FinishedRun(folder))
    expected = [np.sort(norms[start : start + 3])[1] for start in range(0, 498, 3)] + [norms[498:].mean()]
    assert line(figure, "norm", "joint") == pytest.approx(expected)
    assert "3 records" in " ".join(text.get_text() for text in figure.texts)


def test_quartiles_ignore_nonfinite_values() -> None:
    nan, inf = float("nan"), float("inf")
    values = np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [nan, 8.0, inf, nan, -inf], [nan] * 5])
    lower, median, upper = quartiles(values)
    np.testing.assert_array_equal([lower, median, upper], [[2, 8, nan], [3, 8, nan], [4, 8, nan]])
    assert [part.tolist() for part in quartiles(values[:2], bundle=2)] == [[2.25], [3.5], [4.75]]


def test_zeros_and_overflows_leave_gaps_and_weights_above_1_are_visible(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run")
    write_gradients(folder, 0)
    content = dict(np.load(folder / "gradients.npz"))
    for name in ("norm_joint_audio", "norm_unimodal_audio", "cosine_audio"):
        content[name][0] = np.nan if "cosine" in name else np.inf
        content[name][1] = 0
    np.savez(folder / "gradients.npz", **(content | {"weights_visual": np.full((6, 1, 2), 3.5)}))
    figure = gradients_plot(FinishedRun(folder))
    figure.draw_without_rendering()
    assert np.isnan(line(figure, "norm", "joint")).tolist() == [True, True, False, False, False, False]
    whole = line(figure, "cosine", "whole")
    assert np.isnan(whole[0]) and whole[1] == 0
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel() == "weight α"]  # shared with the second column
    low, high = axes.get_ylim()
    assert low < 0 and high > 3.5


def test_many_layers_are_labelled_by_their_blocks(tmp_path: Path) -> None:
    names = [f"block{number // 10}.layer{number % 10}" for number in range(40)]
    layers = {f"layers_{modality}": np.array(names) for modality in ("audio", "visual")}
    arrays = {
        f"{key}_{modality}": np.full((6, 40), 0.5)
        for key in ("cosine", "norm_joint", "norm_unimodal")
        for modality in ("audio", "visual")
    }
    figure = plot(tmp_path / "run", groups=None, **layers, **arrays)
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel() == "cosine by layer"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"block{number}" for number in range(4)]
    assert axes.get_yticks().tolist() == [0, 10, 20, 30]


def test_the_command_line(tmp_path: Path, unsaved: list[Figure], capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_of(tmp_path / "run")
    write_gradients(folder, 0, groups=None, alone=True)
    assert figures.main(["gradients", "--run", str(folder)]) == 0
    assert capsys.readouterr().out.split() == [str(folder / "gradients.png"), str(folder / "gradients.pdf")]
    assert len(unsaved) == 1
    (folder / "gradients.npz").unlink()
    with pytest.raises(InputError, match="--record_gradients N"):
        figures.main(["gradients", "--run", str(folder)])
