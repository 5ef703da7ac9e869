"""Reading the files of a prepared audio-visual folder, whoever prepared it.

stat.csv                     class names, one per line; a label is an index into sorted(names)
train.csv, test.csv          one clip,class per line
audio/<clip>.pt              filterbank; likewise audio_spectrogram and audio_waveform
visual/<clip>/frame_00001.jpg …
prepared.json                record of the preparation; missing if other software prepared the folder
"""

import csv
import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, read_file

from mmpareto.data import DATASETS
from mmpareto.data.loading.options import FEATURE_FILES, InputOptions, prepared_features
from mmpareto.data.loading.record import Record
from mmpareto.data.raw.limits import check_pixels
from mmpareto.errors import InputError, first_few, one_line
from mmpareto.files import open_text, read_json
from mmpareto.tensor_files import read_tensors
from mmpareto.validation import mistakes


def fingerprint(folder: Path) -> str:
    """Hexadecimal SHA-256 of a prepared folder's lists, record and checksums.

    Missing files are left out. The samples are not read, since their checksums represent them. Every file contributes
    its name, its length and its content.
    """
    digest = hashlib.sha256()
    for name in ("stat.csv", "train.csv", "valid.csv", "test.csv", "prepared.json", "checksums.sha256"):
        path = Path(folder) / name
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def read_prepared(folder: Path) -> dict[str, Any]:
    """Return the content of prepared.json, or {} if there is none.

    Raises:
        InputError: the folder is not a prepared data set, or the file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist; prepare the data set with `{_command(folder)}`.")
    if not (folder / "stat.csv").is_file():
        raise InputError(f"{folder} is not a prepared data set (no stat.csv); prepare it with `{_command(folder)}`.")
    path = folder / "prepared.json"
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({one_line(error)}); prepare again with `{_command(folder)}`.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged (no JSON object); prepare again with `{_command(folder)}`.")
    if problems := mistakes(Record, content):
        raise InputError(f"{path} is damaged ({problems[0]}); prepare again with `{_command(folder)}`.")
    return content


def with_prepared_audio(options: InputOptions, folder: Path) -> InputOptions:
    """The options, with another audio feature if the prepared folder lacks theirs."""
    features = prepared_features(read_prepared(folder))
    return options if not features or options.audio in features else dataclasses.replace(options, audio=features[0])


def read_classes(folder: Path) -> list[str]:
    """Return the class names in the order of their labels, which is sorted.

    Raises:
        InputError: stat.csv is missing, empty, or names a class twice.
    """
    path = Path(folder) / "stat.csv"
    names = [row[0] for row in _rows(path)]
    if not names:
        raise InputError(f"{path} names no class; prepare again with `{_command(folder)}`.")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise InputError(f"{path} names the class {twice[:60]!r} more than once; remove the repetition.")
    return sorted(names)


def read_split(folder: Path, split: str, classes: list[str]) -> tuple[list[str], list[int]]:
    """Return the clips of a split's list, in its order, and their labels.

    Raises:
        InputError: the list is missing or empty, a line is not clip,class, or a class is not among `classes`.
    """
    path = Path(folder) / f"{split}.csv"
    label = {name: index for index, name in enumerate(classes)}
    rows = _rows(path)
    if not rows:
        raise InputError(f"{path} lists no clip; prepare again with `{_command(folder)}`.")
    for row in rows:
        if len(row) < 2:
            raise InputError(f"{path} has the line {','.join(row)[:80]!r}, which is not clip,class; correct it.")
        if row[1] not in label:
            raise InputError(
                f"{path} gives the clip {row[0][:80]!r} the class {row[1][:80]!r}, which is not in stat.csv"
                f" ({first_few(classes)}); correct one of the two files."
            )
    return [row[0] for row in rows], [label[row[1]] for row in rows]


def read_scores(folder: Path, split: str) -> tuple[list[str], np.ndarray]:
    """Return the samples of a split's list, and their scores, float64 (N,).

    Raises:
        InputError: the list is missing or empty, or a line is not sample,score.
    """
    path = Path(folder) / f"{split}.csv"
    rows = _sample_rows(path)
    try:
        scores = np.array([float(score) for _, score in rows])
    except ValueError:
        raise InputError(f"{path} has a line that is not sample,score; prepare the data set again.") from None
    if not np.isfinite(scores).all():
        raise InputError(f"{path} has a score that is not finite; prepare the data set again.")
    return [name for name, _ in rows], scores


def read_label_table(folder: Path, split: str, classes: Sequence[str]) -> tuple[list[str], list[tuple[int, ...]]]:
    """Return the samples of a split's list, and a tuple of zeros and ones for each, one per class.

    Raises:
        InputError: the list is missing or empty, or a line is not sample,0,1,… with as many numbers as classes.
    """
    path = Path(folder) / f"{split}.csv"
    rows = _sample_rows(path)
    for row in rows:
        if len(row) != len(classes) + 1 or not {*row[1:]} <= {"0", "1"}:
            raise InputError(
                f"{path} has the line {','.join(row)[:80]!r}, which is not a sample and {len(classes)} zeros or ones; "
                "prepare the data set again."
            )
    return [row[0] for row in rows], [tuple(map(int, row[1:])) for row in rows]


def read_tasks(
    folder: Path, split: str, classes: Sequence[str], tasks: Sequence[str]
) -> tuple[list[str], list[dict[str, int]]]:
    """Return the samples of a split's list, and for each task → index of its class.

    Raises:
        InputError: the list is missing or empty, or a line is not sample,class,… with one class per task.
    """
    path = Path(folder) / f"{split}.csv"
    index = {name: number for number, name in enumerate(classes)}
    rows = _sample_rows(path)
    for row in rows:
        if len(row) != len(tasks) + 1 or not {*row[1:]} <= {*classes}:
            raise InputError(
                f"{path} has the line {','.join(row)[:80]!r}, which is not a sample and a class for each of the tasks "
                f"{', '.join(tasks)}; prepare the data set again."
            )
    return [row[0] for row in rows], [dict(zip(tasks, map(index.__getitem__, row[1:]), strict=True)) for row in rows]


def read_names(folder: Path, split: str) -> list[str]:
    """Return the samples of a split's list, in its order.

    Raises:
        InputError: the list is missing.
    """
    return [row[0] for row in _rows(Path(folder) / f"{split}.csv")]


def check_files(
    folder: Path,
    split: str,
    clips: Sequence[str],
    audio: str | None,
    kinds: list[str] | None = None,
    frames: bool = True,
) -> None:
    """Check that every clip has its feature file and its folder of frames; this lists two folders only.

    Arguments:
        audio: the audio feature, a key of `FEATURE_FILES`; None for a data set without audio.
        kinds: the contents of audio files that prepared.json lists.
        frames: False for a data set without frames.

    Raises:
        InputError: the feature was not prepared, or clips are missing (the message has their number and the first few).
    """
    folder = Path(folder)
    needed: dict[str, str] = {}  # folder → ending of the clips' names in it
    if audio is not None:
        if audio not in FEATURE_FILES:
            raise InputError(f"unknown audio feature {audio!r}; known: {', '.join(FEATURE_FILES)}.")
        files = FEATURE_FILES[audio]
        if (kinds is not None and files.stored not in kinds) or not (folder / files.folder).is_dir():
            command = f"{_command(folder)} --audio {files.stored}"
            raise InputError(f"{folder} was prepared without the feature {audio!r}; add it with `{command}`.")
        needed[files.folder] = ".pt"
    if frames:
        needed["visual"] = ""
    present = {name: _names(folder / name) for name in needed}
    missing = [clip for clip in clips if any(clip + needed[name] not in names for name, names in present.items())]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(clips)} clips in {folder / split}.csv are not in"
            f" {' and '.join(f'{folder}/{name}' for name in needed)} ({first_few(missing)}); prepare them with"
            f" `{_command(folder)}` or remove them from the list."
        )


def count_frames(folder: Path, clip: str, frames_folder: str = "visual") -> int:
    """Return the number of frames of a clip.

    Raises:
        InputError: there is none.
    """
    path = Path(folder) / frames_folder / clip
    count = sum(name.startswith("frame_") and name.endswith(".jpg") for name in _names(path))
    if not count:
        raise InputError(f"{path} has no frame; delete the folder and prepare again with `{_command(folder)}`.")
    return count


def read_frame(folder: Path, clip: str, number: int) -> Tensor:
    """Return frame `number` (from 1) of a clip as uint8 (3, H, W), RGB.

    Raises:
        InputError: the file is missing or not a readable JPEG.
    """
    remedy = f"delete its folder and prepare again with `{_command(folder)}`"
    return read_image(frame_path(folder, clip, number), remedy)


def frame_path(folder: Path, clip: str, number: int) -> Path:
    """Path of frame `number` (from 1) of a clip."""
    return Path(folder) / "visual" / clip / f"frame_{number:05d}.jpg"


def read_image(path: Path, remedy: str, mode: ImageReadMode = ImageReadMode.RGB) -> Tensor:
    """Return a JPEG or PNG file as uint8 (3, H, W), RGB, or (1, H, W) if `mode` is GRAY.

    Raises:
        InputError: the file is missing or not readable; the message ends with the remedy.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; {remedy}.")
    try:
        with Image.open(path, formats=["JPEG", "PNG"]) as image:  # reads the header only
            check_pixels(*image.size)
        return decode_image(read_file(str(path)), mode=mode)
    except Exception as error:  # damaged files cause many kinds
        raise InputError(f"{path} is not a readable image; {remedy}.") from error


