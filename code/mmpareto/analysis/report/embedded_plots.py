"""The runs' curves as plots in the page, the same as those of code/figures.py."""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from mmpareto.analysis.plots.groups import SeedGroup
from mmpareto.analysis.plots.training_curves import (
    Curves,
    accuracy_plot,
    conflict_plot,
    gap_plot,
    magnitude_plot,
    weights_plot,
)
from mmpareto.analysis.report.results import CellResults, Results
from mmpareto.analysis.report.sheet import Plot
from mmpareto.analysis.tables.definitions import Table
from mmpareto.errors import InputError

PLOTS: dict[str, Callable[[Sequence[SeedGroup]], Curves]] = {
    "Accuracy over training": accuracy_plot,
    "Gap between training and test": gap_plot,
    "Conflict of joint and unimodal gradients": conflict_plot,
    "Magnitude of joint and unimodal gradients": magnitude_plot,
    "Weights of the gradients": weights_plot,
}


def embedded_plots(table: Table, results: Results) -> list[Plot]:
    """All plots of each column's runs; where the runs lack the records for one, the reason instead."""
    plots = []
    for column in table.columns:
        groups = _groups([cell for cell in results.values() if cell.column == column.label])
        suffix = f": {column.label}" if len(table.columns) > 1 else ""
        said: set[str] = set()
        for title, draw in PLOTS.items() if groups else ():
            try:
                curves = draw(groups)
            except InputError as error:  # the runs lack these records
                plots.append(Plot(title + suffix, f"Not drawn: {error}", ""))
                continue
            # Data set, seeds and protocol are those of the first plot.
            caption = [note for note in (*curves.notes, *curves.runs) if note not in said]
            said.update(curves.runs)
            plots.append(Plot(title + suffix, " ".join(caption), svg_of(curves.figure)))
    return plots


def _groups(cells: Sequence[CellResults]) -> list[SeedGroup]:
    """The runs of each row, under its label; of rows with the same runs, the first."""
    groups: dict[tuple[Path, ...], SeedGroup] = {}
    for cell in cells:
        runs = [result.run for result in cell.results.values()]
        if runs:
            groups.setdefault(tuple(run.folder for run in runs), SeedGroup(cell.row, runs))
    return [*groups.values()]


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
