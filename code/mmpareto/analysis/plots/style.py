"""Style of the plots: colours, lines and sizes of a journal's page, the text around the panels, and the files."""

import dataclasses
import itertools
import textwrap
import zlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import style as matplotlib_style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmpareto.errors import InputError
from mmpareto.files import atomic_path, remove_leftovers
from mmpareto.training.method_labels import NAMES

# Okabe and Ito's colours, which people with any colour vision can distinguish (jfly.uni-koeln.de/color, 2008), without
# their yellow: a thin line of it cannot be seen on white.
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
JOINT, UNIMODAL, SUM, MIN_NORM, MMPARETO = BLUE, ORANGE, GREY, PURPLE, GREEN  # gradients and their combinations
WARNING = VERMILION

WIDTH = 7.0  # inches: both columns of a page
FONT, SMALL = 8.0, 6.5  # points, in print: nothing needs to be scaled
BAND = 0.18  # opacity
MARKERS = 10  # per line
LEGEND_WIDTH = 42  # characters per line of a label
LINE_SPACING = 1.3
MARGIN = 0.08  # inches
EM, BOLD_EM = 0.54, 0.64  # width of a character over the font size, a little above the average
PRINT_DPI = 300  # journals ask for 300 to 600 for pictures with lines and text
README_DPI = 110
OTHER_FORMATS = (".svg", ".eps", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".webp")
# Without date and version, a file differs only where the plot does. Fonts as TrueType: many journals refuse Type 3.
METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
EMBEDDED_FONTS = {"pdf.fonttype": 42}
PAPER = {
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # long enough to distinguish the dashes
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.8,
}


@dataclasses.dataclass(frozen=True)
class LineStyle:
    """Look of a line: its colour, and, for a print without colour, its dashes and its marker."""

    colour: str
    dashes: Any
    marker: str

    def keywords(self) -> dict[str, Any]:
        """The arguments of `Axes.plot`."""
        return {"color": self.colour, "linestyle": self.dashes, "marker": self.marker}


