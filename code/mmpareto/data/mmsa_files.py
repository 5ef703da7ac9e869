"""MMSA's feature files: checking the content of one, and writing it as arrays.

A file is a pickle {"train" | "valid" | "test": {"text" (N, T, 768), "audio" (N, T, Da), "vision" (N, T, Dv),
"audio_lengths", "vision_lengths", "regression_labels", "id", …}}.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmpareto.files import write_array

MODALITIES = ("text", "audio", "vision")
SAMPLES_AT_ONCE = 256


class UnfitError(Exception):
    """A part of a file is not as expected; the message says how."""


class FilePart(NamedTuple):
    """N samples. The valid steps of a sequence of T steps are the `lengths` steps from `starts` on."""

    names: list[str]
    scores: np.ndarray
    arrays: dict[str, np.ndarray]
    starts: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray]
    remarks: list[str]


def read_part(part: Mapping[str, Any], sizes: Mapping[str, int], limit: float) -> FilePart:
    """Check one part of a file.

    Arguments:
        part: as unpickled.
        sizes: modality → features per step.
        limit: scores are between −limit and limit.

    Raises:
        UnfitError: the part is not as expected.
    """
    for key in (*MODALITIES, "regression_labels", "id"):
        if key not in part:
            hint = ", only text_bert (token numbers, not the features)" if key == "text" and "text_bert" in part else ""
            raise UnfitError(f"{key!r} is missing{hint}")
    arrays = {name: part[name] for name in MODALITIES}
    names = part["id"]
    if not isinstance(names, list | tuple) and not (isinstance(names, np.ndarray) and names.ndim):
        raise UnfitError("'id' is not a list of names")
    samples = len(names)
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim != 3 or array.shape[1] < 1:
            raise UnfitError(f"{name!r} is not an array of numbers (samples, steps, {sizes[name]})")
        if array.shape[2] != sizes[name]:
            raise UnfitError(f"{name!r} has {array.shape[2]} features per step, not {sizes[name]}")
        if len(array) != samples or not samples:
            raise UnfitError(f"there are {samples} names but {len(array)} samples of {name!r}")
    scores = _numbers(part, "regression_labels", samples)
    if not (np.abs(scores) <= limit).all():  # false for NaN, too
        raise UnfitError(f"a score in 'regression_labels' is not between {-limit:g} and {limit:g}")
    return FilePart([_name(entry) for entry in names], scores, arrays, *_spans(part, arrays))


def _spans(
    part: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """First step and number of steps by modality and sample, and remarks about them."""
    start, length = _nonzero_span(arrays["text"])
    starts, lengths, remarks = {"text": start}, {"text": length}, []
    if start.any():
        remarks.append(f"{np.count_nonzero(start)} sequences are padded in front: moved to the front")
    given = [name for name in ("audio", "vision") if f"{name}_lengths" in part]
    for name in given:
        steps, most = _numbers(part, f"{name}_lengths", len(start)), arrays[name].shape[1]
        if not ((steps >= 0) & (steps == np.round(steps))).all():
            raise UnfitError(f"{name}_lengths are not numbers of steps")
        if (steps > most).any():
            remarks.append(f"{np.count_nonzero(steps > most)} {name}_lengths exceed the {most} steps there are: cut")
        starts[name], lengths[name] = np.zeros_like(start), np.minimum(steps, most).astype(np.int64)
    if not given:
        if len({array.shape[1] for array in arrays.values()}) > 1:
            raise UnfitError("audio_lengths and vision_lengths are missing, and the sequences are not aligned")
        remarks.append("aligned, without lengths: all sequences hold the steps at which the text is not all zero")
        starts, lengths = dict.fromkeys(MODALITIES, start), dict.fromkeys(MODALITIES, length)
    elif len(given) == 1:
        raise UnfitError(f"it has {given[0]}_lengths, but not both audio_lengths and vision_lengths")
    return starts, lengths, remarks


def _nonzero_span(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First step that is not all zero, and number of steps from it to the last such step; (0, 0) if there is none."""
    blocks = [
        (array[begin : begin + SAMPLES_AT_ONCE] != 0).any(axis=2) for begin in range(0, len(array), SAMPLES_AT_ONCE)
    ]
    steps = np.concatenate(blocks)
    start = steps.argmax(axis=1)
    end = steps.shape[1] - steps[:, ::-1].argmax(axis=1)
    return start, np.where(steps.any(axis=1), end - start, 0)


