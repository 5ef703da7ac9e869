"""Figures can be told apart without colour, and say whole what must be said."""

import itertools
import random

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from mmpareto.analysis.pictures import style
from mmpareto.integration import METHODS

# Okabe and Ito, "Color Universal Design", and a grey.
OKABE_ITO = {"#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#999999"}


def grey(line: style.Line) -> tuple[str, str]:
    """What is left of a line without its colour."""
    return str(line.dashes), line.marker


def test_every_method_has_a_line_of_its_own_even_in_grey() -> None:
    assert set(METHODS) <= set(style.LABELS)
    assert len({grey(line) for line in style.LABELS.values()}) == len(style.LABELS)
    assert {to_hex(line.colour) for line in (*style.LABELS.values(), *style.FURTHER)} <= OKABE_ITO
    main = [style.LABELS[name] for name in ("joint", "uniform", "pareto", "mmpareto", "dgl")]
    main += [style.LABELS[f"mmpareto ({variant})"] for variant in ("paper", "released")]
    for part in ("colour", "marker", "dashes"):
        assert len({str(getattr(line, part)) for line in main}) == len(main), part
    assert len({grey(line) for line in style.OBJECTIVES.values()}) == 2


def test_the_line_of_a_known_label_depends_on_no_other() -> None:
    labels = [*style.LABELS, *(f"mmpareto (gamma {gamma})" for gamma in range(25)), "torchjd:UPGrad"]
    drawn = style.lines(labels)
    assert list(drawn) == labels and len({grey(line) for line in drawn.values()}) == len(labels)
    random.Random(0).shuffle(labels)
    others = style.lines(labels)
    assert all(drawn[label] == others[label] == style.lines([label])[label] for label in style.LABELS)
    assert (
        style.lines(["torchjd:UPGrad", "uniform"])["torchjd:UPGrad"]
        == style.lines(["torchjd:UPGrad"])["torchjd:UPGrad"]
    )


@pytest.mark.parametrize("banner", [None, "SYNTHETIC DATA: " + "made up, and no result. " * 12])
def test_all_that_is_written_is_on_the_page(banner: str | None) -> None:
    notes = ["Seeds: " + ", ".join(map(str, range(200))) + ".", "A method of $_a$ and a$_$b."]
    with style.paper():
        figure = style.new_figure(style.WIDTH, 2)
        panels = figure.subplots(1, 2)
        panels[0].plot([0, 1], label="a line of a rather long name, (refresh 10)")
        style.legend(panels[-1], panels[:-1])
        style.finish(figure, "A title " * 20, notes, banner)
    figure.draw_without_rendering()
    written = [text.get_text() for text in figure.texts]
    for whole in (*notes, "A title " * 20, banner or ""):
        assert " ".join(whole.split()) in " ".join(written)
    boxes = [text.get_window_extent() for text in figure.texts]
    for box in boxes:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0 and box.y1 <= figure.bbox.height
    for above, below in itertools.pairwise(boxes):
        assert above.y0 >= below.y0
    panels_boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert not any(box.overlaps(panel) for box in boxes for panel in panels_boxes if panel)
    assert max(panel.x1 for panel in panels_boxes if panel) <= figure.bbox.width


def test_a_matplotlibrc_changes_nothing() -> None:
    def look() -> tuple[float, str]:
        with style.paper():
            axes = style.new_figure(3, 2).subplots()
            return float(axes.set_title("x").get_fontsize()), to_hex(axes.get_facecolor())

    usual = look()
    with matplotlib.rc_context({"font.size": 30, "axes.titlesize": 40, "axes.facecolor": "#ff0000"}):
        assert look() == usual == (style.FONT, "#ffffff")
    assert matplotlib.rcParams["font.size"] != style.FONT


def test_a_line_is_drawn_where_there_are_figures_and_a_band_where_there_are_several() -> None:
    axes = style.new_figure(3, 2).subplots()
    x, nan = np.arange(3.0), np.full(3, np.nan)
    style.draw_band(axes, x, nan, nan, nan, style.LABELS["joint"], "nothing")
    assert not axes.lines and not axes.collections
    style.draw_band(axes, x, x, nan, nan, style.LABELS["joint"], "one seed")
    assert len(axes.lines) == 1 and not axes.collections
    style.draw_band(axes, x, x, x - 1, x + 1, style.LABELS["dgl"], "some")
    assert len(axes.lines) == 2 and len(axes.collections) == 1
    assert (axes.lines[1].get_linestyle(), axes.lines[1].get_marker()) == ("--", style.LABELS["dgl"].marker)
