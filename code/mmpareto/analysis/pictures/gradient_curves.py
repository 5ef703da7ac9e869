"""Figures of gradients over training: how joint and unimodal ones agree, how long they are, how they are weighed."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmpareto.analysis.pictures import style
from mmpareto.analysis.pictures.files import save
from mmpareto.analysis.pictures.gradient_series import (
    ANY_NORM,
    CONFLICT,
    COSINE,
    NORMS,
    WEIGHTS,
    Source,
    of_groups,
    records_of,
    series_of,
    weights_of,
)
from mmpareto.analysis.pictures.groups import Group, grouped, mean_and_spread
from mmpareto.analysis.pictures.notes import about, banner_of, spread_text, title_of
from mmpareto.analysis.pictures.runs import Array, Run, read_runs

ROW, SHARES = 1.6, 1.1  # of rows of panels, in inches


def draw_conflict(out: Path, runs: Sequence[Path], options: argparse.Namespace) -> str:
    """Draw `conflict_figure`."""
    save(conflict_figure(read_runs(runs)), out)
    return ""


def draw_magnitude(out: Path, runs: Sequence[Path], options: argparse.Namespace) -> str:
    """Draw `magnitude_figure`."""
    save(magnitude_figure(read_runs(runs)), out)
    return ""


def draw_weights(out: Path, runs: Sequence[Path], options: argparse.Namespace) -> str:
    """Draw `weights_figure`."""
    save(weights_figure(read_runs(runs)), out)
    return ""


def conflict_figure(runs: Sequence[Run]) -> Figure:
    """Cosine between joint and unimodal gradient over training, a column a modality, and how often they conflict.

    The cosine is that over the whole encoder. The share in conflict is that of the encoder's tensors where gradients
    were recorded; of the epochs' means it is that of the groups over which the method decides.

    Raises:
        InputError: the runs are of different data sets, there is none, or one lacks the figures; it names the run.
    """
    groups, source, left = of_groups(grouped(runs), COSINE)
    modalities = _modalities(groups)
    with style.paper():
        figure = style.new_figure(style.WIDTH, ROW + SHARES + 0.4)
        grid = figure.subplots(
            2, len(modalities), sharex=True, sharey="row", squeeze=False, height_ratios=(ROW, SHARES)
        )
        drawn = style.lines([group.label for group in groups])
        for modality, (above, below) in zip(modalities, grid.T, strict=True):
            above.set_title(modality)
            for place, group in enumerate(groups):
                for axes, measure, scale in ((above, COSINE, 1), (below, CONFLICT, 100)):
                    if (found := series_of(group, measure, modality, source)) is not None:
                        mean, spread = mean_and_spread(scale * found[1])
                        low, high = mean - spread, mean + spread
                        style.draw_band(axes, found[0], mean, low, high, drawn[group.label], group.label, place)
            _along_training(below, source)
        _mark_conflict(grid[0])
        grid[0, 0].set_ylabel("cosine")
        grid[1, 0].set_ylabel("layers in\nconflict (%)" if source.records else "groups in\nconflict (%)")
        top = max(1.0, grid[1, 0].get_ylim()[1])
        grid[1, 0].set_ylim(-0.05 * top, top)  # markers at 0 whole
        style.legend(grid[0, -1], grid[0, :-1])
        of = "its tensors" if source.records else "the parameter groups that the method weighs"
        notes = [
            "Above: cosine between joint and unimodal gradient over the whole encoder. Below: share of "
            f"{of} where it is negative. {source.text} {spread_text(groups)}",
            *about(groups),
            *left,
        ]
        style.finish(figure, f"Joint and unimodal gradients in conflict: {title_of(groups)}", notes, banner_of(groups))
    return figure


def magnitude_figure(runs: Sequence[Run]) -> Figure:
    """Norms of joint and unimodal gradient at each encoder over training, a row a label, a column a modality.

    Mean and standard deviation are those of the logarithms: geometric.

    Raises:
        InputError: as in `conflict_figure`.
    """
    groups, source, left = of_groups(grouped(runs), ANY_NORM)
    with style.paper():
        figure, rows = _row_a_group(groups, source)
        for group, modality, axes in rows:
            axes.set_yscale("log")
            for objective, measure in NORMS.items():
                if (found := series_of(group, measure, modality, source, np.log)) is not None:
                    mean, spread = mean_and_spread(found[1])
                    low, high = np.exp(mean - spread), np.exp(mean + spread)
                    line = style.OBJECTIVES[objective]
                    style.draw_band(axes, found[0], np.exp(mean), low, high, line, f"{objective} loss")
        _labelled(figure, groups, "norm")
        spread_note = spread_text(groups, "geometric mean", "times or divided by one geometric standard deviation")
        notes = [
            f"Norm of each loss's gradient over the whole encoder. {source.text} {spread_note}",
            *about(groups),
            *left,
        ]
        style.finish(figure, f"Magnitude of joint and unimodal gradients: {title_of(groups)}", notes, banner_of(groups))
    return figure


def weights_figure(runs: Sequence[Run]) -> Figure:
    """Weights α of joint and unimodal gradient over training: median, quartiles, and the middle 95%.

    They go over all groups over which the method decides (the tensors of an encoder, or the encoder), and all seeds.

    Raises:
        InputError: as in `conflict_figure`; a run did not record its gradients, or weighs none.
    """
    groups, source, left = of_groups(grouped(runs), WEIGHTS)
    with style.paper():
        figure, rows = _row_a_group(groups, source)
        for group, modality, axes in rows:
            for height in (0, 0.5, 1):
                axes.axhline(height, color="0.85", lw=0.6, zorder=0)
            if (found := weights_of(group, modality, source)) is None:
                continue
            x, points = found
            for place, objective in enumerate(_weighed(group, modality, points[0].shape[1])):
                line = style.OBJECTIVES.get(objective, style.FURTHER[place])
                lowest, low, middle, high, highest = np.transpose([_quantiles(one[:, place]) for one in points])
                axes.fill_between(x, lowest, highest, color=line.colour, alpha=style.BAND / 2, lw=0)
                style.draw_band(axes, x, middle, low, high, line, objective)
        _labelled(figure, groups, "weight α")
        notes = [
            "Weights of the gradients. Line: median over the parameter groups over which the method decides and over "
            f"seeds; bands: quartiles, and (lighter) the middle 95%. One half each: the direction of the plain sum. "
            f"{source.text}",
            *about(groups),
            *left,
        ]
        style.finish(figure, f"Weights of joint and unimodal gradients: {title_of(groups)}", notes, banner_of(groups))
    return figure


QUANTILES = (2.5, 25, 50, 75, 97.5)  # percent


def _quantiles(values: Array) -> Array:
    """(5,) of what is finite; NaN of nothing."""
    finite = values[np.isfinite(values)]
    return np.percentile(finite, QUANTILES) if len(finite) else np.full(len(QUANTILES), np.nan)


def _weighed(group: Group, modality: str, count: int) -> list[str]:
    """The names of the objectives that are weighed, in order."""
    found = records_of(group.runs[0])
    names = list(found.encoders[modality].norms) if found else []
    return names if len(names) == count else [f"objective {number + 1}" for number in range(count)]


def _row_a_group(groups: Sequence[Group], source: Source) -> tuple[Figure, list[tuple[Group, str, Axes]]]:
    """A figure with a row a group and a column a modality, and its panels."""
    modalities = _modalities(groups)
    figure = style.new_figure(style.WIDTH, ROW * len(groups) + 0.4)
    grid = figure.subplots(len(groups), len(modalities), sharex="col", sharey=True, squeeze=False)
    for modality, axes in zip(modalities, grid[0], strict=True):
        axes.set_title(modality)
    for axes in grid[-1]:
        _along_training(axes, source)
    return figure, [
        (group, modality, axes)
        for group, panels in zip(groups, grid, strict=True)
        for modality, axes in zip(modalities, panels, strict=True)
    ]


def _labelled(figure: Figure, groups: Sequence[Group], ylabel: str) -> None:
    """Name the rows of `_row_a_group`, and its lines."""
    columns = len(figure.axes) // len(groups)
    for place, group in enumerate(groups):
        figure.axes[place * columns].set_ylabel(f"{group.label}\n{ylabel}")
    style.legend(figure.axes[columns - 1], figure.axes)


def _along_training(axes: Axes, source: Source) -> None:
    axes.set_xlabel(source.xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _mark_conflict(panels: Sequence[Axes]) -> None:
    """Mark where gradients point against each other, wherever that is seen."""
    low = min(-0.1, *(axes.get_ylim()[0] for axes in panels))
    for axes in panels:
        axes.axhspan(-1.05, 0, color="0.92", lw=0, zorder=0)
        axes.set_ylim(bottom=max(low, -1.05))
        axes.text(0.98, 0.03, "conflict", transform=axes.transAxes, ha="right", color="0.35", fontsize=style.SMALL)


def _modalities(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.modalities))
