"""AVE: audio-visual events (Tian et al., ECCV 2018)."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mmpareto.data.clip_dataset_builder import RawClipDatasetBuilder, RawContents
from mmpareto.data.dataset_builder import DownloadInfo
from mmpareto.data.preparation.clip_preparation import RawClip
from mmpareto.data.preparation.splits import Split
from mmpareto.data.raw.raw_files import YOUTUBE_ID, check_listed, find_files, first_folder_with, read_lines
from mmpareto.errors import InputError

PAGE = "https://github.com/YapengTian/AVE-ECCV18"
LISTS = {"train": "trainSet.txt", "valid": "valSet.txt", "test": "testSet.txt"}
HEADER = "Category&VideoID&Quality&StartTime&EndTime"
VIDEO = re.compile(YOUTUBE_ID, re.ASCII)
ANNOTATIONS, CLASSES = 4143, 28  # of the published lists


class Annotation(NamedTuple):
    """An event in a video. Videos are classified as a whole, so its times are not kept."""

    name: str
    label: str
    video: str


class AVE(RawClipDatasetBuilder):
    """4,143 events in 4,097 videos of 10 s from YouTube, 28 classes.

    A sample is an event: a video with two events is two samples with the same content, as in the published lists.
    """

    name = "ave"
    title = "AVE"
    download = DownloadInfo(
        size="4,143 events in 4,097 videos of 10 s, 28 classes; published lists for training, validation and testing",
        terms="see its page; the videos are YouTube's, from AudioSet",
        page=PAGE,
        raw="AVE_Dataset as distributed: trainSet.txt, valSet.txt, testSet.txt, AVE/<YouTube id>.mp4",
    )

    raw_help = f"the folder AVE_Dataset, or the one that contains it ({PAGE})"

    @classmethod
    def find(cls, raw: Path, *, seed: int) -> RawContents:
        """Find the videos, each an mp4 file with audio, and read the events in them and their split.

        Arguments:
            raw: the folder with the lists and the videos, or the one that contains it.

        Raises:
            InputError: `raw` has no video of the lists, or the lists are missing or wrong.
        """
        files, skipped = find_files(raw, ".mp4", video_in, form="<YouTube id>.mp4", title=cls.title, page=PAGE)
        folder = first_folder_with([raw, *sorted(path for path in raw.iterdir() if path.is_dir())], [*LISTS.values()])
        if folder is None:
            raise InputError(f"{raw} does not have trainSet.txt, valSet.txt and testSet.txt; see {PAGE}.")
        annotations, split = read_lists(folder)
        listed = {annotation.video for annotation in annotations}
        check_listed(files, listed, raw, cls.title, PAGE)
        clips = [RawClip(a.name, a.label, files[a.video], files[a.video]) for a in annotations if a.video in files]
        clips += [RawClip(video, "", files[video], files[video]) for video in files.keys() - listed]
        return RawContents(clips, split, sorted({annotation.label for annotation in annotations}), skipped)


def video_in(name: str) -> str | None:
    """The video in a raw file, from its name without ".mp4"; None if the name is not of the form."""
    return name if VIDEO.fullmatch(name) else None


def read_lists(folder: Path) -> tuple[list[Annotation], Split]:
    """Read the three lists: one event per line, below an optional header `Category&VideoID&Quality&StartTime&EndTime`.

    A sample has the name of its video; that of a second event in the same video ends with ".2", and so on.

    Raises:
        InputError: a line is not of the form.
    """
    annotations: list[Annotation] = []
    events: Counter[str] = Counter()
    names: dict[str, list[str]] = {part: [] for part in LISTS}
    parts_of: dict[str, set[str]] = {}
    for part, file in LISTS.items():
        for number, line in read_lines(folder / file):
            fields = [field.strip() for field in line.rsplit("&", 4)]
            if number == 1 and line == HEADER:
                continue
            if len(fields) != 5 or not fields[0] or not VIDEO.fullmatch(fields[1]):
                raise InputError(f"{folder / file}, line {number}: {line[:80]!r} is not `{HEADER}`.")
            label, video = fields[:2]
            events[video] += 1
            name = video if events[video] == 1 else f"{video}.{events[video]}"
            annotations.append(Annotation(name, label, video))
            names[part].append(name)
            parts_of.setdefault(video, set()).add(part)
    classes = len({annotation.label for annotation in annotations})
    checks = [f"{folder}: {len(annotations)} events, {classes} classes"]
    if (len(annotations), classes) != (ANNOTATIONS, CLASSES):
        checks[0] += f", but the published lists have {ANNOTATIONS} and {CLASSES}"
    several = sum(count > 1 for count in events.values())
    in_two_parts = sum(len(parts) > 1 for parts in parts_of.values())
    if several:
        checks.append(
            f"{several} videos have several events, each of which is a sample; those of {in_two_parts} videos are in "
            "more than one list"
        )
    sentence = f"that of trainSet.txt, valSet.txt and testSet.txt in {folder}"
    return annotations, Split(names["train"], names["test"], sentence, checks=checks, valid=names["valid"])
