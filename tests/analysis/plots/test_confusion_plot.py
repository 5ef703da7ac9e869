"""The plot of confusion matrices."""

import numpy as np
import pytest
from mmpareto.analysis.plots.confusion import confusion_plot

COUNTS = {"joint": [[3, 1, 0], [0, 2, 0], [0, 0, 0]], "audio": [[0, 4, 0], [2, 0, 0], [0, 0, 0]]}
SHARES = {"joint": [[0.75, 0.25, 0], [0, 1, 0]], "audio": [[0, 1, 0], [1, 0, 0]]}


def test_each_head_has_a_panel_with_shares_per_true_class() -> None:
    figure = confusion_plot(COUNTS, ["ANG", "HAP", "SAD"], "a title")
    assert figure.get_suptitle() == "a title"
    assert [axes.get_title() for axes in figure.axes] == ["joint: 5 of 6 correct", "audio: 0 of 6 correct"]
    for axes, expected in zip(figure.axes, SHARES.values(), strict=True):
        shown = np.ma.filled(axes.images[0].get_array(), np.nan)
        np.testing.assert_allclose(shown[:2], expected)
        assert np.isnan(shown[2]).all()  # a class without samples has no shares
        written = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
        assert written == {
            (row, column): f"{100 * share:.0f}"
            for row, values in enumerate(expected)
            for column, share in enumerate(values)
            if share
        }
        assert [label.get_text() for label in axes.get_xticklabels()] == ["ANG", "HAP", "SAD"]
    assert figure.axes[0].get_ylabel() == "true" and figure.axes[1].get_xlabel() == "predicted"


@pytest.mark.parametrize(("n_classes", "written"), [(2, True), (31, False)])
def test_numbers_are_written_where_they_fit(n_classes: int, written: bool) -> None:
    counts = np.random.default_rng(0).integers(1, 9, (n_classes, n_classes)).tolist()
    figure = confusion_plot({"joint": counts, "text": counts}, [f"class {n}" for n in range(n_classes)], "x")
    figure.draw_without_rendering()
    assert [len(axes.texts) for axes in figure.axes] == [n_classes**2 if written else 0] * 2
    assert max(figure.get_size_inches()) < 20
