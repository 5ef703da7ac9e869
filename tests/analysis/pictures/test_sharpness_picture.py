"""The figure of sharpness, from the command line on; `test_covariance_picture` tests what it shares with that one."""

import json
from pathlib import Path

import figures
import pytest
from measured_runs import train_runs
from mmpareto.analysis.pictures.runs import read_runs
from mmpareto.analysis.pictures.sharpness import sharpness_figure
from mmpareto.data import DATASETS
from PIL import Image


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = train_runs(tmp_path_factory.mktemp("runs"), "mmpareto", "dgl")
    arguments = ["sharpness", "--run", *map(str, made), "--samples", "6", "--gpu_ids", "cpu"]
    assert figures.main(arguments) == 0
    return made


def test_every_loss_is_measured_and_drawn(runs: list[Path]) -> None:
    with Image.open(runs[0].parent / "sharpness.png") as picture:
        assert min(picture.size) > 250
    assert (runs[0].parent / "sharpness.pdf").read_bytes().startswith(b"%PDF")
    found = [json.loads((run / "sharpness.json").read_text()) for run in runs]
    for content in found:
        assert content["samples"] == 6 and content["checkpoint"] == "last.pt" and content["epoch"] == 2
        assert list(content["losses"]) == ["joint", "audio", "visual"]
        for one in content["losses"].values():
            assert one["residual"] <= 0.02 * abs(one["largest_eigenvalue"]) and one["iterations"] >= 1
    figure = sharpness_figure(read_runs(runs))
    assert [axes.get_title() for axes in figure.axes] == ["joint loss", "unimodal loss, audio", "unimodal loss, visual"]
    for axes, name in zip(figure.axes, ("joint", "audio", "visual"), strict=True):
        shown = [float(line.get_xdata()[0]) for line in axes.lines]
        assert shown == [pytest.approx(content["losses"][name]["largest_eigenvalue"]) for content in found]
    notes = " ".join(text.get_text() for text in figure.texts)
    assert "6 training samples" in notes and "‖Hv − λv‖/|λ|" in notes and "Seed 0" in notes


def test_on_synthetic_data_the_warning_stands_above(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DATASETS["cremad"], "banner", "SYNTHETIC: made up.")
    figure = sharpness_figure(read_runs(runs))
    assert "SYNTHETIC: made up." in [text.get_text() for text in figure.texts]


def test_the_text_has_the_numbers(runs: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["sharpness", "--run", str(runs[1]), "--samples", "6", "--gpu_ids", "cpu", "--out", str(tmp_path / "x")]
    assert figures.main(arguments) == 0
    value = json.loads((runs[1] / "sharpness.json").read_text())["losses"]["joint"]["largest_eigenvalue"]
    printed = capsys.readouterr().out
    assert f"{value:.5g}" in printed and "6 training samples" in printed and "dgl" in printed
