"""A table of results: from the outcomes of a grid to rows, columns and statistics.

`Sheet` and what it is made of are in layout.py.
"""

from collections.abc import Mapping, Sequence

from mmpareto.analysis.report.claims import CLAIMS_TEXT, check_claims
from mmpareto.analysis.report.curves import curves
from mmpareto.analysis.report.gather import Measured, gather, paired
from mmpareto.analysis.report.layout import Interval, Sheet, SheetCell, SheetColumn, SheetRow
from mmpareto.analysis.report.noise import noise_part
from mmpareto.analysis.report.notes import commands, holes, notes
from mmpareto.analysis.report.published import Published, published_of
from mmpareto.analysis.report.published_part import Footnotes, published_part
from mmpareto.analysis.report.statistics import Comparison, compare, signed, spread
from mmpareto.analysis.tables.cells import Outcome
from mmpareto.analysis.tables.definitions import Table
from mmpareto.data import DATASETS

__all__ = ["Sheet", "SheetCell", "SheetColumn", "SheetRow", "make_sheet"]

PROTOCOLS = {
    "last": "Accuracy on the test set after the last epoch.",
    "validation": "Accuracy on the test set at the epoch that was best on a validation set, {share:.0%} of the "
    "training set held out.",
    "paper": "OPTIMISTIC: accuracy on the test set at the epoch that was best on that same test set (the papers' "
    "protocol).",
}
"""Protocol → what its figures are."""

INTERVALS_TEXT = (
    "Differences to {baseline} in points of accuracy, paired by seed, with t intervals corrected by Holm over the "
    "column. Filled and coloured: the interval excludes zero. A bare ring has no interval."
)

Found = Mapping[tuple[str, str], Measured]


def make_sheet(table: Table, outcomes: Sequence[Outcome], protocol: str, *, draw: bool = True) -> Sheet:
    """The table's figures, with everything that has to be said of them.

    Differences are to the row `table.baseline`, paired by seed; see statistics.py.

    Arguments:
        outcomes: of every cell and seed that was asked for, run or not.
        protocol: "last", "validation" or "paper".
        draw: the runs' curves, too.
    """
    found = gather(outcomes, protocol)
    footnotes = Footnotes()
    columns: list[SheetColumn] = []
    cells: dict[str, list[SheetCell]] = {row.label: [] for row in table.rows}
    intervals: list[Interval] = []
    comparisons: dict[tuple[str, str], Comparison] = {}
    for column in table.columns:
        here = {row.label: found[row.label, column.label] for row in table.rows if (row.label, column.label) in found}
        compared = _compared(here, table)
        comparisons |= {(label, column.label): comparison for label, comparison in compared.items()}
        intervals += [_interval(label, column.label, comparison) for label, comparison in compared.items()]
        for added, texts in _column(column.label, table, here, compared, footnotes):
            columns.append(added)
            for label, own in cells.items():
                own.append(texts[label])
    banners = dict.fromkeys(DATASETS[cell.settings.dataset].banner for cell in found.values())
    share = next(iter(found.values())).settings.val_fraction if found else 0.1
    noise, no_noise = noise_part(table, found)
    parts = [part for part in (noise, published_part(table, found, footnotes)) if part is not None]
    return Sheet(
        title=table.title,
        question=table.question,
        columns=columns,
        rows=[SheetRow(row.label, cells[row.label], row.label == table.baseline) for row in table.rows],
        name=table.name,
        banner=" ".join(banner for banner in banners if banner) or None,
        protocol=PROTOCOLS[protocol].format(share=share),
        optimistic=protocol == "paper",
        notes=[*([table.note] if table.note else []), *notes(table, found), *([no_noise] if no_noise else [])],
        footnotes=footnotes.texts,
        holes=holes(table, found),
        intervals=intervals,
        intervals_text=INTERVALS_TEXT.format(baseline=table.baseline),
        parts=parts,
        claims=check_claims(found, comparisons),
        claims_text=CLAIMS_TEXT,
        commands=commands(found),
        figures=curves(table, found) if draw else (),
    )


def _compared(here: Mapping[str, Measured], table: Table) -> dict[str, Comparison]:
    """Row → its comparison with the baseline within one column; Holm's family is every other row of the table."""
    base = here.get(table.baseline)
    others = [row.label for row in table.rows if row.label != table.baseline]
    return compare(
        {label: list(paired(here[label], base).values()) if base and label in here else [] for label in others}
    )


def _interval(label: str, group: str, found: Comparison) -> Interval:
    low, high = (None if end is None else 100 * end for end in (found.low, found.high))
    return Interval(label, group, None if found.mean is None else 100 * found.mean, low, high, found.reason)


