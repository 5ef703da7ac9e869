"""PNG and PDF: both whole, readable, and the same for the same figure."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from mmpareto.analysis.pictures import style
from mmpareto.analysis.pictures.files import save
from mmpareto.errors import InputError
from PIL import Image


def drawn(height: float = 1.0) -> Figure:
    with style.paper():
        figure = style.new_figure(4, 2)
        axes = figure.subplots()
        axes.plot([0, height], label="α")
        axes.imshow(np.eye(3))
        style.legend(axes)
        style.finish(figure, "A title", ["A note."], None)
    return figure


@pytest.mark.parametrize(
    ("given", "name"), [("x.png", "x"), ("x", "x"), ("new/x.PDF", "new/x"), ("x.v2", "x.v2"), ("x.v2.png", "x.v2")]
)
def test_both_are_written_under_one_name(given: str, name: str, tmp_path: Path) -> None:
    figure = drawn()
    paths = save(figure, tmp_path / given)
    assert paths == [tmp_path / f"{name}.png", tmp_path / f"{name}.pdf"]
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)
    with Image.open(paths[0]) as picture:
        assert picture.format == "PNG"
        assert picture.size == pytest.approx(300 * figure.get_size_inches(), abs=1)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    pdf = paths[1].read_bytes()
    assert pdf.startswith(b"%PDF-1.") and pdf.rstrip().endswith(b"%%EOF")
    assert b"/Type3" not in pdf and b"/FontFile2" in pdf  # TrueType, as journals want


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = save(drawn(), tmp_path / "a")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "12345")  # another day
    for one, other in zip(first, save(drawn(), tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert save(drawn(2.0), tmp_path / "c")[1].read_bytes() != first[1].read_bytes()
    assert b"Date" not in first[1].read_bytes()


def test_what_was_there_stays_when_drawing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(drawn(), tmp_path / "x")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def torn(self: Figure, path: Path, **_: object) -> None:
        path.write_bytes(b"half a file")
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(Figure, "savefig", torn)
    with pytest.raises(InputError, match=r"x.png cannot be written \(no space left on device\): give another --out"):
        save(drawn(2.0), tmp_path / "x")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_format_or_a_folder_is_refused(tmp_path: Path) -> None:
    for out in (tmp_path / "x.svg", tmp_path / "x.JPG", tmp_path):
        with pytest.raises(InputError, match="--out"):
            save(drawn(), out)
    assert not list(tmp_path.iterdir())
