"""Kinetics-Sounds: classes of Kinetics-400 that are seen and heard (Arandjelović and Zisserman, ICCV 2017).

Two class sets and splits are in use: 31 classes with the lists of OGM-GE, and 33 with Kinetics' own split (DGL).
"""

import argparse
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
from mmpareto.errors import InputError, first_few

RAW_PAGE = "https://github.com/cvdfoundation/kinetics-dataset"
SPLIT_PAGE = "https://github.com/GeWu-Lab/OGM-GE_CVPR2022/tree/main/data/KineticSound"

# The split of OGM-GE numbers its classes without naming them. Two digits, so that sorting keeps their order.
CLASSES = tuple(f"{label:02d}" for label in range(31))
LISTS = {"train": "my_train.txt", "test": "my_test.txt"}
SHA256 = {
    "train": "6c0d11f5977ecceb2005c5bdb356ced52cae7c39f9f9eb4137479a4c2e874780",
    "test": "6dec6750836d9b9db1b2ded6fca3348de7766c78513ac55e2ba4a668f7b451bd",
}

# data/KineticSound/class.txt of the released DGL code (shicaiwei123/ICCV2025-GDL), whose loader (dataset/KSDataset.py)
# reads Kinetics-400's folders of these classes and leaves out clips of fewer than three frames.
DGL_CLASSES = (
    *("blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball", "finger snapping"),
    *("laughing", "mowing lawn", "playing accordion", "playing bagpipes", "playing bass guitar", "playing clarinet"),
    *("playing drums", "playing guitar", "playing harmonica", "playing keyboard", "playing organ", "playing piano"),
    *("playing saxophone", "playing trombone", "playing trumpet", "playing violin", "playing xylophone"),
    *("ripping paper", "shoveling snow", "shuffling cards", "singing", "stomping grapes", "tap dancing"),
    *("tapping guitar", "tapping pen", "tickling", "tying tie"),
)
DGL_MIN_FRAMES = 3
PART_FOLDERS = {"train": ("train",), "test": ("val", "validation")}

CLIP = rf"({YOUTUBE_ID})_(\d{{1,6}})(?:_\d{{6}})?"
RAW_NAME = re.compile(CLIP, re.ASCII)
FORM = "<YouTube id>_<start>_<end>.mp4 or <id>_<start>.mp4"
LINE = re.compile(rf"(?P<name>{CLIP}),\d+,(?P<label>\d{{1,9}})", re.ASCII)


class ListedClip(NamedTuple):
    """Name and class of a clip, as in the lists."""

    name: str
    label: str


