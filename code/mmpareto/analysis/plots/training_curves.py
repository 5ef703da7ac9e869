"""Plots over training of several runs: accuracy, the gap to the training set, and their gradients.

Each line is the mean over the seeds of a group (`groups.group_runs`). Up to three groups share their panels. More would
hide each other there, so each has a row of panels of its own, with the range of all lines in grey.
"""

import argparse
import dataclasses
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from mmpareto.analysis.finished_run import Array, FinishedRun
from mmpareto.analysis.plots import style
from mmpareto.analysis.plots.gradient_series import (
    CONFLICT,
    COSINE,
    WEIGHTS,
    GradientMetric,
    GradientSource,
    any_norm,
    norm_of,
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
from mmpareto.errors import InputError

MAX_COLUMNS = 4
SHARED = 3  # groups at most that share panels
# Heights in inches: of the only row of panels, of one of a few rows, of one of many, and of the text around the rows.
HEIGHT, FEW, MANY, AROUND = 2.3, 1.6, 0.85, 0.5
ROW_LABEL, ROW_LINES = 22, 6  # characters per line, and lines, of the label of such a row
QUANTILES = (2.5, 25, 50, 75, 97.5)  # percent
NO_CURVE = "No unimodal curve, as the heads are not trained"
Series = Callable[[SeedGroup], tuple[Array, Array] | None]


@dataclasses.dataclass(frozen=True)
class Curves:
    """A plot over training, and the text around it.

    Attributes:
        figure: the panels alone.
        notes: what the plot shows, and which groups it lacks.
        runs: data set, seeds and protocol of the runs, and in what they differ.
        banner: warning that accompanies all results on the data set, if it has one.
    """

    figure: Figure
    title: str
    notes: list[str]
    runs: list[str]
    banner: str | None

    def finished(self) -> Figure:
        """The figure with the text in it, to be saved as a file. Call it once."""
        style.finish(self.figure, self.title, [*self.notes[:1], *self.runs, *self.notes[1:]], self.banner)
        return self.figure


@dataclasses.dataclass(frozen=True)
class CurvePanel:
    """A panel of lines.

    Attributes:
        heading: such as a modality.
        ylabel: the metric and its unit.
        series: of a group: x (P,), and (S, P), one row per seed; None if the group lacks the metric.
    """

    heading: str
    ylabel: str
    series: Series


def accuracy_plot(groups: Sequence[SeedGroup]) -> Curves:
    """Accuracy on the test set after every epoch, in percent: a panel for the joint head and for each unimodal head.

    Raises:
        InputError: no run has an accuracy.
    """
    note = f"Accuracy on the test set after every epoch; no epoch is chosen. {_lines_note(groups)}"

    def series(head: str) -> Callable[[FinishedRun], Array]:
        return lambda run: 100 * run.series(f"acc{head}")

    return _plot_heads(groups, series, "Accuracy on the test set", "test accuracy (%)", note)


def gap_plot(groups: Sequence[SeedGroup]) -> Curves:
    """Training accuracy minus test accuracy, in percentage points; panels as in `accuracy_plot`.

    Training accuracy is that of the epoch's training batches: augmented, by the network before each step.

    Raises:
        InputError: as in `accuracy_plot`.
    """
    note = (
        "Accuracy over the epoch's training batches (augmented, each before its step) minus accuracy on the test set "
        f"after the epoch, in percentage points. {_lines_note(groups)}"
    )

    def series(head: str) -> Callable[[FinishedRun], Array]:
        return lambda run: 100 * (run.series(f"train_acc{head}") - run.series(f"acc{head}"))

    title = "Gap between training and test accuracy"
    return _plot_heads(groups, series, title, "training − test (points)", note, zero_line=True)


def conflict_plot(groups: Sequence[SeedGroup]) -> Curves:
    """Cosine between joint and unimodal gradient, and how often they conflict, over training, for every encoder.

    Of an encoder with several tasks, it is the smallest cosine between the gradients of any two.
    The cosine is that over the whole encoder. The share in conflict is that of the encoder's tensors where gradients
    were recorded; in means over epochs it is that of the parameter groups for which the method decides.

    Raises:
        InputError: a run lacks the metrics, or no method has them.
    """
    groups, source, omitted = select(groups, COSINE)
    modalities = _modalities(groups)

    def series(metric: GradientMetric, modality: str, scale: float) -> Series:
        def of(group: SeedGroup) -> tuple[Array, Array] | None:
            values = series_of(group, metric, modality, source)
            return None if values is None else (values[0], scale * values[1])

        return of

    share = f"{'layers' if source.records else 'groups'} in conflict (%)"
    cosines = [CurvePanel(name, "cosine", series(COSINE, name, 1)) for name in modalities]
    shares = [CurvePanel(name, share, series(CONFLICT, name, 100)) for name in modalities]
    with style.paper():
        figure, panels = _draw(groups, [*cosines, *shares], len(modalities), source.xlabel)
        _mark_conflict([axes for panel, axes in panels if panel in cosines])
        below = [axes for panel, axes in panels if panel in shares]
        top = max(1.0, *(axes.get_ylim()[1] for axes in below))
        for axes in below:
            axes.set_ylim(-0.05 * top, top)  # shows the markers at 0 completely
        parts = "its tensors" if source.records else "the parameter groups that the method weights"
        note = (
            f"Cosine between {_gradients(groups)} over the whole encoder, and share of "
            f"{parts} where it is negative. {source.note} {_lines_note(groups)}"
        )
        return _curves(figure, groups, f"{_kind(groups)} gradients in conflict", [note, *omitted])


def magnitude_plot(groups: Sequence[SeedGroup]) -> Curves:
    """Norms of joint and unimodal gradient at each encoder over training, one row per group, one column per modality.

    Mean and standard deviation are geometric.

    Raises:
        InputError: as in `conflict_plot`.
    """
    objectives = _objective_names(groups)
    groups, source, omitted = select(groups, any_norm(objectives))
    lines = style.objective_lines(objectives)
    with style.paper():
        figure, panels = _row_per_group(groups, "norm", source)
        for group, modality, axes in panels:
            axes.set_yscale("log")
            for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                set_formatter(LogFormatter(minor_thresholds=(2, 0.5)))  # 2 and 10, not 2×10⁰ and 10¹
            for objective, line in lines.items():
                if (series := series_of(group, norm_of(objective), modality, source, np.log)) is not None:
                    mean, deviation = mean_and_deviation(series[1])
                    low, high = np.exp(mean - deviation), np.exp(mean + deviation)
                    style.draw_band(axes, series[0], np.exp(mean), low, high, line, f"{objective} loss")
        _legend(panels)
        deviation_text = deviation_note(
            groups, "geometric mean", "times or divided by one geometric standard deviation"
        )
        note = f"Norm of each loss's gradient over the whole encoder. {source.note} {deviation_text}"
        return _curves(figure, groups, f"Magnitude of {_kind(groups).lower()} gradients", [note, *omitted])


def weights_plot(groups: Sequence[SeedGroup]) -> Curves:
    """Weights α of joint and unimodal gradient over training: median, quartiles, and the middle 95%.

    They are taken over all seeds and all parameter groups for which the method decides (the tensors of an encoder, or
    the encoder).

    Raises:
        InputError: as in `conflict_plot`; a run did not record its gradients, or weights none.
    """
    groups, source, omitted = select(groups, WEIGHTS)
    with style.paper():
        figure, panels = _row_per_group(groups, "weight α", source)
        for group, modality, axes in panels:
            for height in (0, 0.5, 1):
                axes.axhline(height, color="0.85", lw=0.6, zorder=0)
            if (weights := weights_of(group, modality, source)) is None:
                continue
            x, points = weights
            lines = style.objective_lines(_objectives(group, modality, points[0].shape[1]))
            for index, (objective, line) in enumerate(lines.items()):
                lowest, low, middle, high, highest = np.transpose([_quantiles(point[:, index]) for point in points])
                axes.fill_between(x, lowest, highest, color=line.colour, alpha=style.BAND / 2, lw=0)
                style.draw_band(axes, x, middle, low, high, line, objective)
        _legend(panels)
        note = (
            "Weights of the gradients. Line: median over the parameter groups for which the method decides, and over "
            "seeds; bands: quartiles, and (lighter) the middle 95%. One half each is the direction of the plain sum. "
            f"{source.note}"
        )
        return _curves(figure, groups, f"Weights of {_kind(groups).lower()} gradients", [note, *omitted])


def _drawn(plot: Callable[[Sequence[SeedGroup]], Curves]) -> Callable[[Path, Sequence[FinishedRun], object], str]:
    def draw(out: Path, runs: Sequence[FinishedRun], options: argparse.Namespace | object) -> str:
        style.save(plot(group_runs(runs)).finished(), out)
        return ""

    return draw


draw_accuracy = _drawn(accuracy_plot)
draw_gap = _drawn(gap_plot)
draw_conflict = _drawn(conflict_plot)
draw_magnitude = _drawn(magnitude_plot)
draw_weights = _drawn(weights_plot)


def _curves(figure: Figure, groups: Sequence[SeedGroup], title: str, notes: list[str]) -> Curves:
    return Curves(figure, f"{title}: {title_of(groups)}", notes, notes_on(groups), banner_of(groups))


def _modalities(groups: Sequence[SeedGroup]) -> list[str]:
    """The encoders."""
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.modalities))