def _column(
    group: str, table: Table, here: Mapping[str, Measured], compared: Mapping[str, Comparison], footnotes: Footnotes
) -> list[tuple[SheetColumn, dict[str, SheetCell]]]:
    """The columns of a group: accuracy, difference, every modality's, and what was published; row → cell each."""
    labels = [row.label for row in table.rows]
    best = _best(here, compared)
    made = [
        (
            SheetColumn("accuracy, %", group, "mean ± sample standard deviation over seeds"),
            {label: _accuracy(here.get(label), "acc", bold=label == best) for label in labels},
        ),
        (
            SheetColumn(f"difference to {table.baseline}, points", group, "with its interval, corrected by Holm"),
            {label: _difference(compared.get(label)) for label in labels},
        ),
    ]
    for modality in dict.fromkeys(name for cell in here.values() for name in cell.modalities):
        column = SheetColumn(f"{modality} alone, %", group, f"accuracy of {modality}'s own head")
        key = f"acc_{modality}"
        made.append((column, {label: _accuracy(here.get(label), key) for label in labels}))
    if any(published_of(cell.settings) for cell in here.values()):
        column = SheetColumn("published, %", group, "as its source gives it")
        beside = _published(here, footnotes)
        made.append((column, {label: beside.get(label, SheetCell("–")) for label in labels}))
    return made


def _best(here: Mapping[str, Measured], compared: Mapping[str, Comparison]) -> str | None:
    """The row of the largest mean accuracy, where its interval to the baseline lies above zero; else None."""
    means = {
        label: spread([*figures.values()]).mean for label, cell in here.items() if (figures := cell.figures("acc"))
    }
    if not means:
        return None
    best = max(means, key=lambda label: means[label])
    comparison = compared.get(best)
    return best if comparison is not None and comparison.excludes_zero and (comparison.mean or 0.0) > 0 else None


def _accuracy(cell: Measured | None, key: str, *, bold: bool = False) -> SheetCell:
    if cell is None:
        return SheetCell("–", note="not in this table")
    asked, figures = cell.seeds, cell.figures(key)
    if not figures:
        reasons = dict.fromkeys(cell.missing.values())
        if cell.results:
            return SheetCell("–", note="not measured")
        if key != "acc":  # the accuracy's cell says why
            return SheetCell("–", hole=True)
        return SheetCell("no run", note="; ".join(reasons), hole=True)
    found = spread([*figures.values()])
    numbers = {"mean": found.mean, "seeds": float(found.n), "seeds asked for": float(len(asked))}
    text = f"{100 * found.mean:.2f}"
    if found.std is not None:
        numbers["standard deviation"] = found.std
        text += f" ± {100 * found.std:.2f}"
    short = found.n < len(asked)
    note = f"{found.n} of {len(asked)} seeds" if short else f"{found.n} seed{'s' if found.n > 1 else ''}"
    return SheetCell(text, found.mean, note, bold=bold, hole=short, numbers=numbers, seeds=figures)


def _difference(found: Comparison | None) -> SheetCell:
    if found is None:
        return SheetCell("baseline")
    if found.mean is None:
        return SheetCell("–", note=found.reason, hole=True)
    numbers = {"mean": found.mean, "paired seeds": float(found.n)}
    text = signed(100 * found.mean)
    if found.low is None or found.high is None or found.p is None or found.alpha is None:
        seeds = f"{found.n} seed{'s' if found.n > 1 else ''}"
        return SheetCell(text, found.mean, f"{seeds}: {found.reason}", numbers=numbers)
    numbers |= {"low": found.low, "high": found.high, "p": found.p, "level": 1 - found.alpha}
    interval = f"[{signed(100 * found.low)}, {signed(100 * found.high)}]"
    return SheetCell(f"{text} {interval}", found.mean, f"p = {found.p:.2g}, {found.n} seeds", numbers=numbers)


def _published(here: Mapping[str, Measured], footnotes: Footnotes) -> dict[str, SheetCell]:
    """Row → the figures published of it; where an earlier row has the very same ones, its label."""
    shown: dict[tuple[Published, ...], str] = {}
    cells = {}
    for label, cell in here.items():
        figures = tuple(published_of(cell.settings))
        texts = [f"{figure.text} [{footnotes.mark(figure.footnote)}]" for figure in figures]
        value = float(figures[0].accuracy) / 100 if figures else None
        if not figures:
            cells[label] = SheetCell("–")
        elif figures in shown:
            cells[label] = SheetCell(f"as {shown[figures]}", value)
        else:
            shown[figures] = label
            cells[label] = SheetCell("; ".join(texts), value)
    return cells