def _numbers(part: Mapping[str, Any], key: str, samples: int) -> np.ndarray:
    """float64 (N,)."""
    entries = part[key].ravel() if isinstance(part[key], np.ndarray) else _flat(part[key], samples)
    try:
        if not all(isinstance(entry, int | float | np.number | np.bool_) for entry in entries):
            raise TypeError
        values = np.asarray(entries, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise UnfitError(f"{key!r} does not contain numbers") from None
    if len(values) != samples:
        raise UnfitError(f"there are {samples} names but {len(values)} {key!r}")
    return values


def _flat(values: Any, samples: int) -> list[Any]:
    """The entries of a list, or of the lists in it, such as [[0.5], [1.0]]; not many more than `samples`.

    Lists in a pickle may refer to one another, so that all of their entries could be any number.
    """
    if not isinstance(values, list | tuple):
        return [None]
    entries = (entry for value in values for entry in (value if isinstance(value, list | tuple) else [value]))
    return [*itertools.islice(entries, samples + 1)]


def _name(entry: Any) -> str:
    """A sample's id; some files have a list of its parts (video, clip)."""
    parts = entry if isinstance(entry, list | tuple) else entry.ravel() if isinstance(entry, np.ndarray) else [entry]
    if not all(isinstance(part, str | bytes | int | float | np.generic) for part in parts):
        raise UnfitError("an entry of 'id' is not a name")
    try:
        words = [part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part) for part in parts]
    except ValueError:  # Python does not write integers of thousands of digits
        raise UnfitError("an entry of 'id' is not a name") from None
    name = "$_$".join(words)
    if not name or any(sign in name for sign in ',"\r\n'):
        raise UnfitError(f"{name[:60]!r} cannot be the name of a sample in a list")
    return name


def write_arrays(folder: Path, parts: Mapping[str, FilePart]) -> list[str]:
    """Write {part}_{modality}.npy and {part}_lengths.npy; return remarks.

    The remarks are recorded in prepared.json, so their wording is part of that format.
    """
    remarks = []
    for name, part in parts.items():
        remarks += [f"{name}: {remark}" for remark in part.remarks]
        for modality, array in part.arrays.items():
            path = folder / f"{name}_{modality}.npy"
            replaced = _write_sequences(path, array, part.starts[modality], part.lengths[modality])
            if replaced:
                remarks.append(f"{name}: {replaced} values of {modality} were NaN or infinite, and are 0")
        lengths = np.stack([part.lengths[modality] for modality in MODALITIES], axis=1)
        write_array(folder / f"{name}_lengths.npy", lengths.dtype, lengths.shape, [lengths])
    return remarks


def _write_sequences(path: Path, array: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> int:
    """Write `array` (N, T, D) as float32, valid steps first and zeros after them; return the number of values set to 0.

    Values that are not finite in float32 are set to 0.
    """
    replaced = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal replaced
        for begin in range(0, len(array), SAMPLES_AT_ONCE):
            chunk = slice(begin, begin + SAMPLES_AT_ONCE)
            with np.errstate(over="ignore"):  # overflow becomes infinity, which is replaced below
                block = array[chunk].astype(np.float32)
            for index in np.flatnonzero(starts[chunk]):
                block[index] = np.roll(block[index], -starts[chunk][index], axis=0)
            block[np.arange(array.shape[1]) >= lengths[chunk][:, None]] = 0
            not_finite = ~np.isfinite(block)
            block[not_finite] = 0
            replaced += int(np.count_nonzero(not_finite))
            yield block

    write_array(path, np.float32, array.shape, blocks())
    return replaced
