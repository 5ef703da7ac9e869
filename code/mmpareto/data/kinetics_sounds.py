"""Kinetics-Sounds: 31 classes of Kinetics-400 that are seen and heard (Arandjelović and Zisserman, ICCV 2017)."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mmpareto.data.clip_dataset_builder import RawClipDatasetBuilder, RawContents
from mmpareto.data.dataset_builder import DownloadInfo
from mmpareto.data.preparation.clip_preparation import RawClip
from mmpareto.data.preparation.splits import Split, compare_with_published
from mmpareto.data.raw.raw_files import (
    YOUTUBE_ID,
    YouTubeClip,
    check_listed,
    find_files,
    first_folder_with,
    read_lines,
)
from mmpareto.errors import InputError

RAW_PAGE = "https://github.com/cvdfoundation/kinetics-dataset"
SPLIT_PAGE = "https://github.com/GeWu-Lab/OGM-GE_CVPR2022/tree/main/data/KineticSound"

# The split of OGM-GE numbers its classes without naming them. Two digits, so that sorting keeps their order.
CLASSES = tuple(f"{label:02d}" for label in range(31))
LISTS = {"train": "my_train.txt", "test": "my_test.txt"}
SHA256 = {
    "train": "6c0d11f5977ecceb2005c5bdb356ced52cae7c39f9f9eb4137479a4c2e874780",
    "test": "6dec6750836d9b9db1b2ded6fca3348de7766c78513ac55e2ba4a668f7b451bd",
}

CLIP = rf"({YOUTUBE_ID})_(\d{{1,6}})(?:_\d{{6}})?"
RAW_NAME = re.compile(CLIP, re.ASCII)
LINE = re.compile(rf"(?P<name>{CLIP}),\d+,(?P<label>\d+)", re.ASCII)


class ListedClip(NamedTuple):
    """Name and class of a clip, as in the lists."""

    name: str
    label: str


class KineticsSounds(RawClipDatasetBuilder):
    """17,396 clips of 10 s from YouTube in 31 classes, by the lists of OGM-GE (Peng et al., CVPR 2022)."""

    name = "kinetics_sounds"
    title = "Kinetics-Sounds"
    loses_samples = True  # videos disappear from YouTube
    download = DownloadInfo(
        size="17,396 clips of 10 s, 31 classes; 14,799 for training, 2,597 for testing, less those that YouTube lost",
        terms="Kinetics: CC BY 4.0; the videos belong to their authors",
        page=f"{RAW_PAGE}; my_train.txt and my_test.txt: {SPLIT_PAGE}",
        raw="in any folders, clips cut from Kinetics-400's videos: <YouTube id>_<start>_<end>.mp4 (seconds, in six\n"
        "digits) or <id>_<start>.mp4; clips of other classes are ignored; whole videos (<id>.mp4) cannot be used\n"
        "my_train.txt and my_test.txt, there or in the folder --split_files\n"
        "with one folder per class, the classes, which the lists only number, get the folders' names",
    )

    raw_help = f"folder of Kinetics-400's mp4 files ({RAW_PAGE})"
    split_help = f"folder of my_train.txt and my_test.txt (default: --raw; {SPLIT_PAGE})"

    @classmethod
    def find(cls, raw: Path, *, seed: int, split_files: Path | None = None) -> RawContents:
        """Find the clips, each an mp4 file with audio and video, and read their split.

        Arguments:
            raw: folder of the mp4 files, at any depth.
            split_files: folder of my_train.txt and my_test.txt; default: `raw`.

        Raises:
            InputError: `raw` has no clip of the lists, or the lists are missing or wrong.
        """
        form = "<YouTube id>_<start>_<end>.mp4 or <id>_<start>.mp4"
        files, skipped = find_files(raw, ".mp4", clip_in, form=form, title=cls.title, page=RAW_PAGE)
        listed, split = read_lists(split_files or raw)
        check_listed(files, listed, raw, cls.title, RAW_PAGE)
        clips = [RawClip(*listed.get(key, ListedClip(path.stem, "")), path, path) for key, path in files.items()]
        names = class_names(clip for clip in clips if clip.label)
        return RawContents(clips, split, CLASSES, skipped, {"names": names} if names else {})


def clip_in(name: str) -> YouTubeClip | None:
    """The clip in a raw file, from its name without ".mp4"; None if the name is not of the form."""
    match = RAW_NAME.fullmatch(name)
    return YouTubeClip(match[1], int(match[2])) if match else None


def read_lists(folder: Path) -> tuple[dict[YouTubeClip, ListedClip], Split]:
    """Read my_train.txt (`<id>_<start>_<end>,10,<label>`) and my_test.txt (`<id>_<start>,10,<label>`).

    Raises:
        InputError: one is missing, a line is not of the form, its label is not in 0–30, or its clip is listed twice.
    """
    if first_folder_with([folder], [*LISTS.values()]) is None:
        raise InputError(
            f"{folder} does not have my_train.txt and my_test.txt; download the two from {SPLIT_PAGE} and pass their "
            "folder as --split_files."
        )
    listed: dict[YouTubeClip, ListedClip] = {}
    positions: dict[YouTubeClip, str] = {}
    names: dict[str, list[str]] = {part: [] for part in LISTS}
    checks, matches = [], []
    for part, file in LISTS.items():
        for number, line in read_lines(folder / file):
            position = f"{folder / file}, line {number}"
            fields = LINE.fullmatch(line)
            if fields is None:
                raise InputError(f"{position}: {line[:60]!r} is not `<id>_<start>_<end>,10,<label>` (or without end).")
            if int(fields["label"]) >= len(CLASSES):
                raise InputError(f"{position}: the label {fields['label']} is not one of 0 to {len(CLASSES) - 1}.")
            clip = YouTubeClip(fields[2], int(fields[3]))
            if clip in listed:
                raise InputError(f"{position}: the clip {fields['name']} is already in {positions[clip]}.")
            listed[clip], positions[clip] = ListedClip(fields["name"], CLASSES[int(fields["label"])]), position
            names[part].append(fields["name"])
        check, is_published = compare_with_published(folder / file, len(names[part]), SHA256[part])
        checks.append(check)
        matches.append(is_published)
    sentence = "official split"
    if not all(matches):
        sentence = f"the split of {folder}/my_train.txt and my_test.txt, whose checksums are not the official ones"
    return listed, Split(names["train"], names["test"], sentence, all(matches), checks)


def class_names(clips: Iterable[RawClip]) -> dict[str, str]:
    """Label → name of the folder of its clips, if every label has a folder of its own; else {}."""
    folders: dict[str, set[str]] = {}
    for clip in clips:
        folders.setdefault(clip.label, set()).add(clip.video_path.parent.name.replace("_", " "))
    names = {label: min(candidates) for label, candidates in sorted(folders.items()) if len(candidates) == 1}
    distinct = len(set(names.values())) == len(names) == len(folders)
    return names if distinct and len(names) > 1 else {}  # the folder of a single label may be that of all clips
