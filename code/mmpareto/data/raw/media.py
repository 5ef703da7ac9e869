"""Sound and pictures out of media files, whole; `clip_reading` gets both in one pass, and less of them into memory."""

import functools
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchaudio.transforms
from av.video.frame import VideoFrame
from PIL import Image

from mmpareto.data.raw.containers import MediaError, NoAudioError, NoFrameError, read_streams
from mmpareto.data.raw.frame_decoding import FrameReader, ToRGB
from mmpareto.data.raw.sound_decoding import SoundReader

__all__ = [
    "FramePair",
    "MediaError",
    "NoAudioError",
    "NoFrameError",
    "encode_jpeg",
    "read_audio",
    "read_frame_pairs",
    "read_frames",
    "resample",
]

JPEG_QUALITY = 95  # what OpenCV's imwrite, used by the sources, writes by default


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


def resample(waveform: torch.Tensor, rate: int, new_rate: int) -> torch.Tensor:
    """Bring `waveform` (channels, samples) from `rate` to `new_rate` hertz, by windowed-sinc interpolation."""
    if rate == new_rate:
        return waveform
    return _resampling(rate, new_rate, waveform.dtype)(waveform)


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


@functools.lru_cache(maxsize=16)
def _resampling(rate: int, new_rate: int, dtype: torch.dtype) -> torchaudio.transforms.Resample:
    """`torchaudio.functional.resample`, bit for bit, with its filter made once."""
    return torchaudio.transforms.Resample(rate, new_rate, dtype=dtype)
