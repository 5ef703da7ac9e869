"""Plot of the methods: how each of them combines the same two gradients."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots import style
from mmpareto.analysis.plots.style import JOINT, MIN_NORM, MMPARETO, SUM, UNIMODAL
from mmpareto.integration import METHODS
from mmpareto.integration.min_norm import min_norm_weights

# Two pairs of gradients (joint, unimodal) in a plane; the unimodal one is longer, as the paper observes.
CASES = {
    "no conflict: both count equally": ((1.15, 0.1), (0.3, 1.35)),
    "conflict: the sum harms the joint loss": ((1.1, 0.1), (-1.5, 1.1)),
}


def draw_integration(out: Path, runs: Sequence[FinishedRun], options: argparse.Namespace) -> str:
    """Draw `integration_plot`."""
    style.save(integration_plot(), out, style.README_DPI)
    return ""


def integration_plot() -> Figure:
    """Joint and unimodal gradients, their sum, their min-norm combination and MMPareto's.

    Every arrow but the min-norm one is what the methods of this package leave in `.grad`.
    """
    figure = style.new_figure(9.6, 2.05)
    figure.set_layout_engine("compressed")  # no bands around panels of equal scale
    for axes, (title, pair) in zip(figure.subplots(1, 2), CASES.items(), strict=True):
        _draw_case(axes, title, *(torch.tensor(gradient) for gradient in pair))
    return figure


def integrated(method: str, joint: torch.Tensor, unimodal: torch.Tensor) -> torch.Tensor:
    """`.grad` after `method` has integrated two losses that have these gradients at the parameter."""
    parameter = torch.zeros_like(joint, requires_grad=True)
    METHODS[method]().backward(joint @ parameter, {"m": unimodal @ parameter}, encoders={"m": [parameter]})
    assert parameter.grad is not None
    return parameter.grad


def _draw_case(axes: Axes, title: str, joint: torch.Tensor, unimodal: torch.Tensor) -> None:
    pair = torch.stack([joint, unimodal])
    min_norm = 2 * min_norm_weights(pair @ pair.T) @ pair
    conflict = bool(joint @ unimodal < 0)
    # A step to the left of this line increases the joint loss.
    across = torch.tensor([-joint[1], joint[0]]) / joint.norm() * 4
    axes.fill(
        *torch.stack([across, -across, -across - 4 * joint, across - 4 * joint]).T.tolist(),
        color=JOINT,
        alpha=0.08,
        lw=0,
    )
    arrows = [
        ("$g_m$ joint", joint, JOINT),
        ("$g_u$ unimodal", unimodal, UNIMODAL),
        ("uniform sum", integrated("uniform", joint, unimodal), SUM),
        ("min-norm (Pareto)", min_norm, MIN_NORM),
        ("MMPareto", integrated("mmpareto", joint, unimodal), MMPARETO),
    ]
    for name, vector, colour in arrows:
        x, y = vector.tolist()
        if not conflict and name == "uniform sum":
            continue  # the same as MMPareto's
        wide = name == "MMPareto"
        axes.annotate(
            "",
            (x, y),
            (0, 0),
            arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 3.2 if wide else 2, "shrinkA": 0, "shrinkB": 0},
            zorder=3 if wide else 4,
        )
        label = "MMPareto = uniform sum" if wide and not conflict else name
        side = {"uniform sum": "center", "$g_u$ unimodal": "right"}.get(name, "left")
        axes.text(
            x + {"left": 0.08, "right": -0.08, "center": 0.0}[side],
            y + (0.12 if side == "center" else 0.0),
            label,
            color=colour,
            ha=side,
            va="center",
            fontsize=9,
        )
    axes.set_title(title)
    axes.text(
        0.01,
        0.01,
        "a step into the shaded half-plane increases the joint loss",
        color=JOINT,
        transform=axes.transAxes,
        fontsize=8,
    )
    axes.set(xlim=(-3.0, 4.1), ylim=(-0.45, 2.1), aspect="equal", xticks=[], yticks=[])
    axes.axhline(0, color="0.9", zorder=0)
    axes.axvline(0, color="0.9", zorder=0)
