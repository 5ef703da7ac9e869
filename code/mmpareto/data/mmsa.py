"""CMU-MOSI, CMU-MOSEI and CH-SIMS from MMSA's feature files (thuiar/MMSA): text, audio and vision sequences.

Prepared:

    stat.csv                                     one line: score
    train.csv, valid.csv, test.csv               one id,score per line
    arrays/{part}_{text,audio,vision}.npy        float32 (N, T, D), zeros after the last step
    arrays/{part}_lengths.npy                    int64 (N, 3): steps of text, audio, vision

Scores become classes when a run opens the folder (`--n_classes`), so that one folder serves all numbers of classes.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from mmpareto.data.dataset_builder import DatasetBuilder, DownloadInfo
from mmpareto.data.loading.options import InputOptions, SampleList
from mmpareto.data.mmsa_files import MODALITIES, FilePart, UnfitError, read_part, write_arrays
from mmpareto.data.preparation.prepared_folder import (
    ARRAYS,
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
from mmpareto.data.sentiment import SCALES, class_metrics, kept, regression_metrics
from mmpareto.errors import InputError
from mmpareto.files import write_text

if TYPE_CHECKING:
    from mmpareto.data.loading.sources import ModalitySource

PAGE = "https://github.com/thuiar/MMSA"
PARTS = ("train", "valid", "test")
TEXT_SIZE = 768  # of BERT, English and Chinese


class FeatureFile(NamedTuple):
    """A file that MMSA publishes."""

    kind: str
    """unaligned or aligned; in the latter, a step of audio and vision is a token of the text."""
    name: str
    sha256: str


class MMSADatasetBuilder(DatasetBuilder):
    """Base class of data sets whose features MMSA publishes.

    Attributes:
        folder_name: of its folder in MMSA's own tree, <folder>/Processed/<file>.
        published: its files, the preferred one first.
        audio_size, vision_size: features per step.
        default_classes: number of classes without `--n_classes`.
    """

    modalities = MODALITIES
    folder_name: ClassVar[str]
    published: ClassVar[tuple[FeatureFile, ...]]
    audio_size: ClassVar[int]
    vision_size: ClassVar[int]
    default_classes: ClassVar[int]

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py NAME`; their values are passed to `prepare`."""
        names = " or ".join(file.name for file in cls.published)
        parser.add_argument(
            "--raw", type=Path, required=True, metavar="PATH", help=f"{names} of MMSA, or its folder ({PAGE})"
        )
        parser.add_argument("--out", type=Path, metavar="DIR", help="prepared folder (default: data/NAME)")
        if len(cls.published) > 1:
            parser.add_argument(
                "--features",
                choices=[file.kind for file in cls.published],
                help="which file, if the folder has both (default: unaligned, as in the papers)",
            )

    @classmethod
    def prepare(cls, *, raw: Path, out: Path, features: str | None = None) -> PreparationReport:
        """Prepare a feature file, which is read into memory as a whole.

        Arguments:
            raw: the file, or a folder that contains it.
            out: the prepared folder.
            features: "unaligned" or "aligned", if `raw` is a folder that contains both.

        Raises:
            InputError: the file is missing, damaged, or not of this data set; `out` contains something else, another
                process is preparing it, or it cannot be written.
        """
        from mmpareto.data.loading import layout  # not at the top: the command line needs no torch

        started = time.monotonic()
        path = cls._file(raw, features)
        try:
            digest = sha256(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
        record = {"dataset": cls.name, "sha256": digest}
        before = finished_record(out, record, [ARRAYS])
        if before is not None:
            scores = {part: layout.read_scores(out, part) for part in PARTS}
            report = cls._report(out, scores, before["checks"], digest)
            report.already = report.found
            return report
        parts = cls._read(path)
        with locked(out):
            write_text(out / RECORD_UNFINISHED, json.dumps(record))
            scores = {name: (part.names, part.scores) for name, part in parts.items()}
            checks = [cls._verdict(path, digest), *write_arrays(out / ARRAYS, parts)]
            report = cls._report(out, scores, checks, digest)
            report.prepared, report.seconds = report.found, time.monotonic() - started
            write_lists(out, ["score"], {part: _lines(names, values) for part, (names, values) in scores.items()})
            entries = {**record, "file": path.name, "checks": checks}
            write_record(report, DatasetInfo(cls.name, cls.title, False, ("score",)), entries, [ARRAYS])
        return report

    @classmethod
    def list_samples(cls, folder: Path, split: str, options: InputOptions) -> SampleList:
        """Return the samples of a split whose score has a class: with two classes, a score of zero has none.

        With one class, the labels are the scores: a regression.

        Raises:
            InputError: the list is missing or damaged, or the data set has no such number of classes.
        """
        from mmpareto.data.loading import layout

        names, scores = layout.read_scores(folder, split)
        n_classes = options.n_classes or cls.default_classes
        if n_classes == 1:
            return SampleList(["score"], names, scores.tolist(), [*range(len(names))], scores.tolist())
        binning, indices = SCALES[cls.name].binning(n_classes), kept(scores, n_classes)
        labels = binning.labels(scores[indices])
        chosen = [names[index] for index in indices]
        return SampleList([*binning.names], chosen, labels.tolist(), indices.tolist(), scores[indices].tolist())

    @classmethod
    def extra_metrics(cls, predicted: np.ndarray, scores: Sequence[float], n_classes: int) -> Mapping[str, Any]:
        """Return the accuracies and F1 scores of `sentiment.class_metrics` or `regression_metrics`."""
        if n_classes == 1:
            return regression_metrics(predicted, np.asarray(scores), cls.name)
        return class_metrics(predicted, np.asarray(scores), cls.name, n_classes)

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, ModalitySource]":
        """Return the sources of text, audio and vision sequences."""
        from mmpareto.data.loading.sources import SequenceSource, open_array

        path = folder / ARRAYS / f"{split}_lengths.npy"
        lengths = open_array(path, 2, len(names))
        if lengths.shape[1] != len(MODALITIES):
            raise InputError(f"{path} does not hold {len(MODALITIES)} lengths per sample; prepare the data set again.")
        return {
            name: SequenceSource(folder / ARRAYS / f"{split}_{name}.npy", lengths[:, column])
            for column, name in enumerate(MODALITIES)
        }

    @classmethod
    def _file(cls, raw: Path, features: str | None) -> Path:
        if raw.is_file():
            if features is not None:
                raise InputError(f"--features selects a file in a folder, but {raw} is a file; omit the flag.")
            return raw
        wanted = [file.name for file in cls.published if features in (None, file.kind)]
        for name in wanted:
            for folder in (raw, raw / "Processed", raw / cls.folder_name / "Processed"):
                if (folder / name).is_file():
                    return folder / name
        problem = "is not a regular file" if raw.exists() else "does not exist"
        problem = f"does not contain {' or '.join(wanted)}" if raw.is_dir() else problem
        raise InputError(f"{raw} {problem}; get the feature files of {cls.title} from {PAGE}.")

    @classmethod
    def _read(cls, path: Path) -> dict[str, FilePart]:
        """Read and check the parts of a file."""
        from mmpareto.data.raw.unpickling import load_pickle

        content = load_pickle(path)
        missing = [part for part in PARTS if not isinstance(content, dict) or not isinstance(content.get(part), dict)]
        if missing:
            raise InputError(f"{path} has no part {missing[0]!r}: it is not a feature file of MMSA ({PAGE}).")
        sizes = {"text": TEXT_SIZE, "audio": cls.audio_size, "vision": cls.vision_size}
        parts = {}
        for name in PARTS:
            try:
                parts[name] = read_part(content.pop(name), sizes, SCALES[cls.name].limit)
            except UnfitError as error:
                files = " and ".join(file.name for file in cls.published)
                raise InputError(f"{path}, {name}: {error}; those of {cls.title} are {files} of {PAGE}.") from None
        for name in MODALITIES:
            if len({part.arrays[name].shape[1] for part in parts.values()}) > 1:
                raise InputError(f"{path}: the {name} sequences of its parts are padded to different lengths.")
        return parts

    @classmethod
    def _verdict(cls, path: Path, digest: str) -> str:
        published = " or ".join(file.sha256 for file in cls.published)
        verdict = "the published one" if cls._is_official(digest) else f"not the published one ({published})"
        return f"{path.name}: SHA-256 {digest}, {verdict}"

    @classmethod
    def _is_official(cls, digest: str) -> bool:
        return digest in [file.sha256 for file in cls.published]

    @classmethod
    def _report(
        cls, out: Path, scores: Mapping[str, tuple[Sequence[str], np.ndarray]], checks: Sequence[str], digest: str
    ) -> PreparationReport:
        official = cls._is_official(digest)
        sentence = "official split" if official else "the file's own parts; its checksum is not the published one"
        split = Split(
            **{part: names for part, (names, _) in scores.items()}, sentence=sentence, official=official, checks=checks
        )
        found = sum(len(names) for names, _ in scores.values())
        report = PreparationReport(cls.title, out, found, split, skipped={}, missing=[], outside=0)
        signs = SCALES[cls.name].binning(3)
        for part, (_, values) in scores.items():
            counts = Counter(signs.labels(values).tolist())
            report.counts[part] = {name: counts[label] for label, name in enumerate(signs.names)}
        return report


