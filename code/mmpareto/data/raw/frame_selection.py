"""Frames that are kept of a video, chosen online from their time stamps; nothing is decoded here.

Constant-rate video is thinned as in OGM-GE and DGL: with f = int(rate), frame i (from 0) is kept if
(i mod f) mod (f // fps) = 0 and i mod f < (f // fps)·fps. Of variable-rate video, the frame shown at t = j / fps is
kept. Only the end of a video shows which of the two it is, so both rules are followed until then; often they agree.
Neither needs more than a few numbers about the earlier frames.
"""

from fractions import Fraction
from typing import NamedTuple

LONGEST_SHOWN = 3600  # seconds; a frame that is shown for longer has a damaged time stamp
TIMESTAMP_ERROR = Fraction(1, 1000)  # seconds: FLV and Matroska round every time stamp to a millisecond


class Spacing:
    """Online test of whether ascending times are evenly spaced at a given rate, in constant memory.

    Arguments:
        unit: seconds per tick; 0 if the file has no time stamps.
        rate: frames per second according to the container; None if it has no such entry.
    """

    def __init__(self, unit: Fraction, rate: Fraction | None) -> None:
        self.unit, self.rate = unit, rate
        self.count, self.first, self.last = 0, 0, 0
        self.stamped = unit > 0
        error = max(unit, TIMESTAMP_ERROR) / unit if unit else Fraction(0)
        self._error, self._scale = error.numerator, error.denominator  # of a time, in ticks
        # Slopes, as (rise, steps) in scaled ticks, of the flattest and of the steepest line through the first time from
        # which no time so far deviates by more than the error.
        self._steepest: tuple[int, int] | None = None
        self._flattest: tuple[int, int] | None = None
        self.may_be_constant = True

    def add(self, tick: int | None) -> None:
        """Add the next frame's time; None if the file has none."""
        if tick is None:
            self.stamped = False
            return
        if self.count == 0:
            self.first = tick
        else:
            rise, steps = self._scale * (tick - self.first), self.count
            above, below = rise + self._error, rise - self._error
            if self._steepest is None or above * self._steepest[1] < self._steepest[0] * steps:
                self._steepest = above, steps
            if self._flattest is None or below * self._flattest[1] > self._flattest[0] * steps:
                self._flattest = below, steps
            if self._flattest[0] * self._steepest[1] > self._steepest[0] * self._flattest[1]:
                self.may_be_constant = False
        self.last = tick
        self.count += 1

    @property
    def mean(self) -> Fraction:
        """Mean number of ticks from a frame to the next."""
        return Fraction(self.last - self.first, max(self.count - 1, 1))

    def constant_rate(self) -> Fraction | None:
        """Return the rate if it is constant, else None.

        It is constant if the times are on the line through the first and the last, within the millisecond to which
        containers round them, and their distance agrees with the container's rate. That rate, not the measured one,
        enters the rule, as in OpenCV: over a short clip, rounding could turn 29.97 into 30.
        """
        if not self.stamped:
            return self.rate or Fraction(1)
        if not self.rate or self._steepest is None or self._flattest is None:
            return self.rate
        steps = self.count - 1
        span = (self.last - self.first) * self.unit
        # The first and the last time are rounded, too; one percent more allows for headers that say 30 for 29.97.
        agrees = abs(span - steps / self.rate) <= 2 * max(self.unit, TIMESTAMP_ERROR) + span / 100
        even = Fraction(*self._flattest) <= self.mean * self._scale <= Fraction(*self._steepest)
        return self.rate if agrees and even else None


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
        if not step or not self._spacing.may_be_constant or index % step or index >= step * self._fps:
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
