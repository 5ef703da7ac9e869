"""Feature files of MMSA (thuiar/MMSA): text, audio and vision sequences of CMU-MOSI, CMU-MOSEI and CH-SIMS.

A file is a pickle {"train" | "valid" | "test": {"text" (N, T, 768), "audio" (N, T, Da), "vision" (N, T, Dv),
"audio_lengths", "vision_lengths", "regression_labels", "id", …}}. Prepared:

    stat.csv                                     one line: score
    train.csv, valid.csv, test.csv               id,score a line
    arrays/{part}_{text,audio,vision}.npy        float32 (N, T, D), zeros after the last step
    arrays/{part}_lengths.npy                    int64 (N, 3): steps of text, audio, vision

Scores become classes when a run opens the folder (`--n_classes`), so that one folder serves all numbers of classes.
"""

import argparse
import csv
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from mmpareto.data.dataset_builder import DatasetBuilder, DownloadInfo
from mmpareto.data.loading.options import InputOptions, SampleList
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
from mmpareto.data.sentiment import SCALES, class_figures, kept, regression_figures
from mmpareto.errors import InputError
from mmpareto.files import atomic_path, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from mmpareto.data.loading.sources import Normalisation, Source

PAGE = "https://github.com/thuiar/MMSA"
PARTS = ("train", "valid", "test")
MODALITIES = ("text", "audio", "vision")
ARRAYS = "arrays"
TEXT_SIZE = 768  # of BERT, English and Chinese
SAMPLES_AT_ONCE = 256


class FeatureFile(NamedTuple):
    """A file that MMSA publishes."""

    kind: str
    """unaligned, or aligned: a step of audio and vision is then a token of the text."""
    name: str
    sha256: str