class MOSI(MMSADatasetBuilder):
    """CMU-MOSI: opinions in video blogs, scored from −3 to 3 (Zadeh et al., IEEE Intelligent Systems 2016).

    2,199 utterances of 89 speakers: text (BERT), audio (5 features per step) and vision (20). Seven classes by default,
    as in the accuracy published for MMPareto.
    """

    name = "mosi"
    title = "CMU-MOSI"
    download = DownloadInfo(
        size="2,199 utterances (1,284 for training, 229 for validation, 686 for testing); 0.5 GB prepared",
        terms="see its owners' page, http://multicomp.cs.cmu.edu/resources/cmu-mosi-dataset/",
        page=PAGE,
        raw="unaligned_50.pkl or aligned_50.pkl of MMSA's MOSI/Processed",
    )
    folder_name = "MOSI"
    published = (
        FeatureFile(
            "unaligned", "unaligned_50.pkl", "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524"
        ),
        FeatureFile("aligned", "aligned_50.pkl", "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9"),
    )
    audio_size, vision_size = 5, 20
    default_classes = 7


class MOSEI(MMSADatasetBuilder):
    """CMU-MOSEI: spoken opinions on many topics, scored from −3 to 3 (Zadeh et al., ACL 2018).

    22,856 utterances: text (BERT), audio (COVAREP, 74 features) and vision (Facet, 35 features). Seven classes by
    default, as in the accuracy published for MMPareto.
    """

    name = "mosei"
    title = "CMU-MOSEI"
    download = DownloadInfo(
        size="22,856 utterances (16,326 for training, 1,871 for validation, 4,659 for testing); "
        "about 8 GB prepared from the unaligned file; preparing takes up to twice the file's size in memory",
        terms="see its owners' page, http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset/",
        page=PAGE,
        raw="unaligned_50.pkl or aligned_50.pkl of MMSA's MOSEI/Processed",
    )
    folder_name = "MOSEI"
    published = (
        FeatureFile(
            "unaligned", "unaligned_50.pkl", "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f"
        ),
        FeatureFile("aligned", "aligned_50.pkl", "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791"),
    )
    audio_size, vision_size = 74, 35
    default_classes = 7


class CHSIMS(MMSADatasetBuilder):
    """CH-SIMS: Chinese films and shows, scored from −1 to 1 (Yu et al., ACL 2020).

    2,281 utterances: text (BERT), audio (librosa, 33 features) and vision (OpenFace, 709 features). Five classes by
    default, as in the accuracy published for MMPareto. The scores of single modalities (regression_labels_T, _A, _V)
    are not used: all heads learn the joint score.
    """

    name = "chsims"
    title = "CH-SIMS"
    download = DownloadInfo(
        size="2,281 utterances (1,368 for training, 456 for validation, 457 for testing); 0.8 GB prepared",
        terms="see its owners' page",
        page=PAGE,
        raw="unaligned_39.pkl of MMSA's SIMS/Processed",
    )
    folder_name = "SIMS"
    published = (
        FeatureFile(
            "unaligned", "unaligned_39.pkl", "c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f"
        ),
    )
    audio_size, vision_size = 33, 709
    default_classes = 5


def _lines(names: Sequence[str], scores: np.ndarray) -> list[tuple[str, str]]:
    # repr is the shortest text of a float64 that reads back as the same number.
    return [(name, repr(score)) for name, score in zip(names, scores.tolist(), strict=True)]
