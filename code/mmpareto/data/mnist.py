"""MNIST's four files (LeCun, Cortes and Burges): finding, reading and downloading them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmpareto.data.generated.colouring import Part
from mmpareto.data.preparation.downloading import download
from mmpareto.data.preparation.prepared_folder import locked
from mmpareto.data.raw.idx import read_idx
from mmpareto.errors import InputError

MNIST_PAGE = "https://ossci-datasets.s3.amazonaws.com/mnist"  # the mirror that torchvision uses
IDX_FILES: dict[Part, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
CLASSES = tuple("0123456789")
# Samples per class, which identify MNIST whatever file it comes in.
MNIST_COUNTS = {
    "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
}
SIDE = 28
GRAY_NORMALISATION = ((0.1307,), (0.3081,))  # mean and standard deviation of the training images


class Digits(NamedTuple):
    """Images of digits, and their labels."""

    images: np.ndarray
    """uint8 (N, 28, 28), or (N, 28, 28, 3)."""
    labels: np.ndarray
    """int64 (N,)."""


def download_mnist(folder: Path) -> None:
    """Download the four files, compressed as distributed, to `folder` from torchvision's mirrors, with its checksums.

    Raises:
        InputError: a file cannot be downloaded, `folder` cannot be written, or another process is downloading to it.
    """
    from torchvision.datasets import MNIST  # its own download leaves half a file behind when it is interrupted

    with locked(folder):
        for name, md5 in MNIST.resources:
            download([f"{mirror}{name}" for mirror in MNIST.mirrors], folder / name, md5)


def find_mnist(raw: Path) -> dict[str, Path] | None:
    """Find the four files by their names, with .gz or without, in `raw` or a folder inside it; None if there is none.

    Raises:
        InputError: a folder has some of them but not all, or two folders have them.
    """
    several = []
    for folder, subfolders, names in os.walk(raw):
        subfolders.sort()
        # Some copies are called train-images.idx3-ubyte. In reverse order x replaces x.gz.
        paths = {name.removesuffix(".gz").replace(".idx", "-idx"): Path(folder, name) for name in sorted(names)[::-1]}
        wanted = [name for pair in IDX_FILES.values() for name in pair]
        missing = [name for name in wanted if name not in paths]
        if not missing:
            several.append({name: paths[name] for name in wanted})
        elif len(missing) < len(wanted):
            raise InputError(f"{folder} holds files of MNIST, but not {missing[0]}; download it from {MNIST_PAGE}.")
    if len(several) > 1:
        folders = sorted(str(next(iter(files.values())).parent) for files in several)
        raise InputError(f"{raw} holds files named like MNIST's in {' and in '.join(folders[:2])}; keep one of them.")
    return several[0] if several else None


def read_mnist(files: Mapping[str, Path]) -> dict[Part, Digits]:
    """Read both parts of the files that `find_mnist` returned.

    Raises:
        InputError: a file is damaged, or holds something else.
    """
    return {
        part: checked(read_idx(files[images]), read_idx(files[labels]), (SIDE, SIDE), f"{files[images].parent}, {part}")
        for part, (images, labels) in IDX_FILES.items()
    }


def checked(images: Any, labels: Any, shape: tuple[int, ...], where: str) -> Digits:
    """Return the arrays as `Digits`; refuse other shapes or types, and labels that are not 0 … 9."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise InputError(
            f"{where}: the images are not uint8 (N, {', '.join(map(str, shape))}); download the file again."
        )
    if isinstance(labels, list) or (isinstance(labels, np.ndarray) and labels.dtype == object and labels.ndim == 1):
        is_digit = (isinstance(label, int | np.integer) and 0 <= label <= 9 for label in labels)
        labels = np.array([label if fits else -1 for label, fits in zip(labels, is_digit, strict=True)], np.int64)
    if not isinstance(labels, np.ndarray):
        labels = np.array([])
    if labels.shape != (len(images),) or labels.dtype.kind not in "ui" or labels.min() < 0 or labels.max() > 9:
        raise InputError(f"{where}: the labels are not {len(images)} digits, one per image; download the file again.")
    return Digits(images, labels.astype(np.int64))
