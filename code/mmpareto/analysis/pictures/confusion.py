"""Pictures, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmpareto.files import atomic_path

MOST_WRITTEN = 12  # classes; with more of them, figures would not fit into the cells
INCHES_A_CLASS, LEAST_INCHES, MOST_INCHES = 0.42, 3.0, 8.0  # a panel's side


def confusion_picture(
    path: Path, matrices: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str], title: str
) -> None:
    """Draw a confusion matrix a head, side by side, into a PNG file; see `confusion_figure`."""
    figure = confusion_figure(matrices, classes, title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def confusion_figure(matrices: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str], title: str) -> Figure:
    """The confusion matrices of all heads, side by side: true classes down, predicted classes across.

    Colours, and figures where they fit, are shares of the true class in percent; the row of a class without samples
    stays empty.

    Arguments:
        matrices: head → (C, C) counts.
        classes: C names.
    """
    size = min(max(INCHES_A_CLASS * len(classes), LEAST_INCHES), MOST_INCHES)
    figure = Figure(figsize=(size * len(matrices) + 0.8, size + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for axes, (head, counts) in zip(panels, matrices.items(), strict=True):
        right, all_of_them = sum(counts[place][place] for place in range(len(classes))), sum(map(sum, counts))
        axes.set_title(f"{head}: {right} of {all_of_them} right", fontsize="medium")
        _draw(axes, counts, classes)
    panels[0].set_ylabel("true")
    return figure


def _draw(axes: Axes, counts: Sequence[Sequence[int]], classes: Sequence[str]) -> None:
    shares = [[count / sum(row) if any(row) else float("nan") for count in row] for row in counts]
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=90 if max(map(len, classes)) > 3 else 0)
    axes.set_yticks(places, classes)
    axes.tick_params(length=0)
    axes.spines[:].set_color("lightgrey")
    axes.set_xlabel("predicted")
    if len(classes) > MOST_WRITTEN:
        return
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            if share > 0:
                colour = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8)
