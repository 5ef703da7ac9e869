"""The plot of CG-MNIST: gray digits above, coloured ones below."""

from pathlib import Path

import figures
import numpy as np
import pytest
from matplotlib.figure import Figure
from mmpareto.analysis.plots.cgmnist import cgmnist_plot
from mmpareto.data.cgmnist import CGMNIST

pytest_plugins = ["plot_fixtures"]


def images(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def coloured(image: np.ndarray) -> float:
    """The share of coloured pixels."""
    pixels = image.astype(int)
    return float(((pixels.max(2) - pixels.min(2)) > 60).mean())


def test_without_data_small_digits_show_the_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unsaved: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert figures.main(["cgmnist"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "pics/cgmnist.png"
    gray, training, test = images(unsaved[0])
    assert gray.ndim == 2 and gray.max() > 200 and coloured(training) > 0.05 and coloured(test) > 0.05
    assert training.shape == test.shape and "scikit-learn" in unsaved[0].get_suptitle()


def test_prepared_digits_are_drawn(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for part, count in (("train", 60), ("t10k", 60)):
        squares = np.zeros((count, 28, 28), np.uint8)
        squares[:, 4:24, 4:24] = 255
        for name, values in (("images-idx3", squares), ("labels-idx1", (np.arange(count) % 10).astype(np.uint8))):
            header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
            (raw / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())
    CGMNIST.prepare(raw=raw, out=tmp_path / "cgmnist")
    figure = cgmnist_plot(tmp_path / "cgmnist")
    gray, training, test = images(figure)
    assert gray.ndim == 2 and coloured(training) > 0.3 and coloured(test) > 0.3  # squares, not strokes
    assert figure.get_suptitle() == "CG-MNIST"
    columns = training.reshape(84, 10, 28, 3)[10, :, 14]  # one colour per class in training
    assert len({tuple(colour) for colour in columns.tolist()}) == 10
