"""Conflict, magnitude and weights over training, from gradients that the test knows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import LAYERS, accuracies, options_of, write_gradients, write_run
from mmpareto.analysis.pictures import gradient_series
from mmpareto.analysis.pictures.curves import conflict_figure, magnitude_figure, weights_figure
from mmpareto.analysis.pictures.runs import Run, read_runs
from mmpareto.errors import InputError
from test_picture_curves import band, line, names, written

FIGURES = (conflict_figure, magnitude_figure, weights_figure)
MEANS = {  # what metrics.jsonl has of the methods that look at gradients
    f"{key}_{modality}": start + 0.1 * place
    for place, modality in enumerate(("audio", "visual"))
    for key, start in (("cosine", -0.3), ("conflict_rate", 0.2), ("norm_joint", 1.0), ("norm_unimodal", 2.0))
}


def recorded(folder: Path, method: str = "uniform", seeds: int = 3, **more: Any) -> tuple[list[Run], list[Any]]:
    """Runs with seeds 0, 1, …, and their gradients."""
    truths, folders = [], []
    options = options_of() if method == "mmpareto" else {}
    arguments = {"variant": "per_tensor"} if method == "mmpareto" else {}
    for seed in range(seeds):
        place = folder / f"{method}-{seed}"
        folders.append(
            write_run(place, accuracies(seed), method=method, options=options, random_seed=seed, **arguments)
        )
        truths.append(write_gradients(place, seed, **more))
    return read_runs(folders), truths


def means(folder: Path, method: str = "mmpareto", epochs: int = 3, **more: Any) -> list[Run]:
    """A run that has means over epochs only: they grow by 0.1 an epoch."""
    history = [
        figures | {key: value + 0.1 * epoch for key, value in MEANS.items()}
        for epoch, figures in enumerate(accuracies(0, epochs))
    ]
    options = {"variant": "per_tensor", "options": options_of()} if method == "mmpareto" else {}
    return read_runs([write_run(folder / f"{method}-means", history, method=method, **options, **more)])


def cosines(truth: Any, modality: str) -> np.ndarray:
    joint, unimodal = truth[modality][:, 0], truth[modality][:, 1]
    return (joint * unimodal).sum(1) / np.linalg.norm(joint, axis=1) / np.linalg.norm(unimodal, axis=1)


def conflicting_layers(truth: Any, modality: str) -> np.ndarray:
    """(R,) percent."""
    pieces = np.split(truth[modality], np.cumsum([*LAYERS.values()])[:-1], axis=2)
    return 100 * np.mean([(piece[:, 0] * piece[:, 1]).sum(1) < 0 for piece in pieces], axis=0)


def test_conflict_shows_the_cosine_of_whole_encoders_and_the_share_of_layers(tmp_path: Path) -> None:
    runs, truths = recorded(tmp_path)
    figure = conflict_figure(runs)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["audio", "visual"]
    for column, modality in enumerate(("audio", "visual")):
        for axes, of in ((figure.axes[column], cosines), (figure.axes[2 + column], conflicting_layers)):
            values = np.array([of(truth, modality) for truth in truths])
            x, mean = line(axes, "uniform")
            assert x.tolist() == [1, 11, 21, 31, 41, 51]
            np.testing.assert_allclose(mean, values.mean(0), atol=1e-6)
            spread = np.sqrt(((values - values.mean(0)) ** 2).sum(0) / 2)
            np.testing.assert_allclose(band(axes), [mean - spread, mean + spread], atol=1e-6)
    above = figure.axes[0]
    (marked,) = [patch for patch in above.patches if patch.get_height() > 0 and patch.get_y() < 0]
    assert marked.get_y() + marked.get_height() == 0 and above.get_ylim()[0] < 0
    assert any(text.get_text() == "conflict" for text in above.texts)
    assert figure.axes[2].get_xlabel() == "training step" and "recorded step" in written(figure)


def test_magnitude_shows_geometric_means_of_the_norms(tmp_path: Path) -> None:
    runs, truths = recorded(tmp_path)
    figure = magnitude_figure(runs)
    for column, modality in enumerate(("audio", "visual")):
        axes = figure.axes[column]
        assert axes.get_yscale() == "log" and axes.get_title() == modality
        for place, objective in enumerate(("joint", "unimodal")):
            norms = np.array([np.linalg.norm(truth[modality][:, place], axis=1) for truth in truths])
            mean = norms.prod(0) ** (1 / 3)
            np.testing.assert_allclose(line(axes, f"{objective} loss")[1], mean, rtol=1e-6)
            factor = np.exp(np.log(norms).std(0, ddof=1))
            np.testing.assert_allclose(band(axes, place), [mean / factor, mean * factor], rtol=1e-6)
    assert "geometric" in written(figure) and names(figure) == ["joint loss", "unimodal loss"]
    assert figure.axes[0].get_ylabel() == "uniform\nnorm"


def test_weights_are_medians_and_quartiles_over_groups_and_seeds(tmp_path: Path) -> None:
    runs, _ = recorded(tmp_path, "mmpareto", groups=7)
    figure = weights_figure(runs)
    for column, modality in enumerate(("audio", "visual")):
        axes = figure.axes[column]
        for place, objective in enumerate(("joint", "unimodal")):
            every = [np.load(run.folder / "gradients.npz")[f"weights_{modality}"][..., place] for run in runs]
            ordered = np.sort(np.concatenate(every, axis=1), axis=1)  # 21 values a step: quartiles are the 6th and 16th
            np.testing.assert_allclose(line(axes, objective)[1], ordered[:, 10])
            np.testing.assert_allclose(band(axes, 2 * place + 1), ordered[:, [5, 15]].T)
            inner = np.percentile(ordered, (2.5, 97.5), axis=1)
            np.testing.assert_allclose(band(axes, 2 * place), inner)
    assert figure.axes[0].get_ylabel() == "mmpareto\nweight α"


def test_weights_over_whole_encoders_are_one_group(tmp_path: Path) -> None:
    runs, _ = recorded(tmp_path, "pareto", seeds=1, groups=1)
    weights = np.load(runs[0].folder / "gradients.npz")["weights_audio"][:, 0, 0]
    np.testing.assert_allclose(line(weights_figure(runs).axes[0], "joint")[1], weights)


def test_without_records_epochs_means_are_drawn(tmp_path: Path) -> None:
    runs = means(tmp_path)
    figure = conflict_figure(runs)
    x, values = line(figure.axes[1], "mmpareto")
    assert x.tolist() == [1, 2, 3] and values == pytest.approx([-0.2, -0.1, 0.0])
    assert line(figure.axes[2], "mmpareto")[1] == pytest.approx([20, 30, 40])
    assert figure.axes[2].get_xlabel() == "epoch" and "mean over an epoch's steps" in written(figure)
    figure = magnitude_figure(runs)
    assert line(figure.axes[0], "unimodal loss")[1] == pytest.approx([2.0, 2.1, 2.2])


def test_where_one_run_has_epochs_alone_the_others_records_become_epochs_means(tmp_path: Path) -> None:
    runs, (truth,) = recorded(tmp_path, seeds=1)
    figure = conflict_figure([*runs, *means(tmp_path)])
    x, values = line(figure.axes[0], "uniform")
    cosine = cosines(truth, "audio")
    expected = [(cosine[2 * epoch] + cosine[2 * epoch + 1]) / 2 for epoch in range(3)] + [np.nan]
    assert x.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert line(figure.axes[0], "mmpareto")[1] == pytest.approx([-0.3, -0.2, -0.1])


def test_many_records_make_points_of_successive_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_series, "MOST_POINTS", 3)
    runs, truths = recorded(tmp_path, "mmpareto", seeds=2, steps=5, groups=3)
    x, mean = line(conflict_figure(runs).axes[0], "mmpareto")
    both = np.mean([cosines(truth, "audio") for truth in truths], axis=0)
    assert x.tolist() == [6, 26, 41]
    np.testing.assert_allclose(mean, [both[:2].mean(), both[2:4].mean(), both[4]], atol=1e-6)
    figure = weights_figure(runs)
    every = [np.load(run.folder / "gradients.npz")["weights_audio"][..., 0] for run in runs]
    pooled = np.stack(every)[:, 2:4].ravel()
    assert line(figure.axes[0], "joint")[1][1] == pytest.approx(np.median(pooled))
    assert "2 recorded steps" in written(figure)


def test_only_steps_that_all_seeds_recorded_count(tmp_path: Path) -> None:
    runs, truths = recorded(tmp_path, seeds=2)
    write_gradients(runs[1].folder, 1, steps=4, every=20)  # 1, 21, 41, 61
    x, mean = line(conflict_figure(runs).axes[0], "uniform")
    assert x.tolist() == [1, 21, 41]
    other = cosines(write_gradients(runs[1].folder, 1, steps=4, every=20), "audio")
    np.testing.assert_allclose(mean, (cosines(truths[0], "audio")[::2] + other[:3]) / 2, atol=1e-6)
    content = dict(np.load(runs[1].folder / "gradients.npz"))
    np.savez(runs[1].folder / "gradients.npz", **(content | {"step": content["step"] + 1}))
    with pytest.raises(InputError, match=r"uniform-0, .*uniform-1 recorded no step in common"):
        conflict_figure(runs)


def test_gaps_and_zeros_leave_gaps(tmp_path: Path) -> None:
    runs, _ = recorded(tmp_path, "mmpareto", seeds=1)
    path = runs[0].folder / "gradients.npz"
    content = dict(np.load(path))
    content["norm_joint_audio"][1], content["weights_audio"][2], content["cosine_audio"][3] = 0, np.nan, np.nan
    np.savez(path, **content)
    figures = [draw(runs) for draw in FIGURES]
    for figure in figures:
        figure.draw_without_rendering()
    assert np.isnan(line(figures[1].axes[0], "joint loss")[1]).tolist() == [False, True, False, False, False, False]
    assert np.isnan(line(figures[2].axes[0], "joint")[1]).tolist() == [False, False, True, False, False, False]
    assert np.isnan(line(figures[0].axes[0], "mmpareto")[1]).tolist() == [False, False, False, True, False, False]


def test_methods_that_have_no_such_gradients_are_left_out_and_named(tmp_path: Path) -> None:
    both, _ = recorded(tmp_path, "mmpareto", seeds=1)
    alone, _ = recorded(tmp_path, "joint", seeds=1, alone=True, groups=None)
    plain, _ = recorded(tmp_path, "uniform", seeds=1, groups=None)
    figure = conflict_figure([*alone, *plain, *both])
    assert names(figure) == ["uniform", "mmpareto"]
    assert "Left out, as their method does not descend a joint and a unimodal loss together: joint." in written(figure)
    figure = weights_figure([*alone, *plain, *both])
    assert len(figure.axes) == 2 and "Left out, as their method weighs no gradients: joint, uniform." in written(figure)
    figure = magnitude_figure([*alone, *both])
    assert len(figure.axes) == 4 and "Left out" not in written(figure)
    assert [one.get_label() for one in figure.axes[0].lines] == ["joint loss"]
    for draw, runs in ((conflict_figure, alone), (weights_figure, [*alone, *plain])):
        with pytest.raises(InputError, match=r"joint-0 and all others cannot be drawn"):
            draw(runs)
    (alone[0].folder / "gradients.npz").unlink()  # of the method's kind, records or not
    assert "joint." in written(conflict_figure([*alone, *both]))


@pytest.mark.parametrize("draw", FIGURES)
def test_what_was_not_recorded_is_said_with_the_flag_that_records_it(draw: Any, tmp_path: Path) -> None:
    runs, _ = recorded(tmp_path, "mmpareto", seeds=2)
    (runs[1].folder / "gradients.npz").unlink()
    with pytest.raises(InputError, match=r"mmpareto-1 .*--record-gradients N") as caught:
        draw(runs)
    assert "\n" not in str(caught.value) and "mmpareto-0" not in str(caught.value)
    (runs[1].folder / "gradients.npz").write_bytes(b"PK torn")
    with pytest.raises(InputError, match="damaged"):
        draw(runs)


@pytest.mark.parametrize("draw", FIGURES)
def test_two_data_sets_are_refused_and_synthetic_data_called_so(draw: Any, tmp_path: Path) -> None:
    runs, _ = recorded(tmp_path, "mmpareto", seeds=1)
    (other,) = read_runs([write_run(tmp_path / "x", accuracies(0), dataset="synthetic")])
    with pytest.raises(InputError, match="one figure a data set"):
        draw([*runs, other])
    write_gradients(other.folder, 0)
    assert "SYNTHETIC" in written(draw([other])) and "SYNTHETIC" not in written(draw(runs))
    assert "Seed 0." in written(draw([other])) and "Protocol validation" in written(draw([other]))