def read_feature(folder: Path, clip: str, audio: str) -> Tensor:
    """Return the content of a clip's file for an audio feature: the feature, or the waveform (see `check_feature`).

    Raises:
        InputError: the file is missing, damaged, or contains something else.
    """
    files = FEATURE_FILES[audio]
    path = Path(folder) / files.folder / f"{clip}.pt"
    try:
        feature = read_tensors(path, small=True)
    except Exception as error:  # a damaged or malicious file may raise any exception
        raise InputError(
            f"{path} is not a readable tensor file; delete it and prepare again with `{_command(folder)}`."
        ) from error
    check_feature(feature, audio, str(path))
    return feature.detach()


def check_feature(feature: object, audio: str, where: str) -> None:
    """Raise InputError unless `feature` is what the files of the feature `audio` contain.

    This is a floating-point tensor of the feature's shape; for "stft" the waveform, int16 (samples,) at 16 kHz.
    """
    shape = FEATURE_FILES[audio].shape
    expected, content, fits = f"a float32 tensor {shape}", type(feature).__name__, False
    is_waveform = FEATURE_FILES[audio].stored == "waveform"
    if is_waveform:
        expected = "an int16 tensor (samples,)"
    if isinstance(feature, Tensor):
        content = f"{feature.dtype} {tuple(feature.shape)}"
        if feature.layout != torch.strided or feature.device.type == "meta":
            content = f"a sparse or empty {content}"
        elif is_waveform:
            fits = feature.dtype == torch.int16 and feature.dim() == 1 and len(feature) > 0
        else:
            fits = feature.is_floating_point() and feature.shape == shape
    if not fits:
        raise InputError(f"{where} contains {content} instead of {expected}; prepare it again.")


def _sample_rows(path: Path) -> list[list[str]]:
    """The lines of a split's list; raises InputError if there is none."""
    rows = _rows(path)
    if not rows:
        raise InputError(f"{path} lists no sample; prepare the data set again.")
    return rows


def _rows(path: Path) -> list[list[str]]:
    try:
        with open_text(path, newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; prepare the data set with `{_command(path.parent)}`.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8 ({error}); correct it.") from error
    return [row for row in rows if any(row)]


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _command(folder: Path) -> str:
    """The command that prepares a folder."""
    known = Path(folder).name in DATASETS
    name = DATASETS.name(Path(folder).name) if known else _recorded_name(folder)
    raw = "" if name in DATASETS and DATASETS[name].made_here else " --raw DIR"
    return f"python code/prepare.py {name}{raw}{'' if known else f' --out {folder}'}"


def _recorded_name(folder: Path) -> str:
    """The data set that a folder was prepared as; NAME if that is not recorded."""
    try:
        return str(read_json(Path(folder) / "prepared.json")["dataset"])
    except (OSError, ValueError, KeyError, TypeError):
        return "NAME"
