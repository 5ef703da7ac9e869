"""Plot of confusion matrices."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmpareto.analysis.plots import style

MAX_WRITTEN = 12  # classes; with more of them, numbers do not fit into the cells
INCHES_PER_CLASS, MIN_INCHES, MAX_INCHES = 0.42, 3.0, 8.0  # a panel's side


def confusion_plot(matrices: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str], title: str) -> Figure:
    """Confusion matrices of all heads, side by side: one row per true class, one column per predicted class.

    Colours, and numbers where they fit, are shares of the true class in percent; the row of a class without samples
    stays empty.

    Arguments:
        matrices: head → (C, C) counts.
        classes: C names.
    """
    size = min(max(INCHES_PER_CLASS * len(classes), MIN_INCHES), MAX_INCHES)
    figure = style.new_figure(size * len(matrices) + 0.8, size + 1.1)
    figure.suptitle(title)
    panels = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for axes, (head, counts) in zip(panels, matrices.items(), strict=True):
        correct, total = sum(counts[index][index] for index in range(len(classes))), sum(map(sum, counts))
        axes.set_title(f"{head}: {correct} of {total} correct", fontsize="medium")
        _draw(axes, counts, classes)
    panels[0].set_ylabel("true")
    for _ in range(2):  # the layout takes more than one drawing to make room for long names
        figure.draw_without_rendering()
    return figure


def _draw(axes: Axes, counts: Sequence[Sequence[int]], classes: Sequence[str]) -> None:
    shares = [[count / sum(row) if any(row) else float("nan") for count in row] for row in counts]
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=90 if max(map(len, classes)) > 3 else 0)
    axes.set_yticks(ticks, classes)
    axes.tick_params(length=0)
    axes.spines[:].set_color("lightgrey")
    axes.set_xlabel("predicted")
    if len(classes) > MAX_WRITTEN:
        return
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            if share > 0:
                colour = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8)
