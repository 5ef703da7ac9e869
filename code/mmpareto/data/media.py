"""Sound and pictures out of media files, through PyAV (FFmpeg's libraries, no ffmpeg program)."""

import contextlib
import io
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torchaudio.functional
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from mmpareto.errors import InputError

JPEG_QUALITY = 95  # what OpenCV's imwrite, used by the sources, writes by default
TIMESTAMP_ERROR = Fraction(1, 1000)  # seconds: FLV and Matroska round every timestamp to a millisecond


class MediaError(InputError):
    """A media file that cannot be used; `reason` is the kind of failure, for counting."""

    reason = "unreadable file"


class NoAudioError(MediaError):
    """There is no sound in the file."""

    reason = "no audio"


class NoFrameError(MediaError):
    """There is no picture in the file."""

    reason = "no frame"


def read_audio(path: str | os.PathLike[str]) -> tuple[torch.Tensor, int]:
    """Decode the first audio stream of `path`.

    Returns:
        The waveform, float32 in [−1, 1], shape (channels, samples), and its sampling rate in hertz: the file's own
        channels and rate. 16-bit samples are divided by 32768, which float32 holds exactly.

    Raises:
        NoAudioError: the file has no audio stream, or one without a sample.
        MediaError: the file is missing, damaged or ends too early.
    """
    path = Path(path)
    blocks: list[np.ndarray] = []
    with _opened(path) as container:
        if not container.streams.audio:
            raise NoAudioError(f"{path} has no audio stream.")
        stream = container.streams.audio[0]
        for packet in _packets(container, stream, path):
            blocks += [_to_float(frame) for frame in stream.decode(packet)]
        rate = stream.rate
    samples = sum(block.shape[1] for block in blocks)
    if samples == 0:
        raise NoAudioError(f"{path} has an audio stream without a sample.")
    return torch.from_numpy(np.concatenate(blocks, axis=1)), rate


def resample(waveform: torch.Tensor, rate: int, new_rate: int) -> torch.Tensor:
    """Bring `waveform` (channels, samples) from `rate` to `new_rate` hertz, by windowed-sinc interpolation."""
    if rate == new_rate:
        return waveform
    return torchaudio.functional.resample(waveform, rate, new_rate)


def read_frames(path: str | os.PathLike[str], fps: int) -> list[np.ndarray]:
    """Decode the frames of the first video stream of `path` that `fps` frames a second keep.

    Constant-rate video is thinned as in OGM-GE and DGL: with f = int(rate), frame i (from 0) is kept when
    (i mod f) mod (f // fps) = 0 and i mod f < (f // fps)·fps. Of variable-rate video the frame shown at
    t = j / fps is kept, t counted from the first frame.

    The rate is constant when the timestamps lie evenly, to within the millisecond that containers round them to,
    and the distance agrees with the rate that the container gives. That rate, not the measured one, goes into the
    rule, as in OpenCV: over a short clip the rounding of timestamps could make 29.97 a 30.

    Only one decoded frame is held besides the frames that are kept.

    Returns:
        Pictures (height, width, 3), uint8, RGB, in order of time. At least one.

    Raises:
        NoFrameError: the file has no video stream, or one without a frame.
        MediaError: the file is missing, damaged or ends too early.
        InputError: `fps` is not positive, or is above the rate of the video.
    """
    path = Path(path)
    if fps < 1:
        raise InputError(f"the number of frames a second must be at least 1, not {fps}.")
    times, rate = _timestamps(path)
    if rate is not None and fps > int(rate):
        raise InputError(f"{path} has {float(rate):.5g} frames a second, {fps} cannot be kept.")
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # clips are decoded in parallel, not frames
        decoded = (frame for packet in container.demux(stream) for frame in stream.decode(packet))
        if rate is not None:
            kept = _by_index(decoded, int(rate), fps)
        else:
            kept = _by_time(decoded, fps, last_shown=Fraction(times[-1] - times[0], max(len(times) - 1, 1)))
        frames = [frame.to_ndarray(format="rgb24") for frame in kept]
    if not frames:
        raise NoFrameError(f"{path} has a video stream without a frame.")
    return frames


def encode_jpeg(frame: np.ndarray) -> bytes:
    """`frame` (height, width, 3), uint8, RGB, as a JPEG file of quality 95 with 4:2:0 chroma, as OpenCV writes it."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return buffer.getvalue()


def _to_float(frame: AudioFrame) -> np.ndarray:
    """The samples of `frame`, (channels, samples), float32; integers are divided by half their range."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    half_range = 2.0 ** (8 * samples.dtype.itemsize - 1)
    zero = half_range if samples.dtype.kind == "u" else 0.0  # 8-bit samples are unsigned
    return ((samples.astype(np.float64) - zero) / half_range).astype(np.float32)


