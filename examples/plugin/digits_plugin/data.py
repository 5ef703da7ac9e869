"""A data set: handwritten digits that scikit-learn brings along, so that nothing has to be downloaded."""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmpareto.data.dataset_builder import DatasetBuilder, DownloadInfo
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.preparation.prepared_folder import (
    ARRAYS,
    DatasetInfo,
    finished_record,
    locked,
    write_arrays,
    write_lists,
    write_record,
)
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import random_split

if TYPE_CHECKING:
    from mmpareto.data.loading.sources import ModalitySource


class Digits(DatasetBuilder):
    """1,797 digits of 8×8 pixels: "rows" reads an image row by row, "profile" has the sums of its rows and columns."""

    name = "digits"
    title = "UCI digits"
    modalities = ("rows", "profile")
    download = DownloadInfo(
        size="1,797 images of 8×8 pixels, ten classes",
        terms="Creative Commons BY 4.0",
        page="https://archive.ics.uci.edu/dataset/80",
        raw="comes with scikit-learn (load_digits)",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py digits`; their values are the arguments of `prepare`."""
        parser.add_argument("--out", type=Path, metavar="DIR", help="prepared folder (default: data/digits)")
        parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")

    @classmethod
    def prepare(cls, *, out: Path, seed: int = 0) -> PreparationReport:
        """Write the lists of samples, the arrays of both modalities, and prepared.json."""
        from sklearn.datasets import load_digits

        started = time.monotonic()
        images, labels = load_digits(return_X_y=True)
        images = images.reshape(-1, 8, 8).astype(np.float32) / 16
        names = [f"{number:04d}" for number in range(len(labels))]
        split = random_split(dict(zip(names, map(str, labels), strict=True)), seed)
        report = PreparationReport(cls.title, out, len(names), split, skipped={}, missing=[], outside=0)
        record = {"dataset": cls.name, "split": split.sentence}
        with locked(out):
            done = finished_record(out, record, [ARRAYS])
            lists = {part: [(name, str(labels[int(name)])) for name in names] for part, names in split.parts.items()}
            report.counts = write_lists(out, map(str, range(10)), lists)
            if done is not None:
                report.already = len(names)
                return report
            arrays = {}
            for part, members in split.parts.items():
                chosen = images[[int(name) for name in members]]
                arrays[f"{part}_rows"] = np.concatenate([chosen, np.ones_like(chosen[:, :, :1])], axis=2)
                arrays[f"{part}_profile"] = np.concatenate([chosen.sum(1), chosen.sum(2)], axis=1)
            write_arrays(out / ARRAYS, arrays)
            report.prepared, report.seconds = len(names), time.monotonic() - started
            write_record(report, DatasetInfo(cls.name, cls.title, False, tuple(map(str, range(10)))), record, [ARRAYS])
        return report

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, ModalitySource]":
        """Return the source of each modality: rows of memory-mapped arrays.

        A sequence is (steps, features + 1), with a mask in the last place: 1 at a step, 0 at padding. A vector is
        (features,). The number of features is the encoder's argument.
        """
        from mmpareto.data.loading.sources import ArraySource  # not at the top: the command line needs no torch

        return {
            "rows": ArraySource(folder / ARRAYS / f"{split}_rows.npy", 8, None),
            "profile": ArraySource(folder / ARRAYS / f"{split}_profile.npy", 16, None),
        }
