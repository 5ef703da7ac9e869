"""UCF-101: human actions (Soomro et al., CRCV-TR-12-01, 2012), as RGB frames and optical flow."""

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
from mmpareto.data.preparation.prepared_folder import DatasetInfo, write_remarks
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import Split
from mmpareto.data.raw.optical_flow import FLOW_FOLDERS
from mmpareto.data.raw.raw_files import check_listed, find_files, first_folder_with, read_lines
from mmpareto.errors import InputError, one_line
from mmpareto.files import open_regular

if TYPE_CHECKING:
    from mmpareto.data.loading.sources import ModalitySource

PAGE = "https://www.crcv.ucf.edu/data/UCF101.php"
FLOW_PAGE = "https://github.com/feichtenhofer/twostreamfusion"
LISTS_FOLDER = "ucfTrainTestlist"
FOLDERS = (FRAMES, *FLOW_FOLDERS)

RAW_NAME = re.compile(r"v_\w+_g\d\d_c\d\d", re.ASCII)
LINE = re.compile(r"(?P<label>\w+)/(?P<name>v_\w+_g\d\d_c\d\d)\.avi(?: (?P<number>\d{1,9}))?", re.ASCII)
CLASS_LINE = re.compile(r"(\d{1,9}) (\w+)", re.ASCII)


class RawVideo(NamedTuple):
    """A video, and the folders of the published images of its flow, u and v; None to compute the flow."""

    name: str
    label: str
    path: Path
    flow: tuple[Path, Path] | None


class NoFlowError(InputError):
    """A video has no flow."""

    reason = "no flow"


