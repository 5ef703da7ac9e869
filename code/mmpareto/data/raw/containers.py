"""Media files opened and read once, through PyAV (FFmpeg's libraries, no ffmpeg program).

`read_streams` sends the packets of a file to those who want its sound or its pictures, and refuses files that are
damaged or end too early.
"""

import contextlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard

from mmpareto.errors import InputError

# Sound is decoded from half a second before a part begins: a decoder of AAC or MP3 needs the packets before.
PREROLL = Fraction(1, 2)


class MediaError(InputError):
    """A media file that cannot be used; `reason` is the kind of failure, for counting."""

    reason = "unreadable file"


class NoAudioError(MediaError):
    """There is no sound in the file."""

    reason = "no audio"


class NoFrameError(MediaError):
    """There is no picture in the file."""

    reason = "no frame"


class Span(NamedTuple):
    """What is wanted of a file, in seconds of its own clock; None: from where it begins, to where it ends."""

    begin: Fraction | None
    end: Fraction | None


class Consumer(Protocol):
    """Who takes the packets of a file's first audio or video stream."""

    kind: ClassVar[str]  # "audio" or "video"
    absent: ClassVar[type[MediaError]]  # raised where the file has no such stream

    @property
    def done(self) -> bool:
        """Whether what comes can be left unread."""

    def open(self, path: Path, container: InputContainer, stream: Any, span: Span) -> None:
        """Called once, before the first packet."""

    def take(self, packet: Packet) -> None:
        """The next packet of the stream; none of them is empty."""

    def close(self) -> None:
        """Called once, after the last packet."""


def read_streams(path: Path, consumers: Sequence[Consumer], start: float = 0, seconds: float | None = None) -> None:
    """Open `path`, and send each of the `consumers` the packets of its stream, in one pass.

    Arguments:
        consumers: at most one of each kind; streams that nobody wants are not read.
        start, seconds: the part that is wanted. It begins at `start`, counted from where the file begins, and lasts
            for `seconds`, to the end by default. Reading begins at the key frame before it and ends soon after it.

    Raises:
        NoAudioError, NoFrameError: there is no such stream.
        MediaError: the file is missing, damaged or ends too early.
        InputError: `start` is negative or `seconds` is not positive.
    """
    if start < 0 or (seconds is not None and seconds <= 0):
        raise InputError(f"a part of {path} cannot begin at {start} s and last {seconds} s.")
    with _opened(path) as container:
        riff = _check_riff_size(path)
        tracks = {}
        for consumer in consumers:
            streams = container.streams.audio if consumer.kind == "audio" else container.streams.video
            if not streams:
                raise consumer.absent(f"{path} has no {consumer.kind} stream.")
            tracks[streams[0].index] = _Track(streams[0], consumer)
        for stream in container.streams:
            if stream.index not in tracks:
                stream.discard = Discard.all
        origin = Fraction(container.start_time or 0, av.time_base)
        begin = origin + _exact(start) if start > 0 else None
        span = Span(begin, None if seconds is None else origin + _exact(start) + _exact(seconds))
        sought = _exact(start) > PREROLL
        if sought:
            container.seek(int((origin + _exact(start) - PREROLL) * av.time_base))
        for track in tracks.values():
            track.stream.thread_type = "NONE"  # clips are decoded in parallel, not frames
            track.consumer.open(path, container, track.stream, span)
        for packet in container.demux(*(track.stream for track in tracks.values())):
            if packet.is_corrupt and not riff:
                count = sum(track.packets for track in tracks.values())
                raise MediaError(f"{path} is cut short or damaged: what follows {count} whole packets is not whole.")
            if packet.size:
                tracks[packet.stream_index].take(packet)
            if all(track.consumer.done for track in tracks.values()):
                break
        else:
            for track in tracks.values():
                track.check_end(path, container, sought)
        for track in tracks.values():
            track.consumer.close()


class _Track:
    """A stream that is read, and how far."""

    def __init__(self, stream: Any, consumer: Consumer) -> None:
        self.stream, self.consumer = stream, consumer
        self.packets, self.last = 0, 0
        self.first: int | None = None

    def take(self, packet: Packet) -> None:
        self.packets += 1
        self.last = self.last if packet.pts is None else packet.pts
        if self.first is None:
            self.first = packet.dts
        if not self.consumer.done:
            self.consumer.take(packet)

    def check_end(self, path: Path, container: InputContainer, sought: bool) -> None:
        """An error where the file ended before its own figures say; `sought`: it was not read from the beginning."""
        announced = Fraction(container.duration or 0, av.time_base)
        last = self.last * (self.stream.time_base or Fraction(0))
        # Sound after the end is forgiven: what is announced is the longer of the two.
        if (
            container.format.name == "flv"
            and self.stream.type == "video"
            and last < announced - announced / 4 - Fraction(1, 5)
        ):
            raise MediaError(f"{path} is cut short: {float(last):.1f} of {float(announced):.1f} s are there.")
        # MP4 counts its frames at the front. A tenth is forgiven: AVI's count is an estimate with some writers.
        expected = self._announced(container, sought)
        if self.packets < 0.9 * expected:
            raise MediaError(
                f"{path} is cut short: {self.packets} of the {expected} frames that it announces are there."
            )

    def _announced(self, container: InputContainer, sought: bool) -> int:
        """How many packets the file announces from the first one that was read; 0 where it does not say."""
        mp4 = "mp4" in container.format.name
        if self.stream.type == "audio" and (not mp4 or self.stream.codec_context.name.startswith("pcm")):
            return 0  # AVI counts samples or bytes of sound, and so does MP4 where it is not compressed
        if not sought:
            return self.stream.frames
        if not mp4 or self.first is None:
            return 0
        return sum(entry.timestamp >= self.first for entry in self.stream.index_entries)


def _exact(seconds: float) -> Fraction:
    """What was meant by 1.9, which as a binary number is a little less."""
    return Fraction(seconds).limit_denominator(av.time_base)


def _check_riff_size(path: Path) -> bool:
    """Whether `path` is a WAV or AVI file; an error if it is shorter than its header says.

    FFmpeg reads a WAV that was cut between two packets as a short WAV, and calls the end of one that was written to
    a pipe, whose header says 4 GiB, damaged: for these files it is the header that decides.
    """
    head = _head(path)
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
    # "file:" keeps a colon in a name from being read as a protocol; a playlist must not reach the network.
    options = {"protocol_whitelist": "file"}
    head = _head(path)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        options["probesize"] = "4096"  # the header says all; FFmpeg would search 3 s of samples for hidden DTS
    try:
        with av.open(f"file:{path}", options=options) as container:
            yield container
    except av.FFmpegError as error:
        if head.startswith(b"version https://git-lfs"):  # what a clone holds until large files are fetched
            raise MediaError(f"{path} only says where the file is (Git LFS); fetch it with `git lfs pull`.") from error
        what = (error.strerror or "unknown error").rstrip(".")
        raise MediaError(f"{path} cannot be read: {what[0].lower()}{what[1:]}.") from error


def _head(path: Path) -> bytes:
    """The first bytes of a file; none where it cannot be read, which FFmpeg then says better."""
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""
