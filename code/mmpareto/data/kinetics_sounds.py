"""Kinetics-Sounds: 31 classes of Kinetics-400 that are seen and heard (Arandjelović and Zisserman, ICCV 2017)."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mmpareto.data.clip_dataset_builder import Found, RawClipDatasetBuilder
from mmpareto.data.dataset_builder import DownloadInfo
from mmpareto.data.preparation.clip_preparation import RawClip
from mmpareto.data.preparation.splits import Split, against_published
from mmpareto.data.raw.raw_files import by_key, files_below, holding, read_lines
from mmpareto.errors import InputError

RAW_PAGE = "https://github.com/cvdfoundation/kinetics-dataset"
SPLIT_PAGE = "https://github.com/GeWu-Lab/OGM-GE_CVPR2022/tree/main/data/KineticSound"

# The split of OGM-GE gives its labels no names. Two digits, so that sorting keeps their order.
CLASSES = tuple(f"{label:02d}" for label in range(31))
LISTS = {"train": "my_train.txt", "test": "my_test.txt"}
SHA256 = {
    "train": "6c0d11f5977ecceb2005c5bdb356ced52cae7c39f9f9eb4137479a4c2e874780",
    "test": "6dec6750836d9b9db1b2ded6fca3348de7766c78513ac55e2ba4a668f7b451bd",
}

# A YouTube id has 11 characters, "-" and "_" among them, and may begin with either.
CLIP = r"([\w-]{11})_(\d{1,6})(?:_\d{6})?"
RAW_NAME = re.compile(CLIP, re.ASCII)
LINE = re.compile(rf"(?P<name>{CLIP}),\d+,(?P<label>\d+)", re.ASCII)


class Key(NamedTuple):
    """What tells clips apart: Kinetics has one clip of a video, but lists and files disagree on how to write it."""

    video: str
    start: int


class Listed(NamedTuple):
    """A line of a list."""

    name: str
    label: str


class KineticsSounds(RawClipDatasetBuilder):
    """17,396 clips of 10 s from YouTube in 31 classes, by the lists of OGM-GE (Peng et al., CVPR 2022)."""

    name = "kinetics_sounds"
    title = "Kinetics-Sounds"
    download = DownloadInfo(
        size="17,396 clips of 10 s, 31 classes; 14,799 for training, 2,597 for testing, less what YouTube has lost",
        terms="Kinetics: CC BY 4.0; the videos belong to those who made them",
        page=f"{RAW_PAGE}; my_train.txt and my_test.txt: {SPLIT_PAGE}",
        raw="in any folders, clips cut from Kinetics-400's videos: <YouTube id>_<start>_<end>.mp4 (seconds, in six\n"
        "digits) or <id>_<start>.mp4; clips of other classes may be among them, whole videos (<id>.mp4) not\n"
        "my_train.txt and my_test.txt, there or where --split_files says\n"
        "a folder for each class gives the labels, which the lists only number, their names",
    )

    raw_help = f"folder of Kinetics-400's mp4 files ({RAW_PAGE})"
    split_help = f"folder of my_train.txt and my_test.txt (default: --raw; {SPLIT_PAGE})"

    @classmethod
    def find(cls, raw: Path, *, seed: int, split_files: Path | None = None) -> Found:
        """The clips, sound and pictures in the same file, and their split.

        Arguments:
            raw: the folder of mp4 files, at any depth.
            split_files: folder of my_train.txt and my_test.txt; by default they are looked for in `raw`.

        Raises:
            InputError: `raw` holds no clip of the lists, or the lists are absent or wrong.
        """
        files, left_out = by_key(
            files_below(raw, ".mp4", cls.title, RAW_PAGE), raw_key, "<YouTube id>_<start>_<end>.mp4 or <id>_<start>.mp4"
        )
        listed, split = read_lists(split_files or raw)
        clips = [RawClip(*listed.get(key, Listed(path.stem, "")), path, path) for key, path in files.items()]
        of_the_lists = [clip for clip in clips if clip.label]
        if not of_the_lists:
            raise InputError(f"{raw} holds no clip of {cls.title}'s lists, but {len(clips)} others; see {RAW_PAGE}.")
        names = dict(class_names(of_the_lists))
        return Found(clips, split, CLASSES, left_out, {"names": names} if names else {})


def raw_key(name: str) -> Key | None:
    """The clip that a raw file holds, by its name without ".mp4"; None where it does not say."""
    form = RAW_NAME.fullmatch(name)
    return Key(form[1], int(form[2])) if form else None


def read_lists(folder: Path) -> tuple[dict[Key, Listed], Split]:
    """Read my_train.txt (`<id>_<start>_<end>,10,<label>`) and my_test.txt (`<id>_<start>,10,<label>`).

    Raises:
        InputError: one is absent, a line is not of the form, its label is not 0–30, or its clip is listed before.
    """
    if holding([folder], [*LISTS.values()]) is None:
        raise InputError(
            f"{folder} does not hold my_train.txt and my_test.txt; give --split_files a folder with the two from "
            f"{SPLIT_PAGE}."
        )
    listed: dict[Key, Listed] = {}
    where: dict[Key, str] = {}
    names: dict[str, list[str]] = {part: [] for part in LISTS}
    checks, same = [], []
    for part, file in LISTS.items():
        for number, line in read_lines(folder / file):
            place = f"{folder / file}, line {number}"
            form = LINE.fullmatch(line)
            if form is None:
                raise InputError(f"{place}: {line[:60]!r} is not `<id>_<start>_<end>,10,<label>` or without the end.")
            if int(form["label"]) >= len(CLASSES):
                raise InputError(f"{place}: the label {form['label']} is not one of 0 to {len(CLASSES) - 1}.")
            key = Key(form[2], int(form[3]))
            if key in listed:
                raise InputError(f"{place}: the clip {form['name']} is already in {where[key]}.")
            listed[key], where[key] = Listed(form["name"], CLASSES[int(form["label"])]), place
            names[part].append(form["name"])
        check, official = against_published(folder / file, len(names[part]), SHA256[part])
        checks.append(check)
        same.append(official)
    sentence = "official split"
    if not all(same):
        sentence = f"the split of {folder}/my_train.txt and my_test.txt, whose checksums are not the official ones"
    return listed, Split(names["train"], names["test"], sentence, all(same), checks)


def class_names(clips: Iterable[RawClip]) -> dict[str, str]:
    """Label → the folder that the clips of that label lie in, where every label has one of its own; else {}."""
    folders: dict[str, set[str]] = {}
    for clip in clips:
        folders.setdefault(clip.label, set()).add(clip.video_path.parent.name.replace("_", " "))
    names = {label: min(found) for label, found in sorted(folders.items()) if len(found) == 1}
    distinct = len(set(names.values())) == len(names) == len(folders)
    return names if distinct and len(names) > 1 else {}  # one label alone: its folder may be the one of all clips