class MMSADatasetBuilder(DatasetBuilder):
    """A data set that MMSA publishes features of.

    Attributes:
        folder_name: of its folder in MMSA's own tree, <folder>/Processed/<file>.
        published: its files, the preferred one first.
        audio_size, vision_size: features of a step.
        default_classes: what `--n_classes` is where it is not given.
    """

    folder_name: ClassVar[str]
    published: ClassVar[tuple[FeatureFile, ...]]
    audio_size: ClassVar[int]
    vision_size: ClassVar[int]
    default_classes: ClassVar[int]

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """The options of `prepare.py NAME`; their values are the arguments of `prepare`."""
        names = " or ".join(file.name for file in cls.published)
        parser.add_argument(
            "--raw", type=Path, required=True, metavar="PATH", help=f"{names} of MMSA, or its folder ({PAGE})"
        )
        parser.add_argument("--out", type=Path, metavar="DIR", help="prepared folder (default: its own in data/)")
        if len(cls.published) > 1:
            parser.add_argument(
                "--features",
                choices=[file.kind for file in cls.published],
                help="which file, where the folder holds both (default: unaligned, the one that the papers use)",
            )

    @classmethod
    def prepare(cls, *, raw: Path, out: Path, features: str | None = None) -> Report:
        """Prepare a feature file. The whole of it is in memory meanwhile.

        Arguments:
            raw: the file, or a folder that holds it.
            out: the prepared folder.
            features: "unaligned" or "aligned", where `raw` is a folder that holds both.

        Raises:
            InputError: the file is absent, damaged, or not this data set's; `out` holds something else, another process
                is preparing it, or it cannot be written.
        """
        started = time.monotonic()
        path = cls._file(raw, features)
        try:
            digest = sha256(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
        record = {"dataset": cls.name, "sha256": digest}
        before = earlier(out, record, [ARRAYS])
        if before is not None:
            report = cls._report(out, {part: read_scores(out, part) for part in PARTS}, before["checks"], digest)
            report.already = report.found
            return report
        parts = cls._read(path)
        with locked(out):
            write_text(out / RECORD_UNFINISHED, json.dumps(record))
            scores = {part: (content.names, content.scores) for part, content in parts.items()}
            checks = [cls._verdict(path, digest), *_write_arrays(out / ARRAYS, parts)]
            report = cls._report(out, scores, checks, digest)
            report.prepared, report.seconds = report.found, time.monotonic() - started
            write_lists(out, ["score"], {part: _lines(names, values) for part, (names, values) in scores.items()})
            entries = {**record, "file": path.name, "checks": checks}
            write_record(report, DatasetInfo(cls.name, cls.title, False, ("score",)), entries, [ARRAYS])
        return report

    @classmethod
    def list_samples(cls, folder: Path, split: str, options: InputOptions) -> SampleList:
        """The samples of a split whose score has a class: with two classes, those of score zero are left out.

        With one, the labels are the scores: a regression.

        Raises:
            InputError: the list is absent or damaged, or its scores have no such number of classes.
        """
        names, scores = read_scores(folder, split)
        n_classes = options.n_classes or cls.default_classes
        if n_classes == 1:
            return SampleList(["score"], names, scores.tolist(), [*range(len(names))], scores.tolist())
        cut, places = SCALES[cls.name].cut(n_classes), kept(scores, n_classes)
        labels = cut.of(scores[places])
        chosen = [names[place] for place in places]
        return SampleList([*cut.names], chosen, labels.tolist(), places.tolist(), scores[places].tolist())

    @classmethod
    def extra_metrics(cls, predicted: np.ndarray, scores: Sequence[float], n_classes: int) -> Mapping[str, Any]:
        """Accuracies and F1 scores of `sentiment.class_figures`, or `regression_figures`."""
        if n_classes == 1:
            return regression_figures(predicted, np.asarray(scores), cls.name)
        return class_figures(predicted, np.asarray(scores), cls.name, n_classes)

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, Source]":
        """Text, audio and vision, as sequences."""
        return {name: SequenceSource(folder, split, name, len(names)) for name in MODALITIES}

    @classmethod
    def _file(cls, raw: Path, features: str | None) -> Path:
        if raw.is_file():
            if features is not None:
                raise InputError(f"--features chooses among the files of a folder, and {raw} is a file; leave it out.")
            return raw
        wanted = [file.name for file in cls.published if features in (None, file.kind)]
        for name in wanted:
            for folder in (raw, raw / "Processed", raw / cls.folder_name / "Processed"):
                if (folder / name).is_file():
                    return folder / name
        problem = f"does not hold {' or '.join(wanted)}" if raw.is_dir() else "is not there"
        raise InputError(f"{raw} {problem}; the feature files of {cls.title} can be had from {PAGE}.")

    @classmethod
    def _read(cls, path: Path) -> "dict[str, _Part]":
        """The parts of a file, checked."""
        from mmpareto.data.raw.unpickling import load_pickle

        content = load_pickle(path)
        absent = [part for part in PARTS if not isinstance(content, dict) or not isinstance(content.get(part), dict)]
        if absent:
            raise InputError(f"{path} has no part {absent[0]!r}: it is no feature file of MMSA ({PAGE}).")
        sizes = {"text": TEXT_SIZE, "audio": cls.audio_size, "vision": cls.vision_size}
        parts = {}
        for name in PARTS:
            try:
                parts[name] = _read_part(content.pop(name), sizes, SCALES[cls.name].limit)
            except _UnfitError as error:
                files = " and ".join(file.name for file in cls.published)
                raise InputError(f"{path}, {name}: {error}; {cls.title}'s are {files} of {PAGE}.") from None
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
        cls, out: Path, scores: "Mapping[str, tuple[Sequence[str], np.ndarray]]", checks: Sequence[str], digest: str
    ) -> Report:
        official = cls._is_official(digest)
        sentence = "official split" if official else "the file's own parts; its checksum is not the published one"
        split = Split(
            **{part: names for part, (names, _) in scores.items()}, sentence=sentence, official=official, checks=checks
        )
        found = sum(len(names) for names, _ in scores.values())
        report = Report(cls.title, out, found, split, skipped={}, missing=[], outside=0)
        signs = SCALES[cls.name].cut(3)
        for part, (_, values) in scores.items():
            counts = Counter(signs.of(values).tolist())
            report.counts[part] = {name: counts[place] for place, name in enumerate(signs.names)}
        return report


