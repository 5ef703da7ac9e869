"""VGGSound: sounds whose source is seen (Chen et al., ICASSP 2020)."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from mmpareto.data.clip_dataset_builder import RawClipDatasetBuilder, RawContents
from mmpareto.data.dataset_builder import DownloadInfo
from mmpareto.data.preparation.clip_preparation import RawClip
from mmpareto.data.preparation.splits import Split, checksum
from mmpareto.data.raw.raw_files import YOUTUBE_ID, YouTubeClip, check_listed, find_files, first_folder_with
from mmpareto.errors import InputError
from mmpareto.files import open_text

PAGE = "https://www.robots.ox.ac.uk/~vgg/data/vggsound/"
LIST = "vggsound.csv"
CLASSES = 309  # of the whole list
SECONDS = 10  # duration of a clip

IDENTITY = re.compile(rf"{YOUTUBE_ID},\d{{1,9}}", re.ASCII)  # of a clip in the list
RAW_NAME = re.compile(rf"({YOUTUBE_ID})_(\d{{1,9}})(?:_(\d{{1,9}}))?", re.ASCII)


class VGGSound(RawClipDatasetBuilder):
    """About 200,000 clips of 10 s from YouTube in 309 classes."""

    name = "vggsound"
    title = "VGGSound"
    loses_samples = True  # videos disappear from YouTube
    download = DownloadInfo(
        size="about 200,000 clips of 10 s, 309 classes, less those that YouTube lost; some 330 GB of mp4",
        terms="CC BY 4.0; the videos belong to their authors",
        page=PAGE,
        raw=f"{LIST}, there or in the folder --split_files\n"
        "in any folders, clips cut from the videos: <YouTube id>_<start>.mp4 or <id>_<start>_<end>.mp4 in seconds,\n"
        "with or without leading zeros, or <id>_<start>_<end>.mp4 in milliseconds; not whole videos (<id>.mp4)",
    )

    raw_help = f"folder of the mp4 files and {LIST} ({PAGE})"
    split_help = f"folder of {LIST} (default: --raw)"

    @classmethod
    def find(cls, raw: Path, *, seed: int, split_files: Path | None = None) -> RawContents:
        """Find the clips, each an mp4 file with audio and video, and read their split.

        Arguments:
            raw: folder of the mp4 files, at any depth.
            split_files: folder of vggsound.csv; default: `raw`.

        Raises:
            InputError: `raw` has no clip of the list, or the list is missing or wrong.
        """
        form = f"<YouTube id>_<start>.mp4 or <id>_<start>_<end>.mp4 with {SECONDS} s between the two"
        files, skipped = find_files(raw, ".mp4", clip_in, form=form, title=cls.title, page=PAGE)
        labels, split = read_list(split_files or raw)
        check_listed(files, labels, raw, cls.title, PAGE)
        clips = [RawClip(str(clip), labels.get(clip, ""), path, path) for clip, path in files.items()]
        return RawContents(clips, split, sorted(set(labels.values())), skipped)


def clip_in(name: str) -> YouTubeClip | None:
    """The clip in a raw file, from its name without ".mp4"; None if the name is not of the form.

    If it has a start and an end, their difference tells seconds from milliseconds.
    """
    match = RAW_NAME.fullmatch(name)
    if match is None:
        return None
    start = int(match[2])
    if match[3] is None or int(match[3]) - start == SECONDS:
        return YouTubeClip(match[1], start)
    in_milliseconds = int(match[3]) - start == 1000 * SECONDS and start % 1000 == 0
    return YouTubeClip(match[1], start // 1000) if in_milliseconds else None


def read_list(folder: Path) -> tuple[dict[YouTubeClip, str], Split]:
    """Read vggsound.csv: clip → class, and the split. A class with a comma in its name is in quotation marks.

    Raises:
        InputError: it is missing, a line is not of the form, or a clip occurs again with another class or in the other
            part.
    """
    path = folder / LIST
    if first_folder_with([folder], [LIST]) is None:
        raise InputError(f"{folder} does not have {LIST}; pass the folder that does as --split_files. See {PAGE}.")
    labels: dict[YouTubeClip, str] = {}
    parts: dict[YouTubeClip, str] = {}
    for number, row in _rows(path):
        position = f"{path}, line {number}"
        if len(row) != 4 or not IDENTITY.fullmatch(",".join(row[:2])) or not row[2]:
            line = ",".join(row)[:80]
            raise InputError(f"{position}: {line!r} is not `YouTube id,start seconds,label,train or test`.")
        if row[3] not in ("train", "test"):
            raise InputError(f"{position}: the last entry is {row[3][:20]!r}, not train or test.")
        clip = YouTubeClip(row[0], int(row[1]))
        if labels.setdefault(clip, row[2]) != row[2] or parts.setdefault(clip, row[3]) != row[3]:
            raise InputError(f"{position}: {clip} was {labels[clip][:60]!r} in {parts[clip]} further up.")
    train, test = ([str(clip) for clip in labels if parts[clip] == part] for part in ("train", "test"))
    count = len(set(labels.values()))
    check = f"{path}: {len(labels)} clips, SHA-256 {checksum(path)}, {count} classes"
    if count != CLASSES:
        check += f", but the whole list has {CLASSES}"
    return labels, Split(train, test, f"that of {path}", checks=[check])


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with open_text(path, newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if any(row):
                    yield reader.line_num, [cell.strip() for cell in row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8 ({error}); see {PAGE}.") from None
