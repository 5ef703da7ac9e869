"""Decoding the frames of a video that are kept, in one pass over its packets, and as few others as possible."""

import heapq
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from mmpareto.data.raw.containers import MediaError, NoFrameError
from mmpareto.data.raw.frame_selection import FrameSelection, SelectedFrame, Spacing
from mmpareto.errors import InputError

Converted = TypeVar("Converted")

MOST_REORDERED = 16  # frames that may be stored before a frame and shown after it, in H.264 and all other codecs
STAMPED_FORMATS = ("flv", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # every packet has a presentation time


class VideoReader(Generic[Converted]):
    """Decodes a video stream and keeps `fps` frames per second (a `containers.StreamReader`; see frame_selection).

    Besides the kept frames, it holds the compressed packets since the last kept frame and as many decoded frames as the
    codec reorders.

    Arguments:
        fps: frames kept per second.
        convert: applied to each kept frame as soon as it is decoded.
        with_next: keep the frame after each kept one, too, for `pairs`.
    """

    kind: ClassVar[str] = "video"
    missing_stream: ClassVar[type[MediaError]] = NoFrameError

    def __init__(self, fps: int, convert: Callable[[VideoFrame], Converted], with_next: bool = False) -> None:
        if fps < 1:
            raise InputError(f"the number of frames per second must be at least 1, not {fps}.")
        self._fps, self._convert, self._with_next = fps, convert, with_next
        self._decoder: _Decoder[Converted] | None = None

    def open(self, path: Path, container: InputContainer, stream: Any) -> None:
        """Remember the stream, and read its frame rate."""
        self._path, self._format, self._stream = path, container.format.name, stream
        self._spacing = Spacing(stream.time_base or Fraction(0), _frame_rate(stream, self._format))
        self._selection = FrameSelection(self._fps, self._spacing, self._with_next)

    def feed(self, packet: Packet) -> None:
        """Select frames by a packet's time stamp, and decode what is needed.

        Raises:
            MediaError: the time stamps make no sense.
        """
        if self._decoder is None:
            is_restart = _restart_test(self._stream.codec_context) if self._format in STAMPED_FORMATS else None
            if is_restart is not None and is_restart(packet):
                self._decoder = _SparseDecoder(self._stream, self._spacing, self._selection, self._convert, is_restart)
            else:
                self._decoder = _FullDecoder(self._stream, self._spacing, self._selection, self._convert)
        self._decoder.feed(packet)
        self._check_times()

    def close(self) -> None:
        """Decode the frames that are still due.

        Raises:
            MediaError: the time stamps make no sense.
        """
        if self._decoder is not None:
            self._decoder.close()
        self._check_times()
        if self._spacing.stands_still:
            raise MediaError(
                f"{self._path} is damaged: all of its {self._spacing.count} frames have the same time stamp."
            )

    @property
    def frames(self) -> list[Converted]:
        """The kept frames in order of time; at least one.

        Raises:
            NoFrameError: the video has no frame.
            InputError: `fps` is above the frame rate of the video.
        """
        kept = self._kept
        frames = [kept[number] for number in self._numbers() if number in kept]
        if not frames:
            raise self._no_frame()
        return frames

    @property
    def pairs(self) -> list[tuple[int, Converted, Converted]]:
        """Number, frame and next frame of each kept frame; the last frame of the video, which has none, is left out."""
        kept = self._kept
        return [(n, kept[n], kept[n + 1]) for n in self._numbers() if n in kept and n + 1 in kept]

    @property
    def _kept(self) -> dict[int, Converted]:
        if self._decoder is None:
            raise self._no_frame()
        return self._decoder.kept

    def _no_frame(self) -> NoFrameError:
        return NoFrameError(f"{self._path} has a video stream without a frame.")

    def _check_times(self) -> None:
        if self._selection.jumped:
            raise MediaError(f"{self._path} is damaged: its time stamps jump by more than an hour between two frames.")

    def _numbers(self) -> list[int]:
        rate = self._spacing.constant_rate()
        if rate is not None and self._fps > int(rate):
            raise InputError(f"{self._path} has {float(rate):.5g} frames per second; {self._fps} cannot be kept.")
        return self._selection.numbers(constant=rate is not None)


def _frame_rate(stream: Any, container_format: str) -> Fraction | None:
    """The frame rate of a video according to its header; None if it has none.

    OpenCV returns the average rate as CAP_PROP_FPS. FLV's header states it; in other formats, FFmpeg divides the number
    of frames by the duration, which one long gap changes. There, it is FFmpeg's guess from the first gaps, unless that
    is far off: an odd gap can turn it into a multiple of the rate.
    """
    guess, average = stream.guessed_rate, stream.average_rate
    if not guess or not average:
        return guess or average
    return average if container_format == "flv" or abs(guess - average) > average / 10 else guess


class ToRGB:
    """Converts frames to upright RGB images, uint8 (height, width, 3); reuses FFmpeg's converter."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """The image, rotated as the file's display matrix says."""
        image = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, as in NumPy
        return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


class _Decoder(Generic[Converted]):
    """Base class of the two decoders: `kept` maps the number of a selected frame to its converted form."""

    def __init__(
        self, stream: Any, spacing: Spacing, selection: FrameSelection, convert: Callable[[VideoFrame], Converted]
    ) -> None:
        self.kept: dict[int, Converted] = {}
        self._stream, self._spacing, self._selection, self._convert = stream, spacing, selection, convert
        self._decoded: dict[int, VideoFrame] = {}  # key → frame that may still be selected

    def feed(self, packet: Packet) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def _keep(self, frame: SelectedFrame) -> bool:
        """Convert a selected frame if it is decoded; return whether it is kept now."""
        if frame.number not in self.kept and frame.key in self._decoded:
            self.kept[frame.number] = self._convert(self._decoded[frame.key])
        return frame.number in self.kept


class _FullDecoder(_Decoder[Converted]):
    """Decodes every packet and counts the frames: works for every container and codec."""

    _count = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ticks: list[int] = []  # a heap: packets arrive in decoding order

    def feed(self, packet: Packet) -> None:
        tick = packet.dts if packet.pts is None else packet.pts  # AVI has decoding times only
        if tick is None:
            self._spacing.add(None)
        else:
            heapq.heappush(self._ticks, tick)
        if len(self._ticks) > MOST_REORDERED:
            self._spacing.add(heapq.heappop(self._ticks))
        self._receive(self._stream.decode(packet))

    def close(self) -> None:
        self._receive(self._stream.decode(None))
        while self._ticks:
            self._spacing.add(heapq.heappop(self._ticks))
        for selected in self._selection.finish():
            self._keep(selected)

    def _receive(self, frames: list[VideoFrame]) -> None:
        for frame in frames:
            self._decoded[self._count] = frame
            for selected in self._selection.add(self._count, frame.pts):
                self._keep(selected)
            candidate = self._selection.candidate
            self._decoded = {key: held for key, held in self._decoded.items() if key == candidate}
            self._count += 1


class _SparseDecoder(_Decoder[Converted]):
    """Selects frames by the packets' time stamps, and decodes only what the selected frames need.

    A packet is decoded only when a frame at or after it has been selected. Packets before a restart (a packet from
    which decoding can begin) are dropped if nothing between them and the restart was selected; frames that no other
    frame refers to are skipped on the way. The result is the same as with every packet decoded. A frame's key is the
    tick at which it is shown.
    """

    def __init__(self, *args: Any) -> None:
        *others, self._is_restart = args
        super().__init__(*others)
        self._pending: deque[tuple[int, Packet]] = deque()
        self._pending_ticks: set[int] = set()
        self._unsettled: list[tuple[int, bool, bool]] = []  # heap of (tick, is hidden, is a restart)
        self._awaited: dict[int, int] = {}  # tick → number of frames that are in FFmpeg's decoder
        self._last_shown: int | None = None  # tick of the newest settled frame, which may still be selected
        self._gap = False  # packets before the first pending one were dropped

    def feed(self, packet: Packet) -> None:
        tick = packet.pts
        if tick is None:
            raise MediaError(f"{self._stream.container.name} is damaged: a frame has no presentation time.")
        self._pending.append((tick, packet))
        self._pending_ticks.add(tick)
        heapq.heappush(self._unsettled, (tick, packet.is_discard, self._is_restart(packet)))
        if len(self._unsettled) > MOST_REORDERED:
            self._settle(*heapq.heappop(self._unsettled))

    def close(self) -> None:
        while self._unsettled:
            self._settle(*heapq.heappop(self._unsettled))
        for frame in self._selection.finish():
            self._fetch(frame)
        self._receive(self._stream.decode(None))

    def _settle(self, tick: int, hidden: bool, restart: bool) -> None:
        """Process a packet once no packet that is shown earlier can follow."""
        self._spacing.add(tick)
        if hidden:  # decoded only for other frames: an edit list begins after it
            return
        selected = self._selection.add(tick, tick)
        for frame in selected:
            if frame.key != tick:
                self._fetch(frame)
        if restart:
            while self._pending and self._pending[0][0] != tick:
                self._pending_ticks.discard(self._pending.popleft()[0])
                self._gap = True
            if not self._pending:
                raise MediaError(f"{self._stream.container.name} is damaged: two of its frames have the same time.")
        self._last_shown = tick
        for frame in selected:
            if frame.key == tick:
                self._fetch(frame)
        for key in [key for key in self._decoded if key < tick]:
            del self._decoded[key]

    def _fetch(self, frame: SelectedFrame) -> None:
        """Decode packets up to that of the frame, which FFmpeg returns then or later."""
        if self._keep(frame):
            return
        self._awaited[frame.key] = frame.number
        while frame.key in self._pending_ticks:
            self._decode(*self._pending.popleft())

    def _decode(self, tick: int, packet: Packet) -> None:
        self._pending_ticks.discard(tick)
        context = self._stream.codec_context
        if self._gap:
            self._receive(self._stream.decode(None))
            context.flush_buffers()
            self._gap = False
        not_needed = tick not in self._awaited and self._last_shown is not None and tick < self._last_shown
        skip_frame = "NONREF" if not_needed else "DEFAULT"
        if context.skip_frame != skip_frame:
            context.skip_frame = skip_frame
        self._receive(self._stream.decode(packet))

    def _receive(self, frames: list[VideoFrame]) -> None:
        for frame in frames:
            tick = frame.pts
            if tick is None:
                continue
            if tick in self._awaited:
                self.kept[self._awaited.pop(tick)] = self._convert(frame)
            elif self._last_shown is None or tick >= self._last_shown:
                self._decoded[tick] = frame


def _restart_test(context: Any) -> Callable[[Packet], bool] | None:
    """Return a test for packets from which a decoder can begin as if it had seen all before; None if there is none.

    It covers codecs in which every packet is a frame. In Sorenson's H.263 these packets are the key frames. In H.264,
    frames after a key frame may still refer to frames before it; only instantaneous refreshes (IDR) are safe.
    """
    if context.name == "flv":
        return lambda packet: packet.is_keyframe
    extradata = context.extradata or b""
    if context.name == "h264" and len(extradata) > 4 and extradata[0] == 1:  # ISO/IEC 14496-15, 5.3.3.1
        length = (extradata[4] & 3) + 1
        return lambda packet: packet.is_keyframe and _is_refresh(bytes(packet), length)
    return None


def _is_refresh(packet: bytes, length: int) -> bool:
    """Return whether the first slice of an H.264 packet belongs to an IDR picture; each NAL unit follows its size."""
    offset = 0
    while offset + length < len(packet):
        kind = packet[offset + length] & 31
        if 1 <= kind <= 5:
            return kind == 5
        offset += length + int.from_bytes(packet[offset : offset + length], "big")
    return False
