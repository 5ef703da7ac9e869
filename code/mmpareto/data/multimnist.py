"""MultiMNIST: several digits in one image, each a task of its own, with noise that makes some of them harder.

Prepared:

    stat.csv, train.csv, test.csv     classes 0 … 9; a line is "sample,class of the first task,class of the second, …"
    arrays/{train,test}_image.npy     uint8 (N, 1, 28 or 42, 42)

Sources. Sabour et al. (Dynamic routing between capsules, NeurIPS 2017) overlay two digits of different classes, each
shifted by up to 4 pixels, on 36×36. Sener & Koltun (NeurIPS 2018; isl-org/MultiObjectiveOptimization at 1c6d0d5,
multi_task/loaders/multi_mnist_loader.py) make two tasks of it: per part, image i of MNIST at the top left and a random
one 6 pixels right of it and below, the brighter pixel where they overlap, all scaled to 28×28. Here, the second digit
is 14 pixels to the right, so that a noisy half of the image holds one digit and not both, and nothing is scaled down.
MMPareto (ICML 2024, table 5 and figure 6) adds noise so that the tasks differ in difficulty; which noise, and how much,
is unchecked: the paper was not at hand. Salt-and-pepper noise, its region and its amount are chosen here.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmpareto.data.dataset_builder import DatasetBuilder, DownloadInfo
from mmpareto.data.generated.colouring import Part
from mmpareto.data.loading.labels import class_counts
from mmpareto.data.loading.options import InputOptions, SampleList
from mmpareto.data.mnist import (
    CLASSES,
    GRAY_NORMALISATION,
    MNIST_PAGE,
    SIDE,
    Digits,
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
    write_csvs,
    write_record,
)
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import Split
from mmpareto.errors import InputError
from mmpareto.files import parse_json, write_text

if TYPE_CHECKING:
    from mmpareto.data.loading.sources import ModalitySource

IMAGE = "image"
TASKS = {2: ("left", "right"), 3: ("top_left", "top_right", "bottom_left")}
TASKS[4] = (*TASKS[3], "bottom_right")
STEP = 14  # pixels between neighbouring digits: half a digit's box, so that they overlap
NOISE = 0.5
CHUNK = 1000  # images whose noise is drawn at once


class MultiMNIST(DatasetBuilder):
    """Two to four overlapping digits per image, one task each: 60,000 images for training, 10,000 for testing."""

    name = "multimnist"
    title = "MultiMNIST"
    modalities = (IMAGE,)
    tasks = TASKS[2]
    download = DownloadInfo(
        size="60,000 images for training, 10,000 for testing; 12 MB (MNIST), 80 to 120 MB prepared",
        terms="MNIST: Creative Commons BY-SA 3.0",
        page=f"{MNIST_PAGE} (--download gets it)",
        raw="MNIST's four IDX files (.gz or not), in any subfolder; their digits are put together by this program",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py multimnist`; their values are the arguments of `prepare`."""
        parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help="folder with MNIST's four IDX files")
        parser.add_argument("--out", type=Path, metavar="DIR", help="prepared folder (default: data/NAME)")
        parser.add_argument(
            "--digits",
            type=int,
            choices=sorted(TASKS),
            default=2,
            help="digits per image, and so tasks: 2 side by side, 3 or 4 in a grid (default: %(default)s)",
        )
        parser.add_argument(
            "--noise",
            type=float,
            default=NOISE,
            metavar="P",
            help="fraction of the right half's pixels that become black or white (default: %(default)s)",
        )
        parser.add_argument(
            "--samples", type=int, nargs=2, metavar=("TRAIN", "TEST"), help="use fewer images (default: all)"
        )
        parser.add_argument("--seed", type=int, default=0, help="of the pairs and of the noise (default: %(default)s)")

    @classmethod
    def download_raw(cls, folder: Path) -> None:
        """Download MNIST to `folder`/mnist."""
        download_mnist(folder / "mnist")

    @classmethod
    def prepare(
        cls,
        *,
        raw: Path,
        out: Path,
        digits: int = 2,
        noise: float = NOISE,
        samples: Sequence[int] | None = None,
        seed: int = 0,
    ) -> PreparationReport:
        """Put the digits together; the result is a function of MNIST and of these arguments, on every machine.

        Arguments:
            raw: folder with MNIST's files.
            out: the prepared folder.
            digits: per image, a key of `TASKS`.
            noise: fraction from 0 to 1 of the pixels of the right half; see `with_noise`.
            samples: numbers of images for training and testing; None for as many as MNIST has.
            seed: of the pairs and of the noise, ≥ 0.

        Raises:
            InputError: an argument is out of range, `raw` lacks MNIST, a file is damaged, `out` holds something else,
                another process is preparing it, or it cannot be written.
        """
        started = time.monotonic()
        if seed < 0 or not 0 <= noise <= 1:
            raise InputError(f"--seed must be at least 0 and --noise from 0 to 1, not {seed} and {noise:g}.")
        if digits not in TASKS:
            raise InputError(f"--digits is {digits}; it must be one of {', '.join(map(str, sorted(TASKS)))}.")
        files = find_mnist(raw)
        if files is None:
            raise InputError(f"{raw} has no MNIST files; get them from {MNIST_PAGE}.")
        mnist = read_mnist(files)
        sizes = _sizes(mnist, samples)
        tasks, origin = TASKS[digits], {path.name: sha256(path) for path in files.values()}
        record: dict[str, Any] = {
            "dataset": cls.name,
            "task": "multitask",
            "tasks": tasks,
            "modalities": cls.modalities,
        }
        record |= {"noise": noise, "seed": seed, "sizes": sizes, "origin": origin}
        record = parse_json(json.dumps(record))  # as the finished folder has it
        orders = {part: placed(len(mnist[part].labels), digits, part, seed)[:, : sizes[part]] for part in mnist}
        labels = {part: mnist[part].labels[order] for part, order in orders.items()}
        report = _report(cls.title, out, labels, f"made here from MNIST's own parts, with seed {seed}")
        with locked(out):
            if finished_record(out, record, [ARRAYS]) is not None:
                report.already = report.found
                return report
            write_text(out / RECORD_UNFINISHED, json.dumps(record))
            images = {part: overlaid(mnist[part].images, order) for part, order in orders.items()}
            for part in images:
                with_noise(images[part], noise, part, seed)
            write_arrays(out / ARRAYS, {f"{part}_{IMAGE}": values[:, None] for part, values in images.items()})
            names = report.split.parts
            lists = {
                part: [(n, *map(str, row)) for n, row in zip(names[part], labels[part].T, strict=True)]
                for part in labels
            }
            write_csvs(out, CLASSES, lists)
            report.prepared, report.seconds = report.found, time.monotonic() - started
            write_record(report, DatasetInfo(cls.name, cls.title, False, CLASSES), record, [ARRAYS])
        return report

    @classmethod
    def list_samples(cls, folder: Path, split: str, options: InputOptions) -> SampleList:
        """Return the samples of a split, each with a class per task."""
        from mmpareto.data.loading import layout

        classes, tasks = layout.read_classes(folder), layout.read_prepared(folder).get("tasks")
        if not tasks:
            raise InputError(f"{folder} names no tasks in prepared.json; prepare the data set again.")
        names, labels = layout.read_tasks(folder, split, classes, tasks)
        return SampleList(classes, names, labels, [*range(len(names))])

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, ModalitySource]":
        """Return the source of the images, without augmentation."""
        from mmpareto.data.loading.sources import ArraySource, Normalisation

        shape = canvas_shape(len(prepared.get("tasks", TASKS[2])))
        return {
            IMAGE: ArraySource(
                folder / ARRAYS / f"{split}_{IMAGE}.npy",
                1,
                Normalisation(*GRAY_NORMALISATION),
                expected=(np.uint8, (len(names), 1, *shape)),
            )
        }


