"""How figures look: colours, lines and sizes of a journal's page, and what is written around the panels."""

import dataclasses
import itertools
import math
import zlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from matplotlib import style as matplotlib_style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

# Okabe and Ito's colours, which people with any colour vision tell apart (jfly.uni-koeln.de/color, 2008); their yellow
# is left out, since a thin line of it cannot be seen on white.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#999999"
JOINT, UNIMODAL, SUM, MIN_NORM, MMPARETO = BLUE, ORANGE, GREY, PURPLE, GREEN  # gradients, and what becomes of them
WARNING = VERMILION

WIDTH = 7.0  # inches: both columns of a page
FONT, SMALL = 8.0, 6.5  # points: as it is printed, so that nothing needs to be scaled
BAND = 0.18  # opacity
MARKS = 10  # markers of a line
LINE_SPACING = 1.3
HINTING = 1.05  # a screen's glyphs are set wider than their outlines are
MARGIN = 0.08  # inches
PAPER = {
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # long enough to tell the dashes apart
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.8,
}


@dataclasses.dataclass(frozen=True)
class Line:
    """A line that is told from others by its colour, and without colour by its dashes and its marker."""

    colour: str
    dashes: Any
    marker: str

    def keywords(self) -> dict[str, Any]:
        """The arguments of `Axes.plot`."""
        return {"color": self.colour, "linestyle": self.dashes, "marker": self.marker}


SOLID, DASHED, DOTTED, DASHDOT = "-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2))
LONG, TWO_DOTS, SPARSE = (0, (8, 1.6)), (0, (4, 1.2, 1, 1.2, 1, 1.2)), (0, (1.2, 3))
OBJECTIVES = {"joint": Line(JOINT, SOLID, "o"), "unimodal": Line(UNIMODAL, DASHED, "s")}
LABELS = {
    "joint": Line(BLUE, DOTTED, "s"),
    "uniform": Line(BLACK, DASHED, "o"),
    "pareto": Line(PURPLE, DASHDOT, "^"),
    "mmpareto": Line(GREEN, SOLID, "D"),
    "mmpareto (paper)": Line(VERMILION, LONG, "v"),
    "mmpareto (released)": Line(SKY, TWO_DOTS, "P"),
    "dgl": Line(ORANGE, SPARSE, "X"),
    "ogm": Line(BLUE, SOLID, "<"),
    "ogm_ge": Line(SKY, DASHED, ">"),
    "gblending": Line(BLACK, DASHDOT, "*"),
    "greedy": Line(VERMILION, DOTTED, "h"),
    "pmr": Line(PURPLE, LONG, "p"),
    "pmr (released)": Line(PURPLE, SOLID, "8"),
    "agm": Line(ORANGE, TWO_DOTS, "d"),
    "agm (released)": Line(ORANGE, SOLID, "H"),
    "unimodal": Line(GREY, SPARSE, "."),
    "pretrain_finetune": Line(GREEN, DASHED, "1"),
    "gradnorm": Line(SKY, SOLID, "2"),
    "pcgrad": Line(BLUE, DASHDOT, "3"),
    "metabalance": Line(VERMILION, SOLID, "4"),
}
FURTHER = [
    Line(*parts)
    for parts in itertools.product(
        (VERMILION, BLUE, GREEN, PURPLE, SKY, ORANGE, BLACK),
        (DASHED, DASHDOT, TWO_DOTS, LONG, DOTTED, SPARSE, SOLID),
        ("v", "P", "s", "^", "X", "o", "D"),
    )
]


