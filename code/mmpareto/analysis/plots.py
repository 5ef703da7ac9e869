"""Pictures, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmpareto.files import whole_file


def confusion_picture(
    path: Path, matrices: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str], title: str
) -> None:
    """Draw a confusion matrix a head, side by side: true classes down, predicted across; shares of the true class.

    Arguments:
        matrices: head → (C, C) counts.
    """
    size = max(3.2, 0.32 * len(classes))
    figure = Figure(figsize=(size * len(matrices) + 0.6, size + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for place, (head, counts) in enumerate(matrices.items(), start=1):
        axes = figure.add_subplot(1, len(matrices), place)
        shares = [[count / max(sum(row), 1) for count in row] for row in counts]
        axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        axes.set_title(head)
        axes.set_xlabel("predicted")
        if place == 1:
            axes.set_ylabel("true")
        axes.set_xticks(range(len(classes)), classes, rotation=90 if len(classes) > 6 else 45)
        axes.set_yticks(range(len(classes)), classes if place == 1 else [""] * len(classes))
        if len(classes) <= 12:
            for row, values in enumerate(shares):
                for column, share in enumerate(values):
                    colour = "white" if share > 0.5 else "black"
                    axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
