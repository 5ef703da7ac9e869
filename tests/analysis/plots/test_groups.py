"""Grouping of runs into lines, the labels of the lines, and notes on the runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import accuracies, options_of, write_run
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots.groups import SeedGroup, group_runs, mean_and_deviation, notes_on, ranges
from mmpareto.errors import InputError


def groups_of(*folders: Path) -> list[SeedGroup]:
    return group_runs(FinishedRun(folder) for folder in folders)


def test_groups_are_ordered_by_label_and_their_runs_by_seed(tmp_path: Path) -> None:
    paper = {"method": "mmpareto", "variant": "paper", "options": options_of("paper")}
    first, second = groups_of(
        write_run(tmp_path / "b", accuracies(1), random_seed=1, method="joint"),
        write_run(tmp_path / "c", accuracies(3, epochs=6), **paper),
        write_run(tmp_path / "a", accuracies(2, epochs=3), random_seed=0, method="joint"),
    )
    assert (first.label, first.seeds, first.epochs) == ("Joint loss", [0, 1], 3)
    assert (second.label, second.seeds, second.epochs) == ("MMPareto (paper)", [0], 6)
    expected = [[values["acc"] for values in accuracies(seed)][:3] for seed in (1,)]
    assert first.stacked(lambda run: run.series("acc"))[1].tolist() == expected[0]


@pytest.mark.parametrize(
    ("other", "label"),
    [
        ({"random_seed": 1}, "Uniform"),
        ({"random_seed": 1, "epochs": 9, "gpu_ids": "0", "record_gradients": 5, "data": "elsewhere"}, "Uniform"),
        ({"fusion": "film"}, "Uniform (fusion film)"),
        ({"protocol": "paper"}, "Uniform (protocol paper)"),
        ({"recipe": "dgl", "learning_rate": 0.01}, "Uniform (recipe dgl)"),  # the recipe alone distinguishes them
        ({"learning_rate": 0.01}, "Uniform (learning_rate 0.01)"),
        ({"crop_scale": [0.2, 1.0]}, "Uniform (crop_scale 0.2 1)"),
        ({"fingerprint": "fedcba9876", "data": "data/cremad-fps3"}, "Uniform (data cremad-fps3 fedcba)"),
        ({"pretrained": "resnet18.pth"}, "Uniform (pretrained)"),
        ({"fused": True}, "Uniform (fused true)"),  # a setting that the other run's config lacks
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_different_lines(
    other: dict[str, Any], label: str, tmp_path: Path
) -> None:
    groups = groups_of(write_run(tmp_path / "a", accuracies(0)), write_run(tmp_path / "b", accuracies(1), **other))
    assert len(groups) == (1 if label == "Uniform" else 2) and groups[-1].label == label


def test_settings_distinguish_only_runs_of_the_same_method(tmp_path: Path) -> None:
    groups = groups_of(
        write_run(tmp_path / "a", accuracies(0), method="joint"),
        write_run(tmp_path / "b", accuracies(1)),
        write_run(tmp_path / "c", accuracies(1), method="dgl", options={"alpha": 4.0}, learning_rate=1.0),
    )
    assert [group.label for group in groups] == ["Joint loss", "Uniform", "DGL"]
    assert "The runs also differ in learning_rate." in notes_on(groups)
    assert len(notes_on(groups[:2])) == 1


def test_two_runs_of_one_label_and_seed_are_refused(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, accuracies(0)) for name in ("a", "b")]
    with pytest.raises(InputError, match=r"a and .*b are both Uniform with seed 0"):
        groups_of(*folders)
    with pytest.raises(InputError, match="both"):
        groups_of(folders[0], folders[0])


def test_no_run_and_two_data_sets_and_no_epoch_are_refused(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", accuracies(0))
    with pytest.raises(InputError, match="no run"):
        groups_of()
    with pytest.raises(InputError, match=r"a is of data set cremad and .*b of ave"):
        groups_of(first, write_run(tmp_path / "b", accuracies(0), dataset="ave"))
    with pytest.raises(InputError, match="no finished epoch"):
        groups_of(first, write_run(tmp_path / "c", [], random_seed=1))


def test_notes_name_data_set_seeds_protocol_and_lengths(tmp_path: Path) -> None:
    seeds = [write_run(tmp_path / str(s), accuracies(s, epochs=6 - s), random_seed=s) for s in range(3)]
    joint = write_run(tmp_path / "joint", accuracies(0), method="joint", protocol="paper")
    (note, length) = notes_on(groups_of(*seeds))
    assert note == "Data set: CREMA-D. Seeds 0–2. Protocol validation (10% of the training set held out)."
    assert length == "Uniform: epochs 1 to 4, which all its seeds have finished (seed 0: 6)."
    note = notes_on(groups_of(*seeds, joint))[0]
    assert "Seeds: Uniform 0–2; Joint loss 0." in note
    assert "paper (trained on the whole training set): Joint loss" in note and "held out): Uniform" in note
    assert "Seed 0." in notes_on(groups_of(joint))[0]
    assert [ranges(numbers) for numbers in ([0, 2, 5, 6, 7], [3], [1, 2])] == ["0, 2, 5–7", "3", "1, 2"]


def test_mean_and_deviation_have_gaps_where_a_seed_has_no_value() -> None:
    mean, deviation = mean_and_deviation(np.array([[1.0, np.nan], [3.0, 1.0]]))
    np.testing.assert_allclose([mean, deviation], [[2, np.nan], [np.sqrt(2), np.nan]])
    assert np.isnan(mean_and_deviation(np.ones((1, 2)))[1]).all()
