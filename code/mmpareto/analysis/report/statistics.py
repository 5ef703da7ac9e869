"""Statistics of accuracies that vary from seed to seed and from test set to test set.

The two sources of variation are kept apart. *Seeds*: training again gives another accuracy; differences from the
baseline are paired by seed and tested with Student's t. *Test clips*: another test set of the same kind would give
other accuracies for the same trained networks; this is bootstrapped, and is not a test of a method.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

MIN_SEEDS = 5
"""With fewer there is no interval: it would rest on a normality that nobody can check."""
ALPHA = 0.05
RESAMPLES = 9999


@dataclasses.dataclass(frozen=True)
class Spread:
    """Number of values, their mean, and their sample standard deviation (ddof 1; None for one value)."""

    n: int
    mean: float
    std: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(len(values), float(np.mean(values)), std)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A method compared with the baseline over the n seeds that both have.

    Attributes:
        mean: of the differences, method − baseline; None without a seed.
        p: of the two-sided paired t test, not corrected; None if there is none, and then `reason` says why.
        alpha: 1 − the level of the interval from `low` to `high`; all three are None without p.
    """

    n: int
    mean: float | None
    p: float | None = None
    alpha: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""

    @property
    def excludes_zero(self) -> bool:
        """True if there is an interval and it excludes 0, which is exactly where Holm's procedure rejects."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def compare(families: Mapping[str, Sequence[float]], alpha: float = ALPHA) -> dict[str, Comparison]:
    """Paired t tests and intervals of several methods, with Holm's step-down procedure (Holm, Scand. J. Stat. 1979).

    The m hypotheses "no difference" are ordered by ascending p. The kth is rejected if p ≤ alpha / (m − k + 1) and all
    before it were; its interval is the t interval of level 1 − alpha / (m − k + 1). The first one that is not rejected
    passes its level on to all after it. So an interval excludes zero exactly where Holm rejects, and the probability of
    rejecting any true hypothesis is at most alpha. This holds for the decisions: because the levels depend on the data,
    the intervals need not jointly cover all true differences with probability 1 − alpha (Bonferroni's, all of level
    1 − alpha / m, would).

    A method that cannot be tested (fewer than 5 seeds, or differences without variation) counts in m as one with
    p = 1, so that the levels do not depend on which runs exist.

    Arguments:
        families: method → differences from the baseline, method − baseline, one per seed that both have.
    """
    compared = {name: _tested(np.asarray(values, dtype=np.float64)) for name, values in families.items()}
    order = sorted((name for name in compared if compared[name].p is not None), key=lambda name: compared[name].p or 0)
    level, rejecting = alpha, True
    for index, name in enumerate(order):
        if rejecting:
            level = alpha / (len(compared) - index)
        rejecting = rejecting and (compared[name].p or 0.0) <= level
        interval = stats.ttest_1samp(families[name], 0.0).confidence_interval(1 - level)
        compared[name] = dataclasses.replace(
            compared[name], alpha=level, low=float(interval.low), high=float(interval.high)
        )
    return compared


def _tested(differences: NDArray[np.float64]) -> Comparison:
    n = len(differences)
    if n == 0:
        return Comparison(0, None, reason="no seed that both have")
    mean = float(differences.mean())
    if n < MIN_SEEDS:
        return Comparison(n, mean, reason=f"no interval with fewer than {MIN_SEEDS} paired seeds")
    if np.ptp(differences) <= 1e-12 * max(1.0, float(np.abs(differences).max())):  # rounding is not variation
        return Comparison(n, mean, reason="the same for every seed, so that there is no t interval")
    return Comparison(n, mean, p=float(stats.ttest_1samp(differences, 0.0).pvalue))


def clip_noise(
    values: ArrayLike, level: float = 1 - ALPHA, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval, over test clips, of a mean over seeds and clips; the seeds are held fixed.

    It estimates what other test sets of this size would give for the same trained networks. A sample of C clips with
    replacement is drawn as the number of times that each distinct mean of a clip over the S seeds occurs (a multinomial
    distribution), because there are few distinct means.

    Arguments:
        values: (S, C) one seed's value for one clip: 1 if it was correct, else 0; or the difference from the baseline.

    Raises:
        ValueError: there is no seed or no clip.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"expected (seeds, clips) with at least one of each, got {matrix.shape}")
    sums, counts = np.unique(matrix.sum(axis=0), return_counts=True)
    clips = matrix.shape[1]
    samples = np.random.default_rng(seed).multinomial(clips, counts / clips, size=resamples)
    means = samples @ sums / (clips * len(matrix))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def signed(value: float) -> str:
    """The value with two decimals, its sign, and a true minus sign: "+1.23", "−0.40"."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")  # + 0.0: no −0.00
