"""Checks of options: accepted and rejected values, and error messages that name the option and the value."""

import math
from collections.abc import Callable

import pytest
from mmpareto.integration.options import (
    check_at_least,
    check_choice,
    check_decay,
    check_epoch_range,
    check_positive,
)

Check = Callable[[float], None]


def at_least_two(value: float) -> None:
    check_at_least("size", value, 2)


def decay(value: float) -> None:
    check_decay("size", value)


def positive(value: float) -> None:
    check_positive("size", value)


@pytest.mark.parametrize(
    ("check", "accepted", "rejected"),
    [
        (positive, [5e-324, 1, 1e308], [0, -1.0, math.inf, -math.inf, math.nan]),
        (at_least_two, [2, 2.5, 10**400], [1, 1.9, -3, math.inf, math.nan]),
        (decay, [0, 0.5, 1 - 1e-16], [-0.1, 1, 1.5, math.inf, math.nan]),
    ],
)
def test_numbers(check: Check, accepted: list[float], rejected: list[float]) -> None:
    for value in accepted:
        check(value)
    for value in rejected:
        with pytest.raises(ValueError, match=rf"^size must be .*, not {value}$"):
            check(value)


def test_choices() -> None:
    check_choice("kind", "b", ("a", "b"))
    with pytest.raises(ValueError, match=r"^kind must be 'a' or 'b', not 'c'$"):
        check_choice("kind", "c", ("a", "b"))


@pytest.mark.parametrize(("first", "last", "accepted"), [(0, 0, True), (2, 5, True), (-1, 5, False), (3, 2, False)])
def test_epoch_ranges(first: int, last: int, accepted: bool) -> None:
    if accepted:
        check_epoch_range(first, last)
        return
    with pytest.raises(ValueError, match=f"modulation_starts {first} and modulation_ends {last}"):
        check_epoch_range(first, last)
