"""Statistics over seeds and over test clips, compared with SciPy and with other definitions."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmpareto.analysis.report.statistics import MIN_SEEDS, Comparison, clip_noise, compare, mean_and_std, signed
from numpy.typing import NDArray
from scipy import stats

ALPHA = 0.05
DIFFERENCES = st.lists(st.floats(-1, 1).map(lambda x: round(x, 6)), min_size=5, max_size=9)


def samples(seed: int = 0, n: int = 6) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracies of a method and of its baseline, which share a random effect per seed."""
    random = np.random.default_rng(seed)
    luck = random.normal(0.7, 0.02, n)
    return luck + random.normal(0.01, 0.005, n), luck


def test_the_deviation_is_that_of_a_sample() -> None:
    values = [0.71, 0.69, 0.74, 0.70]
    assert mean_and_std(values) == (
        pytest.approx(statistics.fmean(values)),
        pytest.approx(statistics.stdev(values)),  # n − 1, not n
    )
    assert mean_and_std([0.5]) == (0.5, None)


def test_one_method_has_scipys_paired_t_interval() -> None:
    method, base = samples()
    result = compare({"method": [*(method - base)]})["method"]
    truth = stats.ttest_rel(method, base)
    low, high = truth.confidence_interval(0.95)
    assert result.p == pytest.approx(truth.pvalue)
    assert (result.low, result.high, result.alpha) == (pytest.approx(low), pytest.approx(high), 0.05)
    assert (result.n, result.mean, result.reason) == (6, pytest.approx((method - base).mean()), "")


def test_the_interval_is_the_closed_form() -> None:
    result = compare({"method": [1.0, 2.0, 3.0, 4.0, 5.0]})["method"]
    half = 2.7764451052 * math.sqrt(2.5 / 5)  # t of 4 degrees of freedom at 97.5%, from a table
    assert (result.low, result.high) == (pytest.approx(3 - half), pytest.approx(3 + half))


def differences_of_p(p: float, n: int = 6) -> list[float]:
    """Differences whose two-sided t test has this p value."""
    shape = np.array([-1.0, 1.0, -0.5, 0.5, -2.0, 2.0])[:n]
    return [*(shape + stats.t.isf(p / 2, n - 1) * shape.std(ddof=1) / math.sqrt(n))]


def test_holm_steps_down_as_in_a_worked_example() -> None:
    # Four hypotheses: 0.05 / 4 = 0.0125, / 3 = 0.0167, / 2 = 0.025, / 1 = 0.05. The third, 0.03, is not rejected,
    # so the last, 0.04, is not either, though it is below 0.05; both keep the level 0.025.
    result = compare({f"{p}": differences_of_p(p) for p in (0.03, 0.005, 0.04, 0.012)})
    assert {name: one.p for name, one in result.items()} == {name: pytest.approx(float(name)) for name in result}
    levels = {name: one.alpha for name, one in result.items()}
    assert levels == pytest.approx({"0.005": 0.05 / 4, "0.012": 0.05 / 3, "0.03": 0.05 / 2, "0.04": 0.05 / 2})
    assert [name for name, one in result.items() if one.excludes_zero] == ["0.005", "0.012"]
    assert list(result) == ["0.03", "0.005", "0.04", "0.012"]  # in the order they were given


def holm_rejects(ps: dict[str, float]) -> set[str]:
    """Names that are rejected by adjusted p values: p̃ of rank k is the largest (m − j + 1)·p of all ranks j ≤ k."""
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        adjusted[name] = largest = max(largest, (len(ps) - rank) * p)
    return {name for name, p in adjusted.items() if p <= ALPHA}


