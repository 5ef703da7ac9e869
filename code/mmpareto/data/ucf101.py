"""UCF-101: human actions (Soomro et al., CRCV-TR-12-01, 2012), as colour and as optical flow."""

import argparse
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmpareto.data.dataset_builder import DatasetBuilder, DownloadInfo
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.preparation import sample_preparation
from mmpareto.data.preparation.clip_preparation import FRAMES, write_frames
from mmpareto.data.preparation.prepared_folder import DatasetInfo
from mmpareto.data.preparation.report import Report
from mmpareto.data.preparation.splits import Split
from mmpareto.data.raw.optical_flow import FLOW_FOLDERS
from mmpareto.data.raw.raw_files import by_key, files_below, holding, read_lines
from mmpareto.errors import InputError

if TYPE_CHECKING:
    from mmpareto.data.loading.sources import Source

PAGE = "https://www.crcv.ucf.edu/data/UCF101.php"
FLOW_PAGE = "https://github.com/feichtenhofer/twostreamfusion"
LISTS_FOLDER = "ucfTrainTestlist"
FOLDERS = (FRAMES, *FLOW_FOLDERS)

RAW_NAME = re.compile(r"v_\w+_g\d\d_c\d\d", re.ASCII)
LINE = re.compile(r"(?P<label>\w+)/(?P<name>v_\w+_g\d\d_c\d\d)\.avi(?: (?P<number>\d+))?", re.ASCII)
CLASS_LINE = re.compile(r"(\d+) (\w+)", re.ASCII)


class RawVideo(NamedTuple):
    """A video, and the published pictures of its flow, if they are to be used: a folder each for u and v."""

    name: str
    label: str
    path: Path
    flow: tuple[Path, Path] | None


class NoFlowError(InputError):
    """There is no flow for a video."""

    reason = "no flow"


