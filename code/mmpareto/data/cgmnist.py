"""CG-MNIST: digits in gray and in colour, where the colour is misleading (PMR, Fan et al., CVPR 2023).

Prepared:

    stat.csv, train.csv, test.csv            classes 0 … 9; samples in MNIST's order
    arrays/{train,test}_gray.npy             uint8 (N, 1, 28, 28)
    arrays/{train,test}_colour.npy           uint8 (N, 3, 28, 28)
"""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmpareto.data.dataset_builder import DatasetBuilder, DownloadInfo
from mmpareto.data.generated.colouring import Part, coloured, gray_of, ink_colours
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.preparation.prepared_folder import (
    RECORD_UNFINISHED,
    DatasetInfo,
    finished_record,
    locked,
    sha256,
    write_lists,
    write_record,
)
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import Split
from mmpareto.data.raw.idx import read_idx
from mmpareto.errors import InputError
from mmpareto.files import atomic_path, write_text

if TYPE_CHECKING:
    from mmpareto.data.loading.sources import ArraySource, ModalitySource

COLOURED_PAGE = "https://github.com/feidfoe/learning-not-to-learn"
MNIST_PAGE = "https://ossci-datasets.s3.amazonaws.com/mnist"  # the mirror that torchvision uses
PUBLISHED = "mnist_10color_jitter_var_0.030.npy"
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
ARRAYS = "arrays"
CHANNELS = {"gray": 1, "colour": 3}
# Mean and standard deviation per channel, as in PMR's code, which takes CIFAR-10's for the colours.
NORMALISATION = {
    "gray": ((0.1307,), (0.3081,)),
    "colour": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


class Digits(NamedTuple):
    """Digits of one part."""

    images: dict[str, np.ndarray]
    """Modality → uint8 (N, channels, 28, 28)."""
    labels: np.ndarray
    """int64 (N,)."""


class CGMNIST(DatasetBuilder):
    """70,000 handwritten digits, gray and in colour; the colour depends on the digit in training, but not in test."""

    name = "cgmnist"
    title = "CG-MNIST"
    download = DownloadInfo(
        size="60,000 digits for training, 10,000 for testing; 12 MB (MNIST) and 165 MB (coloured), 220 MB prepared",
        terms="see their pages",
        page=f"{COLOURED_PAGE} (coloured), {MNIST_PAGE} (MNIST)",
        raw=f"{PUBLISHED} and MNIST's four IDX files (.gz or not), in any subfolder; or the four alone, which are\n"
        "then coloured by this program; or the coloured file alone, from which the gray digits are then computed",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py cgmnist`; their values are the arguments of `prepare`."""
        parser.add_argument(
            "--raw",
            type=Path,
            required=True,
            metavar="DIR",
            help=f"folder with {PUBLISHED}, MNIST's IDX files, or both",
        )
        parser.add_argument("--out", type=Path, metavar="DIR", help="prepared folder (default: data/NAME)")
        parser.add_argument(
            "--seed", type=int, default=0, help=f"seed of the colours if {PUBLISHED} is missing (default: %(default)s)"
        )

    @classmethod
    def prepare(cls, *, raw: Path, out: Path, seed: int = 0) -> PreparationReport:
        """Prepare the digits.

        The gray digits are MNIST's, as in PMR's code, and the coloured ones those of the published file. If that file
        is missing, the colours are drawn with `seed` (`colouring.ink_colours`); if MNIST is, the gray digits are
        computed from the coloured ones. prepared.json and the report state which.

        Arguments:
            raw: the folder with the files.
            out: the prepared folder.
            seed: of drawn colours, ≥ 0.

        Raises:
            InputError: `raw` holds neither, a file is damaged or does not match the others, `out` holds something else,
                another process is preparing it, or it cannot be written.
        """
        started = time.monotonic()
        if seed < 0:
            raise InputError(f"--seed must be at least 0, not {seed}.")
        published, mnist = _find(raw, cls.title)
        origin = _origin(published, mnist, seed)
        record = {"dataset": cls.name, "origin": origin}
        parts = _read(published, mnist, seed)
        report = _report(cls.title, out, {part: digits.labels for part, digits in parts.items()}, origin)
        with locked(out):
            if finished_record(out, record, [ARRAYS]) is not None:
                report.already = report.found
                return report
            write_text(out / RECORD_UNFINISHED, json.dumps(record))
            _write_arrays(out / ARRAYS, parts)
            write_lists(out, CLASSES, _lists(report, parts))
            report.prepared, report.seconds = report.found, time.monotonic() - started
            write_record(report, DatasetInfo(cls.name, cls.title, False, CLASSES), {**record, "seed": seed}, [ARRAYS])
        return report

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, ModalitySource]":
        """Return the sources of gray and colour, images of 28×28 without augmentation."""
        return {name: _array(folder, split, name, len(names)) for name in CHANNELS}


def _array(folder: Path, split: str, name: str, samples: int) -> "ArraySource":
    from mmpareto.data.loading.sources import ArraySource, Normalisation

    path = folder / ARRAYS / f"{split}_{name}.npy"
    source = ArraySource(path, CHANNELS[name], Normalisation(*NORMALISATION[name]))
    if source.rows.shape != (samples, CHANNELS[name], SIDE, SIDE) or source.rows.dtype != np.uint8:
        raise InputError(
            f"{path} holds {source.rows.dtype} {source.rows.shape} for {samples} samples; delete {folder}"
            " and prepare the data set again."
        )
    return source


# --- the raw files ---


def _find(raw: Path, title: str) -> tuple[Path | None, dict[str, Path] | None]:
    """Find the published file, and MNIST's files by their names; None for what is missing."""
    where = f"{title} is made of {PUBLISHED} ({COLOURED_PAGE}) and MNIST's IDX files ({MNIST_PAGE})"
    if not raw.is_dir():
        raise InputError(f"the raw folder {raw} does not exist; {where}.")
    published, mnist = None, []
    for folder, subfolders, names in os.walk(raw):
        subfolders.sort()
        if published is None and PUBLISHED in names:
            published = Path(folder, PUBLISHED)
        # Some copies are called train-images.idx3-ubyte. In reverse order x replaces x.gz.
        paths = {name.removesuffix(".gz").replace(".idx", "-idx"): Path(folder, name) for name in sorted(names)[::-1]}
        wanted = [name for pair in IDX_FILES.values() for name in pair]
        missing = [name for name in wanted if name not in paths]
        if not missing:
            mnist.append({name: paths[name] for name in wanted})
        elif len(missing) < len(wanted):
            raise InputError(f"{folder} holds files of MNIST, but not {missing[0]}; download it from {MNIST_PAGE}.")
    if len(mnist) > 1:
        folders = sorted(str(next(iter(files.values())).parent) for files in mnist)
        raise InputError(f"{raw} holds files named like MNIST's in {' and in '.join(folders[:2])}; keep one of them.")
    if published is None and not mnist:
        raise InputError(f"{raw} holds neither; {where}.")
    return published, mnist[0] if mnist else None


def _origin(published: Path | None, mnist: Mapping[str, Path] | None, seed: int) -> dict[str, Any]:
    """Describe everything that the prepared files depend on; finished folders are recognised by these very words."""
    files = [*([published] if published else []), *(mnist or {}).values()]
    try:
        sums = {path.name: sha256(path) for path in files}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}.") from error
    return {
        "gray": "MNIST's images" if mnist else f"made of the coloured images (no MNIST files beside {PUBLISHED})",
        "colour": PUBLISHED if published else f"made from MNIST with seed {seed} ({PUBLISHED} was not there)",
        "sha256": sums,
    }


def _read(published: Path | None, mnist: Mapping[str, Path] | None, seed: int) -> dict[Part, Digits]:
    """Read both modalities of both parts; compute a modality that no file holds from the other."""
    if published is None:
        parts = _read_mnist(mnist or {})
        for part, digits in parts.items():
            digits.images["colour"] = coloured(digits.images["gray"][:, 0], ink_colours(digits.labels, part, seed))
        return parts
    parts = _read_published(published)
    gray = _read_mnist(mnist) if mnist is not None else None
    for part, digits in parts.items():
        if gray is None:
            digits.images["gray"] = gray_of(digits.images["colour"])[:, None]
        elif np.array_equal(gray[part].labels, digits.labels):
            digits.images["gray"] = gray[part].images["gray"]
        else:
            raise InputError(
                f"{published}: its {part} labels differ from those of the MNIST files, so that the images cannot be"
                f" paired; download both again ({COLOURED_PAGE}, {MNIST_PAGE})."
            )
    return parts


def _read_mnist(files: Mapping[str, Path]) -> dict[Part, Digits]:
    parts = {}
    for part, (image_file, label_file) in IDX_FILES.items():
        where = f"{files[image_file].parent}, {part}"
        images, labels = _checked(read_idx(files[image_file]), read_idx(files[label_file]), (SIDE, SIDE), where)
        parts[part] = Digits({"gray": images[:, None]}, labels)
    return parts


def _read_published(path: Path) -> dict[Part, Digits]:
    from mmpareto.data.raw.unpickling import load_object_array

    content = load_object_array(path)
    keys = [f"{part}_{kind}" for part in IDX_FILES for kind in ("image", "label")]
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{path} has no {missing[0]!r}: it is not the published file ({COLOURED_PAGE}).")
    parts = {}
    for part in IDX_FILES:
        images, labels = content.pop(f"{part}_image"), content.pop(f"{part}_label")
        images, labels = _checked(images, labels, (SIDE, SIDE, 3), f"{path}, {part}")
        parts[part] = Digits({"colour": images.transpose(0, 3, 1, 2)}, labels)
    return parts


def _checked(images: Any, labels: Any, shape: tuple[int, ...], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the arrays, the labels as int64; refuse other shapes or types, and labels that are not 0 … 9."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise InputError(
            f"{where}: the images are not uint8 (N, {', '.join(map(str, shape))}); download the file again."
        )
    labels = labels if isinstance(labels, np.ndarray) else np.array(labels, dtype=object)  # a list
    if labels.dtype == object and all(isinstance(label, int | np.integer) for label in labels.ravel()):
        labels = labels.astype(np.int64)
    if labels.shape != (len(images),) or labels.dtype.kind not in "ui" or labels.min() < 0 or labels.max() > 9:
        raise InputError(f"{where}: the labels are not {len(images)} digits, one per image; download the file again.")
    return images, labels.astype(np.int64)


# --- the prepared files ---


def _report(title: str, out: Path, labels: Mapping[str, np.ndarray], origin: Mapping[str, Any]) -> PreparationReport:
    counts = {part: np.bincount(values, minlength=len(CLASSES)).tolist() for part, values in labels.items()}
    official = all(tuple(counts[part]) == MNIST_COUNTS[part] for part in counts)
    split = Split(
        **{part: [f"{part}_{index:05d}" for index in range(len(values))] for part, values in labels.items()},
        sentence="MNIST's own" if official else "the files' own; they hold other numbers of digits than MNIST",
        official=official,
        checks=[f"gray: {origin['gray']}", f"colour: {origin['colour']}"],
    )
    report = PreparationReport(title, out, sum(map(len, labels.values())), split, skipped={}, missing=[], outside=0)
    report.counts = {part: dict(zip(CLASSES, values, strict=True)) for part, values in counts.items()}
    return report


def _lists(report: PreparationReport, parts: Mapping[Part, Digits]) -> dict[str, list[tuple[str, str]]]:
    """Return part → (name, class) of every digit."""
    names = report.split.parts
    return {part: [*zip(names[part], map(str, digits.labels), strict=True)] for part, digits in parts.items()}


def _write_arrays(folder: Path, parts: Mapping[Part, Digits]) -> None:
    for path in folder.glob(".*"):  # left by an interrupted run
        path.unlink()
    for part, digits in parts.items():
        for name in CHANNELS:
            with atomic_path(folder / f"{part}_{name}.npy") as temporary:
                np.save(temporary, np.ascontiguousarray(digits.images[name]))
