"""CG-MNIST: digits in gray and in colour, where the colour is misleading (PMR, Fan et al., CVPR 2023).

Prepared:

    stat.csv, train.csv, test.csv            classes 0 … 9; samples in MNIST's order
    arrays/{train,test}_gray.npy             uint8 (N, 1, 28, 28)
    arrays/{train,test}_colour.npy           uint8 (N, 3, 28, 28)
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmpareto.data.dataset_builder import DatasetBuilder, DownloadInfo
from mmpareto.data.generated.colouring import Part, coloured, gray_of, ink_colours
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.mnist import (
    CLASSES,
    GRAY_NORMALISATION,
    IDX_FILES,
    MNIST_COUNTS,
    MNIST_PAGE,
    SIDE,
    Digits,
    checked,
    download_mnist,
    find_mnist,
    read_mnist,
)
from mmpareto.data.preparation.prepared_folder import (
    ARRAYS,
    RECORD_UNFINISHED,
    DatasetInfo,
    finished_record,
    locked,
    sha256,
    write_arrays,
    write_lists,
    write_record,
)
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import Split
from mmpareto.errors import InputError
from mmpareto.files import write_text

if TYPE_CHECKING:
    from mmpareto.data.loading.sources import ModalitySource

COLOURED_PAGE = "https://github.com/feidfoe/learning-not-to-learn"
PUBLISHED = "mnist_10color_jitter_var_0.030.npy"
CHANNELS = {"gray": 1, "colour": 3}
# Mean and standard deviation per channel, as in PMR's code, which takes CIFAR-10's for the colours.
NORMALISATION = {
    "gray": GRAY_NORMALISATION,
    "colour": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


class Pictures(NamedTuple):
    """Digits of one part, in both modalities."""

    images: dict[str, np.ndarray]
    """Modality → uint8 (N, channels, 28, 28)."""
    labels: np.ndarray
    """int64 (N,)."""


class CGMNIST(DatasetBuilder):
    """70,000 handwritten digits, gray and in colour; the colour depends on the digit in training, but not in test."""

    name = "cgmnist"
    title = "CG-MNIST"
    modalities = ("gray", "colour")
    download = DownloadInfo(
        size="60,000 digits for training, 10,000 for testing; 12 MB (MNIST) and 165 MB (coloured), 220 MB prepared",
        terms="MNIST: Creative Commons BY-SA 3.0; coloured: see its page",
        page=f"{COLOURED_PAGE} (coloured), {MNIST_PAGE} (MNIST; --download gets it)",
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
    def download_raw(cls, folder: Path) -> None:
        """Download MNIST to `folder`/mnist; the coloured file is used, too, if it is in `folder`."""
        download_mnist(folder / "mnist")

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
        report = _report(cls.title, out, parts, origin)
        with locked(out):
            if finished_record(out, record, [ARRAYS]) is not None:
                report.already = report.found
                return report
            write_text(out / RECORD_UNFINISHED, json.dumps(record))
            arrays = {f"{part}_{name}": parts[part].images[name] for part in parts for name in CHANNELS}
            write_arrays(out / ARRAYS, arrays)
            write_lists(out, CLASSES, _lists(report, parts))
            report.prepared, report.seconds = report.found, time.monotonic() - started
            write_record(report, DatasetInfo(cls.name, cls.title, False, CLASSES), {**record, "seed": seed}, [ARRAYS])
        return report

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, ModalitySource]":
        """Return the sources of gray and colour, images of 28×28 without augmentation."""
        from mmpareto.data.loading.sources import ArraySource, Normalisation

        return {
            name: ArraySource(
                folder / ARRAYS / f"{split}_{name}.npy",
                channels,
                Normalisation(*NORMALISATION[name]),
                expected=(np.uint8, (len(names), channels, SIDE, SIDE)),
            )
            for name, channels in CHANNELS.items()
        }


# --- the raw files ---


def _find(raw: Path, title: str) -> tuple[Path | None, dict[str, Path] | None]:
    """Find the published file, and MNIST's files by their names; None for what is missing."""
    where = f"{title} is made of {PUBLISHED} ({COLOURED_PAGE}) and MNIST's IDX files ({MNIST_PAGE})"
    if not raw.is_dir():
        raise InputError(f"the raw folder {raw} does not exist; {where}.")
    published, mnist = next(iter(sorted(raw.rglob(PUBLISHED))), None), find_mnist(raw)
    if published is None and mnist is None:
        raise InputError(f"{raw} holds neither; {where}.")
    return published, mnist


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


def _read(published: Path | None, mnist: Mapping[str, Path] | None, seed: int) -> dict[Part, Pictures]:
    """Read both modalities of both parts; compute a modality that no file holds from the other."""
    gray = read_mnist(mnist) if mnist is not None else {}
    if published is None:
        return {
            part: _pictures(images, coloured(images, ink_colours(labels, part, seed)), labels)
            for part, (images, labels) in gray.items()
        }
    parts = {}
    for part, (images, labels) in _read_published(published).items():
        colour = images.transpose(0, 3, 1, 2)
        if gray and not np.array_equal(gray[part].labels, labels):
            raise InputError(
                f"{published}: its {part} labels differ from those of the MNIST files, so that the images cannot be"
                f" paired; download both again ({COLOURED_PAGE}, {MNIST_PAGE})."
            )
        parts[part] = _pictures(gray[part].images if gray else gray_of(colour), colour, labels)
    return parts


def _pictures(gray: np.ndarray, colour: np.ndarray, labels: np.ndarray) -> Pictures:
    return Pictures({"gray": gray[:, None], "colour": colour}, labels)


def _read_published(path: Path) -> dict[Part, Digits]:
    from mmpareto.data.raw.unpickling import load_object_array

    content = load_object_array(path)
    keys = [f"{part}_{kind}" for part in IDX_FILES for kind in ("image", "label")]
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{path} has no {missing[0]!r}: it is not the published file ({COLOURED_PAGE}).")
    parts: dict[Part, Digits] = {}
    for part in IDX_FILES:
        images, labels = content.pop(f"{part}_image"), content.pop(f"{part}_label")
        parts[part] = checked(images, labels, (SIDE, SIDE, 3), f"{path}, {part}")
    return parts


# --- the prepared files ---


def _report(title: str, out: Path, parts: Mapping[Part, Pictures], origin: Mapping[str, Any]) -> PreparationReport:
    labels = {part: pictures.labels for part, pictures in parts.items()}
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


def _lists(report: PreparationReport, parts: Mapping[Part, Pictures]) -> dict[str, list[tuple[str, str]]]:
    """Return part → (name, class) of every digit."""
    names = report.split.parts
    return {part: [*zip(names[part], map(str, digits.labels), strict=True)] for part, digits in parts.items()}