class UCF101(DatasetBuilder):
    """13,320 clips from YouTube, 101 actions; two modalities, "rgb" and "flow"."""

    name = "ucf101"
    title = "UCF-101"
    download = DownloadInfo(
        size="13,320 clips, 101 actions, 320 × 240 at 25 frames a second, 27 hours, 6.5 GB",
        terms="see its page; the videos are YouTube's",
        page=f"{PAGE} (UCF101.rar, and the train/test splits for action recognition)",
        raw="in any folders, v_<Class>_g##_c##.avi\n"
        f"classInd.txt, trainlist01.txt, testlist01.txt …, there, in {LISTS_FOLDER}, or where --split_files says\n"
        f"if wanted, the pictures of flow of {FLOW_PAGE}, where --flow says",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """The options of `prepare.py ucf101`; their values are the arguments of `prepare`."""
        parser.add_argument(
            "--raw", type=Path, required=True, metavar="DIR", help=f"folder of the avi files and the lists ({PAGE})"
        )
        parser.add_argument(
            "--split_files",
            type=Path,
            metavar="DIR",
            help=f"folder of classInd.txt, trainlist01.txt … (default: --raw, or {LISTS_FOLDER} in it)",
        )
        parser.add_argument(
            "--fold", type=int, choices=(1, 2, 3), default=1, help="which of the three splits (default: %(default)s)"
        )
        parser.add_argument(
            "--flow",
            type=Path,
            metavar="DIR",
            help=f"take the flow from pictures, DIR/{{u,v}}/<clip>/frame000001.jpg (the tvl1_flow of {FLOW_PAGE})",
        )
        parser.add_argument("--fps", type=int, default=1, help="frames kept a second (default: %(default)s)")
        sample_preparation.add_arguments(parser)

    @classmethod
    def prepare(
        cls,
        *,
        raw: Path,
        out: Path,
        fps: int = 1,
        fold: int = 1,
        flow: Path | None = None,
        split_files: Path | None = None,
        seed: int = 0,
        workers: int | None = None,
    ) -> Report:
        """Prepare the raw videos.

        Arguments:
            raw: the folder of avi files, at any depth.
            out: the prepared folder.
            fps: frames kept a second.
            fold: which of the three published splits. A folder may be prepared again with another one.
            flow: folder of published pictures of the flow; without it the flow is computed.
            split_files: folder of the lists; by default they are looked for in `raw` and in its ucfTrainTestlist.
            seed: goes into the record.
            workers: parallel processes; all cores by default.

        Raises:
            InputError: `raw` holds no video of the lists, they are absent or wrong, there is no published flow in
                `flow`, or as `sample_preparation.prepare_samples`.
        """
        if fps < 1:
            raise InputError(f"--fps must be at least 1, not {fps}.")
        files, left_out = by_key(files_below(raw, ".avi", cls.title, PAGE), raw_key, "v_<Class>_g##_c##.avi")
        labels, classes, split = read_lists([split_files] if split_files else [raw, raw / LISTS_FOLDER], fold)
        if not files.keys() & labels.keys():
            raise InputError(f"{raw} holds no video of {cls.title}'s lists, but {len(files)} others; see {PAGE}.")
        published = published_flow(flow) if flow is not None else None
        videos = []
        for name, path in files.items():
            pictures = published.get(name.casefold()) if published is not None else None
            if published is not None and pictures is None and name in labels:
                sentence = f"{name}: {flow}/u and v have no folder of that name"
                left_out.setdefault(NoFlowError.reason, {})[name] = sentence
            else:
                videos.append(RawVideo(name, labels.get(name, ""), path, pictures))
        return sample_preparation.prepare_samples(
            videos,
            split,
            DatasetInfo(cls.name, cls.title, False, classes),
            FlowSampleBuilder(fps, "published pictures" if published is not None else "dense inverse search"),
            out=out,
            seed=seed,
            workers=workers,
            found=len(videos) + sum(len(sentences) for sentences in left_out.values()),
            skipped=left_out,
        )

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, Source]":
        """The frames and the flow."""
        from mmpareto.data.loading.sources import FlowSource, FramesSource

        for part in FOLDERS:
            there = {path.name for path in (folder / part).glob("*")}
            absent = [name for name in names if name not in there]
            if absent:
                raise InputError(
                    f"{len(absent)} of the {len(names)} clips of {folder / split}.csv are not in {folder / part}, the "
                    f"first is {absent[0]}; prepare them with `python code/prepare.py {cls.name} --raw DIR`."
                )
        return {"rgb": FramesSource(folder, split, names, options), "flow": FlowSource(folder, names, options)}


def raw_key(name: str) -> str | None:
    """The name of a raw file without ".avi"; None where it is not of the form."""
    return name if RAW_NAME.fullmatch(name) else None


def read_lists(places: Sequence[Path], fold: int) -> tuple[dict[str, str], tuple[str, ...], Split]:
    """Read classInd.txt (`number class` a line), trainlist and testlist (`class/video.avi number`; none in testlist).

    Arguments:
        places: folders, of which the first that holds all three is used.
        fold: 1, 2 or 3.

    Returns:
        Video → class, the classes, and the split.

    Raises:
        InputError: a file is absent, a line is not of the form, its class is unknown or has another number, or a video
            is listed before.
    """
    lists = {part: f"{part}list{fold:02d}.txt" for part in ("train", "test")}
    folder = holding(places, ["classInd.txt", *lists.values()])
    if folder is None:
        raise InputError(
            f"{' and '.join(map(str, places))} do not hold classInd.txt, {lists['train']} and {lists['test']}; give "
            f"--split_files the folder that does. They can be had from {PAGE}."
        )
    numbers = _read_classes(folder / "classInd.txt")
    labels: dict[str, str] = {}
    names: dict[str, list[str]] = {part: [] for part in lists}
    for part, file in lists.items():
        for number, line in read_lines(folder / file):
            place = f"{folder / file}, line {number}"
            form = LINE.fullmatch(line)
            if form is None:
                raise InputError(f"{place}: {line[:80]!r} is not `class/v_….avi`, with the class's number or without.")
            name, label = form["name"], form["label"]
            if label not in numbers or (form["number"] and int(form["number"]) != numbers[label]):
                raise InputError(f"{place}: {label} {form['number'] or ''} is not a class of {folder}/classInd.txt.")
            if name in labels:
                raise InputError(f"{place}: {name} is listed before, in {lists['train']} or in {file}.")
            labels[name] = label
            names[part].append(name)
    sentence = f"split {fold} of the three published ones, by {folder}"
    return labels, tuple(sorted(numbers)), Split(names["train"], names["test"], sentence)


