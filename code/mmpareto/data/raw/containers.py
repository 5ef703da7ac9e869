"""Opening media files and reading them once, through PyAV (FFmpeg's libraries; no ffmpeg program is needed).

`read_streams` sends the packets of a file to readers of its audio and of its video, and refuses files that are damaged
or cut short.
"""

import contextlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Protocol

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition

from mmpareto.data.raw.limits import MOST_PIXELS
from mmpareto.errors import InputError

MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # by one of which an MP4 or QuickTime file begins
MOST_BOXES = 10_000  # at the top level of an MP4 file that are looked at


class MediaError(InputError):
    """A media file cannot be used; `reason` is the kind of failure, for counting."""

    reason = "unreadable file"


class NoAudioError(MediaError):
    """A file has no audio."""

    reason = "no audio"


class NoFrameError(MediaError):
    """A file has no video frame."""

    reason = "no frame"


class NotFiniteError(MediaError):
    """The samples of a file, or the features of its audio, are NaN or infinite."""

    reason = "sound not finite"


class StreamReader(Protocol):
    """Receives the packets of a file's first audio or video stream."""

    kind: ClassVar[str]  # "audio" or "video"
    missing_stream: ClassVar[type[MediaError]]  # raised if the file has no such stream

    def open(self, path: Path, container: InputContainer, stream: Any) -> None:
        """Called once, before the first packet."""

    def feed(self, packet: Packet) -> None:
        """Called with each packet of the stream; none of them is empty."""

    def close(self) -> None:
        """Called once, after the last packet."""


def read_streams(path: Path, readers: Sequence[StreamReader]) -> None:
    """Open `path` and send each reader the packets of its stream, in one pass.

    Arguments:
        readers: at most one of each kind; streams without a reader are skipped.

    Raises:
        NoAudioError, NoFrameError: the file has no such stream.
        MediaError: the file is missing, damaged or cut short.
    """
    with _opened(path) as container:
        is_riff = _check_riff_size(path)
        tracks = {}
        for reader in readers:
            streams = container.streams.audio if reader.kind == "audio" else container.streams.video
            if not streams:
                raise reader.missing_stream(f"{path} has no {reader.kind} stream.")
            if streams[0].codec_context is None:
                raise MediaError(f"{path} has {reader.kind} of a codec that FFmpeg does not know, and cannot decode.")
            tracks[streams[0].index] = _Track(streams[0], reader)
        for stream in container.streams:
            if stream.index not in tracks:
                stream.discard = Discard.all
        for track in tracks.values():
            track.stream.thread_type = "NONE"  # parallelism is across clips, not within one
            track.stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
            track.reader.open(path, container, track.stream)
        for packet in _packets(path, container, [track.stream for track in tracks.values()]):
            if packet.is_corrupt and not is_riff:
                count = sum(track.packets for track in tracks.values())
                raise MediaError(f"{path} is cut short or damaged after {count} whole packets.")
            if packet.size:
                tracks[packet.stream_index].feed(packet)
        for track in tracks.values():
            track.check_end(path, container)
        for track in tracks.values():
            track.reader.close()


def _packets(path: Path, container: InputContainer, streams: Sequence[Any]) -> Iterator[Packet]:
    try:
        yield from container.demux(*streams)
    except IndexError:  # of PyAV, for a packet of a stream that the file did not have when it was opened
        raise MediaError(f"{path} is damaged: a stream begins in the middle of it.") from None


def stream_kinds(path: Path) -> frozenset[str]:
    """Kinds of the streams of a media file, of "audio" and "video"; the cover picture of a sound file is not video.

    Raises:
        MediaError: the file is missing or not a media file.
    """
    with _opened(path) as container:
        return frozenset(
            stream.type
            for stream in container.streams
            if stream.type in ("audio", "video") and not stream.disposition & Disposition.attached_pic
        )


