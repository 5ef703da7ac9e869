"""The sheet of a table of runs: rows, columns and statistics from the grid's outcomes."""

from collections.abc import Iterator, Mapping, Sequence

from mmpareto.analysis.report.claims import CLAIMS_TEXT, check_claims
from mmpareto.analysis.report.embedded_plots import embedded_plots
from mmpareto.analysis.report.noise import ABSENT, noise_part
from mmpareto.analysis.report.notes import commands, missing_runs, notes
from mmpareto.analysis.report.published_parts import Footnotes, published_cells, published_parts
from mmpareto.analysis.report.results import CellResults, gather, paired_differences
from mmpareto.analysis.report.sheet import Interval, Sheet, SheetCell, SheetColumn, SheetRow
from mmpareto.analysis.report.statistics import Comparison, compare, mean_and_std, signed
from mmpareto.analysis.tables.cells import Outcome
from mmpareto.analysis.tables.definitions import Table
from mmpareto.data import DATASETS

PROTOCOL_TEXTS = {
    "last": "Accuracy on the test set after the last epoch.",
    "validation": "Accuracy on the test set at the epoch that was best on the validation set, {share:.0%} of the "
    "training set held out.",
    "paper": "OPTIMISTIC: accuracy on the test set at the epoch that was best on that same test set (the papers' "
    "protocol).",
}
ROWS_TEXT = (
    "Accuracy on the test set, at an epoch that each row chooses as its label says. OPTIMISTIC where that epoch was "
    "best on that same test set (the papers' protocol)."
)
INTERVALS_TEXT = (
    "Differences from {baseline} in points of accuracy, paired by seed, with t intervals corrected by Holm's procedure "
    "over the column. Filled and coloured: the interval excludes zero. An open circle without a line has no interval."
)


def make_run_sheet(table: Table, outcomes: Sequence[Outcome], protocol: str, *, plots: bool = True) -> Sheet:
    """The sheet of a table's runs. Differences are from the row `table.baseline`, paired by seed; see statistics.py.

    Arguments:
        outcomes: one for each cell and seed that was requested, run or not.
        protocol: "last", "validation" or "paper".
        plots: whether to plot the runs' curves.
    """
    results = gather(outcomes, protocol)
    footnotes = Footnotes()
    columns: list[SheetColumn] = []
    cells: dict[str, list[SheetCell]] = {row.label: [] for row in table.rows}
    comparisons: dict[tuple[str, str], Comparison] = {}
    for column in table.columns:
        group = {row: cell for (row, label), cell in results.items() if label == column.label}
        compared = _compared(group, table)
        comparisons |= {(row, column.label): comparison for row, comparison in compared.items()}
        for sheet_column, sheet_cells in _columns(column.label, table, group, compared, footnotes):
            columns.append(sheet_column)
            for row in table.rows:
                cells[row.label].append(sheet_cells[row.label])
    banners = dict.fromkeys(DATASETS[cell.settings.dataset].banner for cell in results.values())
    share = next(iter(results.values())).settings.val_fraction if results else 0.1
    protocols = {row.protocol or protocol for row in table.rows}
    noise = noise_part(table, results)
    return Sheet(
        title=table.title,
        question=table.question,
        columns=columns,
        rows=[SheetRow(label, row, label == table.baseline) for label, row in cells.items()],
        name=table.name,
        banner=" ".join(banner for banner in banners if banner) or None,
        protocol=ROWS_TEXT if len(protocols) > 1 else PROTOCOL_TEXTS[next(iter(protocols))].format(share=share),
        optimistic="paper" in protocols,
        notes=[*([table.note] if table.note else []), *notes(table, results), *([] if noise else [ABSENT])],
        footnotes=footnotes.texts,
        missing=missing_runs(table, results),
        intervals=[_interval(*key, comparison) for key, comparison in comparisons.items()],
        intervals_text=INTERVALS_TEXT.format(baseline=table.baseline),
        parts=[*([noise] if noise else []), *published_parts(table, results, footnotes)],
        claims=check_claims(results, comparisons),
        claims_text=CLAIMS_TEXT,
        commands=commands(results),
        plots=embedded_plots(table, results) if plots else (),
    )


def _compared(group: Mapping[str, CellResults], table: Table) -> dict[str, Comparison]:
    """Row → its comparison with the baseline in one column; Holm's family is all other rows of the table."""
    base = group.get(table.baseline)
    others = [row.label for row in table.rows if row.label != table.baseline]
    return compare(
        {label: paired_differences(group[label], base) if base and label in group else [] for label in others}
    )


