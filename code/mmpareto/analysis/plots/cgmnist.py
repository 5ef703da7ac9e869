"""Plot of CG-MNIST: gray digits, and their colours in training and in test."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots import style
from mmpareto.data.cgmnist import CGMNIST, SIDE
from mmpareto.data.generated.colouring import Part, coloured, ink_colours

PREPARED = Path("data") / CGMNIST.name
PER_CLASS = 3
Digits = dict[str, npt.NDArray[np.uint8]]


def draw_cgmnist(out: Path, runs: Sequence[FinishedRun], options: argparse.Namespace) -> str:
    """Draw `cgmnist_plot`."""
    style.save(cgmnist_plot(), out, style.README_DPI)
    return ""


def cgmnist_plot(folder: Path = PREPARED) -> Figure:
    """A few digits of every class: gray, as they are coloured in training, and in test.

    Where CG-MNIST is not prepared, scikit-learn's small handwritten digits are coloured in the same way, and the title
    says so.

    Arguments:
        folder: the prepared folder.
    """
    is_prepared = (folder / "stat.csv").is_file()
    parts = _prepared(folder) if is_prepared else _small_digits()
    rows = {
        "gray": parts["train"]["gray"],
        "colour in training: the digit's own": parts["train"]["colour"],
        "colour in test: any": parts["test"]["colour"],
    }
    figure = style.new_figure(6, 0.6 * PER_CLASS * len(rows) + 0.9)
    title = "CG-MNIST" if is_prepared else "the colours of CG-MNIST, on scikit-learn's small digits"
    figure.suptitle(title, fontsize="medium")
    for axes, (name, images) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        axes.imshow(_mosaic(images), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(name, loc="left", fontsize="medium")
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def _prepared(folder: Path) -> dict[str, Digits]:
    """Part → modality → (10 · PER_CLASS, C, 28, 28), class by class."""
    parts = {}
    for part in ("train", "test"):
        dataset = CGMNIST.open(folder, part, training=False)
        indices = _first_of_each(np.array(dataset.labels))
        inputs = [dataset[int(index)].inputs for index in indices]
        parts[part] = {name: np.stack([x[name].numpy() for x in inputs]) for name in ("gray", "colour")}
    return parts


def _small_digits() -> dict[str, Digits]:
    """The same for the UCI digits of scikit-learn, 8×8, enlarged to the size of MNIST's."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    parts: dict[str, Digits] = {}
    halves: tuple[tuple[Part, slice], ...] = (("train", slice(0, 900)), ("test", slice(900, None)))
    for part, half in halves:
        indices = np.arange(len(labels))[half][_first_of_each(labels[half])]
        gray = np.stack([_enlarged(images[index].reshape(8, 8)) for index in indices])
        colours = ink_colours(labels[indices], part, seed=0)
        parts[part] = {"gray": gray[:, None], "colour": coloured(gray, colours)}
    return parts


def _enlarged(digit: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    margin = SIDE // 7
    picture = Image.fromarray((digit * 255 / 16).astype(np.uint8))
    return np.pad(np.asarray(picture.resize((SIDE - 2 * margin,) * 2, Image.Resampling.BICUBIC)), margin)


def _first_of_each(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.flatnonzero(labels == label)[:PER_CLASS] for label in range(10)])


def _mosaic(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """One column per class, as an image (H, W) or (H, W, 3)."""
    columns = images.reshape(10, PER_CLASS, *images.shape[1:]).transpose(1, 3, 0, 4, 2)
    return columns.reshape(PER_CLASS * SIDE, 10 * SIDE, -1).squeeze()
