"""What a table of results is made of, whatever it compares; the writers know nothing else."""

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class SheetColumn:
    """A column of figures.

    Attributes:
        title: its heading, such as "accuracy, %"; the unit belongs here.
        group: neighbours of the same group stand under one heading, such as a data set's; "" for none.
        help: what the figures are, in a sentence; "" where the title says it.
    """

    title: str
    group: str = ""
    help: str = ""


@dataclasses.dataclass(frozen=True)
class SheetCell:
    """One cell: what a person reads, and the numbers behind it.

    Attributes:
        text: as it is shown, such as "71.10 ± 0.82"; a hole's says in a few words why it is one. "[1]" in it is the
            mark of the sheet's first footnote.
        value: what the column is sorted by; None (no number) comes last.
        note: further words that are shown small below, such as "n = 3 of 5"; "" for none.
        bold: the best of its column, where that is more than chance.
        hole: there is no figure here, or not the whole of one.
        numbers: quantity → raw number for the CSV file, such as {"mean": 0.711, "std": 0.008, "seeds": 5}; fractions.
        seeds: seed → raw number of that seed's run.
    """

    text: str
    value: float | None = None
    note: str = ""
    bold: bool = False
    hole: bool = False
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seeds: Mapping[int, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SheetRow:
    """A row: its label, a cell a column, and whether the others are compared with it."""

    label: str
    cells: Sequence[SheetCell]
    baseline: bool = False


@dataclasses.dataclass(frozen=True)
class Part:
    """A further table of a sheet, under a heading and a few words on what it is."""

    title: str
    text: str
    columns: Sequence[SheetColumn]
    rows: Sequence[SheetRow]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A difference to the baseline as it is drawn: in points (percent of the test set).

    Attributes:
        label, group: of the row, and of the group of columns.
        estimate: the mean difference; None where there is none.
        low, high: ends of the interval; None where there is none, and `note` says why.
    """

    label: str
    group: str
    estimate: float | None
    low: float | None
    high: float | None
    note: str = ""

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and zero lies outside it."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper, and what the runs say of it.

    Attributes:
        claim: the sentence.
        verdict: one of "holds", "does not hold", "undecided", "not measured".
        evidence: the figures: the mean difference and its interval, or the command that would measure it.
        data: the data set's title.
        seeds: over how many seeds.
        rests_on: the file and the figure in it.
    """

    claim: str
    verdict: str
    evidence: str
    data: str
    seeds: int
    rests_on: str


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture of the runs: its title, what it shows, and the whole SVG file."""

    title: str
    caption: str
    svg: str


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table of results with everything that has to be said of it. All but the first four may be left out.

    A sheet of plain texts, as the table of costs is: `Sheet("Cost", "What does a step cost?",
    [SheetColumn("CPU seconds"), SheetColumn("× uniform")],
    [SheetRow("uniform", [SheetCell("2.11", 2.11), SheetCell("1.00", 1.0)], baseline=True)], notes=["On …"])`.

    Attributes:
        title: of the table.
        question: what it answers, in a sentence.
        columns, rows: every row has a cell a column.
        name: of the table, for file names and CSV lines.
        banner: what must be said wherever these results are shown, such as that the data are synthetic; else None.
        protocol: which epoch's figures these are, in a sentence; "" where there are no epochs.
        optimistic: the protocol chooses on the test set.
        notes: sentences under the table: how the figures are made, and what differs between the runs.
        footnotes: what the marks "[1]", "[2]" … in cells stand for.
        holes: a sentence each for what is missing: which cell, which seed, why.
        intervals: the differences to the baseline, as they are drawn; `intervals_text` says what the intervals are.
        parts: further tables, such as the noise of the test set.
        claims: of the paper, checked on these runs; `claims_text` says how.
        commands: how each number was made: command lines in the order of the rows.
        figures: pictures of the runs that the figures come from, for the page.
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
    holes: Sequence[str] = ()
    intervals: Sequence[Interval] = ()
    intervals_text: str = ""
    parts: Sequence[Part] = ()
    claims: Sequence[Claim] = ()
    claims_text: str = ""
    commands: Sequence[str] = ()
    figures: Sequence[Figure] = ()

    def __post_init__(self) -> None:
        for columns, rows in ((self.columns, self.rows), *((part.columns, part.rows) for part in self.parts)):
            for row in rows:
                if len(row.cells) != len(columns):
                    raise ValueError(f"row {row.label!r} has {len(row.cells)} cells for {len(columns)} columns")
