"""The largest eigenvalue of the losses' Hessian at the runs' checkpoints: measured, and drawn."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mmpareto.analysis.measurements import sharpness
from mmpareto.analysis.pictures import style
from mmpareto.analysis.pictures.dots import ROW, draw_dots
from mmpareto.analysis.pictures.files import save
from mmpareto.analysis.pictures.measured import Measured, measure
from mmpareto.analysis.pictures.notes import banner_of, title_of
from mmpareto.analysis.pictures.runs import Run, read_runs
from mmpareto.integration.objectives import JOINT
from mmpareto.training.settings import Settings

NAME = "sharpness"
SAME = {"checkpoint": "--checkpoint", "samples": "--samples"}


def draw_sharpness(out: Path, runs: Sequence[Path], options: argparse.Namespace) -> str:
    """Measure the runs that have not been (`sharpness.measure`), draw `sharpness_figure`; the figures as text."""
    known = read_runs(runs)  # refuses what cannot be drawn before anything is measured

    def asked(settings: Settings) -> dict[str, Any]:
        return {"samples": options.samples}

    measure(NAME, runs, options, asked, lambda subject: sharpness.measure(subject, options.samples))
    save(sharpness_figure(known), out)
    return sharpness_text(known)


def sharpness_figure(runs: Sequence[Run]) -> Figure:
    """The largest eigenvalue of every loss's Hessian: a panel a loss, a row a label.

    Raises:
        InputError: a run has not been measured, or not as the others were; or they are of different data sets.
    """
    found = Measured(NAME, runs, SAME)
    labels, names = [group.label for group in found.groups], _losses(found)
    with style.paper():
        figure = style.new_figure(style.WIDTH, ROW * len(labels) + 0.7)
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            line = style.OBJECTIVES[JOINT if name == JOINT else "unimodal"]
            values = {group.label: found.values(group, "losses", name, "largest_eigenvalue") for group in found.groups}
            draw_dots(axes, labels, {name: (line, values)})
            axes.set_title("joint loss" if name == JOINT else f"unimodal loss, {name}")
            axes.set_xlabel("largest eigenvalue")
        style.finish(figure, f"Sharpness: {title_of(found.groups)}", _notes(found), banner_of(found.groups))
    return figure


def sharpness_text(runs: Sequence[Run]) -> str:
    """A line a label: the largest eigenvalue of every loss, means over seeds."""
    found = Measured(NAME, runs, SAME)
    names = _losses(found)
    lines = [
        f"largest Hessian eigenvalue over {found.first['samples']} training samples; means over seeds",
        f"{'':24}" + "".join(f"{name:>14}" for name in names),
    ]
    for group in found.groups:
        seeds = [found.values(group, "losses", name, "largest_eigenvalue") for name in names]
        cells = [f"{np.mean(values):14.5g}" if len(values) else f"{'–':>14}" for values in seeds]
        lines.append(f"{group.label:24}" + "".join(cells))
    return "\n".join(lines)


def _losses(found: Measured) -> list[str]:
    """All losses that were measured of any run, the joint one first."""
    return [*dict.fromkeys(name for g in found.groups for run in g.runs for name in found.of(run)["losses"])]


def _notes(found: Measured) -> list[str]:
    every = [one for g in found.groups for run in g.runs for one in found.of(run)["losses"].values()]
    worst = max(one["residual"] / max(abs(one["largest_eigenvalue"]), 1e-300) for one in every)
    several = any(len(group.runs) > 1 for group in found.groups)
    marks = " Large marks: mean over seeds, line: ± one sample standard deviation; small: seeds." if several else ""
    return found.notes(
        f"Largest algebraic eigenvalue λ of the loss's Hessian with respect to all parameters that it reaches, over "
        f"{found.first['samples']} training samples; no augmentation, BatchNorm frozen. Lanczos; "
        f"‖Hv − λv‖/|λ| ≤ {worst:.1g}.{marks}"
    )
