"""How far mini-batch gradients scatter, for the joint and the unimodal loss: measured, and drawn."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mmpareto.analysis.measurements import covariance
from mmpareto.analysis.pictures import style
from mmpareto.analysis.pictures.dots import ROW, draw_dots
from mmpareto.analysis.pictures.files import save
from mmpareto.analysis.pictures.measured import Measured, measure
from mmpareto.analysis.pictures.notes import banner_of, title_of
from mmpareto.analysis.pictures.runs import Run, read_runs
from mmpareto.training.settings import Settings

NAME = "covariance"
ROWS = {"trace": "trace of the covariance", "largest_eigenvalue": "largest eigenvalue"}
SAME = {"checkpoint": "--checkpoint", "batches": "--batches", "batch_size": "--batch_size"}


def draw_covariance(out: Path, runs: Sequence[Path], options: argparse.Namespace) -> str:
    """Measure the runs that have not been (`covariance.measure`), draw `covariance_figure`; the figures as text."""
    known = read_runs(runs)  # refuses what cannot be drawn before anything is measured

    def asked(settings: Settings) -> dict[str, Any]:
        return {"batches": options.batches, "batch_size": options.batch_size or settings.batch_size}

    measure(
        NAME, runs, options, asked, lambda subject: covariance.measure(subject, options.batches, options.batch_size)
    )
    save(covariance_figure(known), out)
    return covariance_text(known)


def covariance_figure(runs: Sequence[Run]) -> Figure:
    """Trace and largest eigenvalue of the gradients' covariance in every encoder, a row a label.

    Raises:
        InputError: a run has not been measured, or not as the others were; or they are of different data sets.
    """
    found = Measured(NAME, runs, SAME)
    labels = [group.label for group in found.groups]
    modalities = [*found.first["encoders"]]
    with style.paper():
        height = len(ROWS) * (ROW * len(labels) + 0.62)
        figure = style.new_figure(style.WIDTH, height)
        grid = figure.subplots(len(ROWS), len(modalities), sharey=True, sharex="row", squeeze=False)
        for (key, text), panels in zip(ROWS.items(), grid, strict=True):
            for axes, modality in zip(panels, modalities, strict=True):
                series = {
                    f"{name} gradient": (
                        style.OBJECTIVES[name],
                        {g.label: found.values(g, "encoders", modality, name, key) for g in found.groups},
                    )
                    for name in style.OBJECTIVES
                }
                draw_dots(axes, labels, series)
                axes.set_xlabel(text)
        for axes, modality in zip(grid[0], modalities, strict=True):
            axes.set_title(f"{modality} encoder")
        style.legend(grid[0, -1])
        style.finish(figure, f"Gradient noise: {title_of(found.groups)}", _notes(found), banner_of(found.groups))
    return figure


def covariance_text(runs: Sequence[Run]) -> str:
    """A line a label and encoder: trace and largest eigenvalue of both losses, means over seeds."""
    found = Measured(NAME, runs, SAME)
    columns = [(name, key) for name in style.OBJECTIVES for key in ROWS]
    lines = [
        f"N = {found.first['batches']} batches of {found.first['batch_size']}; means over seeds",
        f"{'':32}" + "".join(f"{name + ' ' + key.replace('_', ' '):>30}" for name, key in columns),
    ]
    for group in found.groups:
        for modality in found.first["encoders"]:
            seeds = [found.values(group, "encoders", modality, *column) for column in columns]
            cells = [f"{np.mean(values):30.5g}" if len(values) else f"{'–':>30}" for values in seeds]
            lines.append(f"{group.label + ', ' + modality:32}" + "".join(cells))
    return "\n".join(lines)


def _notes(found: Measured) -> list[str]:
    several = any(len(group.runs) > 1 for group in found.groups)
    marks = " Large marks: mean over seeds, line: ± one sample standard deviation; small: seeds." if several else ""
    return found.notes(
        f"Covariance of the losses' gradients over N = {found.first['batches']} independent batches of "
        f"{found.first['batch_size']} training samples, in each encoder; no augmentation, BatchNorm frozen, divided by "
        f"N − 1.{marks}"
    )
