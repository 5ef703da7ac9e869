"""A picture of the methods: what each way of integration makes of the same two gradients."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmpareto.analysis.pictures.files import save
from mmpareto.analysis.pictures.style import JOINT, MIN_NORM, MMPARETO, SUM, UNIMODAL
from mmpareto.integration import METHODS
from mmpareto.integration.min_norm import min_norm_weights

# Two pairs of gradients (joint, unimodal) in a plane; the unimodal one is longer, as the paper observes.
CASES = {
    "no conflict: both count equally": ((1.15, 0.1), (0.3, 1.35)),
    "conflict: the sum harms the joint loss": ((1.1, 0.1), (-1.5, 1.1)),
}
DPI = 110  # a README's width


def draw_integration(out: Path, runs: Sequence[Path], options: argparse.Namespace) -> str:
    """Draw `integration_figure`."""
    save(integration_figure(), out, DPI)
    return ""


def integration_figure() -> Figure:
    """Joint and unimodal gradients, their sum, their min-norm combination and MMPareto's.

    Every arrow but the min-norm one is what the methods of this package leave in `.grad`.
    """
    figure = Figure(figsize=(9.6, 2.75), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, pair) in zip(figure.subplots(1, 2), CASES.items(), strict=True):
        _draw_case(axes, title, *(torch.tensor(gradient) for gradient in pair))
    return figure


def integrated(method: str, joint: torch.Tensor, unimodal: torch.Tensor) -> torch.Tensor:
    """What `method` leaves in `.grad` of a parameter at which the two losses have these gradients."""
    parameter = torch.zeros_like(joint, requires_grad=True)
    METHODS[method]().backward(joint @ parameter, {"m": unimodal @ parameter}, encoders={"m": [parameter]})
    assert parameter.grad is not None
    return parameter.grad


def _draw_case(axes: Axes, title: str, joint: torch.Tensor, unimodal: torch.Tensor) -> None:
    pair = torch.stack([joint, unimodal])
    min_norm = 2 * min_norm_weights(pair @ pair.T) @ pair
    conflict = bool(joint @ unimodal < 0)
    # Everything to the left of this line makes the joint loss grow.
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
    for name, (x, y), colour in ((name, vector.tolist(), colour) for name, vector, colour in arrows):
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
        "a step along the shaded side lets the joint loss grow",
        color=JOINT,
        transform=axes.transAxes,
        fontsize=8,
    )
    axes.set(xlim=(-3.0, 4.1), ylim=(-0.45, 2.1), aspect="equal", xticks=[], yticks=[])
    axes.axhline(0, color="0.9", zorder=0)
    axes.axvline(0, color="0.9", zorder=0)
