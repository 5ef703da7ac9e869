"""The loss around the minima of runs, along filter-normalised directions: measured, and drawn."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from mmpareto.analysis.measurements import landscape
from mmpareto.analysis.pictures import style
from mmpareto.analysis.pictures.files import save
from mmpareto.analysis.pictures.groups import mean_and_spread
from mmpareto.analysis.pictures.measured import Measured, measure
from mmpareto.analysis.pictures.notes import banner_of, spread_text, title_of
from mmpareto.analysis.pictures.runs import Run, read_runs
from mmpareto.training.settings import Settings

NAME = "landscape"
SAME = {
    "checkpoint": "--checkpoint",
    "samples": "--samples",
    "points": "--points",
    "directions_seed": "--directions_seed",
    "plane_distances": "--plane",
}
HEIGHT = 2.3  # of the panels of the line, in inches
PLANES = 4  # beside each other
LEVELS = 12
MAP = "cividis"  # made for any colour vision


def draw_landscape(out: Path, runs: Sequence[Path], options: argparse.Namespace) -> str:
    """Measure the runs that have not been (`landscape.measure`), and draw `landscape_figure`."""
    known = read_runs(runs)  # refuses what cannot be drawn before anything is measured
    seed = options.directions_seed

    def asked(settings: Settings) -> dict[str, Any]:
        # A line that is asked for is there where a plane was measured with it.
        plane = {} if options.plane is None else {"plane_points": options.plane}
        return {"samples": options.samples, "points": options.points, "directions_seed": seed, **plane}

    def work(subject: landscape.Subject) -> dict[str, Any]:
        return landscape.measure(subject, options.samples, options.points, options.plane, seed)

    measure(NAME, runs, options, asked, work)
    save(landscape_figure(known), out)
    return ""


def landscape_figure(runs: Sequence[Run]) -> Figure:
    """Joint loss and accuracy along the line, a line a label; below, where it was measured, the loss on the plane.

    Raises:
        InputError: a run has not been measured, or not as the others were; or they are of different data sets.
    """
    found = Measured(NAME, runs, SAME)
    with_plane = found.first["plane"] is not None
    rows = -(-len(found.groups) // PLANES) if with_plane else 0
    side = style.WIDTH / PLANES
    with style.paper():
        figure = style.new_figure(style.WIDTH, HEIGHT + rows * side)
        parts = figure.subfigures(
            1 + bool(rows), 1, squeeze=False, height_ratios=[HEIGHT, rows * side][: 1 + bool(rows)]
        )
        _draw_line(parts[0, 0].subplots(1, 2), found)
        if rows:
            _draw_planes(parts[1, 0], found, rows)
        style.finish(figure, f"Loss landscape: {title_of(found.groups)}", _notes(found), banner_of(found.groups))
    return figure


def _draw_line(panels: Sequence[Axes], found: Measured) -> None:
    drawn = style.lines([group.label for group in found.groups])
    x = np.array(found.first["distances"])
    for axes, key, label, scale in zip(panels, ("loss", "acc"), ("joint loss", "accuracy (%)"), (1, 100), strict=True):
        highest, lowest = 0.0, np.inf
        for group in found.groups:
            values = scale * found.values(group, "line", key)
            mean, spread = mean_and_spread(values)
            low = (
                np.maximum(mean - spread, values.min(0)) if key == "loss" else mean - spread
            )  # above 0, for the logarithm
            style.draw_band(axes, x, mean, low, mean + spread, drawn[group.label], group.label)
            highest, lowest = max(highest, values.max()), min(lowest, values.min())
        if key == "loss" and lowest > 0 and highest > 20 * lowest:
            axes.set_yscale("log")
        axes.set_xlabel("distance along the direction")
        axes.set_ylabel(label)
    style.legend(panels[1], panels[:1])


def _draw_planes(part: Any, found: Measured, rows: int) -> None:
    """The loss of each label's first seed, all by the same colours."""
    shown = {group.label: np.array(found.of(group.runs[0])["plane"]["loss"]) for group in found.groups}
    low, high = min(z.min() for z in shown.values()), max(z.max() for z in shown.values())
    low = max(low, 1e-6 * high, 1e-12)
    high = max(high, 1.01 * low)  # where the loss is the same everywhere
    levels = np.geomspace(low, high, LEVELS)
    grid = part.subplots(rows, PLANES, sharex=True, sharey=True, squeeze=False)
    x = found.first["plane_distances"]
    for number, axes in enumerate(grid.flat):
        axes.set_visible(number < len(found.groups))
        if number < len(found.groups):
            group = found.groups[number]
            norm = LogNorm(low, high)
            z = np.maximum(shown[group.label], low)
            filled = axes.contourf(x, x, z, levels=levels, cmap=MAP, norm=norm)
            axes.contour(x, x, z, levels=levels, colors="white", linewidths=0.3, norm=norm)
            axes.plot([0], [0], "+", color="white", ms=5, mew=0.8)
            axes.set_aspect("equal")
            axes.set_title(group.label, fontsize="small")
            axes.tick_params(labelbottom=number + PLANES >= len(found.groups))
    bar = part.colorbar(filled, ax=grid, shrink=0.9, pad=0.01, label="joint loss")
    bar.set_ticks(levels[::2], labels=[f"{level:.2g}" for level in levels[::2]])
    bar.minorticks_off()


def _notes(found: Measured) -> list[str]:
    plane = " Planes: of the first seed; first direction to the right, second upwards; + is the checkpoint."
    return found.notes(
        f"Joint loss and accuracy over {found.first['samples']} training samples of each run, along random directions "
        f"(seed {found.first['directions_seed']}, the same draws for all runs), a filter of which is as long as the "
        f"network's; biases and BatchNorm stay (Li et al., NeurIPS 2018). BatchNorm: {found.first['batch_norm']}."
        f"{plane if found.first['plane'] else ''} {spread_text(found.groups)}",
        heads=False,
    )
