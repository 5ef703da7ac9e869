"""The two rules of frame selection, and the choice between them, against their offline definitions."""

import math
from fractions import Fraction
from itertools import accumulate, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from mmpareto.data.raw.frame_selection import FrameSelection, Spacing

MS = Fraction(1, 1000)


def is_constant(times: list[Fraction], rate: Fraction, error: Fraction) -> bool:
    """Return whether gaps of the expected length fill two thirds of the duration and do not drift from the rate."""
    gaps = [after - before for before, after in pairwise(times)]
    regular = [gap for gap in gaps if abs(gap - 1 / rate) <= 2 * error]
    drift = abs(sum(regular) - len(regular) / rate)
    drifts = drift > 2 * error * (len(gaps) - len(regular) + 1) + sum(regular) / 100
    return not gaps or (3 * sum(regular) >= 2 * sum(gaps) and not drifts)


def select(ticks: list[int], fps: int, rate: Fraction | None):
    """Return the numbers of the kept frames, and whether the rate was judged constant."""
    spacing = Spacing(MS, rate)
    selection = FrameSelection(fps, spacing)
    selected = set()
    for number, tick in enumerate(ticks):
        spacing.add(tick)
        selected |= {frame.number for frame in selection.add(tick, tick)}
        assert selected <= {number, *range(number)} and selection.candidate in ticks
    selected |= {frame.number for frame in selection.finish()}
    constant = spacing.constant_rate() is not None
    kept = selection.numbers(constant)
    assert set(kept) <= selected
    return kept, constant


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(-2, 2), min_size=1, max_size=40),
    st.dictionaries(st.integers(1, 39), st.integers(0, 1500), max_size=3),
    st.sampled_from([Fraction(25), Fraction(30_000, 1001), Fraction(30), None]),
    st.sampled_from([MS, Fraction(1, 90_000), Fraction(1, 25)]),
    st.integers(-50, 3000),
)
def test_even_spacing_is_recognised_online(jitter, pauses, rate, unit, first):
    late = list(accumulate(pauses.get(i, 0) * MS for i in range(len(jitter))))
    ticks = sorted(first + round((i / (rate or 25) + late[i]) / unit) + error for i, error in enumerate(jitter))
    spacing = Spacing(unit, rate)
    for tick in ticks:
        spacing.add(tick)
    expected = rate is not None and is_constant([tick * unit for tick in ticks], rate, max(unit, MS))
    assert spacing.constant_rate() == (rate if expected else None)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=40), st.integers(1, 5), st.integers(-500, 500))
def test_variable_rates_keep_the_frame_shown_at_every_moment(gaps, fps, first):
    ticks = [first + sum(gaps[:i]) for i in range(len(gaps))]
    kept, _ = select(ticks, fps, None)
    length = ticks[-1] - ticks[0] + Fraction(ticks[-1] - ticks[0], max(len(ticks) - 1, 1))
    moments = [ticks[0] + Fraction(1000 * j, fps) for j in range(math.ceil(length * fps / 1000))] or [ticks[0]]
    assert kept == [max(i for i, tick in enumerate(ticks) if tick <= moment) for moment in moments]


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 200), st.sampled_from([12, 25, 30]), st.integers(1, 12))
def test_constant_rates_keep_the_same_frames_of_every_second(count, rate, fps):
    kept, constant = select([round(1000 * i / rate) for i in range(count)], fps, Fraction(rate))
    step = rate // fps
    assert constant
    assert kept == [i for i in range(count) if i % rate % step == 0 and i % rate < step * fps]


def test_without_times_or_rate_the_rate_is_one_frame_per_second():
    spacing = Spacing(MS, None)
    spacing.add(None)
    assert spacing.constant_rate() == 1