def _interval(label: str, group: str, comparison: Comparison) -> Interval:
    mean, low, high = (
        None if value is None else 100 * value for value in (comparison.mean, comparison.low, comparison.high)
    )
    return Interval(label, group, mean, low, high, comparison.reason)


def _columns(
    title: str,
    table: Table,
    group: Mapping[str, CellResults],
    compared: Mapping[str, Comparison],
    footnotes: Footnotes,
) -> Iterator[tuple[SheetColumn, dict[str, SheetCell]]]:
    """The sheet's columns for one column of the table, each with its cells by row.

    They are accuracy, difference from the baseline, accuracy of each modality, and published accuracies, if any.
    """
    labels = [row.label for row in table.rows]
    best = _best(group, compared)
    yield (
        SheetColumn("accuracy, %", title, "mean ± sample standard deviation over seeds"),
        {label: _accuracy(group.get(label), "acc", bold=label == best) for label in labels},
    )
    yield (
        SheetColumn(f"difference from {table.baseline}, points", title, "with its interval, corrected by Holm"),
        {label: _difference(compared.get(label)) for label in labels},
    )
    alone = "" if any(cell.tasks for cell in group.values()) else " alone"
    for modality in dict.fromkeys(name for cell in group.values() for name in cell.modalities):
        yield (
            SheetColumn(f"{modality}{alone}, %", title, f"accuracy of the {modality} head"),
            {label: _accuracy(group.get(label), f"acc_{modality}") for label in labels},
        )
    if cells := published_cells(group, footnotes):
        yield (
            SheetColumn("published, %", title, "as the source gives it"),
            {label: cells.get(label, SheetCell("–")) for label in labels},
        )


def _best(group: Mapping[str, CellResults], compared: Mapping[str, Comparison]) -> str | None:
    """The row with the largest mean accuracy, if its interval from the baseline is above zero; else None."""
    means = {
        label: mean_and_std(own.values())[0]
        for label, cell in group.items()
        if (own := cell.accuracies()) and not cell.task  # whose accuracy is not the mean over the tasks
    }
    if not means:
        return None
    best = max(means, key=lambda label: means[label])
    comparison = compared.get(best)
    return best if comparison is not None and comparison.excludes_zero and (comparison.mean or 0.0) > 0 else None


def _accuracy(cell: CellResults | None, key: str, *, bold: bool = False) -> SheetCell:
    if cell is None:
        return SheetCell("–", note="not in this table")
    requested, accuracies = cell.seeds, cell.accuracies(key)
    if not accuracies:
        if cell.results:
            return SheetCell("–", note="not measured")
        if key != "acc":  # the cell of the accuracy says why
            return SheetCell("–", incomplete=True)
        return SheetCell("no run", note="; ".join(dict.fromkeys(cell.missing.values())), incomplete=True)
    n, (mean, std) = len(accuracies), mean_and_std(accuracies.values())
    numbers = {"mean": mean, "seeds": float(n), "seeds requested": float(len(requested))}
    text = f"{100 * mean:.2f}"
    if std is not None:
        numbers["standard deviation"] = std
        text += f" ± {100 * std:.2f}"
    incomplete = n < len(requested)
    note = f"{n} of {len(requested)} seeds" if incomplete else f"{n} seed{'s' if n > 1 else ''}"
    return SheetCell(text, mean, note, bold=bold, incomplete=incomplete, numbers=numbers, seeds=accuracies)


def _difference(comparison: Comparison | None) -> SheetCell:
    if comparison is None:
        return SheetCell("baseline")
    n, mean, low, high = comparison.n, comparison.mean, comparison.low, comparison.high
    if mean is None:
        return SheetCell("–", note=comparison.reason, incomplete=True)
    numbers = {"mean": mean, "paired seeds": float(n)}
    text = signed(100 * mean)
    if low is None or high is None or comparison.p is None or comparison.alpha is None:
        return SheetCell(text, mean, f"{n} seed{'s' if n > 1 else ''}: {comparison.reason}", numbers=numbers)
    numbers |= {"low": low, "high": high, "p": comparison.p, "level": 1 - comparison.alpha}
    text += f" [{signed(100 * low)}, {signed(100 * high)}]"
    return SheetCell(text, mean, f"p = {comparison.p:.2g}, {n} seeds", numbers=numbers)
