"""Which runs are one line of a figure, what it is called, and what is read of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import accuracies, options_of, write_run
from mmpareto.analysis.pictures.groups import grouped
from mmpareto.analysis.pictures.runs import label_of, read_runs
from mmpareto.errors import InputError
from mmpareto.training.method_options import read_options


@pytest.mark.parametrize(
    ("method", "variant", "flags", "label"),
    [
        ("uniform", None, "", "uniform"),
        ("mmpareto", None, "", "mmpareto"),
        ("mmpareto", "per_tensor", "--gamma 2", "mmpareto (gamma 2.0)"),
        ("mmpareto", "paper", "", "mmpareto (paper)"),
        ("mmpareto", "paper", "--refresh 10", "mmpareto (paper, refresh 10)"),
        ("mmpareto", "released", "--boost conflict", "mmpareto (released, boost conflict)"),
        ("pmr", "released", "", "pmr (released)"),
        ("ogm_ge", None, "--alpha 0.1", "ogm_ge (alpha 0.1)"),
        ("unimodal", None, "--modality audio", "unimodal (modality audio)"),
    ],
)
def test_a_label_says_what_is_not_usual(method: str, variant: str | None, flags: str, label: str) -> None:
    chosen, options = read_options(method, variant, flags.split(), [])  # as config.json has them
    assert label_of(method, chosen, options) == label


def test_a_method_that_is_not_here_has_a_label_too() -> None:
    assert label_of("lost", None, {"rate": 2, "mode": None}) == "lost (rate 2)"


def test_runs_are_read_in_their_order(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "b", accuracies(1), random_seed=1, method="joint"),
        write_run(tmp_path / "a", accuracies(2), random_seed=0, method="joint", protocol="paper"),
        write_run(tmp_path / "c", accuracies(3), method="mmpareto", variant="paper", options=options_of("paper")),
    ]
    runs = read_runs(folders)
    assert [run.folder for run in runs] == folders
    assert [run.seed for run in runs] == [1, 0, 0] and runs[2].variant == "paper"
    assert [run.label for run in runs] == [
        "joint (protocol validation)",
        "joint (protocol paper)",
        "mmpareto (paper)",
    ]
    assert runs[0].banner is None and runs[0].modalities == ["audio", "visual"]
    assert [values["acc"] for values in accuracies(1)] == runs[0].series("acc").tolist()


@pytest.mark.parametrize(
    ("other", "label"),
    [
        ({"random_seed": 1}, "uniform"),
        ({"random_seed": 1, "epochs": 9, "gpu_ids": "0", "record_gradients": 5, "data": "elsewhere"}, "uniform"),
        ({"fusion": "film"}, "uniform (fusion film)"),
        ({"recipe": "dgl", "learning_rate": 0.01}, "uniform (recipe dgl)"),
        ({"learning_rate": 0.01}, "uniform (learning_rate 0.01)"),
        ({"crop_scale": [0.2, 1.0]}, "uniform (crop_scale 0.2 1.0)"),
        ({"fingerprint": "fedcba9876", "data": "data/cremad-fps3"}, "uniform (data cremad-fps3 fedcba)"),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_different_lines(
    other: dict[str, Any], label: str, tmp_path: Path
) -> None:
    folders = [write_run(tmp_path / "a", accuracies(0)), write_run(tmp_path / "b", accuracies(1), **other)]
    runs = read_runs(folders)
    assert runs[1].label == label
    assert len(grouped(runs)) == (1 if label == "uniform" else 2)


def test_settings_tell_apart_only_runs_of_the_same_method(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a", accuracies(0), method="joint"), write_run(tmp_path / "b", accuracies(1))]
    folders.append(write_run(tmp_path / "c", accuracies(1), method="dgl", options={"alpha": 4.0}, learning_rate=1.0))
    assert [run.label for run in read_runs(folders)] == ["joint", "uniform", "dgl"]


def test_two_runs_of_one_label_and_seed_are_refused(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, accuracies(0)) for name in ("a", "b")]
    with pytest.raises(InputError, match=r"a and .*b are both uniform .* seed 0"):
        read_runs(folders)
    with pytest.raises(InputError, match="both"):
        read_runs([folders[0], folders[0]])


def test_null_and_infinite_figures_are_gaps(tmp_path: Path) -> None:
    history = [{"acc": 0.5}, {"acc": None}, {"acc": float("nan")}, {"acc": float("inf")}, {}, {"acc": 1}]
    (run,) = read_runs([write_run(tmp_path / "a", history)])
    np.testing.assert_array_equal(run.series("acc"), [0.5, np.nan, np.nan, np.nan, np.nan, 1])
    assert np.isnan(run.series("acc_touch")).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epoch": 1, "acc": 0.5}\n{"epoch": 2, "ac', "line 2.*no JSON"),
        ('{"epoch": 1, "acc": 0.5}\n{"epoch": 3, "acc": 0.5}\n', "line 2.*not epoch 2"),
        ("[1]\n", "line 1"),
        ("\0\0\0\n", "line 1"),
        ("", "no epoch"),
        (None, "no epoch"),
        ('{"epoch": 1, "acc": "0.5"}\n', "line 1.*acc is no number"),
        ('{"epoch": 1, "acc": true}\n', "line 1.*acc is no number"),
    ],
)
def test_damaged_metrics_are_said_in_a_sentence(text: str | None, message: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", accuracies(0))
    path = folder / "metrics.jsonl"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_runs([folder])[0].series("acc")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", accuracies(0))
    (folder / "config.json").write_text('{"arguments": {"dataset": "cremad"}}')
    with pytest.raises(InputError, match=r"another version.*method"):
        read_runs([folder])
