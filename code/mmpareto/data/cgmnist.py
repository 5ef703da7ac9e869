"""CG-MNIST: digits in gray and in colour, of which the colour misleads (PMR, Fan et al., CVPR 2023).

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
    earlier,
    locked,
    sha256,
    write_lists,
    write_record,
)
from mmpareto.data.preparation.report import Report
from mmpareto.data.preparation.splits import Split
from mmpareto.data.raw.idx import read_idx
from mmpareto.errors import InputError
from mmpareto.files import atomic_path, write_text

if TYPE_CHECKING:
    from mmpareto.data.loading.sources import ArraySource, Source

COLOURED_PAGE = "https://github.com/feidfoe/learning-not-to-learn"
MNIST_PAGE = "https://ossci-datasets.s3.amazonaws.com/mnist"  # the mirror that torchvision loads from
PUBLISHED = "mnist_10color_jitter_var_0.030.npy"
IDX_FILES: dict[Part, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
CLASSES = tuple("0123456789")
# Samples a class, by which MNIST is known whatever file it comes in.
MNIST_COUNTS = {
    "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
}
SIDE = 28
ARRAYS = "arrays"
CHANNELS = {"gray": 1, "colour": 3}
# Mean and standard deviation a channel, as in PMR's code; those of the colours are CIFAR-10's there, too.
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
    """70,000 handwritten digits, gray and in colour; in training the colour tells the digit, in test it does not."""

    name = "cgmnist"
    title = "CG-MNIST"
    download = DownloadInfo(
        size="60,000 digits for training, 10,000 for testing; 12 MB (MNIST) and 165 MB (coloured), 220 MB prepared",
        terms="see their pages",
        page=f"{COLOURED_PAGE} (coloured), {MNIST_PAGE} (MNIST)",
        raw=f"{PUBLISHED} and MNIST's four IDX files (.gz or not), at any depth; or the four alone, which are then\n"
        "coloured here with a fixed seed; or the coloured file alone, of which the gray digits are then made",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """The options of `prepare.py cgmnist`; their values are the arguments of `prepare`."""
        parser.add_argument(
            "--raw",
            type=Path,
            required=True,
            metavar="DIR",
            help=f"folder with {PUBLISHED}, MNIST's IDX files, or both",
        )
        parser.add_argument("--out", type=Path, metavar="DIR", help="prepared folder (default: its own in data/)")
        parser.add_argument(
            "--seed", type=int, default=0, help=f"of the colours, where {PUBLISHED} is absent (default: %(default)s)"
        )

    @classmethod
    def prepare(cls, *, raw: Path, out: Path, seed: int = 0) -> Report:
        """Prepare the digits.

        The gray digit is MNIST's own, as in PMR's code, and the coloured one the published file's. Where that file is
        absent, the colours are made from `seed` (`colouring.ink_colours`); where MNIST is, the gray digits are made of
        the coloured ones. prepared.json and the report say which.

        Arguments:
            raw: the folder with the files.
            out: the prepared folder.
            seed: of colours that are made, ≥ 0.

        Raises:
            InputError: `raw` holds neither, a file is damaged or does not fit the others, `out` holds something else,
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
            if earlier(out, record, [ARRAYS]) is not None:
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
    ) -> "dict[str, Source]":
        """Gray and colour, as images of 28×28; nothing is drawn in training."""
        return {name: _array(folder, split, name, len(names)) for name in CHANNELS}


def _array(folder: Path, split: str, name: str, samples: int) -> "ArraySource":
    from mmpareto.data.loading.sources import ArraySource, Normalisation

    path = folder / ARRAYS / f"{split}_{name}.npy"
    source = ArraySource(path, CHANNELS[name], Normalisation(*NORMALISATION[name]))
    if source.rows.shape != (samples, CHANNELS[name], SIDE, SIDE) or source.rows.dtype != np.uint8:
        raise InputError(
            f"{path} holds {source.rows.dtype} {source.rows.shape} for {samples} samples; delete {folder}, and prepare"
            " the data set again."
        )
    return source


# --- the raw files ---


