"""The loss around a minimum, along filter-normalised random directions.

Li, Xu, Taylor, Studer & Goldstein, "Visualizing the loss landscape of neural nets", NeurIPS 2018: L(θ + a δ) along a
line, L(θ + a δ + b η) on a plane. Directions δ and η are Gaussian, and each of their filters (the slice of a weight
along its first axis, which computes one output of the layer) is scaled to the norm of the network's filter. As in
their released code (tomgoldstein/loss-landscape) under the flags `--xnorm filter --xignore biasbn` of its examples,
directions are zero at all one-dimensional tensors: biases, and BatchNorm's weights and biases.

BatchNorm is in evaluation mode at every point, with the running mean and variance of the minimum, as in that code's
default `--dir_type weights`; they are neither moved nor computed again.

A direction follows from its seed and the tensors' names alone, so that the runs of all methods are measured along the
same draws, each scaled to its own filters. The loss is the joint one, a mean over the same samples of the training set
at every point, read without augmentation.
"""

import argparse
import contextlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from pydantic import AfterValidator as Check
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots import style
from mmpareto.analysis.plots.groups import banner_of, deviation_note, group_runs, mean_and_deviation, title_of
from mmpareto.analysis.plots.measured import Measurement, Measurements, Subject, measure_runs
from mmpareto.data.loading.batches import Batch
from mmpareto.progress import progress
from mmpareto.training.evaluation import predict
from mmpareto.training.losses import correctness, loss_of
from mmpareto.training.schema import Count, Number
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
PLANES = 4  # per row
LEVELS = 12
COLOURS = "cividis"  # made for any colour vision
BATCH_SIZE = 64
REACH = 1.0  # of line and plane in both directions, where a direction is as long as the weights
BATCH_NORM = "running statistics of the checkpoint, at every point"


class Line(TypedDict):
    """Values at the points of the line."""

    loss: list[Number]
    acc: list[Number]


class Plane(TypedDict):
    """Values at the points of the plane, one list per row."""

    loss: list[list[Number]]
    acc: list[list[Number]]


def _same_points(content: "LandscapeFile") -> "LandscapeFile":
    points = len(content["distances"])
    if {points} != {len(values) for values in content["line"].values()}:  # type: ignore[arg-type]
        raise ValueError("the line has another number of points")
    if (plane := content["plane"]) is not None:
        points = len(content["plane_distances"] or ())
        rows = [[len(row) for row in values] for values in plane.values()]  # type: ignore[attr-defined]
        if points < 2 or rows != [[points] * points] * 2:
            raise ValueError("the plane has another number of points")
    return content


class LandscapeFile(Measurement):
    """Entries of landscape.json."""

    samples: Count
    points: Count
    directions_seed: Count
    distances: Annotated[list[Number], Field(min_length=1)]
    line: Line
    plane_points: Count | None
    plane_distances: list[Number] | None
    plane: Plane | None
    batch_norm: str


def draw_landscape(out: Path, runs: Sequence[FinishedRun], options: argparse.Namespace) -> str:
    """Measure the runs that have not been measured, and draw `landscape_plot`."""
    group_runs(runs)  # raises before anything is measured
    seed = options.directions_seed

    def asked(settings: Settings) -> dict[str, Any]:
        # Without --plane, an earlier measurement of line and plane will do.
        plane = {} if options.plane is None else {"plane_points": options.plane}
        return {"samples": options.samples, "points": options.points, "directions_seed": seed, **plane}

    def measured(subject: Subject) -> dict[str, Any]:
        return measure(subject, options.samples, options.points, options.plane, seed)

    measure_runs(NAME, runs, options, asked, measured)
    style.save(landscape_plot(runs), out)
    return ""


