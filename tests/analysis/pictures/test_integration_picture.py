"""The picture of the methods shows what the methods do."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpareto.analysis.pictures.files import save
from mmpareto.analysis.pictures.integration import CASES, integrated, integration_figure
from mmpareto.errors import InputError
from PIL import Image


@pytest.mark.parametrize("title", CASES)
def test_its_arrows_are_the_equations(title: str) -> None:
    joint, unimodal = (torch.tensor(gradient, dtype=torch.float64) for gradient in CASES[title])
    a, b, c = joint @ joint, unimodal @ unimodal, joint @ unimodal
    total = joint + unimodal
    torch.testing.assert_close(integrated("uniform", joint, unimodal), total)
    expected = total
    if c < 0:
        alpha = (b - c) / (a + b - 2 * c)
        h = 2 * alpha * joint + 2 * (1 - alpha) * unimodal
        expected = 1.5 * max(1, total.norm() / h.norm()) * h
        assert total @ joint < 0, "the case is to show a sum that harms the joint loss"
    assert ("no conflict" in title) == bool(c >= 0)
    torch.testing.assert_close(integrated("mmpareto", joint, unimodal), expected)


def test_it_is_drawn(tmp_path: Path) -> None:
    save(integration_figure(), tmp_path / "picture.png", dpi=110)
    pixels = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))
    colours = {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}
    assert {(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73)} <= colours  # joint, unimodal, MMPareto


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module("figures").main
    assert main(["integration", "--out", str(tmp_path / "x.png")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "x.png"), str(tmp_path / "x.pdf")]
    assert (tmp_path / "x.png").is_file() and (tmp_path / "x.pdf").is_file()
    with pytest.raises(InputError, match="Did you mean 'integration'"):
        main(["integratoin"])
