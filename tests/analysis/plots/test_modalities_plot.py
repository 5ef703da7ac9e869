"""The plot of accuracy and cost against the number of modalities."""

import itertools
import json
from pathlib import Path
from typing import Any

import figures
import numpy as np
import pytest
from made_runs import options_of, write_run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots.modalities import modalities_plot
from mmpareto.errors import InputError

pytest_plugins = ["plot_fixtures"]


def measured(ratio: float) -> dict[str, Any]:
    spread = {"median": ratio, "min": ratio, "max": ratio}
    return {"seconds": spread, "ratio": spread, "peak_bytes": 1, "extra_copies": 0}


COSTS: dict[str, Any] = {
    str(n): {
        "machine": {"gpu": None, "cpu": "a CPU", "threads": 1, "cores": 2, "torch": "2"},
        "conditions": {"modalities": n},
        "rounds": 3,
        "methods": {"uniform": measured(1), "mmpareto": measured(1 + 0.1 * n)},
    }
    for n in (2, 3)
}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two methods, 2 and 3 modalities, two seeds."""
    folders = []
    for count, index, seed in itertools.product((2, 3), (0, 1), (0, 1)):
        method = ("uniform", "mmpareto")[index]
        accuracies = {"acc": 0.2 * count + 0.05 * index + 0.02 * seed, "acc_m1": 0.1 * count, "acc_m2": 0.3}
        accuracies |= {"acc_m3": 0.2} if count == 3 else {}
        options = {"encoder_scale": 1.0} if method == "uniform" else options_of()
        arguments = {"dataset": "modalities", "method": method, "options": options, "random_seed": seed}
        folder = write_run(tmp_path / f"{method}-{count}-{seed}", [accuracies], str(count) * 64, **arguments)
        (folder / "summary.json").write_text(json.dumps({"best_val": {"epoch": 1, **accuracies}}))
        change(folder, prepared={"bayes_accuracy": {"joint": 0.3 * count, "m1": 0.5, "m2": 0.4}})
        folders.append(folder)
    return folders


def change(folder: Path, **data: Any) -> None:
    """Replace entries about the data in config.json."""
    config = json.loads((folder / "config.json").read_text())
    config["data"] |= data
    (folder / "config.json").write_text(json.dumps(config))


def drawn(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Label → the points of its line."""
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def test_lines_are_means_over_seeds(runs: list[Path]) -> None:
    figure = modalities_plot([FinishedRun(run) for run in reversed(runs)], COSTS, "validation")
    together, first, cost = map(drawn, figure.axes[:3])
    for name, expected in (("Uniform", (41, 61)), ("MMPareto", (46, 66)), ("Bayes accuracy", (60, 90))):
        np.testing.assert_allclose(together[name], ((2, 3), expected), err_msg=name)
    np.testing.assert_allclose(first["MMPareto"], ((2, 3), (20, 30)))
    np.testing.assert_allclose(first["Bayes accuracy"], ((2, 3), (50, 50)))
    np.testing.assert_allclose(cost["MMPareto"], ((2, 3), (1.2, 1.3)))
    texts = " ".join(text.get_text() for text in figure.texts)
    assert "SYNTHETIC DATA" in texts and "Seeds 0, 1" in texts


def test_runs_of_two_preparations_are_refused(runs: list[Path]) -> None:
    change(runs[0], fingerprint="9" * 64)
    with pytest.raises(InputError, match="runs with 2 modalities are of different data"):
        modalities_plot([FinishedRun(run) for run in runs], None, "validation")


def test_the_command_line(runs: list[Path], tmp_path: Path, unsaved: list[Figure]) -> None:
    words = ["modalities", "--run", *map(str, runs), "--out", str(tmp_path / "x.png")]
    assert figures.main(words) == 0 and len(unsaved[0].axes) == 2
    (tmp_path / "steps.json").write_text(json.dumps(COSTS))
    assert figures.main([*words, "--costs", str(tmp_path / "steps.json")]) == 0 and len(unsaved[1].axes) == 3
    (tmp_path / "steps.json").write_text("{}")
    with pytest.raises(InputError, match=r"steps\.json is damaged"):
        figures.main([*words, "--costs", str(tmp_path / "steps.json")])