SOLID, DASHED, DOTTED, DASHDOT = "-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2))
LONG, TWO_DOTS, SPARSE = (0, (8, 1.6)), (0, (4, 1.2, 1, 1.2, 1, 1.2)), (0, (1.2, 3))
OBJECTIVES = {"joint": LineStyle(JOINT, SOLID, "o"), "unimodal": LineStyle(UNIMODAL, DASHED, "s")}
BY_METHOD = {
    "joint": LineStyle(BLUE, DOTTED, "s"),
    "uniform": LineStyle(BLACK, DASHED, "o"),
    "pareto": LineStyle(PURPLE, DASHDOT, "^"),
    "mmpareto": LineStyle(GREEN, SOLID, "D"),
    "dgl": LineStyle(ORANGE, SPARSE, "X"),
    "ogm": LineStyle(BLUE, SOLID, "<"),
    "ogm_ge": LineStyle(SKY, DASHED, ">"),
    "opm": LineStyle(SKY, DOTTED, "3"),
    "gblending": LineStyle(BLACK, DASHDOT, "*"),
    "greedy": LineStyle(VERMILION, DOTTED, "h"),
    "pmr": LineStyle(PURPLE, LONG, "p"),
    "agm": LineStyle(ORANGE, TWO_DOTS, "d"),
    "cml": LineStyle(SKY, LONG, "s"),
    "lfm": LineStyle(VERMILION, DASHDOT, "h"),
    "unimodal": LineStyle(GREY, SPARSE, "."),
    "ensemble": LineStyle(GREY, SOLID, "+"),
    "pretrain_finetune": LineStyle(GREEN, DASHED, "1"),
    "umt": LineStyle(BLUE, LONG, "|"),
    "smv": LineStyle(GREEN, TWO_DOTS, "_"),
    "gradnorm": LineStyle(SKY, SOLID, "2"),
    "pcgrad": LineStyle(BLUE, DASHDOT, "3"),
    "metabalance": LineStyle(VERMILION, SOLID, "4"),
    "cggm": LineStyle(GREEN, DOTTED, "1"),
    "mcr": LineStyle(BLACK, LONG, "2"),
    "mla": LineStyle(BLACK, LONG, "*"),
    "reconboost": LineStyle(GREEN, LONG, "1"),
    "inforeg": LineStyle(BLUE, LONG, "o"),
    "relearning": LineStyle(GREEN, TWO_DOTS, "s"),
}
BY_VARIANT = {
    ("mmpareto", "paper"): LineStyle(VERMILION, LONG, "v"),
    ("mmpareto", "released"): LineStyle(SKY, TWO_DOTS, "P"),
    ("pmr", "released"): LineStyle(PURPLE, SOLID, "8"),
    ("ogm", "balancebenchmark"): LineStyle(BLUE, TWO_DOTS, "<"),
    ("ogm_ge", "balancebenchmark"): LineStyle(SKY, TWO_DOTS, ">"),
    ("opm", "released"): LineStyle(SKY, DOTTED, "4"),
    ("pmr", "balancebenchmark"): LineStyle(PURPLE, DASHED, "p"),
    ("agm", "paper"): LineStyle(ORANGE, DASHED, "x"),
    ("agm", "released"): LineStyle(ORANGE, SOLID, "H"),
    ("cml", "released"): LineStyle(SKY, DOTTED, "^"),
    ("lfm", "corrected"): LineStyle(VERMILION, LONG, "8"),
    ("lfm", "released"): LineStyle(VERMILION, TWO_DOTS, "p"),
    ("cggm", "released"): LineStyle(GREEN, SOLID, "1"),
    ("mcr", "released"): LineStyle(BLACK, DOTTED, "2"),
    ("mla", "released"): LineStyle(BLACK, TWO_DOTS, "*"),
    ("mla", "balancebenchmark"): LineStyle(BLACK, SPARSE, "*"),
    ("reconboost", "released"): LineStyle(GREEN, TWO_DOTS, "1"),
    ("inforeg", "released"): LineStyle(BLUE, TWO_DOTS, "o"),
}
# Label → its line, in every plot.
LABELS = {NAMES[method]: line for method, line in BY_METHOD.items()}
LABELS |= {f"{NAMES[method]} ({variant})": line for (method, variant), line in BY_VARIANT.items()}
FURTHER = [
    LineStyle(*parts)
    for parts in itertools.product(
        (VERMILION, BLUE, GREEN, PURPLE, SKY, ORANGE, BLACK),
        (DASHED, DASHDOT, TWO_DOTS, LONG, DOTTED, SPARSE, SOLID),
        ("v", "P", "s", "^", "X", "o", "D"),
    )
]


# Of several tasks, in their order.
TASKS = (*OBJECTIVES.values(), LineStyle(GREEN, DASHDOT, "^"), LineStyle(PURPLE, DOTTED, "D"))


def objective_lines(objectives: Iterable[str]) -> dict[str, LineStyle]:
    """Objective → its line: joint and unimodal have the same everywhere, tasks by their order."""
    return {name: OBJECTIVES.get(name, TASKS[index % len(TASKS)]) for index, name in enumerate(objectives)}


