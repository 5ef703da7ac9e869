"""CREMA-D: acted emotions, a voice and a face (Cao et al., IEEE Transactions on Affective Computing 2014)."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmpareto.data.clip_dataset_builder import Found, RawClipDatasetBuilder
from mmpareto.data.dataset_builder import DownloadInfo
from mmpareto.data.preparation.clip_preparation import RawClip
from mmpareto.data.preparation.splits import (
    PublishedFile,
    Split,
    has_split_files,
    published_split,
    random_split,
    speaker_split,
)
from mmpareto.errors import InputError

CLASSES = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
AUDIO_FOLDER, VIDEO_FOLDER = "AudioWAV", "VideoFlash"
RAW_PAGE = "https://github.com/CheyneyComputerScience/CREMA-D"
SPLIT_PAGE = "https://github.com/GeWu-Lab/OGM-GE_CVPR2022/tree/main/data/CREMAD"

# The level is X in a few names of the real set (1040_ITH_SAD_X).
NAME = re.compile(rf"(10(?:0[1-9]|[1-8]\d|9[01]))_[A-Z]{{3}}_({'|'.join(CLASSES)})_(?:LO|MD|HI|XX|X)")

# data/CREMAD/{train,test}.csv of the OGM-GE repository, the split of MMPareto, OGM-GE and those after them.
OFFICIAL_SPLIT = {
    "train": PublishedFile(
        "7b95d291b847eac9c1447bb9fb63b47176d182987ac74fe041e4dd493c6d0abd",
        {"ANG": 1166, "DIS": 1142, "FEA": 1138, "HAP": 1148, "NEU": 973, "SAD": 1131},
    ),
    "test": PublishedFile(
        "959a667af66a01dc439b12d6ec9dc57b36a88e947f48ad63531a4b91f769394f",
        {"ANG": 105, "DIS": 129, "FEA": 133, "HAP": 123, "NEU": 114, "SAD": 140},
    ),
}
SPLITS = ("official", "random", "speaker")


class CREMAD(RawClipDatasetBuilder):
    """7,442 clips of 91 actors who say one of 12 sentences in one of six emotions."""

    name = "cremad"
    title = "CREMA-D"
    download = DownloadInfo(
        size="7,442 clips of about 2.5 s, 91 actors, six emotions; 6,698 for training, 744 for testing",
        terms="Open Database License; its contents under the Database Contents License",
        page=f"{RAW_PAGE} (Git LFS); the split's train.csv and test.csv: {SPLIT_PAGE}",
        raw="AudioWAV/<clip>.wav and VideoFlash/<clip>.flv",
    )
    synthetic = False
    classes = CLASSES

    raw_help = f"folder that holds {AUDIO_FOLDER} and {VIDEO_FOLDER} ({RAW_PAGE})"
    split_help = f"folder that holds train.csv and test.csv ({SPLIT_PAGE})"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """The options of `prepare.py cremad`; their values are the arguments of `prepare`."""
        super().add_arguments(parser)
        parser.add_argument(
            "--split",
            choices=SPLITS,
            default="official",
            help="official (random where its files are absent), random, or speaker-disjoint (default: %(default)s)",
        )

    @classmethod
    def find(cls, raw: Path, *, seed: int, split: str = "official", split_files: Path | None = None) -> Found:
        """The clips and their split.

        Arguments:
            raw: the folder with AudioWAV and VideoFlash, one above it, or one of the two.
            seed: of a split that is not official.
            split: "official", "random" or "speaker". The official split needs its files; without them the split is
                random, and says so.
            split_files: folder of train.csv and test.csv; by default they are looked for in `raw`.

        Raises:
            InputError: `raw` holds no clip, or the split files are wrong.
        """
        try:
            folder = _raw_folder(raw, cls.title)
            clips, left_out, found = scan(folder)
        except OSError as error:
            raise InputError(f"the raw folder {error.filename} cannot be read: {error.strerror}.") from error
        if not found:
            raise InputError(f"{folder / AUDIO_FOLDER} and {VIDEO_FOLDER} hold no clip of {cls.title}; see {RAW_PAGE}.")
        return Found(clips, _split(clips, split, split_files, [raw, folder], seed), CLASSES, left_out)


def scan(folder: Path) -> tuple[list[RawClip], dict[str, dict[str, str]], int]:
    """List the clips of `folder`/AudioWAV/*.wav and `folder`/VideoFlash/*.flv.

    Returns:
        The clips that have both files, in order of name; what is skipped (kind → clip or file → sentence); and
        how many clips were found in all, those skipped included.
    """
    audio, video = _media_files(folder / AUDIO_FOLDER, ".wav"), _media_files(folder / VIDEO_FOLDER, ".flv")
    clips: list[RawClip] = []
    skipped: dict[str, dict[str, str]] = {}
    names = sorted(audio.keys() | video.keys())
    for name in names:
        form = NAME.fullmatch(name)
        if form is None:
            kind, why = "name not of the form", "is not <actor 1001–1091>_<sentence>_<emotion>_<level>"
        elif name not in video:
            kind, why = "no video file", f"there is no {VIDEO_FOLDER}/{name}.flv"
        elif name not in audio:
            kind, why = "no audio file", f"there is no {AUDIO_FOLDER}/{name}.wav"
        else:
            clips.append(RawClip(name, form[2], audio[name], video[name]))
            continue
        skipped.setdefault(kind, {})[name] = f"{name}: {why}"
    return clips, skipped, len(names)


def speaker(name: str) -> str:
    """The actor of a clip: the number that its name begins with."""
    return name.partition("_")[0]


def _raw_folder(raw: Path, title: str) -> Path:
    """The folder that holds AudioWAV and VideoFlash: `raw`, its parent, or one just inside."""
    if not raw.is_dir():
        raise InputError(f"the raw folder {raw} is not there; {title} can be had from {RAW_PAGE}.")
    for folder in (raw, *sorted(path for path in raw.iterdir() if path.is_dir()), raw.resolve().parent):
        if (folder / AUDIO_FOLDER).is_dir() and (folder / VIDEO_FOLDER).is_dir():
            return folder
    raise InputError(
        f"the raw folder {raw} does not hold {AUDIO_FOLDER} and {VIDEO_FOLDER}; {title} can be had from {RAW_PAGE}."
    )


def _media_files(folder: Path, suffix: str) -> dict[str, Path]:
    return {
        path.stem: path
        for path in folder.iterdir()
        if path.suffix.lower() == suffix and not path.name.startswith(".")  # ._x.wav: what macOS leaves on other disks
    }


def _split(clips: Sequence[RawClip], split: str, split_files: Path | None, places: Sequence[Path], seed: int) -> Split:
    labels = {clip.name: clip.label for clip in clips}
    if split == "speaker":
        return speaker_split(labels, speaker, seed)
    if split == "official":
        if split_files is not None and not has_split_files(split_files):
            raise InputError(f"{split_files} does not hold train.csv and test.csv; they can be had from {SPLIT_PAGE}.")
        for place in [split_files] if split_files is not None else places:
            if has_split_files(place):
                return published_split(place, OFFICIAL_SPLIT, labels)
        hint = f"the official one needs --split_files, a folder with train.csv and test.csv from {SPLIT_PAGE}"
        return replace(random_split(labels, seed), checks=[hint])
    return random_split(labels, seed)
