"""Preparation of clips with audio and video: audio features and frames."""

import argparse
import dataclasses
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmpareto.data.loading.options import AUDIO_FOLDERS
from mmpareto.data.preparation import sample_preparation
from mmpareto.data.preparation.prepared_folder import DatasetInfo, write_remarks
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import Split
from mmpareto.errors import InputError
from mmpareto.files import atomic_path

FRAMES = "visual"
BOTH = ("fbank", "spectrogram")


class RawClip(NamedTuple):
    """A clip as its owners distribute it; its audio and its video may be in the same file."""

    name: str
    label: str
    audio_path: Path
    video_path: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every data set that `prepare_clips` prepares."""
    sample_preparation.add_arguments(parser)
    parser.add_argument("--fps", type=int, default=1, help="frames kept per second (default: %(default)s)")
    parser.add_argument(
        "--audio",
        nargs="+",
        choices=[*AUDIO_FOLDERS, "both"],
        default=["fbank"],
        metavar="KIND",
        help="audio features to prepare: fbank (default), spectrogram, waveform (16 kHz, for train.py --audio stft); "
        "both means fbank spectrogram",
    )
    parser.add_argument(
        "--min_frames", type=int, default=1, metavar="N", help="leave out clips of fewer frames (default: %(default)s)"
    )


class TooFewFramesError(InputError):
    """A clip has fewer frames than `--min_frames`; `reason` is the kind of failure, for counting."""

    def __init__(self, path: Path, frames: int, minimum: int) -> None:
        super().__init__(f"{path} gives {frames} frames.")
        self.reason = f"fewer than {minimum} frames"


def prepare_clips(
    clips: Sequence[RawClip],
    split: Split,
    info: DatasetInfo,
    *,
    out: Path,
    fps: int = 1,
    audio: Sequence[str] = ("fbank",),
    frames: bool = True,
    min_frames: int = 1,
    **options: Any,
) -> PreparationReport:
    """Prepare clips with audio and video, or with one of the two.

    Arguments:
        fps: frames kept per second.
        audio: contents of audio files to write, keys of `AUDIO_FOLDERS`, or "both" for fbank and spectrogram; () for
            clips without audio.
        frames: whether to write frames; False for clips without video.
        min_frames: clips of fewer frames are reported and left out of the lists.
        clips, split, info, out, options: see `sample_preparation.prepare_samples`.

    Raises:
        InputError: `fps` is below 1, `audio` has an unknown name, or as `prepare_samples`.
    """
    if fps < 1:
        raise InputError(f"--fps must be at least 1, not {fps}.")
    wanted = {kind for choice in audio for kind in (BOTH if choice == "both" else (choice,))}
    if not wanted <= AUDIO_FOLDERS.keys():
        raise InputError(f"--audio must be of {', '.join(AUDIO_FOLDERS)} and both, not {' '.join(audio)}.")
    kinds = tuple(kind for kind in AUDIO_FOLDERS if kind in wanted)
    builder = ClipSampleBuilder(fps if frames else None, kinds, min_frames)
    return sample_preparation.prepare_samples(clips, split, info, builder, out=out, **options)


@dataclasses.dataclass(frozen=True)
class ClipSampleBuilder:
    """Writes the audio features of a clip as tensor files, and its frames as a folder of JPEG files.

    Arguments:
        fps: frames kept per second; None for no frames.
        audio: contents of audio files to write, keys of `AUDIO_FOLDERS`.
        min_frames: clips of fewer frames are refused.
    """

    fps: int | None
    audio: tuple[str, ...]
    min_frames: int = 1

    @property
    def record(self) -> Mapping[str, Any]:
        """The frame rate; not the features, since more may be added to a prepared folder."""
        return {"fps": self.fps}

    @property
    def folders(self) -> Sequence[str]:
        """Folders of the frames and of all audio files."""
        return (FRAMES, *AUDIO_FOLDERS.values())

    def is_done(self, sample: RawClip, out: Path) -> bool:
        """Return whether features and frames exist."""
        return not self._missing(sample, out) and self._has_frames(sample, out, self.min_frames)

    def build(self, sample: RawClip, out: Path) -> None:
        """Read the clip, and write what is missing once all of it has been read.

        Raises:
            TooFewFramesError: it has fewer than `min_frames` frames.
            InputError: as `media.read_clip`.
        """
        import torch

        from mmpareto.data.raw.media import read_clip

        fps = None if self._has_frames(sample, out) else self.fps
        content = read_clip(sample.audio_path, sample.video_path, kinds=self._missing(sample, out), fps=fps)
        if self.fps is not None:
            count = len(content.frames) if fps is not None else _count_frames(sample, out)
            if count < self.min_frames:
                raise TooFewFramesError(sample.video_path, count, self.min_frames)
        write_remarks(out, sample.name, content.remarks)
        for kind, feature in content.features.items():
            buffer = io.BytesIO()  # given a path, torch would store the temporary name in the file
            torch.save(feature.contiguous(), buffer)
            with atomic_path(_feature_path(out, kind, sample.name)) as temporary:
                temporary.write_bytes(buffer.getvalue())
        if content.frames:
            write_frames(out / FRAMES, sample.name, content.frames)

    def entries(self, out: Path, names: Sequence[str]) -> dict[str, Any]:
        """The audio files that every listed clip has, from this run or an earlier one."""
        kinds = [k for k in AUDIO_FOLDERS if all(_feature_path(out, k, name).exists() for name in names)]
        return {"audio": kinds} | ({"min_frames": self.min_frames} if self.min_frames > 1 else {})

    def _missing(self, sample: RawClip, out: Path) -> list[str]:
        return [kind for kind in self.audio if not _feature_path(out, kind, sample.name).exists()]

    def _has_frames(self, sample: RawClip, out: Path, at_least: int = 1) -> bool:
        """Return whether a clip has as many frames as wanted, or none are."""
        folder, numbers = out / FRAMES / sample.name, range(1, max(at_least, 1) + 1)
        return self.fps is None or all((folder / f"frame_{number:05d}.jpg").exists() for number in numbers)


def write_frames(folder: Path, name: str, frames: Sequence[bytes]) -> None:
    """Write JPEG files as `folder`/<name>/frame_00001.jpg …, all or none of them."""
    partial = folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        (partial / f"frame_{number:05d}.jpg").write_bytes(frame)
    shutil.rmtree(folder / name, ignore_errors=True)  # a folder without its first frame
    partial.rename(folder / name)


def _count_frames(clip: RawClip, out: Path) -> int:
    return len(list((out / FRAMES / clip.name).iterdir()))


def _feature_path(out: Path, kind: str, name: str) -> Path:
    return out / AUDIO_FOLDERS[kind] / f"{name}.pt"
