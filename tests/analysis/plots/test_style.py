"""Lines are distinguishable without colour, all text is on the page, and both files are complete."""

import itertools
import random
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from mmpareto.analysis.plots import style
from mmpareto.analysis.plots.style import save
from mmpareto.errors import InputError
from mmpareto.integration import METHODS
from mmpareto.training.method_labels import NAMES, label
from PIL import Image

# Okabe and Ito, "Color Universal Design", and a grey.
OKABE_ITO = {"#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#999999"}


def grey(line: style.LineStyle) -> tuple[str, str]:
    """A line style without its colour."""
    return str(line.dashes), line.marker


def test_every_method_has_a_distinct_line_even_in_grey() -> None:
    for method, kind in METHODS.items():
        assert {label(method, variant) for variant in kind.variants or [None]} <= set(style.LABELS)
    assert len({grey(line) for line in style.LABELS.values()}) == len(style.LABELS)
    assert {to_hex(line.colour) for line in (*style.LABELS.values(), *style.FURTHER)} <= OKABE_ITO
    main = [style.LABELS[NAMES[name]] for name in ("joint", "uniform", "pareto", "mmpareto", "dgl")]
    main += [style.LABELS[f"MMPareto ({variant})"] for variant in ("paper", "released")]
    for part in ("colour", "marker", "dashes"):
        assert len({str(getattr(line, part)) for line in main}) == len(main), part
    assert len({grey(line) for line in style.OBJECTIVES.values()}) == 2


def test_the_line_of_a_known_label_does_not_depend_on_other_labels() -> None:
    labels = [*style.LABELS, *(f"MMPareto (gamma {gamma})" for gamma in range(25)), "TorchJD UPGrad"]
    drawn = style.lines(labels)
    assert list(drawn) == labels and len({grey(line) for line in drawn.values()}) == len(labels)
    random.Random(0).shuffle(labels)
    others = style.lines(labels)
    assert all(drawn[label] == others[label] == style.lines([label])[label] for label in style.LABELS)
    assert (
        style.lines(["TorchJD UPGrad", "Uniform"])["TorchJD UPGrad"]
        == style.lines(["TorchJD UPGrad"])["TorchJD UPGrad"]
    )


@pytest.mark.parametrize("banner", [None, "SYNTHETIC DATA: " + "made up, and no result. " * 12])
def test_all_text_is_on_the_page(banner: str | None) -> None:
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


def test_lines_need_values_and_bands_need_several_seeds() -> None:
    axes = style.new_figure(3, 2).subplots()
    x, nan = np.arange(3.0), np.full(3, np.nan)
    style.draw_band(axes, x, nan, nan, nan, style.LABELS["Joint loss"], "nothing")
    assert not axes.lines and not axes.collections
    style.draw_band(axes, x, x, nan, nan, style.LABELS["Joint loss"], "one seed")
    assert len(axes.lines) == 1 and not axes.collections
    style.draw_band(axes, x, x, x - 1, x + 1, style.LABELS["DGL"], "some")
    assert len(axes.lines) == 2 and len(axes.collections) == 1
    assert (axes.lines[1].get_linestyle(), axes.lines[1].get_marker()) == ("--", style.LABELS["DGL"].marker)


# Files


def drawn(height: float = 1.0) -> Figure:
    with style.paper():
        figure = style.new_figure(4, 2)
        axes = figure.subplots()
        axes.plot([0, height], label="α")
        axes.imshow(np.eye(3))
        style.legend(axes)
        style.finish(figure, "A title", ["A note."], None)
    return figure


def test_png_and_pdf_are_complete_and_the_same_plot_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = drawn()
    png, pdf = first = save(figure, tmp_path / "new" / "a.PDF")
    assert first == [tmp_path / "new" / "a.png", tmp_path / "new" / "a.pdf"]
    assert sorted(png.parent.iterdir()) == sorted(first)
    with Image.open(png) as picture:
        assert picture.format == "PNG"
        assert picture.size == pytest.approx(300 * figure.get_size_inches(), abs=1)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF-1.") and content.rstrip().endswith(b"%%EOF")
    assert b"/Type3" not in content and b"/FontFile2" in content  # TrueType, as journals want
    assert b"Date" not in content
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "12345")  # another day
    for one, other in zip(first, save(drawn(), tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert save(drawn(2.0), tmp_path / "c", dpi=50)[1].read_bytes() != content


def test_an_older_file_stays_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in ("png", "pdf"):
        (tmp_path / f"x.{suffix}").write_bytes(b"before")

    def torn(self: Figure, path: Path, **_: object) -> None:
        path.write_bytes(b"half a file")
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(Figure, "savefig", torn)
    with pytest.raises(InputError, match=r"x.png cannot be written \(no space left on device\): give another --out"):
        save(drawn(), tmp_path / "x")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x.png": b"before", "x.pdf": b"before"}


def test_file_names_and_refused_formats(tmp_path: Path) -> None:
    for given, name in (("x.png", "x"), ("x", "x"), ("new/x.PDF", "new/x"), ("x.v2", "x.v2"), ("x.v2.png", "x.v2")):
        assert style.file_names(tmp_path / given) == [tmp_path / f"{name}.png", tmp_path / f"{name}.pdf"]
    for out in (tmp_path / "x.svg", tmp_path / "x.JPG", tmp_path):
        with pytest.raises(InputError, match="--out"):
            style.file_names(out)
