"""A picture of what a run recorded: how joint and unimodal gradients agree, how long they are, what became of them."""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from mmpareto.analysis.gradient_records import Array, EncoderRecords, GradientRecords, read_run, spread
from mmpareto.analysis.pictures.files import save
from mmpareto.analysis.pictures.style import BLACK, JOINT, MMPARETO, PURPLE, UNIMODAL, WARNING
from mmpareto.training.recorder import OBJECTIVES

COLOURS = dict(zip(OBJECTIVES, (JOINT, UNIMODAL), strict=True))
WHOLE, LAYERS, RESCALE = BLACK, PURPLE, MMPARETO
PANEL_WIDTH, LEGEND_WIDTH, AROUND = 4.6, 2.0, 1.3  # inches
DPI = 110
MOST_NAMES = 16  # layers; with more of them, names stand only where a block of the encoder begins
MOST_LINES = 25  # of text below each other
MOST_POINTS = 200  # of a line


def draw_gradients(out: Path, runs: Sequence[Path], options: argparse.Namespace) -> str:
    """Draw what the run in the folder recorded by --record-gradients, a column a modality.

    Raises:
        InputError: there is no such run, or it recorded nothing.
    """
    save(gradients_figure(read_run(runs[0])), out, DPI)
    return ""


def gradients_figure(records: GradientRecords) -> Figure:
    """The picture; a row for each kind of figure that was recorded."""
    encoders = records.encoders
    rows = [row for row in ROWS if any(row.of(seen) is not None for seen in encoders.values())]
    heights = [row.height for row in rows]
    figure = Figure((PANEL_WIDTH * len(encoders) + LEGEND_WIDTH, sum(heights) + AROUND), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{records.dataset}, {records.method}, seed {records.seed}: gradients of the losses at the encoders"
    )
    grid = figure.subplots(len(rows), len(encoders), sharex=True, squeeze=False, height_ratios=heights)
    for row, panels in zip(rows, grid, strict=True):
        for axes, seen in zip(panels, encoders.values(), strict=True):
            if axes is not panels[0] and row.shared:
                axes.sharey(panels[0])
            if row.of(seen) is not None:
                row.draw(axes, records, seen)
            if axes is not panels[0] and row.shared:
                axes.tick_params(which="both", labelleft=False)
        panels[0].set_ylabel(row.label)
        if panels[-1].get_legend_handles_labels()[0]:
            panels[-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), frameon=False, fontsize="small")
    points = f"; a point is the median of {bundle} records" if (bundle := _bundle(records)) > 1 else ""
    for modality, panels in zip(encoders, grid.T, strict=True):
        panels[0].set_title(modality)
        panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        panels[-1].set_xlabel(f"step (epochs {records.epochs[0]} to {records.epochs[-1]}){points}")
    if records.banner:
        figure.supxlabel(records.banner.replace(". ", ".\n"), color=WARNING, fontsize="medium", fontweight="bold")
    return figure


def _draw_cosine(axes: Axes, records: GradientRecords, seen: EncoderRecords) -> None:
    axes.set_ylim(-1.05, 1.05)
    axes.axhspan(-1.05, 0, color="0.93", lw=0)
    axes.text(0.01, 0.04, "conflict", color="0.4", fontsize="small", transform=axes.transAxes)
    assert seen.cosine is not None
    _draw_groups(axes, records, seen.cosine, "layers", LAYERS)
    _draw_line(axes, records, seen.whole_cosine(), "whole encoder", WHOLE)


def _draw_norms(axes: Axes, records: GradientRecords, seen: EncoderRecords) -> None:
    axes.set_yscale("log")
    for objective in seen.norms:
        norm = seen.whole_norm(objective)
        _draw_line(axes, records, np.where(norm > 0, norm, np.nan), f"{objective} gradient", COLOURS[objective])


