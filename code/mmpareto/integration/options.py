"""Checks of the methods' options: each raises a ValueError that names the option and its value."""

import math
from collections.abc import Sequence


def check_positive(name: str, value: float) -> None:
    """Require a finite number above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, not {value}")


def check_at_least(name: str, value: float, minimum: int) -> None:
    """Require a finite number of at least `minimum`."""
    if not minimum <= value < math.inf:
        raise ValueError(f"{name} must be at least {minimum}, not {value}")


def check_decay(name: str, value: float) -> None:
    """Require the weight of old values in a moving average: a number in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, not {value}")


def check_share(name: str, value: float) -> None:
    """Require a probability or share that is not 0: a number in (0, 1]."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, not {value}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Require one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")


def check_epoch_range(modulation_starts: int, modulation_ends: int) -> None:
    """Require the first and the last epoch of a modulation, counted from 0, in this order."""
    if not 0 <= modulation_starts <= modulation_ends:
        raise ValueError(
            "modulation_starts must be at least 0 and modulation_ends no less than it, not"
            f" modulation_starts {modulation_starts} and modulation_ends {modulation_ends}"
        )
