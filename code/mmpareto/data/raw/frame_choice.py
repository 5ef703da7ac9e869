"""Which frames of a video are kept, told from their times as they come; nothing is decoded here.

Constant-rate video is thinned as in OGM-GE and DGL: with f = int(rate), frame i (from 0) is kept when
(i mod f) mod (f // fps) = 0 and i mod f < (f // fps)·fps. Of variable-rate video the frame shown at t = j / fps is
kept. Which of the two a video is shows at its end only, so both rules are followed until then: often they agree.
Neither needs more than a few figures of what went before.
"""

from fractions import Fraction
from typing import NamedTuple

from mmpareto.data.raw.containers import Span

LONGEST_SHOWN = 3600  # seconds; a frame that is shown for longer comes of a damaged time stamp
TIMESTAMP_ERROR = Fraction(1, 1000)  # seconds: FLV and Matroska round every timestamp to a millisecond


class Spacing:
    """Whether times that come in ascending order lie evenly, at a given rate; in memory that does not grow.

    Arguments:
        unit: seconds a tick; 0 where there is nothing to tell by but the order.
        rate: frames a second by the container, None where it gives none.
    """

    def __init__(self, unit: Fraction, rate: Fraction | None) -> None:
        self.unit, self.rate = unit, rate
        self.count, self.first, self.last = 0, 0, 0
        self.stamped = unit > 0
        error = max(unit, TIMESTAMP_ERROR) / unit if unit else Fraction(0)
        self._error, self._scale = error.numerator, error.denominator  # of a time, in ticks
        # The slopes, (rise, steps) in scaled ticks, of the flattest and steepest line through the first time that
        # leave no time so far further off than the error.
        self._steepest: tuple[int, int] | None = None
        self._flattest: tuple[int, int] | None = None
        self.may_be_constant = True

    def add(self, tick: int | None) -> None:
        """The next frame's time; None where the file gives none."""
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
        """Ticks from a frame to the next, on average."""
        return Fraction(self.last - self.first, max(self.count - 1, 1))

    def constant_rate(self) -> Fraction | None:
        """The rate, where it is constant; None where it varies.

        It is constant when the times lie on the line through the first and the last, to within the millisecond that
        containers round them to, and the distance agrees with the rate that the container gives. That rate, not the
        measured one, goes into the rule, as in OpenCV: over a short clip the rounding could make 29.97 a 30.
        """
        if not self.stamped:
            return self.rate or Fraction(1)
        if not self.rate or self._steepest is None or self._flattest is None:
            return self.rate
        steps = self.count - 1
        span = (self.last - self.first) * self.unit
        # The ends are rounded too; one percent on top forgives headers that say 30 for 29.97.
        agrees = abs(span - steps / self.rate) <= 2 * max(self.unit, TIMESTAMP_ERROR) + span / 100
        even = Fraction(*self._flattest) <= self.mean * self._scale <= Fraction(*self._steepest)
        return self.rate if agrees and even else None


class Wanted(NamedTuple):
    """A frame that is kept by one of the rules: its number, from 0, and what its reader calls it."""

    number: int
    key: int


class FrameChoice:
    """Follow both rules over the frames of a video, in the order in which they are shown.

    Arguments:
        fps: frames kept a second.
        spacing: of the same video; it is told the times, of packets too that show nothing, this the frames alone.
        span: the part that is wanted.
        following: whether the frame after each kept one is wanted too.
    """

    def __init__(self, fps: int, spacing: Spacing, span: Span, following: bool = False) -> None:
        self.over = False  # the part has ended
        self.jumped = False  # it ended because the times make no sense
        self._fps, self._spacing, self._following = fps, spacing, following
        self._rate = int(spacing.rate or (0 if spacing.stamped else 1))
        self._by_index: list[int] = []
        self._by_time: list[int] = []
        self._count = 0  # frames so far
        self._place = 0  # and in the part
        self._newest_kept = -1
        self._shown: tuple[Wanted, int] | None = None  # the last frame that has a time, and its tick
        self._unit = spacing.unit or Fraction(1)
        self._begin = None if span.begin is None else span.begin / self._unit  # these are ticks too
        self._end = None if span.end is None else span.end / self._unit
        self._slack = TIMESTAMP_ERROR / self._unit
        self._zero: Fraction | None = None
        self._due: Fraction | None = None  # the moment that no frame so far was shown at for certain

    def judge(self, key: int, tick: int | None) -> list[Wanted]:
        """The next frame: whether it, or the one before it, is kept. A frame may be told more than once."""
        if self.over:
            return []
        if tick is not None and self._shown and (tick - self._shown[1]) * self._unit > LONGEST_SHOWN:
            self.over = self.jumped = True
            return []
        frame = Wanted(self._count, key)
        wanted = [] if tick is None else self._pass_moments(tick)
        self.over = tick is not None and self._end is not None and tick >= self._end
        if not self.over and (tick is None or self._begin is None or tick >= self._begin - self._slack):
            wanted += self._thin(frame)
        if self._following and self._newest_kept == frame.number - 1:
            wanted.append(frame)
        if tick is not None:
            self._shown = frame, tick
        self._count += 1
        return wanted

    @property
    def shown(self) -> int | None:
        """The key of the only frame, of those that were judged, which may still be wanted."""
        return self._shown[0].key if self._shown else None

    def finish(self) -> list[Wanted]:
        """No frame follows: the last one is shown for as long as frames are on average."""
        if self.over or self._shown is None:
            return []
        return self._pass_moments(self._shown[1] + self._spacing.mean, at_least_one=self._begin is None)

    def kept(self, constant: bool) -> list[int]:
        """The numbers of the frames that are kept, one of them more than once where it is shown for long."""
        return self._by_index if constant and self._by_index else self._by_time

    def _thin(self, frame: Wanted) -> list[Wanted]:
        """The rule of constant rates."""
        step = self._rate // self._fps
        place = self._place % self._rate if self._rate else 0
        self._place += 1
        if not step or not self._spacing.may_be_constant or place % step or place >= step * self._fps:
            return []
        self._by_index.append(frame.number)
        self._newest_kept = frame.number
        return [frame]

    def _pass_moments(self, tick: Fraction | int, at_least_one: bool = False) -> list[Wanted]:
        """The rule of variable rates: the moments before `tick` belong to the frame that was shown until then."""
        if self._zero is None or self._due is None:
            self._zero = self._due = Fraction(tick if self._begin is None else max(tick, self._begin))
        if self._shown is None:
            return []
        frame, _ = self._shown
        before = tick if self._end is None else min(tick, self._end)
        wanted: list[Wanted] = []
        while self._due < before or (at_least_one and not self._by_time):
            self._by_time.append(frame.number)
            self._newest_kept = max(self._newest_kept, frame.number)
            self._due = self._zero + Fraction(len(self._by_time), self._fps) / self._unit
            wanted = [frame]
        return wanted
