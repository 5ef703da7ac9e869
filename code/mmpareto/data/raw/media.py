"""Sound and pictures out of media files, whole; `clip_reading` gets both in one pass, and less of them into memory."""

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from av.video.frame import VideoFrame
from PIL import Image

from mmpareto.data.raw.containers import Consumer, read_streams
from mmpareto.data.raw.features import StreamedFeatures
from mmpareto.data.raw.frame_decoding import FrameReader, ToRGB
from mmpareto.data.raw.sound_decoding import SoundReader

JPEG_QUALITY = 95  # what OpenCV's imwrite, used by the sources, writes by default


class ClipContent(NamedTuple):
    """What is prepared of a clip: features by kind, and JPEG files in order of time."""

    features: dict[str, torch.Tensor]
    frames: list[bytes]


def read_clip(
    audio_path: str | os.PathLike[str],
    video_path: str | os.PathLike[str],
    *,
    kinds: Sequence[str],
    fps: int | None,
    start: float = 0,
    seconds: float | None = None,
) -> ClipContent:
    """Read a clip, or a part of a longer video.

    Arguments:
        audio_path, video_path: may be the same file, which is then read once for both.
        kinds: the audio features that are wanted, names of `features.FEATURES`; may be empty.
        fps: frames kept a second (see `frame_choice`); None for no frames.
        start, seconds: the part that is wanted; the whole by default. It begins `start` seconds after the file does,
            frames are counted from there, and it lasts for `seconds` or to the end.

    Returns:
        The features in the order of `kinds`; at least one frame, unless `fps` is None.

    Raises:
        NoAudioError, NoFrameError: a file has no such stream, or nothing in it or in the part.
        MediaError: a file is missing, damaged or ends too early.
        InputError: the sound is shorter than one window, `fps` is not positive or is above the rate of the video, or
            `start` and `seconds` are no part.
    """
    features = StreamedFeatures(kinds)
    consumers: list[tuple[Path, Consumer]] = []
    if kinds:
        consumers.append((Path(audio_path), SoundReader(features.add)))
    reader: FrameReader[bytes] | None = None
    if fps is not None:
        to_rgb = ToRGB()
        reader = FrameReader(fps, lambda frame: encode_jpeg(to_rgb(frame)))
        consumers.append((Path(video_path), reader))
    if len(consumers) == 2 and _same(*(path for path, _ in consumers)):
        read_streams(consumers[0][0], [consumer for _, consumer in consumers], start, seconds)
    else:
        for path, consumer in consumers:
            read_streams(path, [consumer], start, seconds)
    return ClipContent(features.features() if kinds else {}, reader.frames if reader else [])


def _same(first: Path, second: Path) -> bool:
    try:
        return first == second or first.samefile(second)
    except OSError:  # one is missing, which reading it says better
        return False


def read_audio(path: str | os.PathLike[str]) -> tuple[torch.Tensor, int]:
    """Decode the first audio stream of `path`.

    Returns:
        The waveform, float32 in [−1, 1], shape (channels, samples), and its sampling rate in hertz: the file's own
        channels and rate. 16-bit samples are divided by 32768, which float32 holds exactly.

    Raises:
        NoAudioError: the file has no audio stream, or one without a sample.
        MediaError: the file is missing, damaged or ends too early.
    """
    blocks: list[np.ndarray] = []
    rates: list[int] = []

    def collect(block: np.ndarray, rate: int) -> None:
        blocks.append(block)
        rates.append(rate)

    read_streams(Path(path), [SoundReader(collect)])
    return torch.from_numpy(np.concatenate(blocks, axis=1)), rates[0]


def read_frames(path: str | os.PathLike[str], fps: int) -> list[np.ndarray]:
    """Decode the frames of the first video stream of `path` that `fps` frames a second keep; see `frame_choice`.

    Returns:
        Upright pictures (height, width, 3), uint8, RGB, in order of time. At least one.

    Raises:
        NoFrameError: the file has no video stream, or one without a frame.
        MediaError: the file is missing, damaged or ends too early.
        InputError: `fps` is not positive, or is above the rate of the video.
    """
    reader = FrameReader(fps, ToRGB())
    read_streams(Path(path), [reader])
    return reader.frames


class FramePair(NamedTuple):
    """A frame of a video and the one after it, (height, width, 3), uint8, RGB, and the first one's number, from 0."""

    number: int
    first: np.ndarray
    second: np.ndarray


def read_frame_pairs(path: str | os.PathLike[str], fps: int) -> Iterator[FramePair]:
    """Yield every frame that `read_frames` keeps, each with the frame that follows it in the video.

    A video's last frame has none and is left out: a video of one frame yields nothing. Arguments and errors are those
    of `read_frames`.
    """
    reader: FrameReader[VideoFrame] = FrameReader(fps, convert=lambda frame: frame, following=True)
    read_streams(Path(path), [reader])
    to_rgb = ToRGB()
    for number, first, second in reader.pairs:
        yield FramePair(number, to_rgb(first), to_rgb(second))


def encode_jpeg(frame: np.ndarray) -> bytes:
    """A frame as a JPEG file of quality 95, its chroma 4:2:0, as OpenCV writes it.

    Arguments:
        frame: (height, width, 3), uint8, RGB, or (height, width), grey.
    """
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return buffer.getvalue()
