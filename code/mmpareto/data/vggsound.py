"""VGGSound: sounds whose source is seen (Chen et al., ICASSP 2020)."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mmpareto.data.clip_dataset_builder import Found, RawClipDatasetBuilder
from mmpareto.data.dataset_builder import DownloadInfo
from mmpareto.data.preparation.clip_preparation import RawClip
from mmpareto.data.preparation.splits import Split, checksum
from mmpareto.data.raw.raw_files import by_key, files_below, holding
from mmpareto.errors import InputError

PAGE = "https://www.robots.ox.ac.uk/~vgg/data/vggsound/"
LIST = "vggsound.csv"
CLASSES = 309  # of the whole list
SECONDS = 10  # that a clip lasts

VIDEO = r"[\w-]{11}"  # a YouTube id; "-" and "_" may stand anywhere in it
RAW_NAME = re.compile(rf"({VIDEO})_(\d{{1,9}})(?:_(\d{{1,9}}))?", re.ASCII)


class Key(NamedTuple):
    """What tells clips apart."""

    video: str
    start: int


class VGGSound(RawClipDatasetBuilder):
    """About 200,000 clips of 10 s from YouTube in 309 classes."""

    name = "vggsound"
    title = "VGGSound"
    download = DownloadInfo(
        size="about 200,000 clips of 10 s, 309 classes, less what YouTube has lost; some 330 GB of mp4",
        terms="CC BY 4.0; the videos belong to those who made them",
        page=PAGE,
        raw=f"{LIST}, there or where --split_files says\n"
        "in any folders, clips cut from the videos: <YouTube id>_<start>.mp4 or <id>_<start>_<end>.mp4 in seconds,\n"
        "with leading zeros or without, or <id>_<start>_<end>.mp4 in milliseconds; not whole videos (<id>.mp4)",
    )

    raw_help = f"folder of the mp4 files and {LIST} ({PAGE})"
    split_help = f"folder of {LIST}, if it is not in --raw itself"

    @classmethod
    def find(cls, raw: Path, *, seed: int, split_files: Path | None = None) -> Found:
        """The clips, sound and pictures in the same file, and their split.

        Arguments:
            raw: the folder of mp4 files, at any depth.
            split_files: folder of vggsound.csv; by default it is looked for in `raw`.

        Raises:
            InputError: `raw` holds no clip of the list, or the list is absent or wrong.
        """
        files, left_out = by_key(
            files_below(raw, ".mp4", cls.title, PAGE),
            raw_key,
            f"<YouTube id>_<start>.mp4 or <id>_<start>_<end>.mp4 with {SECONDS} s between the two",
        )
        labels, split = read_list(split_files or raw)
        if not files.keys() & labels.keys():
            raise InputError(f"{raw} holds no clip of {LIST}, but {len(files)} others; see {PAGE}.")
        clips = [RawClip(clip_name(key), labels.get(key, ""), path, path) for key, path in files.items()]
        return Found(clips, split, sorted(set(labels.values())), left_out)


def raw_key(name: str) -> Key | None:
    """The clip that a raw file holds, by its name without ".mp4"; None where it does not say.

    Where start and end are there, their distance tells seconds from milliseconds.
    """
    form = RAW_NAME.fullmatch(name)
    if form is None:
        return None
    start = int(form[2])
    if form[3] is None or int(form[3]) - start == SECONDS:
        return Key(form[1], start)
    whole = int(form[3]) - start == 1000 * SECONDS and start % 1000 == 0
    return Key(form[1], start // 1000) if whole else None


def clip_name(key: Key) -> str:
    """What a clip's prepared files are called."""
    return f"{key.video}_{key.start:06d}"


def read_list(folder: Path) -> tuple[dict[Key, str], Split]:
    """Read vggsound.csv: clip → label, and the split; a label with a comma in it stands in quotation marks.

    Raises:
        InputError: it is absent, a line is not of the form, or a clip is there a second time with another label or in
            the other part.
    """
    path = folder / LIST
    if holding([folder], [LIST]) is None:
        raise InputError(f"{folder} does not hold {LIST}; give --split_files the folder that does. See {PAGE}.")
    labels: dict[Key, str] = {}
    part_of: dict[Key, str] = {}
    for number, row in _rows(path):
        place = f"{path}, line {number}"
        if len(row) != 4 or not re.fullmatch(VIDEO, row[0], re.ASCII) or not row[1].isdecimal() or not row[2]:
            raise InputError(f"{place}: {','.join(row)[:80]!r} is not `YouTube id,start seconds,label,train or test`.")
        if row[3] not in ("train", "test"):
            raise InputError(f"{place}: the last entry is {row[3]!r}, not train or test.")
        key = Key(row[0], int(row[1]))
        if labels.setdefault(key, row[2]) != row[2] or part_of.setdefault(key, row[3]) != row[3]:
            raise InputError(f"{place}: {clip_name(key)} was {labels[key]} in {part_of[key]} further up.")
    train, test = ([clip_name(key) for key in labels if part_of[key] == part] for part in ("train", "test"))
    found = len(set(labels.values()))
    check = f"{path}: {len(labels)} clips, SHA-256 {checksum(path)}, " + (
        f"{found} classes" if found == CLASSES else f"{found} classes where the whole list has {CLASSES}"
    )
    return labels, Split(train, test, f"that of {path}", checks=[check])


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if any(row):
                    yield reader.line_num, [cell.strip() for cell in row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8 ({error}); see {PAGE}.") from None
