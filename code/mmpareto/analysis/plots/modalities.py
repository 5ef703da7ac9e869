"""Plot of accuracy and cost of a step against the number of modalities."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots import style
from mmpareto.analysis.plots.groups import SeedGroup, banner_of, deviation_note, group_runs, ranges, title_of
from mmpareto.analysis.speed import cost
from mmpareto.errors import InputError
from mmpareto.integration import TORCHJD
from mmpareto.training.method_labels import label
from mmpareto.validation import read_checked

HEIGHT = 2.3  # of a panel, in inches
TWO_PASSES = 5 / 3  # one forward and two backward passes, of one and one; a backward pass takes twice a forward pass
BayesAccuracies = Mapping[int, Mapping[str, float]]


def draw_modalities(out: Path, runs: Sequence[FinishedRun], options: argparse.Namespace) -> str:
    """Draw `modalities_plot`.

    Raises:
        InputError: a run is not finished, runs of one number of modalities differ in their data, or the file of costs
            is missing or damaged.
    """
    costs = None if options.costs is None else read_costs(options.costs)
    style.save(modalities_plot(runs, costs, options.protocol), out)
    return ""


def read_costs(path: Path) -> dict[str, Any]:
    """Read the steps that `tables.py modalities` has measured: number of modalities → measurements of `speed.cost`.

    Raises:
        InputError: the file is missing or damaged.
    """
    return read_checked(path, cost.CostsByCount, "tables.py modalities writes it")


def modalities_plot(runs: Sequence[FinishedRun], costs: Mapping[str, Any] | None, protocol: str) -> Figure:
    """Accuracy of all modalities together, of the first one alone, and time of a step compared with uniform's.

    Arguments:
        runs: with any numbers of modalities, of several seeds.
        costs: see `read_costs`; None to leave out the panel.
        protocol: that chooses the epoch, "validation", "last" or "paper".
    """
    by_count: dict[int, list[FinishedRun]] = {}
    for run in sorted(runs, key=lambda run: len(run.modalities)):
        by_count.setdefault(len(run.modalities), []).append(run)
    groups = {count: group_runs(members) for count, members in by_count.items()}
    every = [group for members in groups.values() for group in members]
    bayes = {count: _bayes(members) for count, members in by_count.items()}
    first = {run.modalities[0] for run in runs}
    with style.paper():
        figure = style.new_figure(style.WIDTH, HEIGHT)
        panels = figure.subplots(1, 2 if costs is None else 3)
        _draw_accuracy(panels[0], groups, bayes, "joint", protocol)
        panels[0].set_title("all modalities together")
        panels[0].set_ylabel("test accuracy, %")
        _draw_accuracy(panels[1], groups, bayes, "first", protocol)
        panels[1].set_title(f"{first.pop()} alone" if len(first) == 1 else "the first modality alone")
        if costs is not None:
            _draw_costs(panels[2], costs)
        for axes in panels:
            axes.set_xticks([*groups])
            axes.set_xlabel("modalities")
        style.legend(panels[-1], panels[:-1])
        seeds = sorted({run.seed for run in runs})
        notes = [
            f"Data set: {title_of(every)}. Seed{'s' * (len(seeds) > 1)} {ranges(seeds)}; epoch by protocol "
            f"{protocol}. {deviation_note(every)}"
        ]
        if costs is not None:
            notes.append(
                "Time: median of CPU seconds per step, compared with Uniform's step of the same round; dotted: two "
                "backward passes instead of one, each twice as long as a forward pass."
            )
        title = "Accuracy" if costs is None else "Accuracy and cost"
        style.finish(figure, f"{title} by number of modalities: {title_of(every)}", notes, banner_of(every))
    return figure


def _bayes(runs: Sequence[FinishedRun]) -> Mapping[str, float]:
    """Best possible accuracies, by head; {} if the data set does not know them.

    Raises:
        InputError: the runs differ in their data.
    """
    if len({run.fingerprint for run in runs}) > 1:
        raise InputError(
            f"the runs with {len(runs[0].modalities)} modalities are of different data: give runs of one preparation."
        )
    return (runs[0].config.get("data", {}).get("prepared") or {}).get("bayes_accuracy", {})


def _draw_accuracy(
    axes: Axes, groups: Mapping[int, Sequence[SeedGroup]], bayes: BayesAccuracies, head: str, protocol: str
) -> None:
    """Draw a line per method, and the Bayes accuracy where it is known.

    Arguments:
        head: "joint", or "first" for that of the first modality.
    """
    labels = dict.fromkeys(group.label for members in groups.values() for group in members)
    counts = np.array([*groups])
    for index, (name, line) in enumerate(style.lines(labels).items()):
        mean, deviation = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
        for index_of_count, members in enumerate(groups.values()):
            for group in members:
                if group.label == name:
                    values = np.array([100 * _accuracy(run, head, protocol) for run in group.runs])
                    mean[index_of_count] = values.mean()
                    deviation[index_of_count] = values.std(ddof=1) if len(values) > 1 else np.nan
        style.draw_band(axes, counts, mean, mean - deviation, mean + deviation, line, name, index)
    known = {
        count: 100 * of_count["joint" if head == "joint" else next(name for name in of_count if name != "joint")]
        for count, of_count in bayes.items()
        if of_count
    }
    if known:
        axes.plot([*known], [*known.values()], color=style.GREY, ls=style.DOTTED, label="Bayes accuracy", zorder=0)


def _accuracy(run: FinishedRun, head: str, protocol: str) -> float:
    accuracies = run.accuracies(protocol)
    return accuracies["acc" if head == "joint" else f"acc_{run.modalities[0]}"]


def _draw_costs(axes: Axes, costs: Mapping[str, Any]) -> None:
    """Draw the median ratio of each method to uniform, for each number of modalities."""
    labels = {method: _label(method) for of_count in costs.values() for method in of_count["methods"]}
    lines = style.lines(labels.values())
    for method, name in labels.items():
        measured = {int(n): c["methods"][method]["ratio"]["median"] for n, c in costs.items() if method in c["methods"]}
        axes.plot([*measured], [*measured.values()], label=name, **lines[name].keywords())
    axes.axhline(TWO_PASSES, color=style.GREY, ls=style.DOTTED, lw=0.8)
    axes.set_title("time of a step / Uniform's")
    axes.set_ylim(bottom=0)


def _label(contender: str) -> str:
    """The label of a method of `speed.cost`, "name" or "name:variant"."""
    if contender.startswith(TORCHJD):
        return label(contender)
    method, _, variant = contender.partition(":")
    return label(method, variant or None)
