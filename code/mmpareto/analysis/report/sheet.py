"""A report as data: what the writers of Markdown, CSV, LaTeX and HTML need, whatever the table compares."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

VERDICTS = ("holds", "does not hold", "undecided", "not measured")


@dataclasses.dataclass(frozen=True)
class SheetColumn:
    """A column.

    Attributes:
        title: heading with its unit, such as "accuracy, %".
        group: adjacent columns of the same group have a common heading, such as a data set; "" for none.
        help: what the numbers are, in a few words; "" if the title says it.
    """

    title: str
    group: str = ""
    help: str = ""


@dataclasses.dataclass(frozen=True)
class SheetCell:
    """A cell: the text that is shown, and the numbers behind it.

    Attributes:
        text: such as "71.10 ± 0.82"; "[1]" in it refers to the sheet's first footnote.
        value: by which the column is sorted; None (no number) comes last.
        note: shown in small type below, such as "3 of 5 seeds"; "" for none.
        bold: whether it is the best of its column, by more than chance.
        incomplete: whether a number is missing, wholly or in part; `text` or `note` says why.
        numbers: quantity → number for the CSV file, such as {"mean": 0.711, "seeds": 5}; accuracies are fractions.
        seeds: seed → number for the CSV file.
    """

    text: str
    value: float | None = None
    note: str = ""
    bold: bool = False
    incomplete: bool = False
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seeds: Mapping[int, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SheetRow:
    """A row: its label, one cell per column, and whether it is the baseline."""

    label: str
    cells: Sequence[SheetCell]
    baseline: bool = False


@dataclasses.dataclass(frozen=True)
class SheetPart:
    """An additional table, with its heading and an explanation."""

    title: str
    text: str
    columns: Sequence[SheetColumn]
    rows: Sequence[SheetRow]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A difference from the baseline to be drawn, in points (percent of the test set).

    Attributes:
        label, group: of the row and of the columns.
        estimate: mean difference; None if there is none.
        low, high: ends of the interval; None if there is none, and then `note` says why.
    """

    label: str
    group: str
    estimate: float | None
    low: float | None
    high: float | None
    note: str = ""

    @property
    def excludes_zero(self) -> bool:
        """True if there is an interval and it excludes zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim with the verdict of the runs.

    Attributes:
        claim: a sentence without its full stop.
        origin: who makes it, such as "MMPareto paper".
        verdict: one of `VERDICTS`.
        evidence: mean and interval, or the command that would measure them.
        column: label of the table's column, such as a data set.
        seeds: number of seeds.
        source: the file and the values in it.
    """

    claim: str
    origin: str
    verdict: str
    evidence: str
    column: str
    seeds: int
    source: str


def verdict_counts(claims: Sequence[Claim]) -> dict[str, int]:
    """Verdict → number of claims, for all verdicts in their order."""
    counts = Counter(claim.verdict for claim in claims)
    return {verdict: counts[verdict] for verdict in VERDICTS}


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot: its title, its caption, and its complete SVG file ("" if it could not be drawn; the caption says why)."""

    title: str
    caption: str
    svg: str


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table with everything that its report shows.

    Attributes:
        title: of the table.
        question: that it answers, in a sentence.
        columns, rows: each row has one cell per column.
        name: of the table, on the command line and in CSV lines.
        banner: warning that accompanies the results, for example that the data is synthetic; else None.
        protocol: which epoch is reported, in a sentence; "" if there are no epochs.
        optimistic: whether the protocol chooses on the test set.
        notes: sentences under the table.
        footnotes: texts of the marks "[1]", "[2]" … in cells.
        missing: one sentence for each missing result: which cell, which seed, why.
        intervals: differences from the baseline to be drawn; `intervals_text` explains them.
        parts: additional tables.
        claims: of the papers and controls; `claims_text` explains the verdicts.
        commands: command lines that train each cell's runs, in the order of the rows.
        plots: of the runs, for the page.
    """

    title: str
    question: str
    columns: Sequence[SheetColumn]
    rows: Sequence[SheetRow]
    name: str = "table"
    banner: str | None = None
    protocol: str = ""
    optimistic: bool = False
    notes: Sequence[str] = ()
    footnotes: Sequence[str] = ()
    missing: Sequence[str] = ()
    intervals: Sequence[Interval] = ()
    intervals_text: str = ""
    parts: Sequence[SheetPart] = ()
    claims: Sequence[Claim] = ()
    claims_text: str = ""
    commands: Sequence[str] = ()
    plots: Sequence[Plot] = ()

    def __post_init__(self) -> None:
        for columns, rows in ((self.columns, self.rows), *((part.columns, part.rows) for part in self.parts)):
            for row in rows:
                if len(row.cells) != len(columns):
                    raise ValueError(f"row {row.label!r} has {len(row.cells)} cells for {len(columns)} columns")