def landscape_plot(runs: Sequence[FinishedRun]) -> Figure:
    """Joint loss and accuracy along the line, one line per group; below, where it was measured, the loss on the plane.

    Raises:
        InputError: see `Measurements`.
    """
    measured = Measurements(NAME, runs, SAME, Annotated[LandscapeFile, Check(_same_points)])
    with_plane = measured.first["plane"] is not None
    rows = -(-len(measured.groups) // PLANES) if with_plane else 0
    side = style.WIDTH / PLANES
    with style.paper():
        figure = style.new_figure(style.WIDTH, HEIGHT + rows * side)
        heights = [HEIGHT, rows * side][: 1 + with_plane]
        parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
        _draw_line(parts[0, 0].subplots(1, 2), measured)
        if with_plane:
            _draw_planes(parts[1, 0], measured, rows)
        plane = " Planes: of the first seed; first direction to the right, second upwards; + is the checkpoint."
        notes = measured.notes(
            f"Joint loss and accuracy over {measured.first['samples']} training samples of each run, along random "
            f"directions (seed {measured.first['directions_seed']}, the same draws for all runs), scaled filter by "
            "filter to the network's norms; biases and BatchNorm stay (Li et al., NeurIPS 2018). BatchNorm: "
            f"{measured.first['batch_norm']}.{plane if with_plane else ''} {deviation_note(measured.groups)}",
            heads=False,
        )
        style.finish(figure, f"Loss landscape: {title_of(measured.groups)}", notes, banner_of(measured.groups))
    return figure


def _draw_line(panels: Sequence[Axes], measured: Measurements) -> None:
    lines = style.lines(measured.labels)
    x = np.array(measured.first["distances"])
    for axes, key, label, scale in zip(panels, ("loss", "acc"), ("joint loss", "accuracy (%)"), (1, 100), strict=True):
        highest, lowest = 0.0, np.inf
        for group in measured.groups:
            values = scale * measured.values(group, "line", key)
            mean, deviation = mean_and_deviation(values)
            low = mean - deviation
            if key == "loss":
                low = np.maximum(low, values.min(0))  # above 0, for the logarithm
            style.draw_band(axes, x, mean, low, mean + deviation, lines[group.label], group.label)
            highest, lowest = max(highest, values.max()), min(lowest, values.min())
        if key == "loss" and lowest > 0 and highest > 20 * lowest:
            axes.set_yscale("log")
        axes.set_xlabel("distance along the direction")
        axes.set_ylabel(label)
    style.legend(panels[1], panels[:1])


def _draw_planes(part: Any, measured: Measurements, rows: int) -> None:
    """The loss of each group's first seed, all with the same colours."""
    losses = {group.label: np.array(measured.of(group.runs[0])["plane"]["loss"]) for group in measured.groups}
    low, high = min(z.min() for z in losses.values()), max(z.max() for z in losses.values())
    low = max(low, 1e-6 * high, 1e-12)
    high = max(high, 1.01 * low)  # where the loss is the same everywhere
    levels, norm = np.geomspace(low, high, LEVELS), LogNorm(low, high)
    grid = part.subplots(rows, PLANES, sharex=True, sharey=True, squeeze=False)
    x = measured.first["plane_distances"]
    for axes in grid.flat[len(losses) :]:
        axes.set_visible(False)
    for index, (axes, (label, loss)) in enumerate(zip(grid.flat, losses.items(), strict=False)):
        z = np.maximum(loss, low)
        filled = axes.contourf(x, x, z, levels=levels, cmap=COLOURS, norm=norm)
        axes.contour(x, x, z, levels=levels, colors="white", linewidths=0.3, norm=norm)
        axes.plot([0], [0], "+", color="white", ms=5, mew=0.8)
        axes.set_aspect("equal")
        axes.set_title(label, fontsize="small")
        axes.tick_params(labelbottom=index + PLANES >= len(losses))
    bar = part.colorbar(filled, ax=grid, shrink=0.9, pad=0.01, label="joint loss")
    bar.set_ticks(levels[::2], labels=[f"{level:.2g}" for level in levels[::2]])
    bar.minorticks_off()


def measure(subject: Subject, samples: int, points: int, plane: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Measure joint loss and accuracy along a line and, unless `plane` is None, on a plane of `plane`² points.

    The weights are restored exactly. Costs one forward pass over the samples per point; memory: three copies of the
    weights, and the samples.

    Arguments:
        points: odd, so that the minimum is one of them; so is `plane`.

    Returns:
        {"distances", "line": {"loss", "acc"}, "plane_points", "plane_distances", "plane": {"loss", "acc"} or None,
        "batch_norm"}. A row of the plane is one step along the second direction, a column one along the first.
        Accuracies are fractions.

    Raises:
        InputError: the training set is smaller.
    """
    batches = subject.sample(samples, BATCH_SIZE)
    first, second = (direction(subject.network, number, seed) for number in (0, 1))
    along = np.linspace(-REACH, REACH, points)
    across = None if plane is None else np.linspace(-REACH, REACH, plane)
    steps = [(a, 0.0) for a in along] + ([] if across is None else [(a, b) for b in across for a in across])
    values = []
    for a, b in progress(steps, desc=f"landscape of {subject.folder.name}", unit=" points", leave=False):
        with moved(subject.network, [(a, first), (b, second)]):
            values.append(loss_and_accuracy(subject, batches))
    metrics = dict(zip(("loss", "acc"), np.array(values).T, strict=True))
    return {
        "distances": along.tolist(),
        "line": {name: metric[:points].tolist() for name, metric in metrics.items()},
        "plane_points": plane,
        "plane_distances": None if across is None else across.tolist(),
        "plane": plane and {name: m[points:].reshape(plane, plane).tolist() for name, m in metrics.items()},
        "batch_norm": BATCH_NORM,
    }


def direction(network: nn.Module, number: int, seed: int) -> dict[str, Tensor]:
    """A random direction: parameter's name → tensor whose filters have the norms of the network's; zero if () or (n,).

    Arguments:
        number: 0 for the first direction of the seed, 1 for the second.
    """
    tensors = {}
    for name, parameter in network.named_parameters():
        weights = parameter.detach()
        if weights.dim() <= 1:
            tensors[name] = torch.zeros_like(weights)
            continue
        generator = np.random.default_rng((seed, number, zlib.crc32(name.encode())))
        drawn = torch.from_numpy(generator.standard_normal(tuple(weights.shape))).to(weights)
        shape = [-1] + [1] * (weights.dim() - 1)
        norms, drawn_norms = (torch.linalg.vector_norm(x.flatten(1), dim=1).view(shape) for x in (weights, drawn))
        tensors[name] = drawn * (norms / drawn_norms)
    return tensors


@contextlib.contextmanager
def moved(network: nn.Module, steps: Sequence[tuple[float, dict[str, Tensor]]]) -> Iterator[None]:
    """Inside, the parameters are moved along the directions; afterwards they are restored exactly."""
    parameters = dict(network.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with torch.no_grad():
            for name, parameter in parameters.items():
                for distance, towards in steps:
                    if distance:  # the minimum itself is not even rounded
                        parameter.add_(towards[name], alpha=distance)
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(before[name])


def loss_and_accuracy(subject: Subject, batches: Sequence[Batch]) -> tuple[float, float]:
    """Mean joint loss over all samples of the batches, and the share of them that is classified correctly."""
    precision = subject.trained.precision(subject.device)
    predictions = predict(subject.network, batches, subject.device, subject.samples.normalisation, precision)
    logits = predictions.logits[""].double()
    return loss_of(logits, predictions.labels).item(), correctness(logits, predictions.labels).mean().item()