def _sizes(mnist: Mapping[Part, Digits], samples: Sequence[int] | None) -> dict[Part, int]:
    """Part → number of images."""
    sizes: dict[Part, int] = {}
    for part, number in zip(mnist, samples or (None, None), strict=True):
        available = len(mnist[part].labels)
        if number is not None and not 1 <= number <= available:
            raise InputError(f"--samples asks for {number} images for {part}; MNIST has {available}.")
        sizes[part] = available if number is None else number
    return sizes


def placed(count: int, digits: int, part: Part, seed: int) -> np.ndarray:
    """Indices in MNIST's part of the digits in every image, int64 (digits, count).

    The first digit of image i is MNIST's image i, as in Sener & Koltun; every other place has the images in an order
    of its own, drawn with the seed, so that each image of MNIST is once in every place.
    """
    # NumPy promises the raw output of PCG64, but not what `permutation` makes of it.
    draws = [np.random.PCG64([seed, int(part == "test"), place]).random_raw(count) for place in range(1, digits)]
    return np.stack([np.arange(count), *(np.argsort(draw, kind="stable") for draw in draws)])


def positions(digits: int) -> Iterator[tuple[int, int]]:
    """Yield the row and the column of the upper left corner of every digit, in the order of `TASKS`."""
    for place in range(digits):
        yield STEP * (place // 2), STEP * (place % 2)


def canvas_shape(digits: int) -> tuple[int, int]:
    """Height and width of an image in pixels."""
    rows, columns = zip(*positions(digits), strict=True)
    return max(rows) + SIDE, max(columns) + SIDE


def overlaid(images: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Put digits at their positions; where they overlap, the brighter pixel counts.

    Arguments:
        images: uint8 (M, 28, 28).
        order: int64 (digits, N), indices of images (`placed`).

    Returns:
        uint8 (N, height, width).
    """
    canvas = np.zeros((order.shape[1], *canvas_shape(len(order))), np.uint8)
    for chosen, (row, column) in zip(order, positions(len(order)), strict=True):
        box = canvas[:, row : row + SIDE, column : column + SIDE]
        np.maximum(box, images[chosen], out=box)
    return canvas


def with_noise(images: np.ndarray, noise: float, part: Part, seed: int) -> None:
    """Salt-and-pepper noise on the right half of every image, in place.

    Each pixel of that half becomes white with probability `noise`/2, black with the same, and is else unchanged. The
    left digits are not free of it: 5% of their ink (the sum of MNIST's pixels) is in that half.

    Arguments:
        images: uint8 (N, H, W).
        noise: from 0 to 1, in steps of 2⁻¹⁵.
        part, seed: of the draws.
    """
    half = images[:, :, images.shape[2] // 2 :]
    bits = np.random.PCG64([seed, int(part == "test"), len(CLASSES)])  # a stream that no place of `placed` has
    limit = round(noise * 2**15)
    for start in range(0, len(half) if noise else 0, CHUNK):
        block = half[start : start + CHUNK]
        draws = bits.random_raw(-(-block.size // 4)).astype("<u8").view("<u2")[: block.size].reshape(block.shape)
        block[draws < limit] = 255
        block[(draws >= limit) & (draws < 2 * limit)] = 0


def _report(title: str, out: Path, labels: Mapping[Part, np.ndarray], sentence: str) -> PreparationReport:
    """The report: classes are counted over all tasks.

    Arguments:
        labels: part → (tasks, N).
    """
    names = {part: [f"{part}_{index:05d}" for index in range(values.shape[1])] for part, values in labels.items()}
    split = Split(train=names["train"], test=names["test"], sentence=sentence)
    report = PreparationReport(title, out, sum(map(len, names.values())), split, skipped={}, missing=[], outside=0)
    report.sizes = {part: len(members) for part, members in names.items()}
    report.counts = {part: class_counts(values.ravel().tolist(), CLASSES) for part, values in labels.items()}
    report.notes = [f"tasks            {', '.join(TASKS[len(labels['train'])])}; classes are counted over all of them"]
    report.unit = "images"
    return report
