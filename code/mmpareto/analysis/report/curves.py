"""The runs' curves as pictures in the page: those of code/figures.py, drawn from the same files."""

import io
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure as Drawn

from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots.groups import SeedGroup, group_runs
from mmpareto.analysis.plots.training_curves import (
    accuracy_plot,
    conflict_plot,
    gap_plot,
    magnitude_plot,
    weights_plot,
)
from mmpareto.analysis.report.gather import Measured
from mmpareto.analysis.report.layout import Figure
from mmpareto.analysis.tables.definitions import Table
from mmpareto.errors import InputError

FIGURES: dict[str, Callable[[Sequence[SeedGroup]], Drawn]] = {
    "Accuracy over training": accuracy_plot,
    "Gap between training and test": gap_plot,
    "Conflict of joint and unimodal gradients": conflict_plot,
    "Magnitude of joint and unimodal gradients": magnitude_plot,
    "Weights of the gradients": weights_plot,
}


def curves(table: Table, found: Mapping[tuple[str, str], Measured]) -> list[Figure]:
    """Every figure that the runs of a column have the records for; of another, why it is not drawn."""
    made = []
    for column in table.columns:
        cells = [found[row.label, column.label] for row in table.rows if (row.label, column.label) in found]
        # Two rows may be one run: a variant that is the default, a schedule that a quick run is too short for.
        folders = dict.fromkeys(result.folder for cell in cells for result in cell.results.values())
        where = f": {column.label}" if len(table.columns) > 1 else ""
        try:
            groups = group_runs(FinishedRun(folder) for folder in folders) if folders else []
        except InputError as error:
            made.append(Figure(f"Curves{where}", f"Not drawn: {error}", ""))
            continue
        for title, draw in FIGURES.items() if groups else ():
            heading = title + where
            try:
                figure = draw(groups)
            except InputError as error:  # the runs lack what this figure shows
                made.append(Figure(heading, f"Not drawn: {error}", ""))
            else:
                made.append(Figure(heading, "", svg_of(figure)))
    return made


def svg_of(figure: Drawn) -> str:
    """The whole SVG file, small: letters as outlines, places to 1/10 point, a class a style. Always the same text."""
    into = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "mmpareto", "svg.fonttype": "path"}):
        figure.savefig(into, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"\n\s+", "\n", into.getvalue())
    text = re.sub(r'(?:transform|style)="[^"]*"|(\.\d)\d+', lambda found: found[1] or found[0], text)
    styles: dict[str, str] = {}
    text = re.sub(r'style="([^"]*)"', lambda found: f'class="{styles.setdefault(found[1], f"s{len(styles)}")}"', text)
    rules = "".join(f".{name}{{{style}}}" for style, name in styles.items())
    return re.sub(r"(<svg[^>]*>)", rf"\1<style>{rules}</style>", text, count=1)