@given(st.lists(DIFFERENCES, min_size=1, max_size=6))
def test_an_interval_excludes_zero_exactly_where_holm_rejects(families: list[list[float]]) -> None:
    found = compare({str(n): values for n, values in enumerate(families)})
    ps = {name: 1.0 if one.p is None else one.p for name, one in found.items()}
    assert {name for name, one in found.items() if one.excludes_zero} == holm_rejects(ps)
    for number, values in enumerate(families):
        one = found[str(number)]
        if one.p is not None and one.alpha is not None:
            low, high = stats.ttest_rel(values, np.zeros(len(values))).confidence_interval(1 - one.alpha)
            assert (one.low, one.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
            assert one.low <= one.mean <= one.high
            assert ALPHA / len(families) <= one.alpha <= ALPHA


@given(st.lists(DIFFERENCES, min_size=2, max_size=5))
def test_swapping_the_sides_mirrors_every_interval(families: list[list[float]]) -> None:
    there = compare({str(n): values for n, values in enumerate(families)})
    back = compare({str(n): [-value for value in values] for n, values in enumerate(families)})
    for name, one in there.items():
        assert (one.low is None) == (back[name].high is None)
        if one.low is not None and back[name].high is not None:
            assert one.low == pytest.approx(-back[name].high, abs=1e-9)


@pytest.mark.parametrize("n", range(MIN_SEEDS))
def test_below_five_seeds_there_is_no_interval(n: int) -> None:
    result = compare({"few": [0.1 + 0.001 * k for k in range(n)], "many": [0.1, 0.2, 0.15, 0.12, 0.11]})
    assert (result["few"].low, result["few"].p, result["few"].excludes_zero) == (None, None, False)
    assert result["few"].n == n and result["few"].reason
    assert result["many"].alpha == 0.025  # the one that cannot be tested counts in the family


@pytest.mark.parametrize("value", [0.0, 0.07, -0.1])
def test_differences_without_spread_have_no_interval(value: float) -> None:
    base = np.arange(1, 6) / 7
    result = compare({"method": [*(base + value - base)]})["method"]  # rounding makes them differ in the last digits
    assert (result.low, result.high, result.p, result.excludes_zero) == (None, None, None, False)
    assert "the same for every seed" in result.reason and result.mean == pytest.approx(value, abs=1e-12)


def test_without_common_seeds_there_is_no_mean() -> None:
    assert compare({"method": []})["method"] == Comparison(0, None, reason="no seed that both have")


def test_equal_methods_are_called_different_in_at_most_five_percent_of_tables() -> None:
    random = np.random.default_rng(0)
    tables, wrong, single = 400, 0, 0
    for _ in range(tables):
        base = random.normal(size=5)
        result = compare({str(n): [*(random.normal(size=5) - base)] for n in range(4)})
        wrong += any(one.excludes_zero for one in result.values())
        single += any(one.p is not None and one.p < ALPHA for one in result.values())
    assert wrong / tables <= ALPHA + 2.5 * math.sqrt(ALPHA * (1 - ALPHA) / tables)
    assert single / tables > 0.09  # without correction it would be far more often


def test_one_interval_covers_the_truth_in_95_percent() -> None:
    random = np.random.default_rng(1)
    intervals = [compare({"m": [*random.normal(0.3, 1, 5)]})["m"] for _ in range(800)]
    covered = np.mean([one.low <= 0.3 <= one.high for one in intervals if one.low is not None and one.high is not None])
    assert abs(covered - 0.95) < 2.5 * math.sqrt(0.95 * 0.05 / 800)


def test_the_noise_of_a_test_set_is_scipys_bootstrap_over_clips() -> None:
    random = np.random.default_rng(0)
    correct = random.random((5, 300)) < np.linspace(0.2, 1, 300)  # hard clips are hard for all seeds
    low, high = clip_noise(correct)
    truth = stats.bootstrap(
        (correct.mean(axis=0),), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == (pytest.approx(truth.low, abs=2e-3), pytest.approx(truth.high, abs=2e-3))


def test_the_noise_of_one_seed_is_binomial() -> None:
    correct = np.array([[True] * 70 + [False] * 30])
    low, high = clip_noise(correct, resamples=50_000)
    truth = stats.binom.ppf([0.025, 0.975], 100, 0.7) / 100
    assert (low, high) == (pytest.approx(truth[0], abs=0.011), pytest.approx(truth[1], abs=0.011))


def test_more_seeds_do_not_shrink_noise_that_all_seeds_share() -> None:
    one = np.random.default_rng(0).random((1, 200)) < 0.6
    assert clip_noise(np.repeat(one, 5, axis=0)) == clip_noise(one)


def test_the_noise_of_a_paired_difference_is_that_of_its_clips() -> None:
    random = np.random.default_rng(0)
    base = (random.random((3, 400)) < 0.6).astype(float)
    better = base.copy()
    better[:, :20] = 1.0
    low, high = clip_noise(better - base)
    unpaired = clip_noise(better)[1] - clip_noise(base)[0]
    assert 0 <= low < (better - base).mean() < high < unpaired  # what is common to both cancels
    assert clip_noise(base - base) == (0.0, 0.0)


def test_the_noise_is_repeatable_and_requires_clips() -> None:
    matrix = np.random.default_rng(0).random((2, 50)) < 0.5
    assert clip_noise(matrix) == clip_noise(matrix)
    with pytest.raises(ValueError, match="seeds, clips"):
        clip_noise(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="seeds, clips"):
        clip_noise(np.zeros(3))


def test_a_signed_number() -> None:
    assert [signed(value) for value in (1.234, -0.4, 0.0, -0.001)] == ["+1.23", "−0.40", "+0.00", "+0.00"]
