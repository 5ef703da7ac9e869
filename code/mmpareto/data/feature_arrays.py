"""Arrays of someone's own features: what each holds, the labels and their task, and standardisation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mmpareto.data.loading.labels import SCORE, Task
from mmpareto.errors import InputError, first_few
from mmpareto.files import write_array

VALUES_AT_ONCE = 1 << 23  # 64 MB in float64
CHANNELS = (1, 2, 3, 4)  # of an image
FEW = 20  # classes, of which each may have a single sample


class Modality(NamedTuple):
    """The array of a modality.

    Attributes:
        name: of the modality.
        kind: "vector", "sequence", "image" (uint8) or "map" (floating point, with channels and two axes).
        array: (N, F), (N, T, F) or (N, C, H, W).
        lengths: (N,) steps of each sequence; None for other kinds.
    """

    name: str
    kind: Literal["vector", "sequence", "image", "map"]
    array: np.ndarray
    lengths: np.ndarray | None = None

    def rows(self, indices: np.ndarray) -> "Modality":
        """The same modality, of some samples."""
        return self._replace(array=self.array[indices], lengths=None if self.lengths is None else self.lengths[indices])

    def valid(self, values: np.ndarray, fill: Any) -> np.ndarray:
        """The values (N, …) of the array's shape, with `fill` in the steps after the end of a sequence."""
        if self.lengths is None:
            return values
        inside = np.arange(self.array.shape[1]) < self.lengths[:, None]
        return np.where(inside[:, :, None], values, fill)

    def chunks(self) -> "Iterator[tuple[slice, Modality]]":
        """Some rows at a time, so that float64 copies stay small."""
        count = max(1, VALUES_AT_ONCE // self.array[0].size)
        for begin in range(0, len(self.array), count):
            part = slice(begin, min(begin + count, len(self.array)))
            lengths = None if self.lengths is None else self.lengths[part]
            yield part, self._replace(array=self.array[part], lengths=lengths)

    def features_last(self) -> np.ndarray:
        """The values as float64 (M, F): one row per sample, step or pixel; NaN after the end of a sequence."""
        values = self.valid(self.array.astype(np.float64), np.nan)
        return (np.moveaxis(values, 1, -1) if values.ndim == 4 else values).reshape(-1, self.size)

    @property
    def size(self) -> int:
        """Features of a vector or of a step, or channels."""
        return self.array.shape[2] if self.kind == "sequence" else self.array.shape[1]


class Statistics(NamedTuple):
    """Mean and standard deviation of each feature, float64 (F,); the deviation of a constant feature is 1."""

    mean: np.ndarray
    std: np.ndarray


class Labels(NamedTuple):
    """Labels of all samples.

    Attributes:
        task: of the labels.
        classes: sorted names; of a regression, "score".
        values: in the form of a `SampleList`.
    """

    task: Task
    classes: list[str]
    values: list[Any]


def modality_of(name: str, array: np.ndarray, lengths: np.ndarray | None, samples: int, where: str) -> Modality:
    """Recognise what an array holds by its shape and type.

    (N,) and (N, F) are vectors, (N, T, F) sequences, uint8 (N, H, W), (N, C, H, W) and (N, H, W, C) images, and
    floating-point (N, C, H, W) or (N, H, W, C) maps, such as spectrograms.

    Arguments:
        lengths: steps of each sequence; None if all are of the same length.
        samples: N.
        where: file, for messages.

    Raises:
        InputError: the array or its lengths cannot be used.
    """
    position = f"{where}: {name} {array.dtype} {array.shape}"
    if array.dtype.kind not in "buif":
        raise InputError(f"{position} does not hold numbers; leave it out of --modalities.")
    if array.ndim == 0 or len(array) != samples or not array.size:
        raise InputError(f"{position} does not have one row for each of the {samples} labels.")
    if array.ndim > 4:
        raise InputError(f"{position} has too many axes; vectors, sequences and images have up to 4.")
    images = array.dtype == np.uint8 and (array.ndim == 4 or (array.ndim == 3 and lengths is None))
    if lengths is not None and (array.ndim != 3 or images):
        raise InputError(f"{position} is no sequence (N, T, F), but has {name}_lengths; remove these.")
    if array.ndim < 3:
        return Modality(name, "vector", array.reshape(samples, -1))
    if images and array.ndim == 3:
        return Modality(name, "image", array[:, None])
    if array.ndim == 4:
        return Modality(name, "image" if images else "map", _channels_first(array, position))
    steps = np.full(samples, array.shape[1]) if lengths is None else lengths
    if steps.shape != (samples,) or steps.dtype.kind not in "buif" or not np.array_equal(steps, np.round(steps)):
        raise InputError(f"{where}: {name}_lengths are not {samples} numbers of steps.")
    if steps.min() < 0 or steps.max() > array.shape[1]:
        raise InputError(f"{where}: {name}_lengths are not all between 0 and the {array.shape[1]} steps of {name}.")
    return Modality(name, "sequence", array, steps.astype(np.int64))


def _channels_first(array: np.ndarray, position: str) -> np.ndarray:
    """(N, C, H, W) of (N, C, H, W) or (N, H, W, C); maps may have any number of channels if these come first."""
    _, first, middle, last = array.shape
    is_first, is_last = first in CHANNELS, last in CHANNELS
    if is_first and is_last:  # equal sides tell height and width
        is_first, is_last = middle == last, first == middle
    elif array.dtype != np.uint8 and not is_last:
        is_first = True
    if is_first == is_last:
        raise InputError(f"{position}: neither (N, C, H, W) nor (N, H, W, C) with 1 to 4 channels; transpose it.")
    return array if is_first else np.moveaxis(array, 3, 1)


# --- labels ---


def read_labels(array: np.ndarray, task: Task | None, names: Sequence[str] | None, where: str) -> Labels:
    """Read the labels, and recognise their task unless it is given.

    Strings and integers (N,) are classes, zeros and ones (N, C) several labels per sample, and floating-point numbers
    (N,) scores. A given task may also read integral floats and one-hot rows as classes, and integers as scores.

    Arguments:
        names: of the classes, for integers by their value and for (N, C) by column; None to number them.
        where: file and name of the array, for messages.

    Raises:
        InputError: the task is ambiguous or not that of the labels, labels are missing, or names do not fit.
    """
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    text = labels.dtype.kind in "US"
    if labels.ndim not in (1, 2) or not labels.size or labels.dtype.kind not in "buifUS" or (text and labels.ndim == 2):
        raise InputError(f"{where} {array.dtype} {array.shape} are not labels: (N,), or (N, C) zeros and ones.")
    if text:
        if task not in (None, "classification"):
            raise InputError(f"{where} are names of classes, which --task {task} cannot use.")
        words = [w.decode("utf-8", "replace") if isinstance(w, bytes) else w for w in labels.tolist()]
        words = [word.strip() for word in words]
        if not all(words):
            raise _missing(where, [index for index, word in enumerate(words) if not word])
        return _classes(words)
    bad = np.flatnonzero(~np.isfinite(labels.astype(np.float64)).reshape(len(labels), -1).all(axis=1))
    if len(bad):
        raise _missing(where, bad.tolist())
    task = task or _recognised(labels, where)
    if task == "regression":
        if labels.ndim != 1:
            raise InputError(f"{where} {array.shape} are several scores per sample; a regression has one, (N,).")
        return Labels(task, [SCORE], [float(score) for score in labels.tolist()])
    if task == "multilabel":
        return _several(labels, names, where)
    return _classes_of_numbers(labels, names, where)


def _missing(where: str, rows: Sequence[int]) -> InputError:
    return InputError(
        f"{where} are missing (NaN, infinite or empty) in {len(rows)} rows, from 0: {first_few(map(str, rows))}; leave "
        "these samples out."
    )


def _recognised(labels: np.ndarray, where: str) -> Task:
    """The task of numbers.

    Raises:
        InputError: it is ambiguous.
    """
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise InputError(f"{where} {labels.shape} are neither one label per sample nor zeros and ones.")
        if (labels.sum(axis=1) == 1).all():
            raise InputError(
                f"{where}: every row has a single 1; give --task classification if it marks the sample's class, or "
                "--task multilabel if samples may have several labels."
            )
        return "multilabel"
    integral = np.array_equal(labels, np.round(labels))
    many = len(np.unique(labels)) > max(len(labels) // 2, FEW)
    if integral and (labels.dtype.kind == "f" or many):
        kind = "whole numbers in floating point" if labels.dtype.kind == "f" else "integers that hardly repeat"
        raise InputError(f"{where} are {kind}; give --task classification or --task regression.")
    return "classification" if integral else "regression"


def _several(labels: np.ndarray, names: Sequence[str] | None, where: str) -> Labels:
    if labels.ndim != 2 or not np.isin(labels, (0, 1)).all():
        raise InputError(f"{where} are not zeros and ones (N, C) with C > 1, which --task multilabel needs.")
    count = labels.shape[1]
    columns = _checked_names(names, count, where) or _numbers(range(count))
    order = sorted(range(count), key=lambda column: columns[column])  # a label is an index into the sorted names
    rows = labels.astype(int)[:, order].tolist()
    return Labels("multilabel", [columns[column] for column in order], [tuple(row) for row in rows])


def _classes_of_numbers(labels: np.ndarray, names: Sequence[str] | None, where: str) -> Labels:
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all() or not (labels.sum(axis=1) == 1).all():
            raise InputError(
                f"{where} {labels.shape} do not mark one class per row, which --task classification needs."
            )
        labels = labels.argmax(axis=1)
    if not np.array_equal(labels, np.round(labels)):
        raise InputError(f"{where} are not whole numbers, which --task classification needs.")
    numbers = labels.astype(np.int64)
    known = np.unique(numbers).tolist()
    if names is None:
        texts = dict(zip(known, _numbers(known), strict=True))
    else:
        if known[0] < 0 or known[-1] >= len(names):
            raise InputError(f"{where} go from {known[0]} to {known[-1]}, but there are {len(names)} names of classes.")
        texts = dict(enumerate(_checked_names(names, len(names), where)))
    return _classes([texts[number] for number in numbers.tolist()], [*texts.values()])


def _classes(words: Sequence[str], known: Sequence[str] = ()) -> Labels:
    classes = sorted({*words, *known})
    label = {name: index for index, name in enumerate(classes)}
    return Labels("classification", classes, [label[word] for word in words])


def _numbers(values: Sequence[int]) -> list[str]:
    """Numbers as names whose order is that of the numbers."""
    width = max(len(str(value)) for value in values)
    return [f"{value:0{width}d}" for value in values]


def _checked_names(names: Sequence[str] | None, count: int, where: str) -> list[str]:
    stripped = [str(name).strip() for name in names or ()]
    if names is not None and (len(stripped) != count or len({*stripped}) != count or not all(stripped)):
        raise InputError(f"{where}: the names of the classes are not {count} different names, one per class or column.")
    return stripped


# --- values ---


def missing_rows(modality: Modality) -> np.ndarray:
    """Indices of the samples with NaN, before the end of a sequence."""
    if modality.array.dtype.kind != "f":
        return np.array([], np.int64)
    flags = [
        part.valid(np.isnan(part.array), False).reshape(len(part.array), -1).any(1) for _, part in modality.chunks()
    ]
    return np.flatnonzero(np.concatenate(flags))


def count_constant(modality: Modality) -> int:
    """Number of images of which all pixels are equal in every channel; 0 for other modalities."""
    if modality.kind != "image":
        return 0
    return sum(
        int((part.array == part.array[:, :, :1, :1]).reshape(len(part.array), -1).all(1).sum())
        for _, part in modality.chunks()
    )


def check_finite(modality: Modality, where: str) -> None:
    """Raise InputError if a value is infinite, in float32, too."""
    rows: list[int] = []
    for chunk, part in modality.chunks():
        with np.errstate(over="ignore"):
            bad = part.valid(np.isinf(part.array.astype(np.float32)), False).reshape(len(part.array), -1).any(1)
        rows += (np.flatnonzero(bad) + chunk.start).tolist()
    if rows:
        raise InputError(
            f"{where}: {modality.name} has infinite values in {len(rows)} rows, from 0: {first_few(map(str, rows))}; "
            "correct them or leave these samples out."
        )


def statistics_of(modality: Modality) -> Statistics:
    """Mean and standard deviation of each feature over samples, steps and pixels; missing values do not count."""
    total, count = np.zeros(modality.size), np.zeros(modality.size)
    for _, part in modality.chunks():
        values = part.features_last()
        total += np.nansum(values, axis=0)
        count += (~np.isnan(values)).sum(axis=0)
    mean = total / np.maximum(count, 1)
    squares = np.zeros(modality.size)
    for _, part in modality.chunks():
        squares += np.nansum((part.features_last() - mean) ** 2, axis=0)
    std = np.sqrt(squares / np.maximum(count, 1))
    # Rounding leaves a constant a deviation that is tiny compared with its value.
    return Statistics(mean, np.where(std > 1e-7 * np.abs(mean), std, 1.0))


def write_rows(path: Path, modality: Modality, statistics: Statistics | None, fill: np.ndarray) -> None:
    """Write a modality as a .npy file: images as uint8, other values as float32, with zeros after a sequence's end.

    Arguments:
        statistics: by which values are standardised; None to leave them as they are.
        fill: (F,) in place of missing values, before standardisation.
    """
    dtype = np.uint8 if modality.kind == "image" else np.float32

    def blocks() -> Iterator[np.ndarray]:
        for _, part in modality.chunks():
            if modality.kind == "image":
                yield part.array
                continue
            shape = (-1, 1, 1) if modality.kind == "map" else (-1,)
            values = part.array.astype(np.float64)
            values = np.where(np.isnan(values), fill.reshape(shape), values)
            if statistics is not None:
                values = (values - statistics.mean.reshape(shape)) / statistics.std.reshape(shape)
            yield part.valid(values, 0.0)

    write_array(path, dtype, modality.array.shape, blocks())
