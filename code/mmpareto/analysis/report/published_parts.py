"""Published accuracies in a report: beside the runs that they agree with, and the rest in a table of their own."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from mmpareto.analysis.report.published import (
    AUDIO,
    CLASS_SET,
    Published,
    PublishedTable,
    facts_of,
    published_of,
    published_tables,
    shown,
)
from mmpareto.analysis.report.results import CellResults, Results
from mmpareto.analysis.report.sheet import SheetCell, SheetColumn, SheetPart, SheetRow
from mmpareto.analysis.tables.definitions import Table
from mmpareto.data import DATASETS
from mmpareto.integration import METHODS
from mmpareto.training.settings import Settings

BESIDE = (
    "Accuracies in percent as their sources give them, of the same data set, class set, method with its options, "
    "fusion, encoder, initial weights and audio feature as the runs beside them, and of the same learning rate if the "
    "source states one; ours is the mean over seeds under the protocol of this page. Frames, the rest of the schedule "
    "and protocol may differ: the footnotes state those of the source."
)
BESIDE_TITLES = (
    "data",
    "published, %",
    "ours, %",
    "published alone, %",
    "test clips",
    "selection of the epoch",
    "source",
)
ELSEWHERE = (
    "Accuracies in percent on the same data sets that stand beside no run here, because something differs or is not "
    "known, or because no run is of their method. Compare them with others of the same line only. Together with those "
    "beside the runs, they are all rows of their sources' tables for the methods of this project; docs/published.md "
    "has the tables whole."
)
ELSEWHERE_TITLES = ("data", "accuracies, %", "not known", "differs from the runs here", "source")


class Footnotes:
    """The numbered footnotes of a sheet; equal texts share a number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> int:
        """The number of the footnote with this text, from 1; adds it if it is new."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def footnote(table: PublishedTable, figures: Sequence[Published]) -> str:
    """Source with title and address, place in it, protocol and notes of figures with the same setting."""
    return f"{table.source.text} ({table.place}). {conditions(table, figures)}"


def conditions(table: PublishedTable, figures: Sequence[Published]) -> str:
    """Protocol, schedule and notes of figures with the same setting."""
    selection, schedule = figures[0].selection or "not known", figures[0].schedule or "not known"
    notes = dict.fromkeys([*(one.note for one in figures), table.note, table.source.note, table.source.second_hand])
    texts = [f"Selection of the epoch: {selection}", f"schedule: {schedule}", *(note for note in notes if note)]
    return "; ".join(texts) + "."


def settings_of(cell: CellResults) -> Settings:
    """The settings of a cell, with the number of classes of its runs where they have recorded one accuracy per class.

    Without `--n_classes`, the settings do not say whether Kinetics-Sounds was prepared with 31 or with 33 classes.
    """
    for result in cell.results.values():
        classes = result.run.history[-1].get("per_class_accuracy")
        if classes:
            return dataclasses.replace(cell.settings, n_classes=len(classes))
    return cell.settings


def published_cells(cells: Mapping[str, CellResults], footnotes: Footnotes) -> dict[str, SheetCell]:
    """Row → its published accuracies; a row with the same ones as an earlier row refers to that row.

    Empty if no row has any.
    """
    earlier: dict[tuple[Published, ...], str] = {}
    sheet_cells = {}
    for label, cell in cells.items():
        found = published_of(settings_of(cell))
        figures = tuple(one for _, one in found)
        value = float(figures[0].accuracy) / 100 if figures else None
        if not figures:
            sheet_cells[label] = SheetCell("–")
        elif figures in earlier:
            sheet_cells[label] = SheetCell(f"as {earlier[figures]}", value)
        else:
            earlier[figures] = label
            texts = [f"{one.text} [{footnotes.number(footnote(table, [one]))}]" for table, one in found]
            sheet_cells[label] = SheetCell("; ".join(texts), value)
    return sheet_cells if earlier else {}


def published_parts(table: Table, results: Results, footnotes: Footnotes) -> Iterator[SheetPart]:
    """The tables of the accuracies beside the runs and of those reported elsewhere, each if there are any."""
    beside = list(_beside(table, results, footnotes))
    if beside:
        yield SheetPart("Published accuracies", BESIDE, [SheetColumn(title) for title in BESIDE_TITLES], beside)
    elsewhere = list(_elsewhere([settings_of(cell) for cell in results.values()]))
    if elsewhere:
        yield SheetPart("Reported elsewhere", ELSEWHERE, [SheetColumn(title) for title in ELSEWHERE_TITLES], elsewhere)


def _beside(table: Table, results: Results, footnotes: Footnotes) -> Iterator[SheetRow]:
    """One row per column of the table and figure."""
    for column in table.columns:
        found: dict[tuple[PublishedTable, Published], list[CellResults]] = {}
        for row in table.rows:
            cell = results.get((row.label, column.label))
            for pair in published_of(settings_of(cell)) if cell else ():
                found.setdefault(pair, []).append(results[row.label, column.label])
        for (source, one), cells in found.items():
            yield _beside_row(column.label, source, one, cells, footnotes)


def _beside_row(
    column: str, table: PublishedTable, one: Published, cells: list[CellResults], footnotes: Footnotes
) -> SheetRow:
    alone = ", ".join(f"{name} {value}" for name, value in one.unimodal.items())
    mark = footnotes.number(footnote(table, [one]))
    return SheetRow(
        one.label,
        [
            SheetCell(column),
            SheetCell(one.text, float(one.accuracy) / 100, numbers=_numbers(one)),
            _ours(cells),
            SheetCell(alone or "–"),
            SheetCell(one.clips or "not known"),
            SheetCell(one.selection or "not known"),
            SheetCell(f"{table.source.name} [{mark}]", note=one.note),
        ],
    )


def _numbers(one: Published) -> dict[str, float]:
    """The numbers of a figure as fractions, for the CSV file."""
    numbers = {"published": float(one.accuracy) / 100}
    numbers |= {f"published, run {n}": float(value) / 100 for n, value in enumerate(one.repeated, 2)}
    if one.std is not None:
        numbers["standard deviation"] = float(one.std) / 100
    return numbers


def _ours(cells: list[CellResults]) -> SheetCell:
    """The mean of each row that the figure agrees with."""
    means = {cell.row: sum(one.values()) / len(one) for cell in cells if (one := cell.accuracies())}
    if not means:
        return SheetCell("no run", incomplete=True)
    first = next(iter(means.values()))
    if len(cells) == 1:
        return SheetCell(f"{100 * first:.2f}", first)
    return SheetCell("; ".join(f"{label} {100 * mean:.2f}" for label, mean in means.items()), first)


def _elsewhere(runs: Sequence[Settings]) -> Iterator[SheetRow]:
    """One row per table of a source and data set, for the figures of known methods that agree with no run."""
    for dataset in dict.fromkeys(settings.dataset for settings in runs):
        same = [settings for settings in runs if settings.dataset == dataset]
        for table in published_tables():
            figures = [one for one in table.figures if one.dataset == dataset and one.method in METHODS]
            figures = [one for one in figures if not any(one.agrees_with(settings) for settings in same)]
            if figures:
                yield _elsewhere_row(table, figures, same)


def _elsewhere_row(table: PublishedTable, figures: Sequence[Published], runs: Sequence[Settings]) -> SheetRow:
    first = figures[0]
    numbers = {f"{one.label}{', ' if name else ''}{name}": v for one in figures for name, v in _more(one).items()}
    return SheetRow(
        f"{table.source.name}, {table.place}",
        [
            SheetCell(dataset_text(first)),
            SheetCell("; ".join(f"{one.label} {with_clips(one)}" for one in figures), numbers=numbers),
            SheetCell("; ".join(not_known(figures)) or "–"),
            SheetCell("; ".join(_differs(figures, runs)) or "–"),
            SheetCell(table.source.text, note=conditions(table, figures)),
        ],
    )


def _more(one: Published) -> dict[str, float]:
    """The numbers of a figure, the first of which needs no name."""
    return {"" if name == "published" else name.removeprefix("published, "): v for name, v in _numbers(one).items()}


def with_clips(one: Published) -> str:
    """The accuracy, with the number of correct test clips if it is known."""
    return one.text if one.correct is None else f"{one.text} ({one.clips} clips)"


def dataset_text(one: Published) -> str:
    """The data set's title, with the number of classes where there are several class sets."""
    title = DATASETS[one.dataset].title if one.dataset in DATASETS else one.dataset
    several = one.n_classes is not None and one.dataset in ("kinetics_sounds", "mosi", "mosei", "chsims")
    return f"{title}, {one.n_classes} classes" if several else title


