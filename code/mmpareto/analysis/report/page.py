"""A sheet as one self-contained page, which opens from a file and fetches nothing."""

import base64
import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from mmpareto.analysis.report.layout import Claim, Figure, Interval, Sheet, SheetColumn, SheetRow
from mmpareto.analysis.report.statistics import signed

TEMPLATE = "page.html.jinja"
MARK = re.compile(r"\[(\d+)\]")
LONG = 24  # signs from which on a cell may be broken into lines


@dataclasses.dataclass(frozen=True)
class Bar:
    """An interval as it is drawn: places on the axis in percent of its width, from its left."""

    interval: Interval
    at: float | None
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """The figures beside it."""
        if self.interval.estimate is None:
            return "–"
        if self.interval.low is None or self.interval.high is None:
            return signed(self.interval.estimate)
        ends = f"[{signed(self.interval.low)}, {signed(self.interval.high)}]"
        return f"{signed(self.interval.estimate)} {ends}"


@dataclasses.dataclass(frozen=True)
class Panel:
    """The intervals of a group of columns on one axis; ticks are (place in percent, text)."""

    group: str
    bars: Sequence[Bar]
    zero: float
    ticks: Sequence[tuple[float, str]]


def page(sheet: Sheet) -> str:
    """The page's HTML; styles, script and pictures are in it."""
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
    }
    return environment.get_template(TEMPLATE).render(
        sheet=sheet,
        panels=list(_panels(sheet.intervals)),
        claims=_by_data(sheet.claims),
        long=LONG,
    )


def _marked(text: str, footnotes: int) -> Markup:
    """The text, escaped, with its marks as links to the footnotes."""

    def link(found: re.Match[str]) -> str:
        number = int(found[1])
        if not 1 <= number <= footnotes:
            return found[0]
        return f'<sup><a href="#note-{number}" aria-label="footnote {number}">{number}</a></sup>'

    shown = MARK.sub(link, str(escape(text)))
    return Markup(shown.replace(" <sup>", "<sup>").replace(" [", "\u00a0["))


def _groups(columns: Sequence[SheetColumn]) -> list[tuple[str, int]]:
    """Neighbouring columns of one group: its name and how many; [] where there are no groups."""
    found = [(group, len([*own])) for group, own in itertools.groupby(column.group for column in columns)]
    return found if any(group for group, _ in found) else []


def _numeric(rows: Sequence[SheetRow]) -> list[bool]:
    """Of every column, whether any of its cells has a value."""
    return [any(cell.value is not None for cell in column) for column in zip(*(row.cells for row in rows), strict=True)]


def _data_uri(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(figure.svg.encode()).decode()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _by_data(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    found: dict[str, list[Claim]] = {}
    for claim in claims:
        found.setdefault(claim.data, []).append(claim)
    return found


def _panels(intervals: Sequence[Interval]) -> Iterator[Panel]:
    """A panel a group, all on the same scale: a step of the axis is 1, 2 or 5 times a power of ten."""
    ends = [end for one in intervals for end in (one.estimate, one.low, one.high) if end is not None]
    if not ends:
        return
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin
    step = _step(high - low)

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    steps = range(math.ceil(low / step), math.floor(high / step) + 1)
    ticks = [(place(n * step), _tick(n * step, step)) for n in steps]
    for group, own in itertools.groupby(intervals, key=lambda one: one.group):
        bars = [Bar(one, *(None if v is None else place(v) for v in (one.estimate, one.low, one.high))) for one in own]
        yield Panel(group, bars, place(0.0), ticks)


def _step(width: float) -> float:
    """The least of 1, 2, 5 × 10ⁿ of which at most five fit into the width."""
    power = 10.0 ** math.floor(math.log10(width / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if width / (factor * power) <= 5)


def _tick(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return "0" if not value else f"{value:+.{digits}f}".replace("-", "−")
