from pathlib import Path

import numpy as np
import pytest
from mmpareto.analysis.pictures.confusion import confusion_figure, confusion_picture
from PIL import Image

COUNTS = {"joint": [[3, 1, 0], [0, 2, 0], [0, 0, 0]], "audio": [[0, 4, 0], [2, 0, 0], [0, 0, 0]]}
SHARES = {"joint": [[0.75, 0.25, 0], [0, 1, 0]], "audio": [[0, 1, 0], [1, 0, 0]]}


def test_a_panel_a_head_shows_the_shares_of_the_true_class() -> None:
    figure = confusion_figure(COUNTS, ["ANG", "HAP", "SAD"], "a title")
    assert figure.get_suptitle() == "a title"
    assert [axes.get_title() for axes in figure.axes] == ["joint: 5 of 6 right", "audio: 0 of 6 right"]
    for axes, expected in zip(figure.axes, SHARES.values(), strict=True):
        shown = np.ma.filled(axes.images[0].get_array(), np.nan)
        np.testing.assert_allclose(shown[:2], expected)
        assert np.isnan(shown[2]).all()  # of a class without samples nothing is known
        written = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
        assert written == {
            (row, column): f"{100 * share:.0f}"
            for row, values in enumerate(expected)
            for column, share in enumerate(values)
            if share
        }
        assert [label.get_text() for label in axes.get_xticklabels()] == ["ANG", "HAP", "SAD"]
    assert figure.axes[0].get_ylabel() == "true" and figure.axes[1].get_xlabel() == "predicted"


@pytest.mark.parametrize("n_classes", [2, 6, 31])
def test_the_picture_is_whole_and_not_blank(tmp_path: Path, n_classes: int) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (n_classes, n_classes)).tolist()
    path = tmp_path / "new" / "confusion.png"
    confusion_picture(path, {"joint": counts, "text": counts}, [f"class {n}" for n in range(n_classes)], "x")
    with Image.open(path) as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
    assert [found.name for found in path.parent.iterdir()] == ["confusion.png"]
