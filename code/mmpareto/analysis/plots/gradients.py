"""Plot of one run's recorded gradients: how joint and unimodal ones agree, their norms, and how they were combined."""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import NDArray

from mmpareto.analysis.finished_run import Array, FinishedRun
from mmpareto.analysis.gradient_records import EncoderRecords, GradientRecords
from mmpareto.analysis.plots import style
from mmpareto.analysis.plots.style import BLACK, MMPARETO, PURPLE

WHOLE, LAYERS, RESCALE = BLACK, PURPLE, MMPARETO
MAX_NAMES = 16  # layers; with more of them, only the first layer of each block of the encoder is labelled
MAX_LABELS = 25  # below each other
MAX_POINTS = 200  # per line


def draw_gradients(out: Path, runs: Sequence[FinishedRun], options: argparse.Namespace) -> str:
    """Draw `gradients_plot` of the one run."""
    style.save(gradients_plot(runs[0]), out)
    return ""


def gradients_plot(run: FinishedRun) -> Figure:
    """All that the run recorded by --record_gradients: one column per modality, one row per recorded metric.

    Raises:
        InputError: it recorded nothing.
    """
    records = run.recorded_gradients()
    encoders = records.encoders
    rows = [row for row in ROWS if any(row.values(encoder) is not None for encoder in encoders.values())]
    heights = [row.height for row in rows]
    with style.paper():
        figure = style.new_figure(style.WIDTH, sum(heights) + 0.5)
        grid = figure.subplots(len(rows), len(encoders), sharex=True, squeeze=False, height_ratios=heights)
        for row, panels in zip(rows, grid, strict=True):
            for axes, encoder in zip(panels, encoders.values(), strict=True):
                if axes is not panels[0] and row.shared:
                    axes.sharey(panels[0])
                    axes.tick_params(which="both", labelleft=False)
                if row.values(encoder) is not None:
                    row.draw(axes, records, encoder)
            panels[0].set_ylabel(row.label)
            style.legend(panels[-1])
        for modality, panels in zip(encoders, grid.T, strict=True):
            panels[0].set_title(modality)
            panels[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
            panels[-1].set_xlabel("training step")
        bundle = _bundle(records)
        points = f" A point is the median of {bundle} records." if bundle > 1 else ""
        notes = [
            f"Data set: {run.title}. {run.label}, seed {run.seed}. Epochs {records.epochs[0]} to {records.epochs[-1]}, "
            f"recorded with --record_gradients {records.every}.{points} In conflict: share of layers with a negative "
            "cosine."
        ]
        style.finish(figure, f"Gradients of the losses at the encoders: {run.title}", notes, run.banner)
    return figure


def quartiles(values: NDArray, bundle: int = 1) -> tuple[Array, Array, Array]:
    """Lower quartile, median and upper quartile of (R, …) over every `bundle` successive steps, (⌈R / bundle⌉,) each.

    They are taken over the steps of a bundle and all axes but the first. Values that are not finite are left out; NaN
    where none remains.
    """
    starts = range(0, len(values), bundle)
    result = np.full((3, len(starts)), np.nan)
    for index, start in enumerate(starts):
        piece = values[start : start + bundle]
        if (finite := piece[np.isfinite(piece)]).size:
            result[:, index] = np.percentile(finite, (25, 50, 75))
    return result[0], result[1], result[2]


def _draw_cosine(axes: Axes, records: GradientRecords, encoder: EncoderRecords) -> None:
    axes.set_ylim(-1.05, 1.05)
    axes.axhspan(-1.05, 0, color="0.93", lw=0)
    axes.text(0.01, 0.04, "conflict", color="0.4", fontsize=style.SMALL, transform=axes.transAxes)
    assert encoder.cosine is not None
    _draw_groups(axes, records, encoder.cosine, "layers", LAYERS)
    _draw_line(axes, records, encoder.whole_cosine(), "whole encoder", WHOLE)


def _draw_map(axes: Axes, records: GradientRecords, encoder: EncoderRecords) -> None:
    assert encoder.cosine is not None
    half, count = records.every / 2, len(encoder.layers)
    extent = (records.steps[0] - half, records.steps[-1] + half, count - 0.5, -0.5)
    image = axes.imshow(encoder.cosine.T, vmin=-1, vmax=1, cmap="PuOr", aspect="auto", extent=extent)
    blocks = [name.partition(".")[0] for name in encoder.layers]
    if count > MAX_NAMES:
        labelled = [0]
        for index in range(1, count):
            if blocks[index] != blocks[index - 1] and index - labelled[-1] > count / MAX_LABELS:
                labelled.append(index)
        axes.set_yticks(labelled, [blocks[index] for index in labelled])
    else:
        axes.set_yticks(range(count), encoder.layers)
    axes.tick_params(axis="y", labelsize="x-small")
    if encoder is [*records.encoders.values()][-1]:
        axes.figure.colorbar(image, cax=axes.inset_axes((1.03, 0, 0.04, 1)), label="cosine")


def _draw_conflict(axes: Axes, records: GradientRecords, encoder: EncoderRecords) -> None:
    axes.set_ylim(-0.05, 1.05)
    _draw_line(axes, records, encoder.conflict_share(), "share of layers", LAYERS)


def _draw_norms(axes: Axes, records: GradientRecords, encoder: EncoderRecords) -> None:
    axes.set_yscale("log")
    for objective, line in style.objective_lines(encoder.norms).items():
        norm = encoder.whole_norm(objective)
        _draw_line(axes, records, np.where(norm > 0, norm, np.nan), f"{objective} gradient", line.colour)


def _draw_weights(axes: Axes, records: GradientRecords, encoder: EncoderRecords) -> None:
    for bound in (0, 1):  # of convex weights; some methods' go beyond
        axes.axhline(bound, color="0.85", lw=0.8, zorder=0)
    assert encoder.weights is not None
    count = encoder.weights.shape[-1]
    names = list(encoder.norms)
    if len(names) != count:  # not every encoder learns from all losses that a method descends
        names = [f"objective {number + 1}" for number in range(count)]
    for index, (name, line) in enumerate(style.objective_lines(names).items()):
        colour = WHOLE if name.startswith("objective ") else line.colour
        _draw_groups(axes, records, encoder.weights[..., index], name, colour)


def _draw_rescale(axes: Axes, records: GradientRecords, encoder: EncoderRecords) -> None:
    assert encoder.rescale is not None
    axes.set_yscale("log")
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(LogFormatter())  # 2 and 10, not 2×10⁰ and 10¹
    positive = np.where(encoder.rescale > 0, encoder.rescale, np.nan)  # without stationary layers
    _draw_groups(axes, records, positive, "λ", RESCALE)


def _draw_groups(axes: Axes, records: GradientRecords, values: Array, label: str, colour: str) -> None:
    """Draw median and quartiles over the parameter groups; a line alone where the whole encoder is one group."""
    if values[0].size > 1:
        bundle = _bundle(records)
        lower, _, upper = quartiles(values, bundle)
        axes.fill_between(quartiles(records.steps, bundle)[1], lower, upper, color=colour, alpha=0.3, lw=0)
        label = f"{label}: median\nand quartiles"
    _draw_line(axes, records, values, label, colour)


def _draw_line(axes: Axes, records: GradientRecords, values: Array, label: str, colour: str) -> None:
    bundle = _bundle(records)
    steps, medians = quartiles(records.steps, bundle)[1], quartiles(values, bundle)[1]
    axes.plot(steps, medians, color=colour, label=label, marker="o" if len(steps) == 1 else None)


def _bundle(records: GradientRecords) -> int:
    """Number of records per point: with all of them, the lines of a long run would be areas."""
    return math.ceil(len(records.steps) / MAX_POINTS)


@dataclasses.dataclass(frozen=True)
class PanelRow:
    """A row of panels: label of its axis, its values (None: not recorded), how they are drawn, its height in inches."""

    label: str
    values: Callable[[EncoderRecords], object]
    draw: Callable[[Axes, GradientRecords, EncoderRecords], None]
    height: float = 1.1
    shared: bool = True


ROWS = (
    PanelRow("cosine", lambda encoder: encoder.cosine, _draw_cosine),
    PanelRow("cosine by layer", lambda encoder: encoder.cosine, _draw_map, height=2.2, shared=False),
    PanelRow("in conflict", lambda encoder: encoder.cosine, _draw_conflict, height=0.8),
    PanelRow("norm", lambda encoder: encoder.norms, _draw_norms),
    PanelRow("weight α", lambda encoder: encoder.weights, _draw_weights),
    PanelRow("λ", lambda encoder: encoder.rescale, _draw_rescale),
)
