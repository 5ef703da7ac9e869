"""Dot plots: a row a label, a mark a seed, and their mean with its spread."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from mmpareto.analysis.pictures.groups import mean_and_spread
from mmpareto.analysis.pictures.runs import Array
from mmpareto.analysis.pictures.style import Line

ROW = 0.24  # inches of a label
APART = 0.3  # of a row: between two series


def draw_dots(axes: Axes, labels: Sequence[str], series: Mapping[str, tuple[Line, Mapping[str, Array]]]) -> None:
    """Draw values in rows from top to bottom, on a logarithmic axis if all are positive and they span a factor of 8.

    A large mark is the mean over seeds, its line ± one sample standard deviation, a small pale mark a seed.

    Arguments:
        series: name → its colour and marker, and label → (S,) values of the seeds; (0,) draws nothing.
    """
    shifts = np.linspace(-APART / 2, APART / 2, len(series)) if len(series) > 1 else [0.0]
    for shift, (name, (line, values)) in zip(shifts, series.items(), strict=True):
        shown = name
        for row, label in enumerate(labels):
            seeds = values[label]
            if not len(seeds):
                continue
            mean, spread = mean_and_spread(seeds)
            y = row + shift
            if len(seeds) > 1:
                axes.plot(seeds, np.full(len(seeds), y), line.marker, ms=2.2, color=line.colour, alpha=0.35, mew=0)
                axes.plot([mean - spread, mean + spread], [y, y], color=line.colour, lw=1.0)
            axes.plot([mean], [y], line.marker, ms=4.2, color=line.colour, mec="white", mew=0.4, label=shown)
            shown = "_again"  # a label that a legend leaves out
    every = np.concatenate([values[label] for _, values in series.values() for label in labels] or [np.empty(0)])
    if len(every) and every.min() > 0 and every.max() > 8 * every.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(every) and every.min() >= 0:
        axes.set_xlim(left=0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="both", color="0.9", lw=0.5)
    axes.set_axisbelow(True)