class SequenceSource:
    """A modality's sequences as float32 (T, D + 1): the features and, last, 1 where there is a step and 0 after it.

    The mask is a part of the input, so that it goes wherever that goes, and is zeroed where a method takes a modality
    away. The array is mapped into memory, not read.

    Arguments:
        folder: the prepared folder.
        split: "train", "valid" or "test".
        modality: "text", "audio" or "vision".
        samples: how many there are.

    Raises:
        InputError: an array is absent, damaged, or of another number of samples.
    """

    normalisation: "Normalisation | None" = None
    mirrors = False

    def __init__(self, folder: Path, split: str, modality: str, samples: int) -> None:
        self.rows = _open_array(folder / ARRAYS / f"{split}_{modality}.npy", 3, samples)
        self.lengths = _open_array(folder / ARRAYS / f"{split}_lengths.npy", 2, samples)[:, MODALITIES.index(modality)]
        self.channels = int(self.rows.shape[2])

    def read(self, place: int, generator: np.random.Generator | None) -> "Tensor":
        """The sequence; nothing is drawn in training."""
        import torch

        sequence = np.zeros((self.rows.shape[1], self.channels + 1), np.float32)
        sequence[:, :-1] = self.rows[place]
        sequence[: self.lengths[place], -1] = 1
        return torch.from_numpy(sequence)


def read_scores(folder: Path, split: str) -> tuple[list[str], np.ndarray]:
    """The samples of a split's list, and their scores, float64 (N,).

    Raises:
        InputError: the list is absent or empty, or a line is not id,score.
    """
    path = Path(folder) / f"{split}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); prepare the data set again.") from error
    if not rows:
        raise InputError(f"{path} lists no sample; prepare the data set again.")
    try:
        scores = np.array([float(score) for _, score in rows])
    except ValueError:
        raise InputError(f"{path} has a line that is not id,score; prepare the data set again.") from None
    if not np.isfinite(scores).all():
        raise InputError(f"{path} has a score that is no number; prepare the data set again.")
    return [name for name, _ in rows], scores


# --- what a file holds ---


class _Part(NamedTuple):
    """N samples. What counts of a sequence of T steps are `lengths` steps from `starts` on."""

    names: list[str]
    scores: np.ndarray
    arrays: dict[str, np.ndarray]
    starts: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray]
    remarks: list[str]


class _UnfitError(Exception):
    """A part is not as it must be; the text says how."""


def _read_part(part: Mapping[str, Any], sizes: Mapping[str, int], limit: float) -> _Part:
    for key in (*MODALITIES, "regression_labels", "id"):
        if key not in part:
            also = ", only text_bert (token numbers, not the features)" if key == "text" and "text_bert" in part else ""
            raise _UnfitError(f"there is no {key!r}{also}")
    arrays = {name: part[name] for name in MODALITIES}
    samples = len(part["id"])
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim != 3 or array.shape[1] < 1:
            raise _UnfitError(f"{name!r} is not an array of numbers (samples, steps, {sizes[name]})")
        if array.shape[2] != sizes[name]:
            raise _UnfitError(f"a step of {name!r} has {array.shape[2]} features, not {sizes[name]}")
        if len(array) != samples or not samples:
            raise _UnfitError(f"there are {samples} names but {len(array)} samples of {name!r}")
    scores = _numbers(part, "regression_labels", samples)
    if not (np.abs(scores) <= limit).all():  # so that NaN is refused, too
        raise _UnfitError(f"a score in 'regression_labels' does not lie between {-limit:g} and {limit:g}")
    return _Part([_name(entry) for entry in part["id"]], scores, arrays, *_spans(part, arrays))