def paper() -> AbstractContextManager[None]:
    """Inside, new figures have the fonts and line widths of a page, whatever a matplotlibrc sets."""
    return matplotlib_style.context(["default", PAPER])


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; `finish` adds the text around the panels to its height."""
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def lines(labels: Iterable[str]) -> dict[str, LineStyle]:
    """Label → its line in a plot of these labels; no two lines share both dashes and marker.

    The line of a label in `LABELS` is always the same. Any other follows from the label's letters, unless it is taken.
    """
    labels = list(labels)
    chosen = {label: LABELS[label] for label in labels if label in LABELS}
    taken = {(str(line.dashes), line.marker) for line in LABELS.values()}
    for label in labels:
        if label in chosen:
            continue
        start = zlib.crc32(label.encode()) % len(FURTHER)
        rotated = FURTHER[start:] + FURTHER[:start]
        line = chosen[label] = next(line for line in rotated if (str(line.dashes), line.marker) not in taken)
        taken.add((str(line.dashes), line.marker))
    return {label: chosen[label] for label in labels}


def draw_band(
    axes: Axes,
    x: np.ndarray,
    middle: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    line: LineStyle,
    label: str,
    index: int = 0,
) -> None:
    """Draw a line, with a band behind it where it has one; nothing where all values are missing.

    Arguments:
        x, middle, low, high: (P,) the line and the edges of the band; NaN where they are missing.
        index: of the line in the panel, which shifts the markers of long lines so that they do not coincide.
    """
    if np.isnan(middle).all():
        return
    if not np.isnan(low).all():
        axes.fill_between(x, low, high, color=line.colour, alpha=BAND, lw=0)
    every = max(1, len(x) // MARKERS)
    axes.plot(x, middle, label=label, markevery=(2 * index % every, every), **line.keywords())


def legend(axes: Axes, others: Iterable[Axes] = ()) -> None:
    """Draw one legend for the lines of these panels, beside the last panel `axes`; long labels are wrapped."""
    named: dict[str, Any] = {}
    for panel in (*others, axes):
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(textwrap.fill(label, LEGEND_WIDTH), handle)
    if named:
        axes.legend([*named.values()], [*named], loc="upper left", bbox_to_anchor=(1.02, 1.02), borderaxespad=0)


def finish(figure: Figure, title: str, notes: Sequence[str], banner: str | None) -> None:
    """Write the data set's banner and the title above the panels and the notes below them; the figure grows for them.

    Call it once, last, on a figure of `new_figure`.

    Arguments:
        notes: paragraphs: what the plot shows, of which data set, seeds and protocol.
        banner: warning that accompanies all results on the data set, if it has one.
    """
    width, height = figure.get_size_inches()
    above = [(text, FONT, WARNING, "bold") for text in wrapped(banner or "", FONT, width, BOLD_EM)]
    above += [(text, FONT, BLACK, "bold") for text in wrapped(title, FONT, width, BOLD_EM)]
    below = [(text, SMALL, "0.25", "normal") for note in notes for text in wrapped(note, SMALL, width, EM)]
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


def wrapped(text: str, size: float, width: float, em: float) -> list[str]:
    """`text` in lines that fit between the margins of a figure of `width` inches; [] for an empty text."""
    return textwrap.wrap(text, int((width - 2 * MARGIN) * 72 / (size * em)), break_long_words=False)


def save(figure: Figure, out: Path, dpi: int = PRINT_DPI) -> list[Path]:
    """Write `figure` as PNG, for screens and slides, and as PDF, for papers; the two paths.

    The same plot gives the same bytes.

    Arguments:
        out: the name of both without suffix; a ".png" or ".pdf" at its end is ignored.
        dpi: of the PNG, and of pixels inside the PDF.

    Raises:
        InputError: `out` has the suffix of another format, is a folder, or cannot be written.
    """
    paths = file_names(out)
    with matplotlib.rc_context(EMBEDDED_FONTS):  # type: ignore[arg-type]  # its stub wants literal keys
        for path in paths:
            kind = path.suffix[1:]
            try:
                remove_leftovers(path.parent, [path.name])
                with atomic_path(path) as temporary:
                    figure.savefig(temporary, format=kind, dpi=dpi, metadata=METADATA[kind])
            except OSError as error:
                raise InputError(
                    f"{path} cannot be written ({error.strerror or error}): give another --out."
                ) from error
    return paths


def file_names(out: Path) -> list[Path]:
    """Paths of the PNG and the PDF; see `save`."""
    if out.suffix.lower() in OTHER_FORMATS:
        raise InputError(f"--out {out}: plots are written as PNG and PDF; give a name that ends in .png.")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder: give the name of a file in it.")
    bare = out.with_suffix("") if out.suffix.lower() in (".png", ".pdf") else out
    return [bare.with_name(f"{bare.name}{suffix}") for suffix in (".png", ".pdf")]