def _objective_names(groups: Sequence[SeedGroup]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.objectives))


def _has_tasks(groups: Sequence[SeedGroup]) -> bool:
    return any(run.tasks for group in groups for run in group.runs)


def _kind(groups: Sequence[SeedGroup]) -> str:
    return "Task" if _has_tasks(groups) else "Joint and unimodal"


def _gradients(groups: Sequence[SeedGroup]) -> str:
    return "the tasks' gradients (the smallest of any two)" if _has_tasks(groups) else "joint and unimodal gradient"


def _plot_heads(
    groups: Sequence[SeedGroup],
    series: Callable[[str], Callable[[FinishedRun], Array]],  # argument: what a head's keys of metrics.jsonl end in
    title: str,
    ylabel: str,
    note: str,
    zero_line: bool = False,
) -> Curves:
    """One panel per head that has values."""

    def over_epochs(head: str) -> Series:
        def of(group: SeedGroup) -> tuple[Array, Array] | None:
            values = group.stacked(series(head))
            return None if np.isnan(values).all() else (np.arange(1.0, values.shape[1] + 1), values)

        return of

    names = list(dict.fromkeys(name for group in groups for run in group.runs for name in run.heads))
    first = "mean of the tasks" if _has_tasks(groups) else "joint head"
    heads = {first: "", **{f"{name} head": f"_{name}" for name in names}}
    panels = [CurvePanel(heading, ylabel, over_epochs(head)) for heading, head in heads.items()]
    panels = [panel for panel in panels if any(panel.series(group) for group in groups)]
    if not panels:
        raise InputError(f"{groups[0].runs[0].folder} and all others have no accuracy of any epoch to draw.")
    lacking = [g.label for g in groups if any(p.series(g) is None for p in panels if heads[p.heading])]
    reason = "No curve of the tasks that are not trained" if _has_tasks(groups) else NO_CURVE
    notes = [f"{reason}: {', '.join(lacking)}."] if lacking else []
    with style.paper():
        figure, drawn = _draw(groups, panels, min(len(panels), MAX_COLUMNS), "epoch")
        for _, axes in drawn if zero_line else ():
            axes.axhline(0, color="0.6", lw=0.6, zorder=0)
        return _curves(figure, groups, title, [note, *notes])


