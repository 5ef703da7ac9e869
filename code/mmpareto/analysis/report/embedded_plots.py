"""The runs' curves as plots in the page, the same as those of code/figures.py."""

import io
import re
from collections.abc import Callable, Sequence

import matplotlib
from matplotlib.figure import Figure

from mmpareto.analysis.pictures.curves import (
    accuracy_figure,
    conflict_figure,
    gap_figure,
    magnitude_figure,
    weights_figure,
)
from mmpareto.analysis.pictures.runs import Run, read_runs
from mmpareto.analysis.report.results import Results
from mmpareto.analysis.report.sheet import Plot
from mmpareto.analysis.tables.definitions import Table
from mmpareto.errors import InputError

PLOTS: dict[str, Callable[[Sequence[Run]], Figure]] = {
    "Accuracy over training": accuracy_figure,
    "Gap between training and test": gap_figure,
    "Conflict of joint and unimodal gradients": conflict_figure,
    "Magnitude of joint and unimodal gradients": magnitude_figure,
    "Weights of the gradients": weights_figure,
}


def embedded_plots(table: Table, results: Results) -> list[Plot]:
    """All plots of each column's runs; where the runs lack the records for one, the reason instead."""
    plots = []
    for column in table.columns:
        cells = [cell for cell in results.values() if cell.column == column.label]
        # Two rows may have the same runs, for example if a variant is the default.
        folders = dict.fromkeys(result.run.folder for cell in cells for result in cell.results.values())
        suffix = f": {column.label}" if len(table.columns) > 1 else ""
        try:
            runs = read_runs(folders)
        except InputError as error:
            plots.append(Plot(f"Curves{suffix}", f"Not drawn: {error}", ""))
            continue
        for title, draw in PLOTS.items() if runs else ():
            try:
                plots.append(Plot(title + suffix, "", svg_of(draw(runs))))
            except InputError as error:  # the runs lack these records
                plots.append(Plot(title + suffix, f"Not drawn: {error}", ""))
    return plots


def svg_of(figure: Figure) -> str:
    """The figure as a small, reproducible SVG file: letters as outlines, 0.1 pt precision, one class per style."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "mmpareto", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"\n\s+", "\n", buffer.getvalue())
    text = re.sub(r'(?:transform|style)="[^"]*"|(\.\d)\d+', lambda match: match[1] or match[0], text)
    styles: dict[str, str] = {}
    text = re.sub(r'style="([^"]*)"', lambda match: f'class="{styles.setdefault(match[1], f"s{len(styles)}")}"', text)
    rules = "".join(f".{name}{{{style}}}" for style, name in styles.items())
    return re.sub(r"(<svg[^>]*>)", rf"\1<style>{rules}</style>", text, count=1)
