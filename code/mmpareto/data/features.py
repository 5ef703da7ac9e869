"""Someone's own features: arrays with one row per sample, from a .npz or .safetensors file or a HuggingFace data set.

Raw: one array per modality, `labels`, and optionally `split`, `names`, `classes` and <modality>_lengths (docs/data.md).

Prepared:

    stat.csv                                class names; of a regression, "score"
    train.csv, valid.csv, test.csv          sample,class; sample,0,1,… with one number per class; or sample,score
    arrays/{part}_{modality}.npy            float32, standardised, or uint8 images (N, C, H, W)
    arrays/{part}_{modality}_lengths.npy    int64 (N,), steps of sequences
    arrays/{modality}_mean.npy, …_std.npy   statistics of the training set by which the modality was standardised
"""

import argparse
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from mmpareto.data.dataset_builder import DatasetBuilder, DownloadInfo
from mmpareto.data.feature_arrays import (
    Labels,
    Modality,
    check_finite,
    count_constant,
    missing_rows,
    modality_of,
    read_labels,
    statistics_of,
    write_rows,
)
from mmpareto.data.loading.labels import UNSCALED, LabelScale, Task, class_counts
from mmpareto.data.loading.options import InputOptions, SampleList
from mmpareto.data.preparation.prepared_folder import (
    ARRAYS,
    RECORD_UNFINISHED,
    DatasetInfo,
    finished_record,
    locked,
    sha256,
    write_csvs,
    write_record,
)
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import OWN_PARTS, Split, add_test_fraction, own_split, part_named
from mmpareto.data.raw.array_files import FORMS, LENGTHS, ArrayFile, open_arrays
from mmpareto.errors import InputError, first_few
from mmpareto.files import write_array, write_text

if TYPE_CHECKING:
    from mmpareto.data.loading.samples import PreparedDataset
    from mmpareto.data.loading.sources import ModalitySource

LABELS = ("labels", "label")  # names of the array of labels
ASIDE = ("split", "names", "classes")  # arrays that are no modality
MISSING = ("error", "mean")
NAME = re.compile(r"[A-Za-z0-9_-]+")


class OwnArrays(NamedTuple):
    """The content of a file, but for the modalities' values.

    Attributes:
        file: the file.
        label_key: name of its array of labels.
        labels: of all samples.
        names: of the samples, unique.
        parts: part of each sample; None if the file has no split.
        modalities: name of each modality, in order → number of samples with missing values.
        notes: lines of the report.
    """

    file: ArrayFile
    labels: Labels
    names: list[str]
    parts: list[str] | None
    modalities: dict[str, int]
    notes: list[str]


