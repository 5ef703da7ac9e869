"""A sheet as one self-contained HTML page, which can be opened as a file and loads nothing."""

import base64
import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from mmpareto.analysis.report.sheet import Claim, Interval, Plot, Sheet, SheetColumn, SheetRow, verdict_counts
from mmpareto.analysis.report.statistics import signed

TEMPLATE = "page.html.jinja"
MARK = re.compile(r"\[(\d+)\]")
SPREAD = re.compile(r"([+−]?[\d.]+) (± [\d.]+|\[[^\]]+, [^\]]+\])")  # a number and its deviation or interval
LONG = 24  # characters; cells with longer texts may be broken into lines


@dataclasses.dataclass(frozen=True)
class Bar:
    """An interval with its positions on the axis, in percent of the axis from the left."""

    interval: Interval
    estimate: float | None
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """The numbers beside the interval."""
        if self.interval.estimate is None:
            return "–"
        if self.interval.low is None or self.interval.high is None:
            return signed(self.interval.estimate)
        ends = f"[{signed(self.interval.low)}, {signed(self.interval.high)}]"
        return f"{signed(self.interval.estimate)} {ends}"


@dataclasses.dataclass(frozen=True)
class Panel:
    """The intervals of a group of columns on one axis; ticks are (position in percent, text)."""

    group: str
    bars: Sequence[Bar]
    zero: float
    ticks: Sequence[tuple[float, str]]


def page(sheet: Sheet) -> str:
    """The HTML of the page, with its styles, script and plots."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "marked": lambda text: _marked(text, len(sheet.footnotes)),
        "groups": _groups,
        "numeric": _numeric,
        "unit": lambda title: title.removesuffix(", %") + ",\u00a0%" if title.endswith(", %") else title,
        "data_uri": _data_uri,
        "slug": _slug,
        "counts": verdict_counts,
    }
    return environment.get_template(TEMPLATE).render(
        sheet=sheet,
        panels=list(_panels(sheet.intervals)),
        claims=_by_column(sheet.claims),
        long=LONG,
    )


def _marked(text: str, footnotes: int) -> Markup:
    """The text, escaped, with its marks as links to the footnotes; a number and its spread may be on two lines."""

    def link(mark: re.Match[str]) -> str:
        number = int(mark[1])
        if not 1 <= number <= footnotes:
            return mark[0]
        return f'<sup><a href="#note-{number}" aria-label="footnote {number}">{number}</a></sup>'

    if number := SPREAD.fullmatch(text):
        return Markup('{} <span class="spread">{}</span>').format(*number.groups())  # escapes both
    linked = MARK.sub(link, str(escape(text)))
    return Markup(linked.replace(" <sup>", "<sup>").replace(" [", "\u00a0["))


def _groups(columns: Sequence[SheetColumn]) -> list[tuple[str, int]]:
    """Each group of adjacent columns with its number of columns; [] if there are no groups."""
    groups = [(group, len([*run])) for group, run in itertools.groupby(column.group for column in columns)]
    return groups if any(group for group, _ in groups) else []


def _numeric(rows: Sequence[SheetRow]) -> list[bool]:
    """For each column, whether any of its cells has a value."""
    return [any(cell.value is not None for cell in column) for column in zip(*(row.cells for row in rows), strict=True)]


def _data_uri(plot: Plot) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(plot.svg.encode()).decode()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _by_column(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    columns: dict[str, list[Claim]] = {}
    for claim in claims:
        columns.setdefault(claim.column, []).append(claim)
    return columns


def _panels(intervals: Sequence[Interval]) -> Iterator[Panel]:
    """One panel per group, all with the same scale, whose ticks are multiples of 1, 2 or 5 times a power of ten."""
    ends = [end for one in intervals for end in (one.estimate, one.low, one.high) if end is not None]
    if not ends:
        return
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin
    step = _step(high - low)

    def position(value: float) -> float:
        return 100 * (value - low) / (high - low)

    steps = range(math.ceil(low / step), math.floor(high / step) + 1)
    ticks = [(position(n * step), _tick_text(n * step, step)) for n in steps]
    for group, members in itertools.groupby(intervals, key=lambda one: one.group):
        bars = [
            Bar(one, *(None if value is None else position(value) for value in (one.estimate, one.low, one.high)))
            for one in members
        ]
        yield Panel(group, bars, position(0.0), ticks)


def _step(width: float) -> float:
    """The smallest of 1, 2, 5 × 10ⁿ of which at most five fit into the width."""
    power = 10.0 ** math.floor(math.log10(width / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if width / (factor * power) <= 5)


def _tick_text(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return "0" if not value else f"{value:+.{digits}f}".replace("-", "−")
