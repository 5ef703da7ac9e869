"""Frames that are kept of a video, chosen online from their time stamps; nothing is decoded here.

Constant-rate video is thinned as in OGM-GE and DGL: with f = int(rate), frame i (from 0) is kept if
(i mod f) mod (f // fps) = 0 and i mod f < (f // fps)·fps. Of variable-rate video, the frame shown at t = j / fps is
kept. Only the end of a video shows which of the two it is, so both rules are followed until then; often they agree.
Neither needs more than a few numbers about the earlier frames.
"""

import math
from fractions import Fraction
from typing import NamedTuple

LONGEST_SHOWN = 3600  # seconds; a frame that is shown for longer has a damaged time stamp
TIMESTAMP_ERROR = Fraction(1, 1000)  # seconds: FLV and Matroska round every time stamp to a millisecond
REGULAR_SHARE = Fraction(2, 3)  # of the duration of a constant-rate video that its regular gaps fill


class Spacing:
    """Online test of whether ascending times are evenly spaced at a given rate but for few, in constant memory.

    Arguments:
        unit: seconds per tick; 0 if the file has no time stamps.
        rate: frames per second according to the container; None if it has no such entry.
    """

    def __init__(self, unit: Fraction, rate: Fraction | None) -> None:
        self.unit, self.rate = unit, rate
        self.count, self.first, self.last = 0, 0, 0
        self.stamped = unit > 0
        self._gap = 1 / (rate * unit) if rate and unit else Fraction(0)  # in ticks, like all below
        self._error = 2 * max(unit, TIMESTAMP_ERROR) / unit if unit else Fraction(0)  # both ends of a gap are rounded
        self._shortest, self._longest = math.ceil(self._gap - self._error), math.floor(self._gap + self._error)
        self._regular, self._regular_ticks = 0, 0  # number and total length of the gaps of the expected length

    def add(self, tick: int | None) -> None:
        """Add the next frame's time; None if the file has none."""
        if tick is None:
            self.stamped = False
            return
        if self.count == 0:
            self.first = tick
        elif self._shortest <= tick - self.last <= self._longest:
            self._regular += 1
            self._regular_ticks += tick - self.last
        self.last = tick
        self.count += 1

    @property
    def mean(self) -> Fraction:
        """Mean number of ticks from a frame to the next."""
        return Fraction(self.last - self.first, max(self.count - 1, 1))

    @property
    def stands_still(self) -> bool:
        """True if there are several frames, all with the same time."""
        return self.stamped and self.count > 1 and self.first == self.last

    def constant_rate(self) -> Fraction | None:
        """Return the container's rate if the times agree with it, else None.

        They agree if the gaps of the expected length, within the millisecond to which containers round times, fill at
        least REGULAR_SHARE of the video and do not drift from the rate. So a late frame or a short pause does not
        matter, as in OpenCV, which counts frames without looking at their times. The container's rate, not the measured
        one, enters the rule, as in OpenCV, too: over a short clip, rounding could turn 29.97 into 30.
        """
        if not self.stamped:
            return self.rate or Fraction(1)
        if not self.rate or self.count < 2:
            return self.rate
        irregular = self.count - 1 - self._regular
        drift = abs(self._regular_ticks - self._regular * self._gap)
        # Irregular gaps separate runs of regular ones; the first and the last time of each run are rounded. One percent
        # more allows for headers that say 30 for 29.97.
        agrees = drift <= (irregular + 1) * self._error + Fraction(self._regular_ticks, 100)
        return self.rate if agrees and self._regular_ticks >= REGULAR_SHARE * (self.last - self.first) else None


class SelectedFrame(NamedTuple):
    """A frame that one of the rules keeps: its number, from 0, and the key by which its decoder knows it."""

    number: int
    key: int


class FrameSelection:
    """Applies both rules to the frames of a video, in the order in which they are shown.

    Arguments:
        fps: frames kept per second.
        spacing: of the same video. It receives every time stamp, also of packets that are not shown.
        with_next: select the frame after each kept one, too.

    Attributes:
        jumped: the time stamps make no sense; nothing more is selected.
    """

    def __init__(self, fps: int, spacing: Spacing, with_next: bool = False) -> None:
        self.jumped = False
        self._fps, self._spacing, self._with_next = fps, spacing, with_next
        self._rate = int(spacing.rate or (0 if spacing.stamped else 1))
        self._unit = spacing.unit or Fraction(1)
        self._by_index: list[int] = []
        self._by_time: list[int] = []
        self._count = 0  # frames so far
        self._newest_kept = -1
        self._last: tuple[SelectedFrame, int] | None = None  # the last frame with a time, and its tick
        self._start = Fraction(0)  # tick of the first frame

    def add(self, key: int, tick: int | None) -> list[SelectedFrame]:
        """Add the next frame; return which of it and the one before it are selected, perhaps again."""
        if self.jumped:
            return []
        if tick is not None and self._last and (tick - self._last[1]) * self._unit > LONGEST_SHOWN:
            self.jumped = True
            return []
        frame = SelectedFrame(self._count, key)
        selected = [] if tick is None else self._select_by_time(tick)
        selected += self._select_by_index(frame)
        if self._with_next and self._newest_kept == frame.number - 1:
            selected.append(frame)
        if tick is not None:
            if self._last is None:
                self._start = Fraction(tick)
            self._last = frame, tick
        self._count += 1
        return selected

    @property
    def candidate(self) -> int | None:
        """Key of the only frame so far that may still be selected."""
        return self._last[0].key if self._last else None

    def finish(self) -> list[SelectedFrame]:
        """End of the video: the last frame is shown for as long as frames are on average."""
        if self.jumped or self._last is None:
            return []
        return self._select_by_time(self._last[1] + self._spacing.mean, at_least_one=True)

    def numbers(self, constant: bool) -> list[int]:
        """Numbers of the frames to keep; the same one several times if it is shown for long."""
        return self._by_index if constant and self._by_index else self._by_time

    def _select_by_index(self, frame: SelectedFrame) -> list[SelectedFrame]:
        """Rule of constant rates."""
        step = self._rate // self._fps
        index = frame.number % self._rate if self._rate else 0
        if not step or index % step or index >= step * self._fps:
            return []
        self._by_index.append(frame.number)
        self._newest_kept = frame.number
        return [frame]

    def _select_by_time(self, tick: Fraction | int, at_least_one: bool = False) -> list[SelectedFrame]:
        """Rule of variable rates: the moments j / fps before `tick` belong to the frame that was shown until then."""
        if self._last is None:
            return []
        frame, _ = self._last
        selected: list[SelectedFrame] = []
        while self._next_moment() < tick or (at_least_one and not self._by_time):
            self._by_time.append(frame.number)
            self._newest_kept = max(self._newest_kept, frame.number)
            selected = [frame]
        return selected

    def _next_moment(self) -> Fraction:
        """Tick of the first moment j / fps for which no frame has been selected."""
        return self._start + Fraction(len(self._by_time), self._fps) / self._unit