def _timestamps(path: Path) -> tuple[list[Fraction], Fraction | None]:
    """The frames' times in seconds, sorted, and the frame rate where it is constant; read without decoding."""
    with _opened(path) as container:
        if not container.streams.video:
            raise NoFrameError(f"{path} has no video stream.")
        stream = container.streams.video[0]
        stamps = [(packet.pts, packet.dts) for packet in _packets(container, stream, path) if packet.size]
        rate = stream.guessed_rate or stream.average_rate  # what OpenCV's CAP_PROP_FPS gives
        unit = stream.time_base or Fraction(0)
    if not stamps:
        raise NoFrameError(f"{path} has a video stream without a frame.")
    shown, decoded = ([tick * unit for tick in ticks if tick is not None] for ticks in zip(*stamps, strict=True))
    times = sorted(shown if len(shown) == len(stamps) else decoded)  # AVI gives the times of decoding alone
    if len(times) < len(stamps) or unit == 0:
        return [Fraction(0)], rate or Fraction(1)  # nothing to tell by but the order
    return times, rate if rate and _evenly_spaced(times, rate, max(unit, TIMESTAMP_ERROR)) else None


def _evenly_spaced(times: list[Fraction], rate: Fraction, error: Fraction) -> bool:
    """Whether `times` lie on the line through the first and the last, and at `rate`, give or take the rounding."""
    first, steps = times[0], len(times) - 1
    if steps < 1:
        return True
    span = times[-1] - first
    # The ends are rounded too; one percent on top forgives headers that say 30 for 29.97.
    agrees = abs(span - steps / rate) <= 2 * error + span / 100
    return agrees and all(abs(time - first - span * i / steps) <= error for i, time in enumerate(times))


def _by_index(frames: Iterator[VideoFrame], rate: int, fps: int) -> Iterator[VideoFrame]:
    step = rate // fps
    for i, frame in enumerate(frames):
        place = i % rate
        if place % step == 0 and place < step * fps:
            yield frame


def _by_time(frames: Iterator[VideoFrame], fps: int, last_shown: Fraction) -> Iterator[VideoFrame]:
    """The frame shown at 0, 1/fps, 2/fps … seconds; the last one is shown for `last_shown` seconds."""
    shown, start, count = None, Fraction(0), 0
    for frame in frames:
        if frame.pts is None or frame.time_base is None:
            continue
        time = frame.pts * frame.time_base
        if shown is None:
            start = time
        else:
            while start + Fraction(count, fps) < time:
                yield shown
                count += 1
        shown, end = frame, time + last_shown
    while shown is not None and (count == 0 or start + Fraction(count, fps) < end):
        yield shown
        count += 1


def _packets(container: InputContainer, stream: AudioStream | VideoStream, path: Path) -> Iterator[Packet]:
    """The packets of `stream`, and an error where the file ends before its own figures say."""
    checked = _check_riff_size(path)
    count, last = 0, Fraction(0)
    for packet in container.demux(stream):
        if packet.is_corrupt and not checked:
            raise MediaError(f"{path} is cut short or damaged: what follows {count} whole packets is not whole.")
        count += packet.size > 0
        if packet.pts is not None and packet.time_base:
            last = packet.pts * packet.time_base
        yield packet
    announced = Fraction(container.duration or 0, 1_000_000)
    sound_after_the_end = announced / 4 + Fraction(1, 5)  # forgiven; what is announced is the longer of the two
    if container.format.name == "flv" and stream.type == "video" and last < announced - sound_after_the_end:
        raise MediaError(f"{path} is cut short: {float(last):.1f} of {float(announced):.1f} s are there.")
    # MP4 counts its frames at the front. A tenth is forgiven: AVI's count is an estimate with some writers.
    if count < 0.9 * stream.frames:
        raise MediaError(f"{path} is cut short: {count} of the {stream.frames} frames that it announces are there.")


def _check_riff_size(path: Path) -> bool:
    """Whether `path` is a WAV or AVI file; an error if it is shorter than its header says.

    FFmpeg reads a WAV that was cut between two packets as a short WAV, and calls the end of one that was written to
    a pipe, whose header says 4 GiB, damaged: for these files it is the header that decides.
    """
    with path.open("rb") as file:
        head = file.read(8)
    size, there = int.from_bytes(head[4:8], "little") + 8, path.stat().st_size
    written_to_a_pipe = size > 0x7FFF0000  # such writers do not know the size
    off_by_a_header = 8  # and others count the first eight bytes as well
    riff = head[:4] == b"RIFF"
    if riff and not written_to_a_pipe and size > there + off_by_a_header:
        raise MediaError(f"{path} is cut short: {there} of the {size} bytes that its header announces are there.")
    return riff


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """Open `path` for reading; every failure of FFmpeg inside becomes a `MediaError` that names the file."""
    try:
        # "file:" keeps a colon in a name from being read as a protocol; a playlist must not reach the network.
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
            yield container
    except av.FFmpegError as error:
        if _is_lfs_pointer(path):
            raise MediaError(f"{path} only says where the file is (Git LFS); fetch it with `git lfs pull`.") from error
        what = (error.strerror or "unknown error").rstrip(".")
        raise MediaError(f"{path} cannot be read: {what[0].lower()}{what[1:]}.") from error


def _is_lfs_pointer(path: Path) -> bool:
    """Whether `path` is what a clone of a repository with large files holds until those are fetched."""
    try:
        with path.open("rb") as file:
            return file.read(64).startswith(b"version https://git-lfs")
    except OSError:
        return False