def _spans(
    part: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """First step and number of steps a modality and sample, and what is to be said about them."""
    start, length = _nonzero_span(arrays["text"])
    starts, lengths, remarks = {"text": start}, {"text": length}, []
    if start.any():
        remarks.append(f"{np.count_nonzero(start)} sequences are padded in front: moved to the front")
    given = [name for name in ("audio", "vision") if f"{name}_lengths" in part]
    for name in given:
        steps, most = _numbers(part, f"{name}_lengths", len(start)), arrays[name].shape[1]
        if not ((steps >= 0) & (steps == np.round(steps))).all():
            raise _UnfitError(f"{name}_lengths are not numbers of steps")
        if (steps > most).any():
            remarks.append(f"{np.count_nonzero(steps > most)} {name}_lengths exceed the {most} steps there are: cut")
        starts[name], lengths[name] = np.zeros_like(start), np.minimum(steps, most).astype(np.int64)
    if not given:
        if len({array.shape[1] for array in arrays.values()}) > 1:
            raise _UnfitError("there are no audio_lengths and vision_lengths, and the sequences are not aligned")
        remarks.append("aligned, without lengths: all sequences hold the steps at which the text is not all zero")
        starts, lengths = dict.fromkeys(MODALITIES, start), dict.fromkeys(MODALITIES, length)
    elif len(given) == 1:
        raise _UnfitError(f"there are {given[0]}_lengths, but not both audio_lengths and vision_lengths")
    return starts, lengths, remarks


def _nonzero_span(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first step that is not all zero, and the number of steps from it to the last; (0, 0) where there is none."""
    blocks = [
        (array[begin : begin + SAMPLES_AT_ONCE] != 0).any(axis=2) for begin in range(0, len(array), SAMPLES_AT_ONCE)
    ]
    steps = np.concatenate(blocks)
    start = steps.argmax(axis=1)
    end = steps.shape[1] - steps[:, ::-1].argmax(axis=1)
    return start, np.where(steps.any(axis=1), end - start, 0)


def _numbers(part: Mapping[str, Any], key: str, samples: int) -> np.ndarray:
    """float64 (N,)."""
    try:
        values = np.asarray(part[key], np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise _UnfitError(f"{key!r} does not hold numbers") from None
    if len(values) != samples:
        raise _UnfitError(f"there are {samples} names but {len(values)} {key!r}")
    return values


def _name(entry: Any) -> str:
    """A sample's id; some files have its parts (video, clip) in a list."""
    if isinstance(entry, bytes):
        entry = entry.decode("utf-8", "replace")
    name = "$_$".join(map(_name, entry)) if isinstance(entry, list | tuple | np.ndarray) else str(entry)
    if not name or any(sign in name for sign in ',"\r\n'):
        raise _UnfitError(f"{name[:60]!r} cannot be the name of a sample in a list")
    return name


# --- what is made of it ---


def _write_arrays(folder: Path, parts: Mapping[str, _Part]) -> list[str]:
    """Write the arrays of all parts; what is to be said about them."""
    remarks = []
    for name, part in parts.items():
        remarks += [f"{name}: {remark}" for remark in part.remarks]
        for modality, array in part.arrays.items():
            path = folder / f"{name}_{modality}.npy"
            replaced = _write_sequences(path, array, part.starts[modality], part.lengths[modality])
            if replaced:
                remarks.append(f"{name}: {replaced} values of {modality} were NaN or infinite, and are 0")
        with atomic_path(folder / f"{name}_lengths.npy") as temporary:
            np.save(temporary, np.stack([part.lengths[modality] for modality in MODALITIES], axis=1))
    return remarks


def _write_sequences(path: Path, array: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> int:
    """Write `array` (N, T, D) as float32, steps in front and zeros after them; the number of values replaced by 0."""
    replaced = 0
    with atomic_path(path) as temporary:
        rows = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=array.shape)
        for begin in range(0, len(array), SAMPLES_AT_ONCE):
            here = slice(begin, begin + SAMPLES_AT_ONCE)
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and treated as such
                block = array[here].astype(np.float32)
            for place in np.flatnonzero(starts[here]):
                block[place] = np.roll(block[place], -starts[here][place], axis=0)
            block[np.arange(array.shape[1]) >= lengths[here][:, None]] = 0
            odd = ~np.isfinite(block)
            block[odd] = 0
            replaced += int(np.count_nonzero(odd))
            rows[here] = block
        rows.flush()
    return replaced


def _lines(names: Sequence[str], scores: np.ndarray) -> list[tuple[str, str]]:
    # Python's shortest text of a float64, which reads back as the same number.
    return [(name, repr(score)) for name, score in zip(names, scores.tolist(), strict=True)]


def _open_array(path: Path, dimensions: int, samples: int) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not a readable array ({error}); prepare the data set again.") from error
    if array.ndim != dimensions or len(array) != samples:
        raise InputError(
            f"{path} holds an array of shape {array.shape}, but the list beside it names {samples} samples; prepare "
            "the data set again."
        )
    return array


# --- the data sets ---


class MOSI(MMSADatasetBuilder):
    """2,199 utterances of 89 speakers: text (BERT), audio (5 features a step) and vision (20).

    Seven classes where nothing is said: the accuracy published for MMPareto on it is one of seven classes.
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
    """22,856 utterances: text (BERT), audio (COVAREP, 74 features) and vision (Facet, 35 features).

    Seven classes where nothing is said: the accuracy published for MMPareto on it is one of seven classes.
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
    """2,281 utterances: text (BERT), audio (librosa, 33 features) and vision (OpenFace, 709 features).

    Its scores of single modalities (regression_labels_T, _A, _V) are not used: all heads learn the joint one. Five
    classes where nothing is said: the accuracy published for MMPareto on it is one of five classes.
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
