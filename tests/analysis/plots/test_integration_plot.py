"""The arrows of the plot, compared with the results of the methods."""

from pathlib import Path

import figures
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from mmpareto.analysis.plots import style
from mmpareto.analysis.plots.integration import CASES, integrated, integration_plot

pytest_plugins = ["plot_fixtures"]


@pytest.mark.parametrize("title", CASES)
def test_arrows_match_the_equations(title: str) -> None:
    joint, unimodal = (torch.tensor(gradient, dtype=torch.float64) for gradient in CASES[title])
    a, b, c = joint @ joint, unimodal @ unimodal, joint @ unimodal
    total = joint + unimodal
    torch.testing.assert_close(integrated("uniform", joint, unimodal), total)
    expected = total
    if c < 0:
        alpha = (b - c) / (a + b - 2 * c)
        h = 2 * alpha * joint + 2 * (1 - alpha) * unimodal
        expected = 1.5 * max(1, total.norm() / h.norm()) * h
        assert total @ joint < 0, "this case should show a sum that increases the joint loss"
    assert ("no conflict" in title) == bool(c >= 0)
    torch.testing.assert_close(integrated("mmpareto", joint, unimodal), expected)


def test_arrows_are_labelled_in_the_colours_of_their_gradients() -> None:
    for axes in integration_plot().axes:
        texts = {text.get_text(): (text.get_color(), text.get_position()) for text in axes.texts if text.get_text()}
        assert texts["$g_m$ joint"][0] == style.JOINT and texts["$g_u$ unimodal"][0] == style.UNIMODAL
        conflict = axes.get_title().startswith("conflict")
        assert ("uniform sum" in texts) == conflict
        assert texts["MMPareto" if conflict else "MMPareto = uniform sum"][0] == style.MMPARETO
        joint, unimodal = (torch.tensor(gradient) for gradient in CASES[axes.get_title()])
        ends = [annotation.xy for annotation in axes.texts if isinstance(annotation, Annotation)]
        assert tuple(integrated("mmpareto", joint, unimodal).tolist()) in ends


def test_the_command_line(tmp_path: Path, unsaved: list[Figure], capsys: pytest.CaptureFixture[str]) -> None:
    assert figures.main(["integration", "--out", str(tmp_path / "x.png")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "x.png"), str(tmp_path / "x.pdf")]
    assert len(unsaved) == 1


def test_the_panels_fill_the_picture() -> None:
    figure = integration_plot()
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()
    assert 0.9 * figure.get_figheight() < drawn.height <= figure.get_figheight()
    assert drawn.y0 >= 0 and drawn.width > 0.95 * figure.get_figwidth()