# Panels


def _lines_note(groups: Sequence[SeedGroup]) -> str:
    """Meaning of the lines and bands of `_draw`."""
    return deviation_note(groups) + (" In grey: the range of the lines of all rows." if len(groups) > SHARED else "")


def _draw(
    groups: Sequence[SeedGroup], panels: Sequence[CurvePanel], columns: int, xlabel: str
) -> tuple[Figure, list[tuple[CurvePanel, Axes]]]:
    """Draw the panels, which groups share if they are few; return every panel with its axes, of which it may have many.

    Arguments:
        columns: of panels, if groups share them.
    """
    return (_shared if len(groups) <= SHARED else _in_rows)(groups, panels, columns, xlabel)


def _shared(
    groups: Sequence[SeedGroup], panels: Sequence[CurvePanel], columns: int, xlabel: str
) -> tuple[Figure, list[tuple[CurvePanel, Axes]]]:
    """One axes per panel, with all groups, and a legend."""
    rows = max(1, math.ceil(len(panels) / max(columns, 1)))
    figure = style.new_figure(style.WIDTH, HEIGHT if rows == 1 else rows * FEW + AROUND)
    grid = figure.subplots(rows, max(columns, 1), sharex=True, sharey="row", squeeze=False)
    lines = style.lines([group.label for group in groups])
    drawn = list(zip(panels, grid.flat, strict=False))
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for number, (panel, axes) in enumerate(drawn):
        axes.set_title(panel.heading)
        if number % columns == 0:
            axes.set_ylabel(panel.ylabel)
        if number + columns >= len(panels):
            _label_x(axes, xlabel)
        for index, group in enumerate(groups):
            _draw_group(axes, group, panel, lines[group.label], index)
    style.legend(grid[0, -1], [axes for _, axes in drawn])
    return figure, drawn