def not_known(figures: Sequence[Published]) -> list[str]:
    """Names of the conditions that are not known of figures with the same setting."""
    first = _typical(figures)
    names = [name for name, value in first.facts.items() if value is None]
    names += ["frames"] if AUDIO in first.facts and first.frames is None else []
    names += [] if first.selection else ["selection of the epoch"]
    without_options = [one.name for one in figures if one.method in METHODS and one.all_options is None]
    names += [f"options of {', '.join(dict.fromkeys(without_options))}"] if without_options else []
    return names


def _differs(figures: Sequence[Published], runs: Sequence[Settings]) -> list[str]:
    """Known conditions of the figures that no run has."""
    facts = [facts_of(settings) for settings in runs]
    texts = []
    for name, value in _typical(figures).facts.items():
        if value is not None and value not in [run[name] for run in facts]:
            texts.append(shown(value) if name == CLASS_SET else f"{name}: {shown(value)}")
    rates = _typical(figures).learning_rates
    if rates and not any(settings.learning_rate in rates for settings in runs):
        texts.append(f"learning rate: {' or '.join(f'{rate:g}' for rate in rates)}")
    other = [one.label for one in figures if _has_other_options(one, runs)]
    return texts + ([f"options: {', '.join(other)}"] if other else [])


def _typical(figures: Sequence[Published]) -> Published:
    """A figure with all facts of the others: one with a fusion, if any has."""
    return next((one for one in figures if one.method != "unimodal"), figures[0])


def _has_other_options(one: Published, runs: Sequence[Settings]) -> bool:
    """True if its options are known and no run of its method has them."""
    options = [one.differences(settings).get("options") for settings in runs if settings.method == one.method]
    return bool(options) and all(options)
