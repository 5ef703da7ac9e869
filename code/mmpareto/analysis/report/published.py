"""Published accuracies (published.json): which of them a run can be compared with, and their table in a report."""

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Mapping
from decimal import Decimal

from mmpareto.analysis.report.results import CellResults, Results
from mmpareto.analysis.report.sheet import SheetCell, SheetColumn, SheetPart, SheetRow
from mmpareto.analysis.tables.definitions import Table
from mmpareto.data import DATASETS
from mmpareto.training.method_labels import name_of
from mmpareto.training.method_options import read_options
from mmpareto.training.settings import Settings

TEXT = (
    "Accuracies in percent as their sources give them; ours beside them is the mean over seeds under the protocol of "
    "this page. Where the protocol, preprocessing or number of epochs differs, the accuracies may differ, however good "
    "the method is."
)
TITLES = ("data", "published, %", "ours, %", "published alone, %", "protocol", "source")


@dataclasses.dataclass(frozen=True)
class Published:
    """An accuracy in percent, with the digits that its source gives.

    Attributes:
        dataset, method: registered names.
        n_classes: for data sets with several choices of classes; else None.
        modality: for the method `unimodal`; else None.
        std: standard deviation over seeds, if given.
        approximate: whether the source says "about".
        unimodal: modality → its accuracy alone.
        name, source: of the source, in short and in full.
        protocol: how the source chose the epoch.
        note: how the source differs from this project's defaults.
    """

    dataset: str
    method: str
    accuracy: Decimal
    name: str
    source: str
    protocol: str
    n_classes: int | None = None
    modality: str | None = None
    std: Decimal | None = None
    approximate: bool = False
    unimodal: Mapping[str, Decimal] = dataclasses.field(default_factory=dict, hash=False)
    note: str = ""

    @property
    def text(self) -> str:
        """The accuracy, such as "75.13", "69.0 ± 2.5" or "about 69"."""
        spread = "" if self.std is None else f" ± {self.std}"
        return f"{'about ' if self.approximate else ''}{self.accuracy}{spread}"

    @property
    def footnote(self) -> str:
        """Source, protocol and note."""
        return f"{self.source}. Protocol: {self.protocol}." + (f" {self.note}." if self.note else "")


class Footnotes:
    """The numbered footnotes of a sheet; equal texts share a number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> int:
        """The number of the footnote with this text, from 1; adds it if it is new."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


@functools.cache
def all_published() -> tuple[Published, ...]:
    """All accuracies of published.json."""
    text = importlib.resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_float=Decimal, parse_int=int)
    return tuple(
        Published(**entry | {"accuracy": Decimal(entry["accuracy"])} | content["sources"][entry["source"]])
        for entry in content["accuracies"]
    )


def published_of(settings: Settings) -> list[Published]:
    """The accuracies that a run with these settings can be compared with, in the order of the file.

    They are of concatenation, of networks trained from scratch, and of methods with the options of one of their
    variants; runs with other fusions, weights or options have none. Other differences between source and run (epochs,
    frames, learning rate) are stated by the source.
    """
    classes = settings.n_classes or getattr(DATASETS[settings.dataset], "default_classes", None)
    modality = settings.options.get("modality") if settings.method == "unimodal" else None
    if settings.fusion != "concat" or settings.pretrained is not None or not _has_usual_options(settings):
        return []
    return [
        one
        for one in all_published()
        if (one.dataset, one.method, one.modality) == (settings.dataset, settings.method, modality)
        and (one.n_classes is None or one.n_classes == classes)
    ]


def published_cells(cells: Mapping[str, CellResults], footnotes: Footnotes) -> dict[str, SheetCell]:
    """Row → its published accuracies; a row with the same ones as an earlier row refers to that row."""
    shown: dict[tuple[Published, ...], str] = {}
    sheet_cells = {}
    for label, cell in cells.items():
        published = tuple(published_of(cell.settings))
        value = float(published[0].accuracy) / 100 if published else None
        if not published:
            sheet_cells[label] = SheetCell("–")
        elif published in shown:
            sheet_cells[label] = SheetCell(f"as {shown[published]}", value)
        else:
            shown[published] = label
            texts = [f"{one.text} [{footnotes.number(one.footnote)}]" for one in published]
            sheet_cells[label] = SheetCell("; ".join(texts), value)
    return sheet_cells


def published_part(table: Table, results: Results, footnotes: Footnotes) -> SheetPart | None:
    """The table of published accuracies, one row per column and accuracy; None if there are none."""
    rows = []
    for column in table.columns:
        comparable: dict[Published, list[CellResults]] = {}
        for row in table.rows:
            cell = results.get((row.label, column.label))
            for published in published_of(cell.settings) if cell else ():
                comparable.setdefault(published, []).append(results[row.label, column.label])
        rows += [_row(column.label, published, cells, footnotes) for published, cells in comparable.items()]
    return SheetPart("Published accuracies", TEXT, [SheetColumn(title) for title in TITLES], rows) if rows else None


def _row(column: str, published: Published, cells: list[CellResults], footnotes: Footnotes) -> SheetRow:
    alone = ", ".join(f"{name} {value}" for name, value in published.unimodal.items())
    label = name_of(published.method) + (f" ({published.modality})" if published.modality else "")
    accuracy = float(published.accuracy) / 100
    numbers = {"published": accuracy}
    if published.std is not None:
        numbers["standard deviation"] = float(published.std) / 100
    return SheetRow(
        label,
        [
            SheetCell(column),
            SheetCell(published.text, accuracy, numbers=numbers),
            _ours(cells),
            SheetCell(alone or "–"),
            SheetCell(published.protocol),
            SheetCell(f"{published.name} [{footnotes.number(published.footnote)}]", note=published.note),
        ],
    )


def _ours(cells: list[CellResults]) -> SheetCell:
    """The mean of each comparable row."""
    means = {cell.row: sum(one.values()) / len(one) for cell in cells if (one := cell.accuracies())}
    if not means:
        return SheetCell("no run", incomplete=True)
    first = next(iter(means.values()))
    if len(cells) == 1:
        return SheetCell(f"{100 * first:.2f}", first)
    return SheetCell("; ".join(f"{label} {100 * mean:.2f}" for label, mean in means.items()), first)


def _has_usual_options(settings: Settings) -> bool:
    if settings.method == "unimodal":
        return True
    _, usual = read_options(settings.method, settings.variant, [], [])
    return settings.options == usual
