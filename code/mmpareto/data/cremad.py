"""CREMA-D: acted emotions, a voice and a face (Cao et al., IEEE Transactions on Affective Computing 2014)."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmpareto.data.clip_dataset_builder import RawClipDatasetBuilder, RawContents
from mmpareto.data.dataset_builder import DownloadInfo
from mmpareto.data.preparation.clip_preparation import RawClip
from mmpareto.data.preparation.splits import PublishedFile, Split, published_split, random_split, speaker_split
from mmpareto.data.raw.raw_files import first_folder_with
from mmpareto.errors import InputError

CLASSES = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
AUDIO_FOLDER, VIDEO_FOLDER = "AudioWAV", "VideoFlash"
RAW_PAGE = "https://github.com/CheyneyComputerScience/CREMA-D"
SPLIT_PAGE = "https://github.com/GeWu-Lab/OGM-GE_CVPR2022/tree/main/data/CREMAD"
SPLIT_FILES = ("train.csv", "test.csv")

# The level is X in a few names of the real set (1040_ITH_SAD_X).
NAME = re.compile(rf"(10(?:0[1-9]|[1-8]\d|9[01]))_[A-Z]{{3}}_({'|'.join(CLASSES)})_(?:LO|MD|HI|XX|X)")

# data/CREMAD/{train,test}.csv of the OGM-GE repository, the split of MMPareto, OGM-GE and later work.
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

    raw_help = f"folder that contains {AUDIO_FOLDER} and {VIDEO_FOLDER} ({RAW_PAGE})"
    split_help = f"folder that contains train.csv and test.csv ({SPLIT_PAGE})"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py cremad`; their values are passed to `prepare`."""
        super().add_arguments(parser)
        parser.add_argument(
            "--split",
            choices=SPLITS,
            default="official",
            help="official (random if its files are missing), random, or speaker-disjoint (default: %(default)s)",
        )

    @classmethod
    def find(cls, raw: Path, *, seed: int, split: str = "official", split_files: Path | None = None) -> RawContents:
        """Find the clips and split them.

        Arguments:
            raw: the folder with AudioWAV and VideoFlash, the folder that contains it, or one of the two.
            seed: of a split that is not official.
            split: "official", "random" or "speaker". Without the files of the official split, the split is random.
            split_files: folder of train.csv and test.csv; default: `raw`.

        Raises:
            InputError: `raw` has no clip, or the split files are wrong.
        """
        try:
            folder = _raw_folder(raw, cls.title)
            clips, skipped, count = scan(folder)
        except OSError as error:
            raise InputError(f"the raw folder {error.filename} cannot be read: {error.strerror}.") from error
        if not count:
            raise InputError(f"{folder / AUDIO_FOLDER} and {VIDEO_FOLDER} have no clip of {cls.title}; see {RAW_PAGE}.")
        return RawContents(clips, _split(clips, split, split_files, [raw, folder], seed), CLASSES, skipped)


def scan(folder: Path) -> tuple[list[RawClip], dict[str, dict[str, str]], int]:
    """List the clips of `folder`/AudioWAV/*.wav and `folder`/VideoFlash/*.flv.

    Returns:
        The clips that have both files, in order of name; what is skipped (reason → clip or file → sentence); and the
        number of clips found, those skipped included.
    """
    audio, video = _media_files(folder / AUDIO_FOLDER, ".wav"), _media_files(folder / VIDEO_FOLDER, ".flv")
    clips: list[RawClip] = []
    skipped: dict[str, dict[str, str]] = {}
    names = sorted(audio.keys() | video.keys())
    for name in names:
        match = NAME.fullmatch(name)
        if match is None:
            reason, sentence = "name not of the form", "is not <actor 1001–1091>_<sentence>_<emotion>_<level>"
        elif name not in video:
            reason, sentence = "no video file", f"{VIDEO_FOLDER}/{name}.flv does not exist"
        elif name not in audio:
            reason, sentence = "no audio file", f"{AUDIO_FOLDER}/{name}.wav does not exist"
        else:
            clips.append(RawClip(name, match[2], audio[name], video[name]))
            continue
        skipped.setdefault(reason, {})[name] = f"{name}: {sentence}"
    return clips, skipped, len(names)


def speaker(name: str) -> str:
    """The actor of a clip: the number at the beginning of its name."""
    return name.partition("_")[0]


def _raw_folder(raw: Path, title: str) -> Path:
    """The folder with AudioWAV and VideoFlash: `raw`, a subfolder of it, or its parent."""
    if not raw.is_dir():
        raise InputError(f"the raw folder {raw} does not exist; get {title} from {RAW_PAGE}.")
    for folder in (raw, *sorted(path for path in raw.iterdir() if path.is_dir()), raw.resolve().parent):
        if (folder / AUDIO_FOLDER).is_dir() and (folder / VIDEO_FOLDER).is_dir():
            return folder
    raise InputError(
        f"the raw folder {raw} does not contain {AUDIO_FOLDER} and {VIDEO_FOLDER}; get {title} from {RAW_PAGE}."
    )


def _media_files(folder: Path, suffix: str) -> dict[str, Path]:
    return {
        path.stem: path
        for path in folder.iterdir()
        if path.suffix.lower() == suffix and not path.name.startswith(".")  # macOS writes ._x.wav on foreign disks
    }


def _split(clips: Sequence[RawClip], split: str, split_files: Path | None, folders: Sequence[Path], seed: int) -> Split:
    labels = {clip.name: clip.label for clip in clips}
    if split == "speaker":
        return speaker_split(labels, speaker, seed)
    if split == "official":
        folder = first_folder_with([split_files] if split_files is not None else folders, SPLIT_FILES)
        if folder is not None:
            return published_split(folder, OFFICIAL_SPLIT, labels)
        if split_files is not None:
            raise InputError(f"{split_files} does not contain train.csv and test.csv; download them from {SPLIT_PAGE}.")
        hint = f"for the official one, pass the folder of train.csv and test.csv from {SPLIT_PAGE} as --split_files"
        return replace(random_split(labels, seed), checks=[hint])
    return random_split(labels, seed)