def paper() -> AbstractContextManager[None]:
    """While entered, new figures have the fonts and widths of a page, whatever a matplotlibrc says."""
    return matplotlib_style.context(["default", PAPER])


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches; `finish` adds what stands around the panels to its height."""
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def lines(labels: Iterable[str]) -> dict[str, Line]:
    """The line of each label of a figure; no two share both dashes and marker.

    A label of `LABELS` has always the same. Another has one that follows from its letters, unless that is taken.
    """
    labels = list(labels)
    chosen = {label: LABELS[label] for label in labels if label in LABELS}
    taken = {(str(line.dashes), line.marker) for line in LABELS.values()}
    for label in labels:
        if label in chosen:
            continue
        start = zlib.crc32(label.encode()) % len(FURTHER)
        free = (one for one in FURTHER[start:] + FURTHER[:start] if (str(one.dashes), one.marker) not in taken)
        chosen[label] = next(free)
        taken.add((str(chosen[label].dashes), chosen[label].marker))
    return {label: chosen[label] for label in labels}


def draw_band(
    axes: Axes,
    x: np.ndarray,
    middle: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    line: Line,
    label: str,
    place: int = 0,
) -> None:
    """Draw a line, with a band behind it where there is one; nothing where every figure is missing.

    Arguments:
        x, middle, low, high: (P,) the line and the edges of the band; NaN where there is none.
        place: of the line among those of the panel: in long lines, their markers stand beside each other.
    """
    if np.isnan(middle).all():
        return
    if not np.isnan(low).all():
        axes.fill_between(x, low, high, color=line.colour, alpha=BAND, lw=0)
    apart = max(1, len(x) // MARKS)
    axes.plot(x, middle, label=label, markevery=(2 * place % apart, apart), **line.keywords())


def legend(axes: Axes, others: Iterable[Axes] = ()) -> None:
    """Name the lines of these panels once, beside the last panel `axes`."""
    named: dict[str, Any] = {}
    for panel in (*others, axes):
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    if named:
        axes.legend([*named.values()], [*named], loc="upper left", bbox_to_anchor=(1.02, 1.02), borderaxespad=0)


def finish(figure: Figure, title: str, notes: Sequence[str], banner: str | None) -> None:
    """Write the data set's banner and the title above the panels and the notes below them; the figure grows by that.

    To be called once, last, on a figure of `new_figure`.

    Arguments:
        notes: what the figure shows, of which data set, seeds and protocol: a paragraph each.
        banner: what must be said wherever results on the data set are shown, if anything.
    """
    width, height = figure.get_size_inches()
    above = [(text, FONT, WARNING, "bold") for text in wrapped(banner or "", FONT, width, "bold")]
    above += [(text, FONT, BLACK, "bold") for text in wrapped(title, FONT, width, "bold")]
    below = [(text, SMALL, "0.25", "normal") for note in notes for text in wrapped(note, SMALL, width)]
    top, bottom = (sum(size * LINE_SPACING / 72 for _, size, *_ in part) + MARGIN for part in (above, below))
    whole = height + top + bottom
    figure.set_size_inches(width, whole)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, bottom / whole, 1, height / whole), w_pad=MARGIN, h_pad=MARGIN / 2)  # type: ignore[call-arg]  # of the constrained layout
    for part, begin in ((above, whole - MARGIN), (below, bottom - MARGIN)):
        y = begin
        for text, size, colour, weight in part:
            figure.text(
                MARGIN / width,
                y / whole,
                text,
                fontsize=size,
                color=colour,
                fontweight=weight,
                va="top",
                parse_math=False,
            )
            y -= size * LINE_SPACING / 72


def wrapped(text: str, size: float, width: float, weight: str = "normal") -> list[str]:
    """`text` in lines that fit between the margins of a figure of `width` inches; [] of nothing."""
    font = FontProperties(size=size, weight=weight)
    space, *widths = (
        TextToPath().get_text_width_height_descent(word, font, ismath=False)[0] for word in (" ", *text.split())
    )
    fitting = (width - 2 * MARGIN) * 72 / HINTING
    found: list[str] = []
    filled = math.inf
    for word, own in zip(text.split(), widths, strict=True):
        if filled + space + own <= fitting:
            found[-1] += f" {word}"
            filled += space + own
        else:
            found.append(word)
            filled = own
    return found