def _in_rows(
    groups: Sequence[SeedGroup], panels: Sequence[CurvePanel], columns: int, xlabel: str
) -> tuple[Figure, list[tuple[CurvePanel, Axes]]]:
    """One row of axes per group, with the range of the lines of all groups in grey."""
    figure, grid = _rows([group.label for group in groups], [f"{p.heading}\n{p.ylabel}" for p in panels], xlabel)
    colours = {label: line.colour for label, line in style.lines([group.label for group in groups]).items()}
    for panel, column in zip(panels, grid.T, strict=True):
        series = [panel.series(group) for group in groups]
        x, low, high = _range([one for one in series if one is not None])
        for group, own, axes in zip(groups, series, column, strict=True):
            axes.fill_between(x, low, high, color="0.9", lw=0, zorder=0)
            marker = "o" if own is not None and len(own[0]) == 1 else ""  # a line of one point cannot be seen
            line = style.LineStyle(colours[group.label], style.SOLID, marker)
            _draw_group(axes, group, panel, line, 0)
    return figure, [(panel, axes) for panel, column in zip(panels, grid.T, strict=True) for axes in column]


def _range(series: Sequence[tuple[Array, Array]]) -> tuple[Array, Array, Array]:
    """The smallest and the largest mean over seeds at every x, all (P,); NaN where there is none."""
    x = np.unique(np.concatenate([one[0] for one in series]))
    low, high = np.full_like(x, np.nan), np.full_like(x, np.nan)
    for steps, values in series:
        index, mean = np.searchsorted(x, steps), mean_and_deviation(values)[0]
        low[index], high[index] = np.fmin(low[index], mean), np.fmax(high[index], mean)  # which ignore NaN
    return x, low, high


def _draw_group(axes: Axes, group: SeedGroup, panel: CurvePanel, line: style.LineStyle, index: int) -> None:
    if (series := panel.series(group)) is not None:
        mean, deviation = mean_and_deviation(series[1])
        style.draw_band(axes, series[0], mean, mean - deviation, mean + deviation, line, group.label, index)


def _row_per_group(
    groups: Sequence[SeedGroup], ylabel: str, source: GradientSource
) -> tuple[Figure, list[tuple[SeedGroup, str, Axes]]]:
    """A figure with one row per group and one column per modality, and its panels."""
    modalities = _modalities(groups)
    headings = [f"{modality}\n{ylabel}" for modality in modalities]
    figure, grid = _rows([group.label for group in groups], headings, source.xlabel, sharey="all")
    return figure, [
        (group, modality, axes)
        for group, row in zip(groups, grid, strict=True)
        for modality, axes in zip(modalities, row, strict=True)
    ]


def _rows(
    labels: Sequence[str], headings: Sequence[str], xlabel: str, sharey: Literal["all", "col"] = "col"
) -> tuple[Figure, Any]:
    """A figure with one labelled row of axes per label and one column per heading, and its axes."""
    figure = style.new_figure(style.WIDTH, (FEW if len(labels) <= SHARED else MANY) * len(labels) + AROUND)
    grid = figure.subplots(len(labels), len(headings), sharex=True, sharey=sharey, squeeze=False)
    for heading, axes in zip(headings, grid[0], strict=True):
        axes.set_title(heading)
    for label, axes in zip(labels, grid[:, 0], strict=True):
        text = textwrap.wrap(label, ROW_LABEL, max_lines=ROW_LINES, placeholder=" …", break_on_hyphens=False)
        size = style.FONT if len(text) < 3 else style.SMALL
        axes.set_ylabel("\n".join(text), rotation=0, ha="right", va="center", fontsize=size)
    for axes in grid.flat:
        axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    for axes in grid[-1]:
        _label_x(axes, xlabel)
    return figure, grid


def _legend(panels: Sequence[tuple[SeedGroup, str, Axes]]) -> None:
    """Draw the legend of `_row_per_group`, beside its first row."""
    first = [axes for group, _, axes in panels if group is panels[0][0]]
    style.legend(first[-1], [axes for *_, axes in panels])


def _label_x(axes: Axes, xlabel: str) -> None:
    axes.set_xlabel(xlabel)
    axes.tick_params(labelbottom=True)
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
