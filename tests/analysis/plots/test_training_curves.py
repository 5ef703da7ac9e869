"""Accuracies and gradients over training, compared with means over seeds computed here."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import LAYERS, accuracies, options_of, write_gradients, write_run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots import gradient_series, training_curves
from mmpareto.analysis.plots.groups import SeedGroup, group_runs
from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.training.method_labels import NAMES

pytest_plugins = ["plot_fixtures"]


def fresh_groups(runs: Sequence[FinishedRun]) -> list[SeedGroup]:
    """The groups, read from the folders as they are now."""
    return group_runs(FinishedRun(run.folder) for run in runs)


def accuracy_plot(runs: Sequence[FinishedRun]) -> Figure:
    return training_curves.accuracy_plot(fresh_groups(runs)).finished()


def gap_plot(runs: Sequence[FinishedRun]) -> Figure:
    return training_curves.gap_plot(fresh_groups(runs)).finished()


def conflict_plot(runs: Sequence[FinishedRun]) -> Figure:
    return training_curves.conflict_plot(fresh_groups(runs)).finished()


def magnitude_plot(runs: Sequence[FinishedRun]) -> Figure:
    return training_curves.magnitude_plot(fresh_groups(runs)).finished()


def weights_plot(runs: Sequence[FinishedRun]) -> Figure:
    return training_curves.weights_plot(fresh_groups(runs)).finished()


OF_ACCURACY = (accuracy_plot, gap_plot)
OF_GRADIENTS = (conflict_plot, magnitude_plot, weights_plot)


def made(folder: Path, method: str, histories: Sequence[list[dict[str, Any]]], **more: Any) -> list[FinishedRun]:
    """Runs with seeds 0, 1, …"""
    return [
        FinishedRun(write_run(folder / f"{method}-{seed}", history, method=method, random_seed=seed, **more))
        for seed, history in enumerate(histories)
    ]


def panel(figure: Figure, title: str) -> Axes:
    (axes,) = [axes for axes in figure.axes if axes.get_title() == title]
    return axes


def line(axes: Axes, label: str) -> np.ndarray:
    """x and y values of a line, (2, E)."""
    (result,) = [one for one in axes.lines if one.get_label() == label]
    return np.asarray(result.get_data(), dtype=float)


def band(axes: Axes, index: int = 0) -> np.ndarray:
    """Lower and upper edge of a band, (2, E)."""
    vertices = np.concatenate([path.vertices for path in axes.collections[index].get_paths()])
    x = np.unique(vertices[:, 0])
    return np.array([[bound(vertices[vertices[:, 0] == one, 1]) for one in x] for bound in (min, max)])


def written(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def names(figure: Figure) -> list[str]:
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("draw", OF_ACCURACY)
def test_lines_are_means_and_bands_sample_deviations_over_seeds(draw: Callable[..., Figure], tmp_path: Path) -> None:
    histories = {
        "uniform": [accuracies(seed) for seed in range(5)],
        "dgl": [accuracies(seed + 9) for seed in range(3)],
    }
    runs = [run for method, some in histories.items() for run in made(tmp_path, method, some)]
    figure = draw(runs[::-1])  # the order of runs does not matter

    def values_at(method: str, head: str, epoch: int) -> list[float]:
        lines = [history[epoch] for history in histories[method]]
        return [
            100 * (one[f"acc{head}"] if draw is accuracy_plot else one[f"train_acc{head}"] - one[f"acc{head}"])
            for one in lines
        ]

    assert [axes.get_title() for axes in figure.axes] == ["joint head", "audio head", "visual head"]
    for title, head in (("joint head", ""), ("audio head", "_audio"), ("visual head", "_visual")):
        axes = panel(figure, title)
        for index, method in enumerate(("dgl", "uniform")):
            x, mean = line(axes, NAMES[method])
            assert x.tolist() == [1, 2, 3, 4]
            assert mean == pytest.approx([statistics.mean(values_at(method, head, e)) for e in range(4)])
            spread = np.array([statistics.stdev(values_at(method, head, e)) for e in range(4)])
            np.testing.assert_allclose(band(axes, index), [mean - spread, mean + spread], rtol=1e-9)
    assert names(figure) == ["DGL", "Uniform"]
    assert "test" in figure.axes[0].get_ylabel() and figure.axes[0].get_xlabel() == "epoch"


@pytest.mark.parametrize("draw", OF_ACCURACY)
def test_plots_of_synthetic_data_have_the_warning(draw: Callable[..., Figure], tmp_path: Path) -> None:
    figure = draw(made(tmp_path, "uniform", [accuracies(0)], dataset="synthetic"))
    assert " ".join(DATASETS["synthetic"].banner.split()) in written(figure)
    top = max(figure.texts, key=lambda text: text.get_position()[1])
    assert top.get_text().startswith("SYNTHETIC")


def test_a_single_seed_has_no_band(tmp_path: Path) -> None:
    history = accuracies(0)
    figure = accuracy_plot(made(tmp_path, "uniform", [history]))
    axes = panel(figure, "joint head")
    assert line(axes, "Uniform")[1] == pytest.approx([100 * one["acc"] for one in history])
    assert not axes.collections


def test_untrained_heads_have_no_line_but_a_note(tmp_path: Path) -> None:
    runs = made(tmp_path, "joint", [accuracies(0, heads=False), accuracies(1, heads=False)])
    figure = accuracy_plot(runs)
    assert [axes.get_title() for axes in figure.axes] == ["joint head"] and "not trained" not in written(figure)
    runs += made(tmp_path, "uniform", [accuracies(2)])
    figure = accuracy_plot(runs)
    assert len(figure.axes) == 3 and "not trained: Joint loss." in written(figure)
    assert [one.get_label() for one in panel(figure, "audio head").lines] == ["Uniform"]
    assert names(figure) == ["Joint loss", "Uniform"]


def test_a_gap_in_one_seed_is_a_gap_in_the_mean(tmp_path: Path) -> None:
    histories = [accuracies(0), accuracies(1)]
    histories[1][2]["acc"] = None
    figure = accuracy_plot(made(tmp_path, "uniform", histories))
    assert np.isnan(line(panel(figure, "joint head"), "Uniform")[1]).tolist() == [False, False, True, False]
    figure.draw_without_rendering()


def test_runs_of_different_lengths_have_their_common_epochs(tmp_path: Path) -> None:
    histories = [accuracies(0, epochs=6), accuracies(1, epochs=3)]
    runs = made(tmp_path, "uniform", histories) + made(tmp_path, "joint", [accuracies(2, epochs=5)])
    figure = accuracy_plot(runs)
    axes = panel(figure, "joint head")
    assert line(axes, "Uniform")[1] == pytest.approx(
        [50 * (one["acc"] + other["acc"]) for one, other in zip(*histories, strict=False)]
    )
    assert line(axes, "Joint loss").shape == (2, 5)
    assert "Uniform: epochs 1 to 3" in written(figure) and "Joint loss: epochs" not in written(figure)


def test_any_modalities_are_drawn(tmp_path: Path) -> None:
    names_ = ("text", "audio", "vision", "touch")
    runs = made(tmp_path, "uniform", [accuracies(0, modalities=names_)], dataset="mosi")
    runs += made(
        tmp_path, "unimodal", [accuracies(0, modalities=("touch",))], dataset="mosi", options={"modality": "touch"}
    )
    figure = accuracy_plot(runs)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["joint head", *(f"{name} head" for name in names_)]
    figure.draw_without_rendering()
    assert shown[0].get_position().y0 > shown[4].get_position().y1  # the fifth begins a second row
    assert len(names(figure)) == 2
    assert len(panel(figure, "touch head").lines) == 2 and len(panel(figure, "text head").lines) == 1


METHODS = ("joint", "uniform", "dgl", "ogm")


def test_many_groups_have_a_row_each_with_their_range_in_grey(tmp_path: Path) -> None:
    histories = {method: [accuracies(10 * n + seed) for seed in range(2)] for n, method in enumerate(METHODS)}
    figure = accuracy_plot([run for method, some in histories.items() for run in made(tmp_path, method, some)])
    rows = [figure.axes[3 * n : 3 * n + 3] for n in range(len(METHODS))]
    assert [row[0].get_ylabel() for row in rows] == [NAMES[method] for method in METHODS]
    assert [axes.get_title().split("\n")[0] for axes in rows[0]] == ["joint head", "audio head", "visual head"]
    assert not any(axes.get_legend() for axes in figure.axes)
    for method, row in zip(METHODS, rows, strict=True):
        means = [[50 * (a["acc"] + b["acc"]) for a, b in zip(*histories[one], strict=True)] for one in METHODS]
        assert line(row[0], NAMES[method])[1] == pytest.approx(means[METHODS.index(method)])
        assert band(row[0]) == pytest.approx(np.array([np.min(means, axis=0), np.max(means, axis=0)]))
        assert len(row[0].collections) == 2  # the range and the method's own band
    assert "In grey" in written(figure)


# Gradients

MEANS = {  # metrics of an epoch, of methods that inspect gradients
    f"{key}_{modality}": start + 0.1 * index
    for index, modality in enumerate(("audio", "visual"))
    for key, start in (("cosine", -0.3), ("conflict_rate", 0.2), ("norm_joint", 1.0), ("norm_unimodal", 2.0))
}


def recorded(folder: Path, method: str = "uniform", seeds: int = 3, **more: Any) -> tuple[list[FinishedRun], list[Any]]:
    """Runs with seeds 0, 1, …, and their gradients."""
    truths, folders = [], []
    options = options_of() if method == "mmpareto" else {}
    arguments = {"variant": "per_tensor"} if method == "mmpareto" else {}
    for seed in range(seeds):
        run = folder / f"{method}-{seed}"
        folders.append(write_run(run, accuracies(seed), method=method, options=options, random_seed=seed, **arguments))
        truths.append(write_gradients(run, seed, **more))
    return [FinishedRun(folder) for folder in folders], truths


def means(folder: Path, method: str = "mmpareto", epochs: int = 3, **more: Any) -> list[FinishedRun]:
    """A run that has means over epochs only, which grow by 0.1 per epoch."""
    history = [
        metrics | {key: value + 0.1 * epoch for key, value in MEANS.items()}
        for epoch, metrics in enumerate(accuracies(0, epochs))
    ]
    options = {"variant": "per_tensor", "options": options_of()} if method == "mmpareto" else {}
    return [FinishedRun(write_run(folder / f"{method}-means", history, method=method, **options, **more))]


def cosines(truth: Any, modality: str) -> np.ndarray:
    joint, unimodal = truth[modality][:, 0], truth[modality][:, 1]
    return (joint * unimodal).sum(1) / np.linalg.norm(joint, axis=1) / np.linalg.norm(unimodal, axis=1)


def conflicting_layers(truth: Any, modality: str) -> np.ndarray:
    """The share of layers in conflict per record in percent, (R,)."""
    pieces = np.split(truth[modality], np.cumsum([*LAYERS.values()])[:-1], axis=2)
    return 100 * np.mean([(piece[:, 0] * piece[:, 1]).sum(1) < 0 for piece in pieces], axis=0)


def test_conflict_shows_the_cosine_of_whole_encoders_and_the_share_of_layers(tmp_path: Path) -> None:
    runs, truths = recorded(tmp_path)
    figure = conflict_plot(runs)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["audio", "visual"]
    for column, modality in enumerate(("audio", "visual")):
        for axes, quantity in ((figure.axes[column], cosines), (figure.axes[2 + column], conflicting_layers)):
            values = np.array([quantity(truth, modality) for truth in truths])
            x, mean = line(axes, "Uniform")
            assert x.tolist() == [1, 11, 21, 31, 41, 51]
            np.testing.assert_allclose(mean, values.mean(0), atol=1e-6)
            spread = np.sqrt(((values - values.mean(0)) ** 2).sum(0) / 2)
            np.testing.assert_allclose(band(axes), [mean - spread, mean + spread], atol=1e-6)
    above = figure.axes[0]
    (marked,) = [patch for patch in above.patches if patch.get_height() > 0 and patch.get_y() < 0]
    assert marked.get_y() + marked.get_height() == 0 and above.get_ylim()[0] < 0
    assert any(text.get_text() == "conflict" for text in above.texts)
    assert figure.axes[2].get_xlabel() == "training step" and "recorded step" in written(figure)


def test_conflicts_of_many_groups_have_a_row_each(tmp_path: Path) -> None:
    runs, truths = zip(
        *(recorded(tmp_path, method, seeds=1) for method in ("uniform", "dgl", "pareto", "ogm")), strict=True
    )
    figure = conflict_plot([run for (run,) in runs])
    assert len(figure.axes) == 4 * 4
    for row, (truth,) in enumerate(truths):
        own = [figure.axes[4 * row + column].lines[-1].get_ydata() for column in range(4)]
        expected = [quantity(truth, name) for quantity in (cosines, conflicting_layers) for name in ("audio", "visual")]
        np.testing.assert_allclose(own, expected, atol=1e-5)


def test_magnitude_shows_geometric_means_of_the_norms(tmp_path: Path) -> None:
    runs, truths = recorded(tmp_path)
    figure = magnitude_plot(runs)
    for column, modality in enumerate(("audio", "visual")):
        axes = figure.axes[column]
        assert axes.get_yscale() == "log" and axes.get_title() == f"{modality}\nnorm"
        for index, objective in enumerate(("joint", "unimodal")):
            norms = np.array([np.linalg.norm(truth[modality][:, index], axis=1) for truth in truths])
            mean = norms.prod(0) ** (1 / 3)
            np.testing.assert_allclose(line(axes, f"{objective} loss")[1], mean, rtol=1e-6)
            factor = np.exp(np.log(norms).std(0, ddof=1))
            np.testing.assert_allclose(band(axes, index), [mean / factor, mean * factor], rtol=1e-6)
    assert "geometric" in written(figure) and names(figure) == ["joint loss", "unimodal loss"]
    assert figure.axes[0].get_ylabel() == "Uniform"


def test_weights_are_medians_and_quartiles_over_groups_and_seeds(tmp_path: Path) -> None:
    runs, _ = recorded(tmp_path, "mmpareto", groups=7)
    figure = weights_plot(runs)
    for column, modality in enumerate(("audio", "visual")):
        axes = figure.axes[column]
        for index, objective in enumerate(("joint", "unimodal")):
            every = [np.load(run.folder / "gradients.npz")[f"weights_{modality}"][..., index] for run in runs]
            # There are 21 values per step, so the quartiles are the 6th and the 16th.
            ordered = np.sort(np.concatenate(every, axis=1), axis=1)
            np.testing.assert_allclose(line(axes, objective)[1], ordered[:, 10])
            np.testing.assert_allclose(band(axes, 2 * index + 1), ordered[:, [5, 15]].T)
            inner = np.percentile(ordered, (2.5, 97.5), axis=1)
            np.testing.assert_allclose(band(axes, 2 * index), inner)
    assert figure.axes[0].get_ylabel() == "MMPareto" and "weight α" in figure.axes[0].get_title()


def test_weights_over_whole_encoders_are_one_group(tmp_path: Path) -> None:
    runs, _ = recorded(tmp_path, "pareto", seeds=1, groups=1)
    weights = np.load(runs[0].folder / "gradients.npz")["weights_audio"][:, 0, 0]
    np.testing.assert_allclose(line(weights_plot(runs).axes[0], "joint")[1], weights)


def test_without_records_epoch_means_are_drawn(tmp_path: Path) -> None:
    runs = means(tmp_path)
    figure = conflict_plot(runs)
    x, values = line(figure.axes[1], "MMPareto")
    assert x.tolist() == [1, 2, 3] and values == pytest.approx([-0.2, -0.1, 0.0])
    assert line(figure.axes[2], "MMPareto")[1] == pytest.approx([20, 30, 40])
    assert figure.axes[2].get_xlabel() == "epoch" and "mean over an epoch's steps" in written(figure)
    figure = magnitude_plot(runs)
    assert line(figure.axes[0], "unimodal loss")[1] == pytest.approx([2.0, 2.1, 2.2])


def test_records_become_epoch_means_if_another_run_has_only_those(tmp_path: Path) -> None:
    runs, (truth,) = recorded(tmp_path, seeds=1)
    figure = conflict_plot([*runs, *means(tmp_path)])
    x, values = line(figure.axes[0], "Uniform")
    cosine = cosines(truth, "audio")
    expected = [(cosine[2 * epoch] + cosine[2 * epoch + 1]) / 2 for epoch in range(3)] + [np.nan]
    assert x.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert line(figure.axes[0], "MMPareto")[1] == pytest.approx([-0.3, -0.2, -0.1])


def test_points_of_a_long_run_summarise_successive_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_series, "MAX_POINTS", 3)
    runs, truths = recorded(tmp_path, "mmpareto", seeds=2, steps=5, groups=3)
    x, mean = line(conflict_plot(runs).axes[0], "MMPareto")
    both = np.mean([cosines(truth, "audio") for truth in truths], axis=0)
    assert x.tolist() == [6, 26, 41]
    np.testing.assert_allclose(mean, [both[:2].mean(), both[2:4].mean(), both[4]], atol=1e-6)
    figure = weights_plot(runs)
    every = [np.load(run.folder / "gradients.npz")["weights_audio"][..., 0] for run in runs]
    pooled = np.stack(every)[:, 2:4].ravel()
    assert line(figure.axes[0], "joint")[1][1] == pytest.approx(np.median(pooled))
    assert "2 recorded steps" in written(figure)


def test_only_steps_that_all_seeds_recorded_are_drawn(tmp_path: Path) -> None:
    runs, truths = recorded(tmp_path, seeds=2)
    write_gradients(runs[1].folder, 1, steps=4, every=20)  # 1, 21, 41, 61
    x, mean = line(conflict_plot(runs).axes[0], "Uniform")
    assert x.tolist() == [1, 21, 41]
    other = cosines(write_gradients(runs[1].folder, 1, steps=4, every=20), "audio")
    np.testing.assert_allclose(mean, (cosines(truths[0], "audio")[::2] + other[:3]) / 2, atol=1e-6)
    content = dict(np.load(runs[1].folder / "gradients.npz"))
    np.savez(runs[1].folder / "gradients.npz", **(content | {"step": content["step"] + 1}))
    with pytest.raises(InputError, match=r"uniform-0, .*uniform-1 recorded no step in common"):
        conflict_plot(runs)


def test_nan_and_zeros_leave_gaps(tmp_path: Path) -> None:
    runs, _ = recorded(tmp_path, "mmpareto", seeds=1)
    path = runs[0].folder / "gradients.npz"
    content = dict(np.load(path))
    content["norm_joint_audio"][1], content["weights_audio"][2], content["cosine_audio"][3] = 0, np.nan, np.nan
    np.savez(path, **content)
    figures = [draw(runs) for draw in OF_GRADIENTS]
    for figure in figures:
        figure.draw_without_rendering()
    assert np.isnan(line(figures[1].axes[0], "joint loss")[1]).tolist() == [False, True, False, False, False, False]
    assert np.isnan(line(figures[2].axes[0], "joint")[1]).tolist() == [False, False, True, False, False, False]
    assert np.isnan(line(figures[0].axes[0], "MMPareto")[1]).tolist() == [False, False, False, True, False, False]


def test_methods_without_such_gradients_are_left_out_and_named(tmp_path: Path) -> None:
    both, _ = recorded(tmp_path, "mmpareto", seeds=1)
    alone, _ = recorded(tmp_path, "joint", seeds=1, alone=True, groups=None)
    plain, _ = recorded(tmp_path, "uniform", seeds=1, groups=None)
    figure = conflict_plot([*alone, *plain, *both])
    assert names(figure) == ["Uniform", "MMPareto"]
    assert "Left out, as no such gradients were recorded: Joint loss." in written(figure)
    figure = weights_plot([*alone, *plain, *both])
    assert len(figure.axes) == 2 and "no such gradients were recorded: Joint loss, Uniform." in written(figure)
    figure = magnitude_plot([*alone, *both])
    assert len(figure.axes) == 4 and "Left out" not in written(figure)
    assert [one.get_label() for one in figure.axes[0].lines] == ["joint loss"]
    for draw, runs in ((conflict_plot, alone), (weights_plot, [*alone, *plain])):
        with pytest.raises(InputError, match=r"joint-0 and all others .*--record_gradients N"):
            draw(runs)
    (alone[0].folder / "gradients.npz").unlink()
    assert "Joint loss." in written(conflict_plot([*alone, *both]))


@pytest.mark.parametrize("draw", OF_GRADIENTS)
def test_missing_records_are_refused_with_the_flag_that_records_them(draw: Any, tmp_path: Path) -> None:
    runs, _ = recorded(tmp_path, "mmpareto", seeds=2)
    (runs[1].folder / "gradients.npz").unlink()
    with pytest.raises(InputError, match=r"mmpareto-1 .*--record_gradients N") as caught:
        draw(runs)
    assert "\n" not in str(caught.value) and "mmpareto-0" not in str(caught.value)
    (runs[1].folder / "gradients.npz").write_bytes(b"PK torn")
    with pytest.raises(InputError, match="damaged"):
        draw(runs)


@pytest.mark.parametrize("draw", OF_GRADIENTS)
def test_gradients_on_synthetic_data_have_the_warning(draw: Any, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x", accuracies(0), dataset="synthetic")
    write_gradients(folder, 0)
    text = written(draw([FinishedRun(folder)]))
    assert "SYNTHETIC" in text and "Seed 0." in text and "Protocol validation" in text


def test_real_runs_are_drawn(trained_runs: list[Path]) -> None:
    runs = [FinishedRun(folder) for folder in trained_runs]
    assert all(run.is_finished and run.gradients is not None for run in runs)
    for draw in OF_ACCURACY:
        assert names(draw(runs)) == ["Uniform", "Joint loss", "MMPareto"]
    assert names(conflict_plot(runs)) == ["Uniform", "MMPareto"]
    assert names(magnitude_plot(runs)) == ["joint loss", "unimodal loss"]
    assert "no such gradients were recorded: Uniform, Joint loss." in written(weights_plot(runs))


def test_runs_without_an_accuracy_are_refused(tmp_path: Path) -> None:
    history = [{key: None if key.startswith("acc") else value for key, value in one.items()} for one in accuracies(0)]
    for runs in (
        made(tmp_path / "one", "uniform", [history]),
        [r for m in METHODS for r in made(tmp_path, m, [history])],
    ):
        with pytest.raises(InputError, match="no accuracy of any epoch"):
            accuracy_plot(runs)