class UCF101(DatasetBuilder):
    """13,320 clips from YouTube, 101 actions; two modalities, "rgb" and "flow"."""

    name = "ucf101"
    title = "UCF-101"
    modalities = ("rgb", "flow")
    download = DownloadInfo(
        size="13,320 clips, 101 actions, 320 × 240 at 25 frames per second, 27 hours, 6.5 GB",
        terms="see its page; the videos are YouTube's",
        page=f"{PAGE} (UCF101.rar, and the train/test splits for action recognition)",
        raw="in any folders, v_<Class>_g##_c##.avi\n"
        f"classInd.txt, trainlist01.txt, testlist01.txt …, there, in {LISTS_FOLDER}, or in the folder --split_files\n"
        f"optionally the flow images of {FLOW_PAGE}, in the folder --flow",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py ucf101`; their values are passed to `prepare`."""
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
            help="use the published flow images DIR/{u,v}/<clip>/frame000001.jpg instead of computing the flow "
            f"(tvl1_flow of {FLOW_PAGE})",
        )
        parser.add_argument("--fps", type=int, default=1, help="frames kept per second (default: %(default)s)")
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
    ) -> PreparationReport:
        """Prepare the raw videos.

        Arguments:
            raw: folder of the avi files, at any depth.
            out: the prepared folder.
            fps: frames kept per second.
            fold: which of the three published splits. A folder may be prepared again with another one.
            flow: folder of published flow images; by default the flow is computed.
            split_files: folder of the lists; default: `raw` or its subfolder ucfTrainTestlist.
            seed: recorded in prepared.json.
            workers: parallel processes; one per core by default.

        Raises:
            InputError: `raw` has no video of the lists, the lists are missing or wrong, `flow` has no flow images, or
                as `sample_preparation.prepare_samples`.
        """
        if fps < 1:
            raise InputError(f"--fps must be at least 1, not {fps}.")
        form = "v_<Class>_g##_c##.avi"
        files, skipped = find_files(raw, ".avi", video_in, form=form, title=cls.title, page=PAGE)
        labels, classes, split = read_lists([split_files] if split_files else [raw, raw / LISTS_FOLDER], fold)
        check_listed(files, labels, raw, cls.title, PAGE)
        published = published_flow(flow) if flow is not None else None
        videos = []
        for name, path in files.items():
            images = published.get(name.casefold()) if published is not None else None
            if published is not None and images is None and name in labels:
                sentence = f"{name}: {flow}/u and v have no folder of that name"
                skipped.setdefault(NoFlowError.reason, {})[name] = sentence
            else:
                videos.append(RawVideo(name, labels.get(name, ""), path, images))
        return sample_preparation.prepare_samples(
            videos,
            split,
            DatasetInfo(cls.name, cls.title, False, classes),
            FlowSampleBuilder(fps, "published pictures" if published is not None else "dense inverse search"),
            out=out,
            seed=seed,
            workers=workers,
            found=len(videos) + sum(len(sentences) for sentences in skipped.values()),
            skipped=skipped,
        )

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, ModalitySource]":
        """Return the sources of the frames and of the flow."""
        from mmpareto.data.loading.sources import FlowSource, FramesSource

        for part in FOLDERS:
            present = {path.name for path in (folder / part).glob("*")}
            missing = [name for name in names if name not in present]
            if missing:
                raise InputError(
                    f"{len(missing)} of the {len(names)} clips in {folder / split}.csv are not in {folder / part}, the "
                    f"first is {missing[0]}; prepare them with `python code/prepare.py {cls.name} --raw DIR`."
                )
        return {"rgb": FramesSource(folder, split, names, options), "flow": FlowSource(folder, names, options)}


def video_in(name: str) -> str | None:
    """The video in a raw file, from its name without ".avi"; None if the name is not of the form."""
    return name if RAW_NAME.fullmatch(name) else None


def read_lists(folders: Sequence[Path], fold: int) -> tuple[dict[str, str], tuple[str, ...], Split]:
    """Read classInd.txt (`number class`), trainlist (`class/video.avi number`) and testlist (`class/video.avi`).

    Arguments:
        folders: the first that has all three files is used.
        fold: 1, 2 or 3.

    Returns:
        Video → class, the classes, and the split.

    Raises:
        InputError: a file is missing, a line is not of the form, its class is unknown or has another number, or its
            video is listed twice.
    """
    lists = {part: f"{part}list{fold:02d}.txt" for part in ("train", "test")}
    folder = first_folder_with(folders, ["classInd.txt", *lists.values()])
    if folder is None:
        raise InputError(
            f"{' and '.join(map(str, folders))} do not have classInd.txt, {lists['train']} and {lists['test']}; "
            f"download them from {PAGE} and pass their folder as --split_files."
        )
    numbers = _read_classes(folder / "classInd.txt")
    labels: dict[str, str] = {}
    names: dict[str, list[str]] = {part: [] for part in lists}
    for part, file in lists.items():
        for line_number, line in read_lines(folder / file):
            position = f"{folder / file}, line {line_number}"
            fields = LINE.fullmatch(line)
            if fields is None:
                raise InputError(f"{position}: {line[:80]!r} is not `class/v_….avi` with or without a class number.")
            name, label, number = fields["name"], fields["label"], fields["number"]
            if label not in numbers or (number and int(number) != numbers[label]):
                raise InputError(f"{position}: {label[:60]} {number or ''} is not a class of {folder}/classInd.txt.")
            if name in labels:
                raise InputError(f"{position}: {name[:60]} is listed before, in {lists['train']} or in {file}.")
            labels[name] = label
            names[part].append(name)
    sentence = f"split {fold} of the three published ones, by {folder}"
    return labels, tuple(sorted(numbers)), Split(names["train"], names["test"], sentence)


def _read_classes(path: Path) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for line_number, line in read_lines(path):
        fields = CLASS_LINE.fullmatch(line)
        if fields is None or fields[2] in numbers:
            raise InputError(f"{path}, line {line_number}: {line[:60]!r} is not `number class`, or repeats a class.")
        numbers[fields[2]] = int(fields[1])
    return numbers


def published_flow(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Case-folded name of a video → its folders of flow images, if it has one for both u and v.

    Case is ignored because the published folders say HandstandPushups while the videos say HandStandPushups.

    Raises:
        InputError: `folder` has no such folders.
    """
    u, v = ({path.name.casefold(): path for path in (folder / part).glob("v_*") if path.is_dir()} for part in "uv")
    both = {name: (u[name], v[name]) for name in u if name in v}
    if not both:
        raise InputError(
            f"{folder} has no u/<clip>/frame000001.jpg and v/<clip>/frame000001.jpg; pass --flow the folder tvl1_flow "
            f"of {FLOW_PAGE}, its parts joined, or leave the flag out to compute the flow."
        )
    return both


@dataclasses.dataclass(frozen=True)
class FlowSampleBuilder:
    """Writes frames, and the flow from each to the next frame of the video, as JPEG files of the video's size.

    Arguments:
        fps: frames kept per second.
        flow: origin of the flow, in words.
    """

    fps: int
    flow: str

    @property
    def record(self) -> Mapping[str, Any]:
        """The frame rate and the origin of the flow."""
        return {"fps": self.fps, "flow": self.flow}

    @property
    def folders(self) -> Sequence[str]:
        """Folders of the frames and of the two components of the flow."""
        return FOLDERS

    def is_done(self, sample: RawVideo, out: Path) -> bool:
        """Return whether frames and flow exist."""
        return all((out / folder / sample.name / "frame_00001.jpg").exists() for folder in FOLDERS)

    def build(self, sample: RawVideo, out: Path) -> None:
        """Read the video once, and write the images once all of it has been read."""
        from mmpareto.data.raw.containers import NoFrameError
        from mmpareto.data.raw.media import encode_jpeg, read_frame_pairs
        from mmpareto.data.raw.optical_flow import encode, flow
        from mmpareto.data.raw.remarks import CONSTANT_PICTURES, is_constant

        rows: list[tuple[bytes, ...]] = []
        constant = True
        for number, first, second in read_frame_pairs(sample.path, self.fps):
            if sample.flow is not None:
                components = [published_image(folder, number) for folder in sample.flow]
            else:
                components = [encode_jpeg(component) for component in encode(flow(first, second))]
            rows.append((encode_jpeg(first), *components))
            constant = constant and is_constant(first)
        if not rows:
            raise NoFrameError(f"{sample.path} has a single frame, and so no motion.")
        write_remarks(out, sample.name, [CONSTANT_PICTURES] if constant else [])
        for folder, images in zip(FOLDERS, zip(*rows, strict=True), strict=True):
            write_frames(out / folder, sample.name, images)

    def entries(self, out: Path, names: Sequence[str]) -> dict[str, Any]:
        """No further entries."""
        return {}


def published_image(folder: Path, number: int) -> bytes:
    """The JPEG file of the flow from frame `number` (from 0) to the next, as published.

    Raises:
        NoFlowError: it does not exist or cannot be read.
    """
    from PIL import Image

    path = folder / f"frame{number + 1:06d}.jpg"
    try:
        with open_regular(path) as file:
            content = file.read()
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            image.load()
    except Exception as error:  # damaged files cause many kinds
        raise NoFlowError(f"{path} is missing or not a complete JPEG file ({one_line(error)}).") from None
    return content
