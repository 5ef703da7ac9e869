"""The frames of a video that are kept, decoded in one pass over its packets, and no more of them than that takes."""

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

from mmpareto.data.raw.containers import MediaError, NoFrameError, Span
from mmpareto.data.raw.frame_choice import FrameChoice, Spacing, Wanted
from mmpareto.errors import InputError

Kept = TypeVar("Kept")

MOST_REORDERED = 16  # frames that may come before a frame and be shown after it, in H.264 and all others
STAMPED_FORMATS = ("flv", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # every packet tells when it is shown


class FrameReader(Generic[Kept]):
    """Takes the packets of a video stream; `frames` are those that `fps` frames a second keep (see frame_choice).

    Besides what is kept it holds the compressed packets of one moment to the next, and as many decoded frames as the
    codec reorders.

    Arguments:
        fps: frames kept a second.
        convert: what is kept of a frame, called as soon as the frame is there.
        following: whether the frame after each kept one is needed too, in `pairs`.
    """

    kind: ClassVar[str] = "video"
    absent: ClassVar[type[MediaError]] = NoFrameError

    def __init__(self, fps: int, convert: Callable[[VideoFrame], Kept], following: bool = False) -> None:
        if fps < 1:
            raise InputError(f"the number of frames a second must be at least 1, not {fps}.")
        self._fps, self._convert, self._following = fps, convert, following
        self._decoding: _Decoding[Kept] | None = None

    @property
    def done(self) -> bool:
        """Whether the wanted part is over."""
        return self._choice.over

    def open(self, path: Path, container: InputContainer, stream: Any, span: Span) -> None:
        """See `containers.Consumer`."""
        self._path, self._format, self._stream, self._span = path, container.format.name, stream, span
        # The rate that OpenCV's CAP_PROP_FPS gives.
        self._spacing = Spacing(stream.time_base or Fraction(0), stream.guessed_rate or stream.average_rate)
        self._choice = FrameChoice(self._fps, self._spacing, span, self._following)

    def take(self, packet: Packet) -> None:
        """See `containers.Consumer`."""
        if self._decoding is None:
            restarts = _restarts(self._stream.codec_context) if self._format in STAMPED_FORMATS else None
            if restarts is not None and restarts(packet):
                self._decoding = _AsNeeded(self._stream, self._spacing, self._choice, self._convert, restarts)
            else:
                self._decoding = _InOrder(self._stream, self._spacing, self._choice, self._convert)
        self._decoding.take(packet)

    def close(self) -> None:
        """See `containers.Consumer`."""
        if self._decoding is not None:
            self._decoding.close()
        if self._choice.jumped:
            raise MediaError(f"{self._path} is damaged: its times jump by more than an hour from a frame to the next.")

    @property
    def frames(self) -> list[Kept]:
        """What is kept, in order of time; at least one.

        Raises:
            NoFrameError: the video, or the part of it, has no frame.
            InputError: `fps` is above the rate of the video.
        """
        kept = self._kept
        frames = [kept[number] for number in self._numbers() if number in kept]
        if not frames:
            raise self._no_frame()
        return frames

    @property
    def pairs(self) -> list[tuple[int, Kept, Kept]]:
        """Number, frame and following frame of what is kept; a frame that nothing follows is left out."""
        kept = self._kept
        return [(n, kept[n], kept[n + 1]) for n in self._numbers() if n in kept and n + 1 in kept]

    @property
    def _kept(self) -> dict[int, Kept]:
        if self._decoding is None:
            raise self._no_frame()
        return self._decoding.kept

    def _no_frame(self) -> NoFrameError:
        part = "" if self._span == (None, None) else " in the part that is wanted"
        return NoFrameError(f"{self._path} has a video stream without a frame{part}.")

    def _numbers(self) -> list[int]:
        rate = self._spacing.constant_rate()
        if rate is not None and self._fps > int(rate):
            raise InputError(f"{self._path} has {float(rate):.5g} frames a second, {self._fps} cannot be kept.")
        return self._choice.kept(constant=rate is not None)


class ToRGB:
    """Frames as upright pictures (height, width, 3), uint8, RGB; keeps FFmpeg's converter from one to the next."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """The picture that is to be seen, turned as the file's display matrix says."""
        picture = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        quarters = round(frame.rotation / 90) % 4  # counter-clockwise, as numpy turns
        return np.ascontiguousarray(np.rot90(picture, quarters)) if quarters else picture


class _Decoding(Generic[Kept]):
    """What both ways of decoding share: which frames were asked for, and what is kept of them, by number."""

    def __init__(
        self, stream: Any, spacing: Spacing, choice: FrameChoice, convert: Callable[[VideoFrame], Kept]
    ) -> None:
        self.kept: dict[int, Kept] = {}
        self._stream, self._spacing, self._choice, self._convert = stream, spacing, choice, convert
        self._held: dict[int, VideoFrame] = {}  # decoded, and may still be asked for

    def take(self, packet: Packet) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def _keep(self, frame: Wanted) -> bool:
        """Keep a frame that is wanted, if it is there."""
        if frame.number not in self.kept and frame.key in self._held:
            self.kept[frame.number] = self._convert(self._held[frame.key])
        return frame.number in self.kept


class _InOrder(_Decoding[Kept]):
    """Decodes everything, and counts the frames that come out: for every container and codec."""

    _count = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ticks: list[int] = []  # a heap: packets come in the order of decoding

    def take(self, packet: Packet) -> None:
        tick = packet.dts if packet.pts is None else packet.pts  # AVI gives the times of decoding alone
        if tick is None:
            self._spacing.add(None)
        else:
            heapq.heappush(self._ticks, tick)
        if len(self._ticks) > MOST_REORDERED:
            self._spacing.add(heapq.heappop(self._ticks))
        self._judge(self._stream.decode(packet))

    def close(self) -> None:
        self._judge(self._stream.decode(None))
        while self._ticks and not self._choice.over:  # after a part some that come in between were not read
            self._spacing.add(heapq.heappop(self._ticks))
        for wanted in self._choice.finish():
            self._keep(wanted)

    def _judge(self, frames: list[VideoFrame]) -> None:
        for frame in frames:
            self._held[self._count] = frame
            for wanted in self._choice.judge(self._count, frame.pts):
                self._keep(wanted)
            self._held = {key: held for key, held in self._held.items() if key == self._choice.shown}
            self._count += 1


class _AsNeeded(_Decoding[Kept]):
    """Chooses by the packets' times, and decodes what the chosen frames need: the packets from a restart on.

    No packet is decoded before a frame at or after it was chosen; those before a restart, if nothing in between was,
    never; and of those that are passed on the way, none that no other refers to. What is decoded comes out as if
    everything were. Frames are known by the ticks at which they are shown.
    """

    def __init__(self, *args: Any) -> None:
        *others, self._restarts = args
        super().__init__(*others)
        self._pending: deque[tuple[int, Packet]] = deque()
        self._pending_ticks: set[int] = set()
        self._unsettled: list[tuple[int, bool, bool]] = []  # heap of tick, is not shown, is a restart
        self._awaited: dict[int, int] = {}  # tick → number of frames that are in the decoder
        self._shown: int | None = None  # the last frame that was judged; may still be wanted
        self._gap = False  # packets before the first pending one were left out

    def take(self, packet: Packet) -> None:
        tick = packet.pts
        if tick is None:
            raise MediaError(f"{self._stream.container.name} is damaged: a frame does not say when it is shown.")
        self._pending.append((tick, packet))
        self._pending_ticks.add(tick)
        heapq.heappush(self._unsettled, (tick, packet.is_discard, self._restarts(packet)))
        if len(self._unsettled) > MOST_REORDERED:
            self._settle(*heapq.heappop(self._unsettled))

    def close(self) -> None:
        while self._unsettled and not self._choice.over:  # after a part some that come in between were not read
            self._settle(*heapq.heappop(self._unsettled))
        for frame in self._choice.finish():
            self._fetch(frame)
        self._receive(self._stream.decode(None))

    def _settle(self, tick: int, hidden: bool, restart: bool) -> None:
        """Nothing that is shown before `tick` will come."""
        self._spacing.add(tick)
        if hidden:  # decoded where others need it, and shown by nobody: an edit list begins after it
            return
        wanted = self._choice.judge(tick, tick)
        for frame in wanted:
            if frame.key != tick:
                self._fetch(frame)
        if restart:
            while self._pending[0][0] != tick:
                self._pending_ticks.discard(self._pending.popleft()[0])
                self._gap = True
        self._shown = tick
        for frame in wanted:
            if frame.key == tick:
                self._fetch(frame)
        for key in [key for key in self._held if key < tick]:
            del self._held[key]

    def _fetch(self, frame: Wanted) -> None:
        """Decode until the frame is in the decoder; it comes out then or later."""
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
        passed = tick not in self._awaited and self._shown is not None and tick < self._shown
        skipped = "NONREF" if passed else "DEFAULT"
        if context.skip_frame != skipped:
            context.skip_frame = skipped
        self._receive(self._stream.decode(packet))

    def _receive(self, frames: list[VideoFrame]) -> None:
        for frame in frames:
            tick = frame.pts
            if tick is None:
                continue
            if tick in self._awaited:
                self.kept[self._awaited.pop(tick)] = self._convert(frame)
            elif self._shown is None or tick >= self._shown:
                self._held[tick] = frame


def _restarts(context: Any) -> Callable[[Packet], bool] | None:
    """Which packets a decoder can begin at as if it had seen all before; None where that is not known.

    Of the codecs whose every packet is a frame: in Sorenson's H.263 these are the key frames. In H.264 key frames
    may be pictures after which others still refer to what was before; only instantaneous refreshes (IDR) are sure.
    """
    if context.name == "flv":
        return lambda packet: packet.is_keyframe
    extradata = context.extradata or b""
    if context.name == "h264" and len(extradata) > 4 and extradata[0] == 1:  # ISO/IEC 14496-15, 5.3.3.1
        length = (extradata[4] & 3) + 1
        return lambda packet: packet.is_keyframe and _is_refresh(bytes(packet), length)
    return None


def _is_refresh(packet: bytes, length: int) -> bool:
    """Whether the first slice of an H.264 packet is one of an IDR picture; NAL units follow their sizes."""
    place = 0
    while place + length < len(packet):
        kind = packet[place + length] & 31
        if 1 <= kind <= 5:
            return kind == 5
        place += length + int.from_bytes(packet[place : place + length], "big")
    return False