class KineticsSounds(RawClipDatasetBuilder):
    """Clips of 10 s from YouTube: 17,396 in 31 classes, by the lists of OGM-GE (Peng et al., CVPR 2022).

    With `--classes 33`, the class set and split of DGL (Wei et al., ICCV 2025): all training and validation clips that
    Kinetics-400 has of 33 classes, the latter for testing.
    """

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
        "with one folder per class, the classes, which the lists only number, get the folders' names\n"
        "for --classes 33 (DGL), no lists, but Kinetics-400's folders: train/<class> and val/<class>",
    )

    raw_help = f"folder of Kinetics-400's mp4 files ({RAW_PAGE})"
    split_help = f"folder of my_train.txt and my_test.txt (default: --raw; {SPLIT_PAGE})"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py kinetics_sounds`; their values are passed to `prepare`."""
        super().add_arguments(parser)
        parser.add_argument(
            "--classes",
            type=int,
            choices=(len(CLASSES), len(DGL_CLASSES)),
            default=len(CLASSES),
            help="31, split by OGM-GE's lists (default), or DGL's 33, tested on Kinetics' validation clips",
        )

    @classmethod
    def find(cls, raw: Path, *, seed: int, classes: int = len(CLASSES), split_files: Path | None = None) -> RawContents:
        """Find the clips, each an mp4 file with audio and video, and their split.

        Arguments:
            raw: folder of the mp4 files, at any depth; for 33 classes, of Kinetics-400's folders.
            classes: 31 or 33.
            split_files: folder of my_train.txt and my_test.txt, for 31 classes; default: `raw`.

        Raises:
            InputError: `raw` has no clip of the lists, or the lists are missing or wrong; for 33 classes, a folder is
                missing or empty.
        """
        if classes == len(DGL_CLASSES):
            if split_files is not None:
                raise InputError("--split_files is for --classes 31: the 33 classes are split as Kinetics-400 is.")
            return find_by_folders(raw, cls.title)
        files, skipped = find_files(raw, ".mp4", clip_in, form=FORM, title=cls.title, page=RAW_PAGE)
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


def find_by_folders(raw: Path, title: str) -> RawContents:
    """Find DGL's class set in Kinetics-400's folders: `raw`/train/<class>/*.mp4 and `raw`/val (or validation) likewise.

    Words in the names of class folders are separated by spaces or by underscores. Other classes are ignored.

    Raises:
        InputError: a folder is missing, or has no mp4 file.
    """
    files: dict[YouTubeClip, Path] = {}
    clips: list[RawClip] = []
    names: dict[str, list[str]] = {part: [] for part in PART_FOLDERS}
    skipped: dict[str, dict[str, str]] = {}
    for part, label, folder in _class_folders(raw):
        here, left_out = find_files(folder, ".mp4", clip_in, form=FORM, title=title, page=RAW_PAGE)
        for reason, sentences in left_out.items():
            skipped.setdefault(reason, {}).update(sentences)
        for clip, path in here.items():
            if files.setdefault(clip, path) != path:
                sentence = f"{path} is the same clip as {files[clip]}"
                skipped.setdefault("the same clip again", {})[str(path)] = sentence
                continue
            clips.append(RawClip(path.stem, label, path, path))
            names[part].append(path.stem)
    count = len(DGL_CLASSES)
    sentence = (
        f"Kinetics-400's: its training clips and, for testing, its validation clips of the {count} classes of DGL"
    )
    return RawContents(
        clips,
        Split(names["train"], names["test"], sentence),
        DGL_CLASSES,
        skipped,
        title=f"{title}, {count} classes",
        origin={"classes": count},
        min_frames=DGL_MIN_FRAMES,
    )


def _class_folders(raw: Path) -> list[tuple[str, str, Path]]:
    """Part, class and folder, for every part and every class."""
    listed: list[tuple[str, str, Path]] = []
    if not raw.is_dir():
        raise InputError(f"the raw folder {raw} does not exist; get Kinetics-400 from {RAW_PAGE}.")
    for part, choices in PART_FOLDERS.items():
        parents = (raw, *sorted(path for path in raw.iterdir() if path.is_dir()))
        parent = next((above / name for above in parents for name in choices if (above / name).is_dir()), None)
        if parent is None:
            raise InputError(f"{raw} has no folder {' or '.join(choices)} with Kinetics-400's clips; see {RAW_PAGE}.")
        folders = {path.name.replace("_", " "): path for path in sorted(parent.iterdir()) if path.is_dir()}
        absent = [label for label in DGL_CLASSES if label not in folders]
        if absent:
            raise InputError(
                f"{parent} lacks the folders of {len(absent)} of the {len(DGL_CLASSES)} classes: "
                f"{first_few(absent, len(DGL_CLASSES))}."
            )
        listed += [(part, label, folders[label]) for label in DGL_CLASSES]
    return listed


def class_names(clips: Iterable[RawClip]) -> dict[str, str]:
    """Label → name of the folder of its clips, if every label has a folder of its own; else {}."""
    folders: dict[str, set[str]] = {}
    for clip in clips:
        folders.setdefault(clip.label, set()).add(clip.video_path.parent.name.replace("_", " "))
    names = {label: min(candidates) for label, candidates in sorted(folders.items()) if len(candidates) == 1}
    distinct = len(set(names.values())) == len(names) == len(folders)
    return names if distinct and len(names) > 1 else {}  # the folder of a single label may be that of all clips