class FeatureArrays(DatasetBuilder):
    """Someone's own features or images, with modalities of any names, for all three tasks."""

    name = "features"
    title = "own features"
    download = DownloadInfo(
        size="as many samples as you have",
        terms="yours",
        page="",
        raw=f"{FORMS}:\n"
        "an array (N, F), (N, T, F), or uint8 images (N, C, H, W) or (N, H, W, C) per modality, <modality>_lengths\n"
        "of sequences, labels: (N,) integers or names, (N, C) zeros and ones, or (N,) scores; and, if you have them,\n"
        "split: (N,) train, valid or test (or 0, 1, 2), names of the samples, and classes, the names of the classes",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py features`; their values are passed to `prepare`."""
        parser.add_argument("--raw", type=Path, required=True, metavar="PATH", help=FORMS)
        parser.add_argument("--out", type=Path, metavar="DIR", help="prepared folder (default: data/NAME)")
        parser.add_argument("--task", choices=get_args(Task), help="of the labels, where they leave it open")
        parser.add_argument("--labels", metavar="NAME", help="name of the array of labels (default: labels, or label)")
        parser.add_argument(
            "--modalities",
            nargs="+",
            metavar="NAME",
            help="names of the arrays to use (default: all with more than one axis)",
        )
        parser.add_argument(
            "--missing",
            choices=MISSING,
            default="error",
            help="what to do with NaN: error (default), or mean, the mean of the training set",
        )
        parser.add_argument(
            "--no_standardise",
            action="store_true",
            help="leave the features as they are, rather than standardise them by the training set's statistics",
        )
        add_test_fraction(parser)
        parser.add_argument("--seed", type=int, default=0, help="seed of a random split (default: %(default)s)")

    @classmethod
    def prepare(
        cls,
        *,
        raw: Path,
        out: Path,
        task: Task | None = None,
        labels: str | None = None,
        modalities: Sequence[str] | None = None,
        missing: str = "error",
        no_standardise: bool = False,
        test_fraction: float | None = None,
        seed: int = 0,
    ) -> PreparationReport:
        """Prepare the arrays, one modality in memory at a time.

        Arguments:
            raw: the file or folder.
            out: the prepared folder.
            task: of the labels; None to recognise it.
            labels: name of the array of labels; None for "labels" or "label".
            modalities: names of the arrays to use; None for all with more than one axis.
            missing: "error", or "mean" to replace NaN by the feature's mean in the training set.
            no_standardise: leave the features as they are.
            test_fraction: see `splits.own_split`.
            seed: of a random split, ≥ 0.

        Raises:
            InputError: the file is damaged, or an array, the labels or an option cannot be used; `out` contains
                something else, another process is preparing it, or it cannot be written.
        """
        started = time.monotonic()
        if seed < 0:
            raise InputError(f"--seed must be at least 0, not {seed}.")
        own = read_own_arrays(open_arrays(raw), task, labels, modalities, missing)
        by_name = dict(zip(own.names, own.labels.values, strict=True))
        parts = None if own.parts is None else dict(zip(own.names, own.parts, strict=True))
        split = own_split(by_name, parts, raw.name, test_fraction, seed)
        record = {
            "dataset": cls.name,
            "sha256": _digest(raw),
            "task": own.labels.task,
            "missing_values": missing,
            "standardise": not no_standardise,
            "split": split.sentence,
            "origin": {"modalities": [*own.modalities]},
        }
        info = DatasetInfo(cls.name, raw.stem, False, tuple(own.labels.classes))
        return write_prepared(out, own, split, info, record, standardise=not no_standardise, started=started)

    @classmethod
    def list_samples(cls, folder: Path, split: str, options: InputOptions) -> SampleList:
        """Return the samples of a split, with labels of the task that the folder was prepared for."""
        from mmpareto.data.loading import layout  # not at the top: the command line needs no torch
        from mmpareto.data.loading.record import ArrayRecord
        from mmpareto.validation import mistakes

        prepared = layout.read_prepared(folder)
        if problems := mistakes(ArrayRecord, prepared):
            raise InputError(f"{folder / 'prepared.json'} is damaged ({problems[0]}); prepare the data set again.")
        task, scale = prepared.get("task", "classification"), prepared.get("label_scale", UNSCALED)
        if task == "classification":
            return super().list_samples(folder, split, options)
        classes = layout.read_classes(folder)
        if task == "regression":
            names, scores = layout.read_scores(folder, split)
            return SampleList(classes, names, scores.tolist(), [*range(len(names))], label_scale=LabelScale(*scale))
        names, labels = layout.read_label_table(folder, split, classes)
        return SampleList(classes, names, labels, [*range(len(names))])

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, ModalitySource]":
        """Return a source per modality, none with augmentation."""
        from mmpareto.data.loading.sources import ArraySource, Normalisation, SequenceSource, open_array

        sources: dict[str, ModalitySource] = {}
        for name, entry in prepared.get("modalities", {}).items():
            path, shape = folder / ARRAYS / f"{split}_{name}.npy", (len(names), *entry["shape"])
            if entry["kind"] == "sequence":
                lengths = open_array(folder / ARRAYS / f"{split}_{name}{LENGTHS}.npy", 1, len(names))
                sources[name] = SequenceSource(path, lengths)
            elif entry["kind"] == "image":
                if [len(values) for values in entry.get("normalisation", [])] != [shape[1]] * 2:
                    raise InputError(f"{folder / 'prepared.json'} has no normalisation of {name}; prepare it again.")
                normalisation = Normalisation(*entry["normalisation"])
                sources[name] = ArraySource(path, shape[1], normalisation, expected=(np.uint8, shape))
            else:
                sources[name] = ArraySource(path, shape[1], None, expected=(np.float32, shape))
        return sources

    @classmethod
    def open(cls, folder: str | Path, split: str, **options: Any) -> "PreparedDataset":
        """Open a split; its description has the statistics by which its features are standardised (`arrays_input`)."""
        dataset = super().open(folder, split, **options)
        modalities = dataset.prepared.get("modalities", {})
        dataset.description["arrays"] = {
            name: _description(Path(folder), name, modalities[name]) for name in dataset.sources
        }
        return dataset


# --- reading ---


def read_own_arrays(
    file: ArrayFile,
    task: Task | None = None,
    label_key: str | None = None,
    modalities: Sequence[str] | None = None,
    missing: str = "error",
) -> OwnArrays:
    """Read and check all arrays; of the modalities, one is in memory at a time, and none is kept.

    Arguments:
        task, label_key, modalities, missing: as in `FeatureArrays.prepare`.

    Raises:
        InputError: an array is missing or cannot be used.
    """
    known = [*file.readers]
    key = label_key or next((name for name in LABELS if name in known), LABELS[0])
    if key not in known:
        raise InputError(f"{file.path} has no array {key!r}, but {first_few(known, 8)}; name the labels by --labels.")
    class_names: Sequence[str] | None = file.class_names.get(key) or file.class_names.get("")
    if "classes" in known:
        class_names = _texts(file.read("classes"))
    labels = read_labels(file.read(key), task, class_names, f"{file.path}: {key}")
    names = _sample_names(file, len(labels.values))
    chosen, unused, remarks = _check_modalities(file, names, {key, *ASIDE}, modalities, missing)
    counts = "a score per sample" if labels.task == "regression" else f"{len(labels.classes)} classes"
    notes = [f"task             {labels.task}, {counts}", f"modalities       {', '.join(chosen)}"]
    notes += [f"  {name}: missing values in {count} samples, filled" for name, count in chosen.items() if count]
    notes += remarks
    if unused:
        notes.append(f"not used         {', '.join(unused)} (choose by --modalities NAME …)")
    return OwnArrays(file, labels, names, _parts(file, len(names)), chosen, notes)


def _check_modalities(
    file: ArrayFile, names: Sequence[str], aside: set[str], given: Sequence[str] | None, missing: str
) -> tuple[dict[str, int], list[str], list[str]]:
    """Check the values of all modalities.

    Returns:
        Modality → number of samples with missing values; names of arrays that are not used; and lines of the report.
    """
    candidates = [name for name in file.readers if name not in aside and not _are_lengths(name, file)]
    absent = [name for name in given or () if name not in candidates]
    if absent:
        raise InputError(f"{file.path} has no array {absent[0]!r} for --modalities; it has {', '.join(candidates)}.")
    chosen: dict[str, int] = {}
    remarks = []
    for name in dict.fromkeys(given or candidates):
        array = file.read(name)
        if given or (array.ndim > 1 and array.dtype.kind in "buif"):
            _check_name(name, file)
            modality = _modality(file, name, array, len(names))
            chosen[name] = _check_values(modality, names, missing, str(file.path))
            constant = count_constant(modality)
            if constant:
                remarks.append(f"  {name}: {constant} images of one colour")
    if not chosen:
        raise InputError(f"{file.path} has no array of features, (N, F), (N, T, F) or images, beside the labels.")
    return chosen, [name for name in candidates if name not in chosen], remarks


def _are_lengths(name: str, file: ArrayFile) -> bool:
    return name.endswith(LENGTHS) and name.removesuffix(LENGTHS) in file.readers


def _check_name(name: str, file: ArrayFile) -> None:
    from torch import nn  # not at the top: the command line needs no torch

    if not NAME.fullmatch(name) or name == "joint" or hasattr(nn.ModuleDict, name):
        raise InputError(
            f"{file.path}: a modality cannot be called {name!r}; rename the array, with letters, digits, _ and -, and "
            "not as a word of PyTorch such as 'values'."
        )


def _check_values(modality: Modality, names: Sequence[str], missing: str, where: str) -> int:
    """Return the number of samples with missing values; raise InputError if there are any and `missing` is "error"."""
    check_finite(modality, where)
    absent = missing_rows(modality)
    if len(absent) and missing == "error":
        samples = first_few([names[index] for index in absent])
        raise InputError(
            f"{where}: {modality.name} has missing values (NaN) in {len(absent)} of {len(names)} samples: {samples}; "
            "fill them in, leave these samples out, or give --missing mean for the mean of the training set."
        )
    return len(absent)


def _modality(file: ArrayFile, name: str, array: np.ndarray, samples: int) -> Modality:
    lengths = file.read(name + LENGTHS) if name + LENGTHS in file.readers else None
    return modality_of(name, array, lengths, samples, str(file.path))


def _sample_names(file: ArrayFile, samples: int) -> list[str]:
    if "names" not in file.readers:
        return [f"{index:0{len(str(samples - 1))}d}" for index in range(samples)]
    names = [name.strip() for name in _texts(file.read("names"))]
    twice = Counter(names).most_common(1)[0][0] if len({*names}) < len(names) else None
    if len(names) != samples or twice is not None or not all(map(str.isprintable, names)) or not all(names):
        problem = (
            f"{twice!r} is there more than once" if twice is not None else f"there are {len(names)}, or some are empty"
        )
        raise InputError(f"{file.path}: the names are not {samples} different ones ({problem}).")
    return names


def _parts(file: ArrayFile, samples: int) -> list[str] | None:
    """The part of each sample; None if the file has no split."""
    if "split" not in file.readers:
        return None
    split = file.read("split")
    numbers = dict(enumerate(OWN_PARTS))
    words = _texts(split) if split.dtype.kind in "US" else split.tolist()
    words = words if split.ndim == 1 else []
    parts = [part_named(word) if isinstance(word, str) else numbers.get(word) for word in words]
    if len(parts) != samples or None in parts:
        wrong = repr(words[parts.index(None)]) if None in parts else f"{len(parts)} values"
        raise InputError(
            f"{file.path}: split is not train, valid or test (or 0, 1 or 2) for each of the {samples} samples: {wrong}."
        )
    return [part for part in parts if part is not None]


def _texts(array: np.ndarray) -> list[str]:
    """The elements of an array as text."""
    return [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in array.ravel().tolist()]


def _digest(raw: Path) -> str:
    """SHA-256 of a file; of a folder, of its files' names and checksums."""
    try:
        if raw.is_file():
            return sha256(raw)
        files = sorted(path for path in raw.rglob("*") if path.is_file() and not path.name.startswith("cache-"))
        lines = "".join(f"{sha256(path)}  {path.relative_to(raw)}\n" for path in files)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}.") from error
    return hashlib.sha256(lines.encode()).hexdigest()


# --- writing ---


def write_prepared(
    out: Path,
    own: OwnArrays,
    split: Split,
    info: DatasetInfo,
    record: Mapping[str, Any],
    entries: Mapping[str, Any] = MappingProxyType({}),
    *,
    standardise: bool,
    started: float,
) -> PreparationReport:
    """Write a prepared folder, unless `out` is that already.

    Arguments:
        out: the prepared folder.
        own: the arrays; they are read again, one at a time.
        info: entries of prepared.json about the data set.
        record: everything that the prepared files depend on.
        entries: further entries of prepared.json.
        standardise: whether features are standardised by the training set's statistics.
        started: `time.monotonic()` when the preparation began.

    Raises:
        InputError: `out` contains something else, another process is preparing it, or it cannot be written.
    """
    label_of = dict(zip(own.names, own.labels.values, strict=True))
    report = PreparationReport(info.title, out, len(own.names), split, {}, [], 0, unit="samples", notes=own.notes)
    report.sizes = {part: len(names) for part, names in split.parts.items()}
    for part, names in split.parts.items():
        report.counts[part] = class_counts([label_of[name] for name in names], own.labels.classes)
    with locked(out):
        if finished_record(out, record, [ARRAYS]) is not None:
            report.already = report.found
            return report
        write_text(out / RECORD_UNFINISHED, json.dumps(record))
        written = _write_samples(out, own, split, standardise=standardise)
        report.prepared, report.seconds = report.found, time.monotonic() - started
        write_record(report, info, {**record, **entries, **written}, [ARRAYS])
    return report


def _write_samples(out: Path, own: OwnArrays, split: Split, *, standardise: bool) -> dict[str, Any]:
    """Write the arrays and the lists; return entries of prepared.json."""
    index = {name: number for number, name in enumerate(own.names)}
    rows = {part: np.array([index[name] for name in names]) for part, names in split.parts.items()}
    kinds = {name: _write_modality(out / ARRAYS, own, name, rows, standardise=standardise) for name in own.modalities}
    values = own.labels.values
    lists = {part: [(own.names[i], *_cells(own.labels, values[i])) for i in indices] for part, indices in rows.items()}
    write_csvs(out, own.labels.classes, lists)
    return {"modalities": kinds, "label_scale": list(_label_scale(own.labels, rows["train"]))}


def _write_modality(
    folder: Path, own: OwnArrays, name: str, rows: Mapping[str, np.ndarray], *, standardise: bool
) -> dict[str, Any]:
    """Write the arrays of a modality; return its entry of prepared.json."""
    modality = _modality(own.file, name, own.file.read(name), len(own.names))
    statistics = statistics_of(modality.rows(rows["train"]))
    for part, indices in rows.items():
        chosen = modality.rows(indices)
        write_rows(folder / f"{part}_{name}.npy", chosen, statistics if standardise else None, statistics.mean)
        if chosen.lengths is not None:
            _save(folder / f"{part}_{name}{LENGTHS}.npy", chosen.lengths)
    entry: dict[str, Any] = {"kind": modality.kind, "shape": list(modality.array.shape[1:])}
    if modality.kind == "image":
        return entry | {"normalisation": [(values / 255).tolist() for values in statistics]}
    if standardise:
        _save(folder / f"{name}_mean.npy", statistics.mean)
        _save(folder / f"{name}_std.npy", statistics.std)
    return entry | {"standardised": standardise, "samples_with_missing_values": own.modalities[name]}


def _save(path: Path, array: np.ndarray) -> None:
    write_array(path, array.dtype, array.shape, [array])


def _cells(labels: Labels, label: Any) -> list[str]:
    """A sample's cells of a list, after its name."""
    if labels.task == "multilabel":
        return [str(value) for value in label]
    return [repr(label) if labels.task == "regression" else labels.classes[label]]


def _label_scale(labels: Labels, training: np.ndarray) -> LabelScale:
    """Mean and standard deviation of the training scores; no change for other tasks."""
    if labels.task != "regression":
        return UNSCALED
    scores = np.array([labels.values[index] for index in training])
    return LabelScale(float(scores.mean()), float(scores.std()) or 1.0)


def _description(folder: Path, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """All that is needed to treat another sample's array alike; only numbers, strings, lists and dicts."""
    if not entry.get("standardised"):
        return dict(entry)
    from mmpareto.data.loading.sources import map_array

    statistics = {key: map_array(folder / ARRAYS / f"{name}_{key}.npy").tolist() for key in ("mean", "std")}
    return {**entry, **statistics}