class _Track:
    """A stream, its reader, and how much of it has been read."""

    def __init__(self, stream: Any, reader: StreamReader) -> None:
        self.stream, self.reader = stream, reader
        self.packets, self.last_pts = 0, 0

    def feed(self, packet: Packet) -> None:
        self.packets += 1
        self.last_pts = self.last_pts if packet.pts is None else packet.pts
        self.reader.feed(packet)

    def check_end(self, path: Path, container: InputContainer) -> None:
        """Raise MediaError if the file ended before its header says it does."""
        announced = Fraction(container.duration or 0, av.time_base)
        last = self.last_pts * (self.stream.time_base or Fraction(0))
        # The header announces the longer of sound and pictures, so the video may end a little earlier.
        if (
            container.format.name == "flv"
            and self.stream.type == "video"
            and last < announced - announced / 4 - Fraction(1, 5)
        ):
            raise MediaError(f"{path} is cut short: it has {float(last):.1f} of {float(announced):.1f} s.")
        # MP4 counts its frames in the header. A tenth may be missing: with some writers AVI's count is an estimate.
        expected = self._announced_packets(container)
        if self.packets < 0.9 * expected:
            raise MediaError(f"{path} is cut short: it has {self.packets} of the {expected} frames that it announces.")

    def _announced_packets(self, container: InputContainer) -> int:
        """The number of packets that the header announces; 0 if it does not."""
        is_mp4 = "mp4" in container.format.name
        if self.stream.type == "audio" and (not is_mp4 or self.stream.codec_context.name.startswith("pcm")):
            return 0  # AVI counts samples or bytes of audio, and so does MP4 if the audio is not compressed
        # An MP4's edit list may end before its last frame.
        return len(self.stream.index_entries) if is_mp4 and self.stream.frames else self.stream.frames


def _check_riff_size(path: Path) -> bool:
    """Return whether `path` is a WAV or AVI file; raise MediaError if it is shorter than its header says.

    FFmpeg reads a WAV file that was cut between two packets as a short WAV file, and reports a file that was written to
    a pipe, whose header says 4 GiB, as damaged at its end. So the header decides for these files.
    """
    head = _head(path)
    announced, actual = int.from_bytes(head[4:8], "little") + 8, path.stat().st_size
    written_to_a_pipe = announced > 0x7FFF0000  # such writers do not know the size
    off_by_a_header = 8  # and others count the first eight bytes as well
    is_riff = head[:4] == b"RIFF"
    if is_riff and not written_to_a_pipe and announced > actual + off_by_a_header:
        raise MediaError(f"{path} is cut short: it has {actual} of the {announced} bytes that its header announces.")
    return is_riff


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """Open `path` for reading; every FFmpeg error inside becomes a `MediaError` that names the file."""
    # "file:" keeps a colon in a name from being read as a protocol; a playlist must not reach the network.
    options = {"protocol_whitelist": "file"}
    if path.exists() and not path.is_file():
        raise MediaError(f"{path} is not a regular file.")  # opening a pipe would wait for a writer
    head = _head(path)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        options["probesize"] = "4096"  # the header is enough; FFmpeg would search 3 s of samples for hidden DTS
    try:
        # Tags may be in any encoding; nothing here reads them.
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, UnicodeError) as error:
        if head.startswith(b"version https://git-lfs"):  # what a clone contains until large files are fetched
            raise MediaError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull`.") from error
        if _lacks_index(path, head):
            raise MediaError(
                f"{path} is cut short: the index of an MP4 file, which may be at its end, is missing."
            ) from error
        problem = (getattr(error, "strerror", None) or str(error) or "unknown error").rstrip(".")
        raise MediaError(f"{path} cannot be read: {problem[0].lower()}{problem[1:]}.") from error


def _lacks_index(path: Path, head: bytes) -> bool:
    """Return whether an MP4 or QuickTime file has no complete index: the box "moov", without which nothing is found."""
    if head[4:8] not in MP4_BOXES:
        return False
    offset, size = 0, path.stat().st_size
    with path.open("rb") as file:
        for _ in range(MOST_BOXES):
            if offset > size - 8:
                return True
            file.seek(offset)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            length = int.from_bytes(header[8:], "big") if length == 1 else length or size - offset
            if header[4:8] == b"moov":
                return offset + length > size
            if length < 8:
                return False
            offset += length
    return False


def _head(path: Path) -> bytes:
    """The first bytes of a file; b"" if it cannot be read, for which FFmpeg has the better message."""
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""
