"""What may be said of figures that vary from seed to seed, and of a test set that is one of many.

Two kinds of chance are kept apart. *Seeds*: a method trained anew comes out differently; differences to the baseline
are paired by seed and tested by Student's t. *Test clips*: another test set of the same kind would have given other
figures for the very same networks; that is bootstrapped, and is no test of a method.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FEWEST_SEEDS = 5
"""Below it there is no interval: one over two or three seeds rests on normality that nobody can check."""
ALPHA = 0.05
RESAMPLES = 9999
FEW = f"no interval below {FEWEST_SEEDS} paired seeds"
SAME = "the same at every seed: no t interval exists"


@dataclasses.dataclass(frozen=True)
class Spread:
    """n values: their mean, and their sample standard deviation (ddof 1; None of one value)."""

    n: int
    mean: float
    std: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(len(values), float(np.mean(values)), std)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A method beside the baseline, over the n seeds that both have.

    Attributes:
        mean: of the differences, method − baseline; None of no seed.
        p: of the two-sided paired t test, not corrected; None where `reason` says why there is none.
        alpha: the interval's own level is 1 − alpha; so are `low` and `high` None without p.
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
        """Whether there is an interval, and 0 lies outside it: exactly where Holm's test rejects."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def compare(families: Mapping[str, Sequence[float]], alpha: float = ALPHA) -> dict[str, Comparison]:
    """Paired t tests and intervals of a family of methods, by Holm's step-down procedure (Holm, Scand. J. Stat. 1979).

    The m hypotheses "no difference" are taken by ascending p. The kth is rejected where p ≤ alpha / (m − k + 1) and all
    before it were; its interval is the t interval of level 1 − alpha / (m − k + 1). From the first one on that is not
    rejected, all have that one's level. So an interval excludes zero exactly where Holm rejects, and the chance of
    rejecting any true hypothesis is at most alpha. That holds for the decisions: since the levels depend on the data,
    the intervals together need not cover all true differences with 1 − alpha (only Bonferroni's, all of level
    1 − alpha / m, would).

    A method that cannot be tested (fewer than 5 seeds, or differences without any spread) counts in m as one with
    p = 1: the levels do not depend on which runs are there.

    Arguments:
        families: method → differences to the baseline, method − baseline, one a seed that both have.
    """
    found = {name: _tested(np.asarray(differences, dtype=np.float64)) for name, differences in families.items()}
    order = sorted((name for name in found if found[name].p is not None), key=lambda name: found[name].p or 0.0)
    level, rejecting = alpha, True
    for place, name in enumerate(order):
        if rejecting:
            level = alpha / (len(found) - place)
        rejecting = rejecting and (found[name].p or 0.0) <= level
        found[name] = _with_interval(found[name], families[name], level)
    return found


def _tested(differences: NDArray[np.float64]) -> Comparison:
    n = len(differences)
    if n == 0:
        return Comparison(0, None, reason="no seed that both have")
    mean = float(differences.mean())
    if n < FEWEST_SEEDS:
        return Comparison(n, mean, reason=FEW)
    if np.ptp(differences) <= 1e-12 * max(1.0, float(np.abs(differences).max())):  # rounding is no spread
        return Comparison(n, mean, reason=SAME)
    return Comparison(n, mean, p=float(stats.ttest_1samp(differences, 0.0).pvalue))


def _with_interval(tested: Comparison, differences: Sequence[float], alpha: float) -> Comparison:
    interval = stats.ttest_1samp(differences, 0.0).confidence_interval(1 - alpha)
    return dataclasses.replace(tested, alpha=alpha, low=float(interval.low), high=float(interval.high))


def clip_noise(
    figures: ArrayLike, level: float = 1 - ALPHA, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval, over test clips, of a mean over seeds and clips; the seeds are held fixed.

    It says what other test sets of this size would have given for the same trained networks. Drawing C clips with
    replacement is drawing how often each distinct value of a clip's mean occurs (a multinomial law): that is what is
    done, since a clip's mean over S seeds has few distinct values.

    Arguments:
        figures: (S, C) a seed's figure of a clip: whether it was right, or the difference of that to the baseline.

    Raises:
        ValueError: there is no seed or no clip.
    """
    matrix = np.asarray(figures, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"(seeds, clips) with at least one of each expected, got {matrix.shape}")
    values, counts = np.unique(matrix.sum(axis=0), return_counts=True)
    clips = matrix.shape[1]
    drawn = np.random.default_rng(seed).multinomial(clips, counts / clips, size=resamples)
    means = drawn @ values / (clips * len(matrix))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def signed(value: float) -> str:
    """With two decimals and its sign, the minus sign being one: "+1.23", "−0.40"."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")  # + 0.0: no −0.00