def _draw_weights(axes: Axes, records: GradientRecords, seen: EncoderRecords) -> None:
    for bound in (0, 1):  # of convex weights; some methods' go beyond
        axes.axhline(bound, color="0.85", lw=0.8, zorder=0)
    assert seen.weights is not None
    objectives = list(seen.norms)
    if len(objectives) != seen.weights.shape[-1]:  # not every encoder learns from all that a method descends
        objectives = [f"objective {number + 1}" for number in range(seen.weights.shape[-1])]
    for place, objective in enumerate(objectives):
        _draw_groups(axes, records, seen.weights[..., place], objective, COLOURS.get(objective, WHOLE))


def _draw_conflict(axes: Axes, records: GradientRecords, seen: EncoderRecords) -> None:
    axes.set_ylim(-0.05, 1.05)
    assert seen.cosine is not None
    share = np.where(np.isnan(seen.cosine), np.nan, seen.cosine < 0).mean(axis=1)
    _draw_line(axes, records, share, "share of layers", LAYERS)


def _draw_rescale(axes: Axes, records: GradientRecords, seen: EncoderRecords) -> None:
    assert seen.rescale is not None
    axes.set_yscale("log")
    for axis_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis_formatter(LogFormatter())  # 2 and 10, not 2×10⁰ and 10¹
    restored = np.where(seen.rescale > 0, seen.rescale, np.nan)  # without stationary layers
    _draw_groups(axes, records, restored, "λ", RESCALE)


def _draw_map(axes: Axes, records: GradientRecords, seen: EncoderRecords) -> None:
    assert seen.cosine is not None
    half, count = records.every / 2, len(seen.layers)
    extent = (records.steps[0] - half, records.steps[-1] + half, count - 0.5, -0.5)
    image = axes.imshow(seen.cosine.T, vmin=-1, vmax=1, cmap="PuOr", aspect="auto", extent=extent)
    blocks = [name.partition(".")[0] for name in seen.layers]
    if count > MOST_NAMES:
        begins = [0]
        for place in range(1, count):
            if blocks[place] != blocks[place - 1] and place - begins[-1] > count / MOST_LINES:
                begins.append(place)
        axes.set_yticks(begins, [blocks[place] for place in begins])
    else:
        axes.set_yticks(range(count), seen.layers)
    axes.tick_params(axis="y", labelsize="x-small")
    if seen is [*records.encoders.values()][-1]:
        axes.figure.colorbar(image, cax=axes.inset_axes((1.03, 0, 0.04, 1)), label="cosine")


def _draw_groups(axes: Axes, records: GradientRecords, values: Array, label: str, colour: str) -> None:
    """The line of the whole encoder's one value, or median and quartiles over the layers."""
    if values[0].size > 1:
        bundle = _bundle(records)
        lower, _, upper = spread(values, bundle)
        axes.fill_between(spread(records.steps, bundle)[1], lower, upper, color=colour, alpha=0.3, lw=0)
        label = f"{label}: median\nand quartiles"
    _draw_line(axes, records, values, label, colour)


def _draw_line(axes: Axes, records: GradientRecords, values: Array, label: str, colour: str) -> None:
    bundle = _bundle(records)
    steps, medians = spread(records.steps, bundle)[1], spread(values, bundle)[1]
    axes.plot(steps, medians, color=colour, label=label, lw=1.2, marker="o" if len(steps) == 1 else None)


def _bundle(records: GradientRecords) -> int:
    """How many records a point of a line stands for: in a long run, the lines would be areas."""
    return math.ceil(len(records.steps) / MOST_POINTS)


@dataclasses.dataclass(frozen=True)
class Row:
    """A kind of figure: the label of its axis, what it shows (None: not recorded), how, and its height in inches."""

    label: str
    of: Callable[[EncoderRecords], object]
    draw: Callable[[Axes, GradientRecords, EncoderRecords], None]
    height: float = 1.6
    shared: bool = True


ROWS = (
    Row("cosine", lambda seen: seen.cosine, _draw_cosine),
    Row("cosine by layer", lambda seen: seen.cosine, _draw_map, height=2.8, shared=False),
    Row("in conflict", lambda seen: seen.cosine, _draw_conflict, height=1.0),
    Row("norm", lambda seen: seen.norms, _draw_norms),
    Row("weight α", lambda seen: seen.weights, _draw_weights),
    Row("λ", lambda seen: seen.rescale, _draw_rescale),
)