def _find(raw: Path, title: str) -> tuple[Path | None, dict[str, Path] | None]:
    """The published file, and MNIST's by their names; None for what is not there."""
    where = f"{title} is made of {PUBLISHED} ({COLOURED_PAGE}) and MNIST's IDX files ({MNIST_PAGE})"
    if not raw.is_dir():
        raise InputError(f"the raw folder {raw} is not there; {where}.")
    published, folders = None, {}
    for place, below, names in os.walk(raw):
        below.sort()
        if published is None and PUBLISHED in names:
            published = Path(place, PUBLISHED)
        # Some copies are called train-images.idx3-ubyte. Sorted backwards, so that x comes after x.gz.
        found = {
            name.removesuffix(".gz").replace(".idx", "-idx"): Path(place, name) for name in sorted(names, reverse=True)
        }
        wanted = [name for pair in IDX_FILES.values() for name in pair]
        if any(name in found for name in wanted):
            folders[place] = {name: found[name] for name in wanted if name in found}
            missing = [name for name in wanted if name not in found]
            if missing:
                raise InputError(
                    f"{place} holds files of MNIST, but not {missing[0]}; it can be had from {MNIST_PAGE}."
                )
    if len(folders) > 1:
        raise InputError(f"{raw} holds files named as MNIST's in {' and in '.join(sorted(folders)[:2])}; give one.")
    if published is None and not folders:
        raise InputError(f"{raw} holds neither; {where}.")
    return published, next(iter(folders.values()), None)


def _origin(published: Path | None, mnist: Mapping[str, Path] | None, seed: int) -> dict[str, Any]:
    """What the prepared files depend on, in words and checksums."""
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
    """Both modalities of both parts; what no file holds is made of the other."""
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
                f"{published}: its {part} labels are not those of the MNIST files, so that the images cannot be paired;"
                f" get both again ({COLOURED_PAGE}, {MNIST_PAGE})."
            )
    return parts


def _read_mnist(files: Mapping[str, Path]) -> dict[Part, Digits]:
    parts = {}
    for part, (image_file, label_file) in IDX_FILES.items():
        images, labels = _checked(
            read_idx(files[image_file]),
            read_idx(files[label_file]),
            (SIDE, SIDE),
            f"{files[image_file].parent}, {part}",
        )
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
        images, labels = _checked(
            content.pop(f"{part}_image"), content.pop(f"{part}_label"), (SIDE, SIDE, 3), f"{path}, {part}"
        )
        parts[part] = Digits({"colour": images.transpose(0, 3, 1, 2)}, labels)
    return parts


def _checked(images: Any, labels: Any, shape: tuple[int, ...], where: str) -> tuple[np.ndarray, np.ndarray]:
    """The arrays, labels as int64; unless they are of other shapes or types, or a label is no digit."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise InputError(f"{where}: the images are not uint8 (N, {', '.join(map(str, shape))}); get the file again.")
    labels = labels if isinstance(labels, np.ndarray) else np.array(labels, dtype=object)  # a list, of whatever it is
    if labels.dtype == object and all(isinstance(label, int | np.integer) for label in labels.ravel()):
        labels = labels.astype(np.int64)
    if labels.shape != (len(images),) or labels.dtype.kind not in "ui" or labels.min() < 0 or labels.max() > 9:
        raise InputError(f"{where}: the labels are not {len(images)} digits, one an image; get the file again.")
    return images, labels.astype(np.int64)


# --- what is made of them ---


def _report(title: str, out: Path, labels: Mapping[str, np.ndarray], origin: Mapping[str, Any]) -> Report:
    counts = {part: np.bincount(values, minlength=len(CLASSES)).tolist() for part, values in labels.items()}
    official = all(tuple(counts[part]) == MNIST_COUNTS[part] for part in counts)
    split = Split(
        **{part: [f"{part}_{place:05d}" for place in range(len(values))] for part, values in labels.items()},
        sentence="MNIST's own" if official else "the files' own; they hold other numbers of digits than MNIST",
        official=official,
        checks=[f"gray: {origin['gray']}", f"colour: {origin['colour']}"],
    )
    report = Report(title, out, sum(map(len, labels.values())), split, skipped={}, missing=[], outside=0)
    report.counts = {part: dict(zip(CLASSES, values, strict=True)) for part, values in counts.items()}
    return report


def _lists(report: Report, parts: Mapping[Part, Digits]) -> dict[str, list[tuple[str, str]]]:
    """Part → (name, class) of every digit."""
    names = report.split.parts
    return {part: [*zip(names[part], map(str, digits.labels), strict=True)] for part, digits in parts.items()}


def _write_arrays(folder: Path, parts: Mapping[Part, Digits]) -> None:
    for path in folder.glob(".*"):  # what a run that was killed left
        path.unlink()
    for part, digits in parts.items():
        for name in CHANNELS:
            with atomic_path(folder / f"{part}_{name}.npy") as temporary:
                np.save(temporary, np.ascontiguousarray(digits.images[name]))
