"""The two rules and the question which of them holds, against their definitions over all times at once."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpareto.data.raw.containers import Span
from mmpareto.data.raw.frame_selection import FrameChoice, Spacing

MS = Fraction(1, 1000)
WHOLE = Span(None, None)


def is_even(times: list[Fraction], rate: Fraction, error: Fraction) -> bool:
    """All times on the line through the first and the last, and that line about as steep as the rate says."""
    steps = len(times) - 1
    if steps < 1:
        return True
    span = times[-1] - times[0]
    on_line = all(abs(time - times[0] - span * i / steps) <= error for i, time in enumerate(times))
    return on_line and abs(span - steps / rate) <= 2 * error + span / 100


def choose(ticks: list[int], fps: int, rate: Fraction | None, span: Span = WHOLE, unit: Fraction = MS):
    spacing = Spacing(unit, rate)
    choice = FrameChoice(fps, spacing, span)
    told = set()
    for number, tick in enumerate(ticks):
        spacing.add(tick)
        told |= {wanted.number for wanted in choice.judge(tick, tick)}
        assert told <= {number, *range(number)} and choice.shown in ticks
    told |= {wanted.number for wanted in choice.finish()}
    constant = spacing.constant_rate() is not None
    kept = choice.kept(constant)
    assert set(kept) <= told
    return kept, constant


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(-2, 2), min_size=1, max_size=40),
    st.sampled_from([Fraction(25), Fraction(30_000, 1001), Fraction(30), None]),
    st.sampled_from([MS, Fraction(1, 90_000), Fraction(1, 25)]),
    st.integers(-50, 3000),
)
def test_even_spacing_is_told_from_a_few_figures(jitter, rate, unit, first):
    ticks = sorted(first + round(i / (rate or 25) / unit) + error for i, error in enumerate(jitter))
    spacing = Spacing(unit, rate)
    for tick in ticks:
        spacing.add(tick)
    expected = rate is not None and is_even([tick * unit for tick in ticks], rate, max(unit, MS))
    assert spacing.constant_rate() == (rate if expected else None)
    assert expected <= spacing.may_be_constant


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=40), st.integers(1, 5), st.integers(-500, 500))
def test_variable_rates_keep_the_frame_shown_at_every_moment(gaps, fps, first):
    ticks = [first + sum(gaps[:i]) for i in range(len(gaps))]
    kept, _ = choose(ticks, fps, None)
    length = ticks[-1] - ticks[0] + Fraction(ticks[-1] - ticks[0], max(len(ticks) - 1, 1))
    moments = [ticks[0] + Fraction(1000 * j, fps) for j in range(math.ceil(length * fps / 1000))] or [ticks[0]]
    assert kept == [max(i for i, tick in enumerate(ticks) if tick <= moment) for moment in moments]


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 200), st.sampled_from([12, 25, 30]), st.integers(1, 12), st.integers(0, 3000), st.integers(100, 5000)
)
def test_a_part_is_thinned_as_if_it_were_a_video_of_its_own(count, rate, fps, begin, length):
    ticks = [round(1000 * i / rate) for i in range(count)]
    kept, constant = choose(ticks, fps, Fraction(rate), Span(begin * MS, (begin + length) * MS))
    inside = [i for i, tick in enumerate(ticks) if begin - 1 <= tick < begin + length]
    step = rate // fps
    expected = [i for place, i in enumerate(inside) if place % rate % step == 0 and place % rate < step * fps]
    if constant and expected:
        assert kept == expected
    elif ticks[-1] < begin - 1000 / rate:
        assert kept == []


def test_nothing_to_tell_by_but_the_order():
    spacing = Spacing(MS, None)
    spacing.add(None)
    assert spacing.constant_rate() == 1


@pytest.mark.parametrize(
    ("begin", "end", "expected"), [("0.5", "2.5", [1, 2]), (None, "0.1", [0]), ("1.9", None, [2, 4]), ("9", None, [])]
)
def test_a_part_of_a_variable_video_begins_with_what_is_shown_then(begin, end, expected):
    ticks = [0, 400, 1001, 2850, 2900]
    span = Span(*(None if seconds is None else Fraction(seconds) for seconds in (begin, end)))
    assert choose(ticks, 1, None, span)[0] == expected
