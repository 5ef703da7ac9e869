"""Summaries of values that were measured in several rounds."""

import statistics
from collections.abc import Mapping, Sequence


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum, by the keys "median", "min" and "max"."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary_text(summary: Mapping[str, float], digits: int, factor: float = 1) -> str:
    """A summary such as "1.05 (1.01 – 1.12)", with all values multiplied by `factor`."""
    middle, low, high = (f"{factor * summary[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{middle} ({low} – {high})"
