"""Published figures beside ours: the marks of the main table, and a table with everything that is known of them."""

from collections.abc import Mapping
from decimal import Decimal

from mmpareto.analysis.report.gather import Measured
from mmpareto.analysis.report.layout import Part, SheetCell, SheetColumn, SheetRow
from mmpareto.analysis.report.published import Published, published_of
from mmpareto.analysis.tables.definitions import LABELS, Table

TEXT = (
    "As their sources give them, in percent; ours beside them is the mean over seeds under the protocol of this page. "
    "Where protocol, preprocessing or epochs differ, so may the figures, whatever the method is worth."
)
TITLES = ("data", "published, %", "ours, %", "published alone, %", "protocol", "source")


class Footnotes:
    """The footnotes of a sheet; a text that comes again keeps its number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> int:
        """The number of the footnote with this text, from 1."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def published_part(table: Table, found: Mapping[tuple[str, str], Measured], footnotes: Footnotes) -> Part | None:
    """A row a column and published figure; None where nothing is published of any cell."""
    rows = []
    for column in table.columns:
        here = [found[row.label, column.label] for row in table.rows if (row.label, column.label) in found]
        of_figure: dict[Published, list[Measured]] = {}
        for cell in here:
            for figure in published_of(cell.settings):
                of_figure.setdefault(figure, []).append(cell)
        rows += [_row(column.label, figure, cells, footnotes) for figure, cells in of_figure.items()]
    return Part("Published figures", TEXT, [SheetColumn(title) for title in TITLES], rows) if rows else None


def _row(group: str, figure: Published, cells: list[Measured], footnotes: Footnotes) -> SheetRow:
    alone = ", ".join(f"{name} {value}" for name, value in figure.unimodal.items())
    label = LABELS.get(figure.method, figure.method) + (f" ({figure.modality})" if figure.modality else "")
    return SheetRow(
        label,
        [
            SheetCell(group),
            SheetCell(figure.text, float(figure.accuracy) / 100, numbers=_numbers(figure.accuracy, figure.std)),
            _ours(cells),
            SheetCell(alone or "–"),
            SheetCell(figure.protocol),
            SheetCell(f"{figure.name} [{footnotes.mark(figure.footnote)}]", note=figure.note),
        ],
    )


def _ours(cells: list[Measured]) -> SheetCell:
    """The means of all rows that the figure may be laid beside."""
    means = {cell.row: sum(own.values()) / len(own) for cell in cells if (own := cell.figures("acc"))}
    if not means:
        return SheetCell("no run", hole=True)
    first = next(iter(means.values()))
    if len(cells) == 1:
        return SheetCell(f"{100 * first:.2f}", first)
    return SheetCell("; ".join(f"{label} {100 * mean:.2f}" for label, mean in means.items()), first)


def _numbers(accuracy: Decimal, std: Decimal | None) -> dict[str, float]:
    found = {"published": float(accuracy) / 100}
    return found if std is None else found | {"standard deviation": float(std) / 100}
