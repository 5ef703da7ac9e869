"""Audio features, waveforms and frames of media files; every file is opened once and its packets are read once."""

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from av.video.frame import VideoFrame
from PIL import Image

from mmpareto.data.raw.audio_decoding import AudioReader
from mmpareto.data.raw.containers import NotFiniteError, StreamReader, read_streams
from mmpareto.data.raw.features import FEATURES
from mmpareto.data.raw.remarks import CONSTANT_PICTURES, is_constant, sound_remarks
from mmpareto.data.raw.video_decoding import ToRGB, VideoReader
from mmpareto.errors import InputError

JPEG_QUALITY = 95  # the default of OpenCV's imwrite, which the sources use


class ClipContent(NamedTuple):
    """Audio features by name, frames as JPEG files in order of time, and kinds of remark (`remarks`) about both."""

    features: dict[str, torch.Tensor]
    frames: list[bytes]
    remarks: list[str]


def read_clip(
    audio_path: str | os.PathLike[str], video_path: str | os.PathLike[str], *, kinds: Sequence[str], fps: int | None
) -> ClipContent:
    """Read the audio features and frames of a clip. Of the video, only the JPEG files are kept in memory.

    Arguments:
        audio_path, video_path: may be the same file, which is then read once for both.
        kinds: the audio features to compute, names of `features.FEATURES`; may be empty.
        fps: frames kept per second (see `frame_selection`); None for no frames.

    Returns:
        The features in the order of `kinds`, and at least one frame unless `fps` is None.

    Raises:
        NoAudioError, NoFrameError: a file has no such stream, or nothing in it.
        NotFiniteError: a sample or a feature is NaN or infinite.
        MediaError: a file is missing, damaged or cut short.
        InputError: the audio is shorter than one window, or `fps` is below 1 or above the frame rate of the video.
    """
    audio, to_rgb = AudioReader(), ToRGB()
    all_constant = True

    def encoded(frame: VideoFrame) -> bytes:
        nonlocal all_constant
        picture = to_rgb(frame)
        all_constant = all_constant and is_constant(picture)
        return encode_jpeg(picture)

    readers: list[tuple[Path, StreamReader]] = []
    if kinds:
        readers.append((Path(audio_path), audio))
    video: VideoReader[bytes] | None = None
    if fps is not None:
        video = VideoReader(fps, encoded)
        readers.append((Path(video_path), video))
    if len(readers) == 2 and _is_same_file(*(path for path, _ in readers)):
        read_streams(readers[0][0], [reader for _, reader in readers])
    else:
        for path, reader in readers:
            read_streams(path, [reader])
    remarks = [CONSTANT_PICTURES] if video and all_constant else []
    features: dict[str, torch.Tensor] = {}
    if kinds:
        waveform, rate = audio.waveform()
        remarks += sound_remarks(waveform)
        features = {kind: _feature(kind, waveform, rate, Path(audio_path)) for kind in kinds}
    return ClipContent(features, video.frames if video else [], remarks)


def _feature(kind: str, waveform: torch.Tensor, rate: int, path: Path) -> torch.Tensor:
    try:
        feature = FEATURES[kind].of(waveform, rate)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not bool(feature.isfinite().all()):
        peak = float(waveform.abs().max())
        raise NotFiniteError(f"{path} is so loud (up to {peak:.3g}; full scale is 1) that its {kind} is not finite.")
    return feature


def _is_same_file(first: Path, second: Path) -> bool:
    try:
        return first == second or first.samefile(second)
    except OSError:  # one is missing; reading it raises the better error
        return False


def read_audio(path: str | os.PathLike[str]) -> tuple[torch.Tensor, int]:
    """Decode the first audio stream of `path`.

    Returns:
        The waveform, float32 in [−1, 1], (channels, samples), and its sampling rate in hertz, both as in the file.

    Raises:
        NoAudioError: the file has no audio stream, or one without a sample.
        MediaError: the file is missing, damaged or cut short.
    """
    reader = AudioReader()
    read_streams(Path(path), [reader])
    return reader.waveform()


class FramePair(NamedTuple):
    """A frame and the next one of the video, uint8 RGB (height, width, 3), and the number of the first, from 0."""

    number: int
    first: np.ndarray
    second: np.ndarray


def read_frame_pairs(path: str | os.PathLike[str], fps: int) -> Iterator[FramePair]:
    """Yield each of the `fps` frames per second that `read_clip` keeps, with the frame that follows it in the video.

    The last frame of a video has no next one and is left out: a video of one frame yields nothing.

    Raises:
        NoFrameError, MediaError, InputError: as `read_clip`.
    """
    reader: VideoReader[VideoFrame] = VideoReader(fps, convert=lambda frame: frame, with_next=True)
    read_streams(Path(path), [reader])
    to_rgb = ToRGB()
    for number, first, second in reader.pairs:
        yield FramePair(number, to_rgb(first), to_rgb(second))


def encode_jpeg(frame: np.ndarray) -> bytes:
    """Encode a frame as a JPEG file of quality 95 with 4:2:0 chroma subsampling, as OpenCV does.

    Arguments:
        frame: uint8, RGB (height, width, 3) or grey (height, width).
    """
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return buffer.getvalue()
