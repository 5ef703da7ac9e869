"""Plots over training of several runs: accuracy, the gap to the training set, and their gradients.

Each line is the mean over the seeds of a group (`groups.group_runs`).
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmpareto.analysis.finished_run import Array, FinishedRun
from mmpareto.analysis.plots import style
from mmpareto.analysis.plots.gradient_series import (
    ANY_NORM,
    CONFLICT,
    COSINE,
    NORMS,
    WEIGHTS,
    GradientSource,
    select,
    series_of,
    weights_of,
)
from mmpareto.analysis.plots.groups import (
    SeedGroup,
    banner_of,
    deviation_note,
    group_runs,
    mean_and_deviation,
    notes_on,
    title_of,
)

HEIGHT = 2.3  # of a row of panels of accuracies, in inches
MAX_COLUMNS = 4
ROW, SHARES = 1.6, 1.1  # of rows of panels of gradients, in inches
QUANTILES = (2.5, 25, 50, 75, 97.5)  # percent


def accuracy_plot(groups: Sequence[SeedGroup]) -> Figure:
    """Accuracy on the test set after every epoch, in percent: a panel for the joint head and for each unimodal head."""
    note = f"Accuracy on the test set after every epoch; no epoch is chosen. {deviation_note(groups)}"

    def series(head: str) -> Callable[[FinishedRun], Array]:
        return lambda run: 100 * run.series(f"acc{head}")

    return _plot_heads(groups, series, "Accuracy on the test set", "test accuracy (%)", note)


def gap_plot(groups: Sequence[SeedGroup]) -> Figure:
    """Training accuracy minus test accuracy, in percentage points; panels as in `accuracy_plot`.

    Training accuracy is that of the epoch's training batches: augmented, by the network before each step.
    """
    note = (
        "Accuracy over the epoch's training batches (augmented, each before its step) minus accuracy on the test set "
        f"after the epoch, in percentage points. {deviation_note(groups)}"
    )

    def series(head: str) -> Callable[[FinishedRun], Array]:
        return lambda run: 100 * (run.series(f"train_acc{head}") - run.series(f"acc{head}"))

    title = "Gap between training and test accuracy"
    return _plot_heads(groups, series, title, "training − test (points)", note, zero_line=True)


def conflict_plot(groups: Sequence[SeedGroup]) -> Figure:
    """Cosine between joint and unimodal gradient, and how often they conflict, over training; one column per modality.

    The cosine is that over the whole encoder. The share in conflict is that of the encoder's tensors where gradients
    were recorded; in means over epochs it is that of the parameter groups for which the method decides.

    Raises:
        InputError: a run lacks the metrics, or no method has them.
    """
    groups, source, omitted = select(groups, COSINE)
    modalities = _modalities(groups)
    with style.paper():
        figure = style.new_figure(style.WIDTH, ROW + SHARES + 0.4)
        grid = figure.subplots(
            2, len(modalities), sharex=True, sharey="row", squeeze=False, height_ratios=(ROW, SHARES)
        )
        lines = style.lines([group.label for group in groups])
        for modality, (above, below) in zip(modalities, grid.T, strict=True):
            above.set_title(modality)
            for index, group in enumerate(groups):
                for axes, metric, scale in ((above, COSINE, 1), (below, CONFLICT, 100)):
                    if (series := series_of(group, metric, modality, source)) is not None:
                        mean, deviation = mean_and_deviation(scale * series[1])
                        low, high = mean - deviation, mean + deviation
                        style.draw_band(axes, series[0], mean, low, high, lines[group.label], group.label, index)
            _label_steps(below, source)
        _mark_conflict(grid[0])
        grid[0, 0].set_ylabel("cosine")
        grid[1, 0].set_ylabel("layers in\nconflict (%)" if source.records else "groups in\nconflict (%)")
        top = max(1.0, grid[1, 0].get_ylim()[1])
        grid[1, 0].set_ylim(-0.05 * top, top)  # shows the markers at 0 completely
        style.legend(grid[0, -1], grid[0, :-1])
        parts = "its tensors" if source.records else "the parameter groups that the method weights"
        note = (
            "Above: cosine between joint and unimodal gradient over the whole encoder. Below: share of "
            f"{parts} where it is negative. {source.note} {deviation_note(groups)}"
        )
        _finish(figure, groups, "Joint and unimodal gradients in conflict", [note], omitted)
    return figure


def magnitude_plot(groups: Sequence[SeedGroup]) -> Figure:
    """Norms of joint and unimodal gradient at each encoder over training, one row per group, one column per modality.

    Mean and standard deviation are geometric.

    Raises:
        InputError: as in `conflict_plot`.
    """
    groups, source, omitted = select(groups, ANY_NORM)
    with style.paper():
        figure, panels = _row_per_group(groups, source)
        for group, modality, axes in panels:
            axes.set_yscale("log")
            for objective, metric in NORMS.items():
                if (series := series_of(group, metric, modality, source, np.log)) is not None:
                    mean, deviation = mean_and_deviation(series[1])
                    low, high = np.exp(mean - deviation), np.exp(mean + deviation)
                    line = style.OBJECTIVES[objective]
                    style.draw_band(axes, series[0], np.exp(mean), low, high, line, f"{objective} loss")
        _label_rows(figure, groups, "norm")
        deviation_text = deviation_note(
            groups, "geometric mean", "times or divided by one geometric standard deviation"
        )
        note = f"Norm of each loss's gradient over the whole encoder. {source.note} {deviation_text}"
        _finish(figure, groups, "Magnitude of joint and unimodal gradients", [note], omitted)
    return figure


def weights_plot(groups: Sequence[SeedGroup]) -> Figure:
    """Weights α of joint and unimodal gradient over training: median, quartiles, and the middle 95%.

    They are taken over all seeds and all parameter groups for which the method decides (the tensors of an encoder, or
    the encoder).

    Raises:
        InputError: as in `conflict_plot`; a run did not record its gradients, or weights none.
    """
    groups, source, omitted = select(groups, WEIGHTS)
    with style.paper():
        figure, panels = _row_per_group(groups, source)
        for group, modality, axes in panels:
            for height in (0, 0.5, 1):
                axes.axhline(height, color="0.85", lw=0.6, zorder=0)
            if (weights := weights_of(group, modality, source)) is None:
                continue
            x, points = weights
            for index, objective in enumerate(_objectives(group, modality, points[0].shape[1])):
                line = style.OBJECTIVES.get(objective, style.FURTHER[index])
                lowest, low, middle, high, highest = np.transpose([_quantiles(point[:, index]) for point in points])
                axes.fill_between(x, lowest, highest, color=line.colour, alpha=style.BAND / 2, lw=0)
                style.draw_band(axes, x, middle, low, high, line, objective)
        _label_rows(figure, groups, "weight α")
        note = (
            "Weights of the gradients. Line: median over the parameter groups for which the method decides, and over "
            "seeds; bands: quartiles, and (lighter) the middle 95%. One half each is the direction of the plain sum. "
            f"{source.note}"
        )
        _finish(figure, groups, "Weights of joint and unimodal gradients", [note], omitted)
    return figure


def _drawn(plot: Callable[[Sequence[SeedGroup]], Figure]) -> Callable[[Path, Sequence[FinishedRun], object], str]:
    def draw(out: Path, runs: Sequence[FinishedRun], options: argparse.Namespace | object) -> str:
        style.save(plot(group_runs(runs)), out)
        return ""

    return draw


draw_accuracy = _drawn(accuracy_plot)
draw_gap = _drawn(gap_plot)
draw_conflict = _drawn(conflict_plot)
draw_magnitude = _drawn(magnitude_plot)
draw_weights = _drawn(weights_plot)


def _finish(
    figure: Figure, groups: Sequence[SeedGroup], title: str, before: Sequence[str], after: Sequence[str]
) -> None:
    notes = [*before, *notes_on(groups), *after]
    style.finish(figure, f"{title}: {title_of(groups)}", notes, banner_of(groups))


def _modalities(groups: Sequence[SeedGroup]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.modalities))


# Accuracies


def _plot_heads(
    groups: Sequence[SeedGroup],
    series: Callable[[str], Callable[[FinishedRun], Array]],  # argument: what a head's keys of metrics.jsonl end in
    title: str,
    ylabel: str,
    note: str,
    zero_line: bool = False,
) -> Figure:
    """One panel per head that has values, with one line per group."""
    stacks = {
        head: {group.label: group.stacked(series(head)) for group in groups}
        for head in ("", *(f"_{name}" for name in _modalities(groups)))
    }
    heads = [head for head, stack in stacks.items() if not all(np.isnan(values).all() for values in stack.values())]
    with style.paper():
        rows, columns = max(1, math.ceil(len(heads) / MAX_COLUMNS)), min(max(len(heads), 1), MAX_COLUMNS)
        figure = style.new_figure(style.WIDTH, rows * HEIGHT)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        lines = style.lines([group.label for group in groups])
        for axes in grid.flat[len(heads) :]:
            axes.set_visible(False)
        for axes, head in zip(grid.flat, heads, strict=False):
            axes.set_title(f"{head[1:]} head" if head else "joint head")
            for index, group in enumerate(groups):
                mean, deviation = mean_and_deviation(stacks[head][group.label])
                x, low, high = np.arange(1.0, len(mean) + 1), mean - deviation, mean + deviation
                style.draw_band(axes, x, mean, low, high, lines[group.label], group.label, index)
            if zero_line:
                axes.axhline(0, color="0.6", lw=0.6, zorder=0)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for axes in grid[:, 0]:
            axes.set_ylabel(ylabel)
        style.legend(grid[0, -1], grid.flat[: len(heads)])
        _finish(figure, groups, title, [note], _untrained_note(groups, stacks, heads))
    return figure


def _untrained_note(
    groups: Sequence[SeedGroup], stacks: Mapping[str, Mapping[str, Array]], heads: Sequence[str]
) -> list[str]:
    """Names the lines that panels lack: a method that descends no unimodal loss has no such accuracy in training."""
    lacking = [g.label for g in groups if any(h and np.isnan(stacks[h][g.label]).all() for h in heads)]
    return [f"No unimodal curve, as the heads are not trained: {', '.join(lacking)}."] if lacking else []


# Gradients


def _row_per_group(
    groups: Sequence[SeedGroup], source: GradientSource
) -> tuple[Figure, list[tuple[SeedGroup, str, Axes]]]:
    """A figure with one row per group and one column per modality, and its panels."""
    modalities = _modalities(groups)
    figure = style.new_figure(style.WIDTH, ROW * len(groups) + 0.4)
    grid = figure.subplots(len(groups), len(modalities), sharex="col", sharey=True, squeeze=False)
    for modality, axes in zip(modalities, grid[0], strict=True):
        axes.set_title(modality)
    for axes in grid[-1]:
        _label_steps(axes, source)
    return figure, [
        (group, modality, axes)
        for group, row in zip(groups, grid, strict=True)
        for modality, axes in zip(modalities, row, strict=True)
    ]


def _label_rows(figure: Figure, groups: Sequence[SeedGroup], ylabel: str) -> None:
    """Label the rows of `_row_per_group`, and draw the legend."""
    columns = len(figure.axes) // len(groups)
    for index, group in enumerate(groups):
        figure.axes[index * columns].set_ylabel(f"{group.label}\n{ylabel}")
    style.legend(figure.axes[columns - 1], figure.axes)


def _label_steps(axes: Axes, source: GradientSource) -> None:
    axes.set_xlabel(source.xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _mark_conflict(panels: Sequence[Axes]) -> None:
    """Shade the negative cosines, of which at least a strip is always visible."""
    low = min(-0.1, *(axes.get_ylim()[0] for axes in panels))
    for axes in panels:
        axes.axhspan(-1.05, 0, color="0.92", lw=0, zorder=0)
        axes.set_ylim(bottom=max(low, -1.05))
        axes.text(0.98, 0.03, "conflict", transform=axes.transAxes, ha="right", color="0.35", fontsize=style.SMALL)


def _quantiles(values: Array) -> Array:
    """(5,) over the finite values; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return np.percentile(finite, QUANTILES) if len(finite) else np.full(len(QUANTILES), np.nan)


def _objectives(group: SeedGroup, modality: str, count: int) -> list[str]:
    """Names of the weighted objectives, in order."""
    names = list(group.runs[0].recorded_gradients().encoders[modality].norms)
    return names if len(names) == count else [f"objective {number + 1}" for number in range(count)]
