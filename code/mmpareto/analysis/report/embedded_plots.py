"""The runs' curves as plots in the page, the same as those of code/figures.py."""

import io
import re
from collections.abc import Callable, Sequence

import matplotlib
from matplotlib.figure import Figure

from mmpareto.analysis.plots.groups import SeedGroup, group_runs
from mmpareto.analysis.plots.training_curves import (
    accuracy_plot,
    conflict_plot,
    gap_plot,
    magnitude_plot,
    weights_plot,
)
from mmpareto.analysis.report.results import Results
from mmpareto.analysis.report.sheet import Plot
from mmpareto.analysis.tables.definitions import Table
from mmpareto.errors import InputError

LEGEND_LIMIT = 60  # characters of a line's label, beyond which a legend leaves no room for the curves
PLOTS: dict[str, Callable[[Sequence[SeedGroup]], Figure]] = {
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
        cells = [cell for cell in results.values() if cell.column == column.label]
        # Two rows may have the same runs, for example if a variant is the default.
        runs = {result.run.folder: result.run for cell in cells for result in cell.results.values()}
        suffix = f": {column.label}" if len(table.columns) > 1 else ""
        try:
            groups = group_runs(runs.values()) if runs else []
        except InputError as error:
            plots.append(Plot(f"Curves{suffix}", f"Not drawn: {error}", ""))
            continue
        if any(len(group.label) > LEGEND_LIMIT for group in groups):
            reason = "these runs differ in more settings than a legend can name; give some of them to code/figures.py."
            plots.append(Plot(f"Curves{suffix}", f"Not drawn: {reason}", ""))
            continue
        for title, draw in PLOTS.items() if groups else ():
            try:
                plots.append(Plot(title + suffix, "", svg_of(draw(groups))))
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