def _read_classes(path: Path) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for number, line in read_lines(path):
        form = CLASS_LINE.fullmatch(line)
        if form is None or form[2] in numbers:
            raise InputError(
                f"{path}, line {number}: {line[:60]!r} is not `number class`, or the class is there before."
            )
        numbers[form[2]] = int(form[1])
    return numbers


def published_flow(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Video, in small letters → its folders of pictures, where both u and v have one.

    In small letters, since the published folders say HandstandPushups where the videos say HandStandPushups.

    Raises:
        InputError: `folder` holds no u and v.
    """
    u, v = ({path.name.casefold(): path for path in (folder / part).glob("v_*") if path.is_dir()} for part in "uv")
    both = {name: (u[name], v[name]) for name in u if name in v}
    if not both:
        raise InputError(
            f"{folder} does not hold u/<clip>/frame000001.jpg and v/<clip>/frame000001.jpg; give --flow the folder "
            f"tvl1_flow from {FLOW_PAGE}, its parts put together, or leave it out."
        )
    return both


@dataclasses.dataclass(frozen=True)
class FlowSampleBuilder:
    """Frames, and the flow from each to the frame that follows it in the video, as JPEG of the pictures' own size.

    Arguments:
        fps: frames kept a second.
        flow: where the flow is from, in words.
    """

    fps: int
    flow: str

    @property
    def record(self) -> Mapping[str, Any]:
        """The frame rate, and where the flow is from."""
        return {"fps": self.fps, "flow": self.flow}

    @property
    def folders(self) -> Sequence[str]:
        """Of the frames and of the two parts of the flow."""
        return FOLDERS

    def is_done(self, sample: RawVideo, out: Path) -> bool:
        """Whether frames and flow are there."""
        return all((out / folder / sample.name / "frame_00001.jpg").exists() for folder in FOLDERS)

    def make(self, sample: RawVideo, out: Path) -> None:
        """Read the video once; write when all of it could be read."""
        from mmpareto.data.raw.containers import NoFrameError
        from mmpareto.data.raw.media import encode_jpeg, read_frame_pairs
        from mmpareto.data.raw.optical_flow import encode, flow

        pictures: tuple[list[bytes], ...] = ([], [], [])
        for number, first, second in read_frame_pairs(sample.path, self.fps):
            if sample.flow is not None:
                parts = [published_picture(folder, number) for folder in sample.flow]
            else:
                parts = [encode_jpeg(part) for part in encode(flow(first, second))]
            for found, picture in zip(pictures, [encode_jpeg(first), *parts], strict=True):
                found.append(picture)
        if not pictures[0]:
            raise NoFrameError(f"{sample.path} has a single frame, and so no motion.")
        for folder, found in zip(FOLDERS, pictures, strict=True):
            write_frames(out / folder, sample.name, found)

    def entries(self, out: Path, names: Sequence[str]) -> dict[str, Any]:
        """Nothing more."""
        return {}


def published_picture(folder: Path, number: int) -> bytes:
    """The JPEG file of the flow from frame `number` (from 0) on, as it was published.

    Raises:
        NoFlowError: it is not there, or cannot be read.
    """
    from PIL import Image

    path = folder / f"frame{number + 1:06d}.jpg"
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
            picture.load()
    except OSError as error:
        raise NoFlowError(f"{path} is not there or is no whole JPEG file ({error}).") from None
    return content
