"""Figures over training of several runs: accuracy, the gap to the training set, and those of gradients.

All take the runs of `runs.read_runs`, which must be of one data set; runs of a label make one line, a mean over seeds.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmpareto.analysis.pictures import style
from mmpareto.analysis.pictures.files import save
from mmpareto.analysis.pictures.gradient_curves import conflict_figure, magnitude_figure, weights_figure
from mmpareto.analysis.pictures.groups import Group, grouped, mean_and_spread
from mmpareto.analysis.pictures.notes import about, banner_of, spread_text, title_of
from mmpareto.analysis.pictures.runs import Array, Run, read_runs

__all__ = ["accuracy_figure", "conflict_figure", "gap_figure", "magnitude_figure", "weights_figure"]

HEIGHT = 2.3  # of a row of panels, in inches
A_ROW = 4  # panels


def draw_accuracy(out: Path, runs: Sequence[Path], options: argparse.Namespace) -> str:
    """Draw `accuracy_figure`."""
    save(accuracy_figure(read_runs(runs)), out)
    return ""


def draw_gap(out: Path, runs: Sequence[Path], options: argparse.Namespace) -> str:
    """Draw `gap_figure`."""
    save(gap_figure(read_runs(runs)), out)
    return ""


def accuracy_figure(runs: Sequence[Run]) -> Figure:
    """Accuracy on the test set after every epoch: a panel for the joint head and each modality's, in percent.

    Raises:
        InputError: the runs are of different data sets, or there is none.
    """
    groups = grouped(runs)
    notes = [
        f"Accuracy on the test set after every epoch; no epoch is chosen. {spread_text(groups)}",
        *about(groups),
    ]

    def of(head: str) -> Callable[[Run], Array]:
        return lambda run: 100 * run.series(f"acc{head}")

    return _figure(groups, of, "Accuracy on the test set", "test accuracy (%)", notes)


def gap_figure(runs: Sequence[Run]) -> Figure:
    """Accuracy in training less that on the test set, in percentage points; panels as in `accuracy_figure`.

    Training accuracy is that of the epoch's training batches, as they were seen: augmented, by the network before each
    step.

    Raises:
        InputError: the runs are of different data sets, or there is none.
    """
    groups = grouped(runs)
    notes = [
        "Accuracy over the epoch's training batches (augmented, each before its step) less accuracy on the test set "
        f"after the epoch, in percentage points. {spread_text(groups)}",
        *about(groups),
    ]

    def of(head: str) -> Callable[[Run], Array]:
        return lambda run: 100 * (run.series(f"train_acc{head}") - run.series(f"acc{head}"))

    return _figure(groups, of, "Gap between training and test accuracy", "training − test (points)", notes, zero=True)


def _figure(
    groups: Sequence[Group],
    of: Callable[[str], Callable[[Run], Array]],  # of the end of a head's keys
    title: str,
    ylabel: str,
    notes: Sequence[str],
    zero: bool = False,
) -> Figure:
    """A panel a head that has figures, with a line a group."""
    stacks = {head: {g.label: g.stacked(of(head)) for g in groups} for head in _heads(groups)}
    heads = [head for head, found in stacks.items() if not all(np.isnan(values).all() for values in found.values())]
    with style.paper():
        rows, columns = max(1, math.ceil(len(heads) / A_ROW)), min(max(len(heads), 1), A_ROW)
        figure = style.new_figure(style.WIDTH, rows * HEIGHT)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        drawn = style.lines([group.label for group in groups])
        for axes in grid.flat[len(heads) :]:
            axes.set_visible(False)
        for axes, head in zip(grid.flat, heads, strict=False):
            axes.set_title(f"{head[1:]} head" if head else "joint head")
            for place, group in enumerate(groups):
                mean, spread = mean_and_spread(stacks[head][group.label])
                x = np.arange(1.0, len(mean) + 1)
                style.draw_band(axes, x, mean, mean - spread, mean + spread, drawn[group.label], group.label, place)
            if zero:
                axes.axhline(0, color="0.6", lw=0.6, zorder=0)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for axes in grid[:, 0]:
            axes.set_ylabel(ylabel)
        style.legend(grid[0, -1], grid.flat[: len(heads)])
        notes = [*notes, *_untrained(groups, stacks, heads)]
        style.finish(figure, f"{title}: {title_of(groups)}", notes, banner_of(groups))
    return figure


def _heads(groups: Sequence[Group]) -> list[str]:
    """The heads of all runs as the keys of metrics.jsonl end: "" of the joint one, then "_<modality>"."""
    names = dict.fromkeys(name for group in groups for run in group.runs for name in run.modalities)
    return ["", *(f"_{name}" for name in names)]


def _untrained(groups: Sequence[Group], stacks: Mapping[str, Mapping[str, Array]], heads: Sequence[str]) -> list[str]:
    """Which lines the panels lack: a method that descends no unimodal loss has no such accuracy in training."""
    lacking = [g.label for g in groups if any(h and np.isnan(stacks[h][g.label]).all() for h in heads)]
    return [f"No unimodal curve, as the heads are not trained: {', '.join(lacking)}."] if lacking else []
