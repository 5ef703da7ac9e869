"""The picture of CG-MNIST: gray digits above, coloured ones below."""

from pathlib import Path

import figures
import numpy as np
import pytest
from mmpareto.analysis.pictures.cgmnist import cgmnist_figure
from mmpareto.analysis.pictures.files import save
from mmpareto.data.cgmnist import CGMNIST
from PIL import Image


def shares(path: Path) -> np.ndarray:
    """The share of coloured pixels of every row of the picture."""
    with Image.open(path) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    assert pixels.shape[0] > 400 and pixels.shape[1] > 600
    return np.asarray(((pixels.max(2) - pixels.min(2)) > 60).mean(1))


def test_without_data_small_digits_show_the_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert figures.main(["cgmnist"]) == 0
    coloured = shares(tmp_path / "pics" / "cgmnist.png")
    assert coloured[: len(coloured) // 4].max() == 0 and coloured[len(coloured) // 2 :].max() > 0.05


def test_a_prepared_set_is_drawn(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for part, count in (("train", 60), ("t10k", 60)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 4:24, 4:24] = 255
        for name, values in (("images-idx3", images), ("labels-idx1", (np.arange(count) % 10).astype(np.uint8))):
            header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
            (raw / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())
    CGMNIST.prepare(raw=raw, out=tmp_path / "cgmnist")
    save(cgmnist_figure(tmp_path / "cgmnist"), tmp_path / "picture.png", dpi=110)
    coloured = shares(tmp_path / "picture.png")
    assert coloured[: len(coloured) // 4].max() == 0
    assert coloured[len(coloured) // 2 :].max() > 0.3  # squares, not strokes
