"""AVE: events that are heard and seen (Tian et al., ECCV 2018)."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mmpareto.data.clip_dataset_builder import Found, RawClipDatasetBuilder
from mmpareto.data.dataset_builder import DownloadInfo
from mmpareto.data.preparation.clip_preparation import RawClip
from mmpareto.data.preparation.splits import Split
from mmpareto.data.raw.raw_files import by_key, files_below, holding, read_lines
from mmpareto.errors import InputError

PAGE = "https://github.com/YapengTian/AVE-ECCV18"
LISTS = {"train": "trainSet.txt", "valid": "valSet.txt", "test": "testSet.txt"}
HEADER = "Category&VideoID&Quality&StartTime&EndTime"
VIDEO = re.compile(r"[\w-]{11}", re.ASCII)  # a YouTube id; "-" and "_" may stand anywhere in it
ANNOTATIONS, CLASSES = 4143, 28  # of the published lists


class Annotation(NamedTuple):
    """An event of a video. Videos are classified whole, so its times are not kept."""

    name: str
    label: str
    video: str


class AVE(RawClipDatasetBuilder):
    """4,143 events in 4,097 videos of 10 s from YouTube, 28 classes.

    A sample is an event: a video with two events is two samples of the same content, as in the published lists.
    """

    name = "ave"
    title = "AVE"
    download = DownloadInfo(
        size="4,143 events in 4,097 videos of 10 s, 28 classes; published lists for training, validation and testing",
        terms="see its page; the videos are YouTube's, from AudioSet",
        page=PAGE,
        raw="AVE_Dataset as it was packed: trainSet.txt, valSet.txt, testSet.txt, AVE/<YouTube id>.mp4",
    )

    raw_help = f"the folder AVE_Dataset, or one above it ({PAGE})"

    @classmethod
    def find(cls, raw: Path, *, seed: int) -> Found:
        """The events, sound and pictures in the same file, and their split.

        Arguments:
            raw: the folder with the lists and the videos, or one above it.

        Raises:
            InputError: `raw` holds no video of the lists, or they are absent or wrong.
        """
        videos, left_out = by_key(files_below(raw, ".mp4", cls.title, PAGE), raw_key, "<YouTube id>.mp4")
        folder = holding([raw, *sorted(path for path in raw.iterdir() if path.is_dir())], [*LISTS.values()])
        if folder is None:
            raise InputError(f"{raw} does not hold trainSet.txt, valSet.txt and testSet.txt; see {PAGE}.")
        annotations, split = read_lists(folder)
        clips = [RawClip(a.name, a.label, videos[a.video], videos[a.video]) for a in annotations if a.video in videos]
        if not clips:
            raise InputError(f"{raw} holds no video of {cls.title}'s lists, but {len(videos)} others; see {PAGE}.")
        others = videos.keys() - {annotation.video for annotation in annotations}
        clips += [RawClip(video, "", videos[video], videos[video]) for video in others]
        return Found(clips, split, sorted({annotation.label for annotation in annotations}), left_out)


def raw_key(name: str) -> str | None:
    """The video that a raw file holds, by its name without ".mp4"; None where it does not say."""
    return name if VIDEO.fullmatch(name) else None


def read_lists(folder: Path) -> tuple[list[Annotation], Split]:
    """Read the three lists: `Category&VideoID&Quality&StartTime&EndTime` a line, that header or none above them.

    A sample is called by its video; a second event of the same video gets ".2" added, and so on.

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
    several = sum(count > 1 for count in events.values())
    torn = sum(len(parts) > 1 for parts in parts_of.values())
    checks = [f"{folder}: {len(annotations)} events, {len({a.label for a in annotations})} classes"]
    if len(annotations) != ANNOTATIONS or len({a.label for a in annotations}) != CLASSES:
        checks[0] += f", where the published lists have {ANNOTATIONS} and {CLASSES}"
    if several:
        checks.append(f"{several} videos have several events, a sample each; those of {torn} are in more than one list")
    sentence = f"that of trainSet.txt, valSet.txt and testSet.txt in {folder}"
    return annotations, Split(names["train"], names["test"], sentence, checks=checks, valid=names["valid"])
