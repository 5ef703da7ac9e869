import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmpareto.data.sentiment import SCALES, class_metrics, kept, regression_metrics, weighted_f1
from mmpareto.errors import InputError

# Scores as annotators assign them (means of five or three ratings), and arbitrary ones.
MOSI_SCORES = st.one_of(st.sampled_from([i / 5 for i in range(-15, 16)]), st.floats(-3, 3, width=32))
SIMS_SCORES = st.one_of(st.sampled_from([i / 5 for i in range(-5, 6)]), st.floats(-1, 1, width=32))
SET_AND_PAIRS = st.one_of(
    st.tuples(st.sampled_from(["mosi", "mosei"]), st.lists(st.tuples(MOSI_SCORES, MOSI_SCORES), min_size=1)),
    st.tuples(st.just("chsims"), st.lists(st.tuples(SIMS_SCORES, SIMS_SCORES), min_size=1)),
)


def columns(pairs):
    return np.array([pair[0] for pair in pairs], np.float64), np.array([pair[1] for pair in pairs], np.float64)


def class_of(score, dataset, n_classes):
    """Class of one score, by comparison with the published intervals."""
    if n_classes == 2:
        return int(score > 0)
    if dataset == "chsims":
        bins = {3: [-0.1, 0.1], 5: [-0.7, -0.1, 0.1, 0.7]}[n_classes]
        return sum(np.float32(score) > np.float32(edge) for edge in bins)
    if n_classes == 3:
        return 0 if score < 0 else 1 if score == 0 else 2
    limit = n_classes // 2
    return round(min(max(score, -limit), limit)) + limit  # Python rounds half to even, too


def accuracy(predicted, true):
    return sum(p == t for p, t in zip(predicted, true, strict=True)) / len(true)


def f1_by_precision_and_recall(predicted, true):
    """Weighted F1 from its definition: harmonic mean of precision and recall per class, weighted by class share."""
    total = 0.0
    for label in set(true):
        hits = sum(p == t == label for p, t in zip(predicted, true, strict=True))
        if hits:
            precision = hits / sum(p == label for p in predicted)
            recall = hits / sum(t == label for t in true)
            total += 2 * precision * recall / (precision + recall) * sum(t == label for t in true) / len(true)
    return total


@given(SET_AND_PAIRS)
def test_metrics_of_scores_by_their_definitions(case):
    dataset, pairs = case
    predicted, true = columns(pairs)
    metrics = regression_metrics(predicted, true, dataset)
    if dataset == "chsims":
        sides = [[int(score > 0) for score in side] for side in (predicted, true)]
    else:
        sides = [[int(score >= 0) for score in side] for side in (predicted, true)]
    assert metrics["acc2_has0"] == pytest.approx(accuracy(*sides))
    assert metrics["f1_has0"] == pytest.approx(f1_by_precision_and_recall(*sides))
    signed = [(int(p > 0), int(t > 0)) for p, t in zip(predicted, true, strict=True) if t != 0]
    if signed:
        assert metrics["acc2_non0"] == pytest.approx(accuracy(*zip(*signed, strict=True)))
        assert metrics["f1_non0"] == pytest.approx(f1_by_precision_and_recall(*zip(*signed, strict=True)))
    else:
        assert metrics["acc2_non0"] is None and metrics["f1_non0"] is None
    numbers = [int(name.removeprefix("acc")) for name in metrics if name.startswith("acc") and "_" not in name]
    assert numbers == ([3, 5] if dataset == "chsims" else [5, 7])
    for count in numbers:
        classes = [[class_of(score, dataset, count) for score in side] for side in (predicted, true)]
        assert metrics[f"acc{count}"] == pytest.approx(accuracy(*classes))
    assert metrics["mae"] == pytest.approx(sum(abs(p - t) for p, t in zip(predicted, true, strict=True)) / len(true))


def test_correlation_matches_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    true = generator.uniform(-3, 3, 500)
    predicted = np.clip(true + generator.normal(0, 1, 500), -3, 3)
    assert regression_metrics(predicted, true, "mosi")["correlation"] == pytest.approx(
        stats.pearsonr(predicted, true).statistic, rel=1e-12
    )
    assert regression_metrics(np.ones(500), true, "mosi")["correlation"] is None
    assert regression_metrics(predicted[:1], true[:1], "mosi")["correlation"] is None


def test_scores_of_ch_sims_are_clipped_first():
    metrics = regression_metrics(np.array([1.7, -0.2, -9.0]), np.array([1.0, -0.2, -1.0]), "chsims")
    assert metrics["mae"] == 0 and metrics["acc5"] == 1
    assert regression_metrics(np.array([5.0]), np.array([3.0]), "mosi")["mae"] == 2


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1))
def test_weighted_f1_is_scikit_learns_and_the_definition(pairs):
    from sklearn.metrics import f1_score

    predicted, true = (np.array(side) for side in zip(*pairs, strict=True))
    found = weighted_f1(predicted, true)
    assert found == pytest.approx(f1_score(true, predicted, average="weighted", zero_division=0))
    assert found == pytest.approx(f1_by_precision_and_recall(predicted.tolist(), true.tolist()))


def test_weights_are_the_shares_of_the_true_classes():
    """3 of 4 are positive; F1 is 0.8 for them and 2/3 for the other class. Weights by prediction would give 11/15."""
    assert weighted_f1(np.array([1, 1, 0, 0]), np.array([1, 1, 1, 0])) == pytest.approx((3 * 0.8 + 2 / 3) / 4)


@pytest.mark.parametrize(
    ("dataset", "n_classes", "scores", "labels"),
    [
        # Half to even: 0.5 → 0, 1.5 → 2, 2.5 → 2.
        ("mosi", 7, [-3, -2.6, -2.5, -1.5, -0.5, 0, 0.5, 0.6, 1.5, 2.5, 3], [0, 0, 1, 1, 3, 3, 3, 4, 5, 5, 6]),
        ("mosei", 5, [-3, -2.5, -1.5, -0.5, 0, 2 / 3, 1.5, 3], [0, 0, 0, 2, 2, 3, 4, 4]),
        ("mosi", 3, [-3, -0.01, 0, -0.0, 0.01, 3], [0, 0, 1, 1, 2, 2]),
        ("mosi", 2, [-3, -0.2, 0.2, 3], [0, 0, 1, 1]),
        # CH-SIMS, Yu et al. 2020: −1, −0.8 | −0.6, −0.4, −0.2 | 0 | 0.2, 0.4, 0.6 | 0.8, 1.
        ("chsims", 5, [-1, -0.8, -0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6, 0.8, 1], [0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4]),
        ("chsims", 5, [-0.7, -0.1, 0.1, 0.7], [0, 1, 2, 3]),  # (a, b]: an edge belongs to the class below
        ("chsims", 5, np.float32([-0.7, -0.1, 0.1, 0.7]), [0, 1, 2, 3]),  # float32, as in files and predictions
        ("chsims", 3, [-1, -0.2, -0.1, 0, 0.1, 0.2, 1], [0, 0, 0, 1, 1, 2, 2]),
        ("chsims", 2, [-1, -0.2, 0.2, 1], [0, 0, 1, 1]),
    ],
)
def test_classes_of_scores(dataset, n_classes, scores, labels):
    binning = SCALES[dataset].binning(n_classes)
    result = binning.labels(np.array(scores, np.float64))
    assert result.dtype == np.int64 and result.tolist() == labels
    assert len(binning.names) == len(binning.centres) == n_classes == len(set(binning.names))
    assert [class_of(score, dataset, n_classes) for score in scores] == labels


@pytest.mark.parametrize(
    ("dataset", "n_classes"), [(name, count) for name, scale in SCALES.items() for count in scale.binnings]
)
def test_a_class_contains_its_centre(dataset, n_classes):
    binning = SCALES[dataset].binning(n_classes)
    assert binning.labels(np.array(binning.centres)).tolist() == list(range(n_classes))


def test_two_classes_leave_out_zero():
    scores = np.array([0.0, -0.2, 0.0, 1.0, -0.0])
    assert kept(scores, 2).tolist() == [1, 3]
    assert kept(scores, 3).tolist() == [0, 1, 2, 3, 4]


def test_unsupported_numbers_of_classes_are_refused():
    with pytest.raises(InputError, match=r"--n_classes is 7, but .* it can be 2, 3, 5"):
        SCALES["chsims"].binning(7)
    with pytest.raises(InputError, match="2, 3, 5, 7"):
        class_metrics(np.array([0]), np.array([1.0]), "mosi", 6)


def test_metrics_of_seven_classes():
    """By hand: scores −2.6, 0, 0.4, 1.2, 3 are in the classes −3, 0, 0, 1, 3; the predictions are −2, 0, 1, 1, 0."""
    metrics = class_metrics(np.array([1, 3, 4, 4, 3]), np.array([-2.6, 0, 0.4, 1.2, 3]), "mosi", 7)
    assert metrics["acc7"] == pytest.approx(2 / 5)
    assert metrics["acc5"] == pytest.approx(3 / 5)  # both −2 and −3 are −2
    assert metrics["acc2_has0"] == 1  # negative, four times not negative
    assert metrics["acc2_non0"] == pytest.approx(3 / 4)  # 3 was predicted as neutral, which is not positive
    # f1_7: of the true classes −3, 0 (twice), 1 and 3, only 0 (F1 2·1/(2+2)) and 1 (F1 2·1/(1+2)) are predicted.
    assert metrics["f1_7"] == pytest.approx((2 * (1 / 2) + 2 / 3) / 5)
    assert set(metrics) == {"acc7", "f1_7", "acc5", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0"}


def test_metrics_of_ch_sims_classes():
    """Predicted: weakly positive, neutral twice, negative; true: 1, 0, 0.2 and −0.4, each in a different class."""
    metrics = class_metrics(np.array([3, 2, 2, 0]), np.array([1.0, 0.0, 0.2, -0.4]), "chsims", 5)
    assert metrics["acc5"] == pytest.approx(1 / 4) and metrics["acc3"] == pytest.approx(3 / 4)
    assert metrics["acc2_has0"] == pytest.approx(3 / 4)  # CH-SIMS counts zero as negative
    assert metrics["acc2_non0"] == pytest.approx(2 / 3)
    three = class_metrics(np.array([2, 1, 1, 0]), np.array([1.0, 0.0, 0.2, -0.4]), "chsims", 3)
    assert set(three) == {"acc3", "f1_3", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0"}
    assert three["acc3"] == pytest.approx(3 / 4)


def test_metrics_of_two_classes():
    metrics = class_metrics(np.array([0, 1, 1]), np.array([-0.2, -3, 2.0]), "mosei", 2)
    assert metrics == {"acc2_non0": pytest.approx(2 / 3), "f1_non0": pytest.approx(2 / 3)}


@given(SET_AND_PAIRS)
def test_a_classifier_that_knows_the_class_has_what_a_regression_to_its_centre_has(case):
    dataset, pairs = case
    predicted, true = columns(pairs)
    for count in SCALES[dataset].binnings:
        binning = SCALES[dataset].binning(count)
        labels = binning.labels(predicted)
        metrics = class_metrics(labels, true, dataset, count)
        same = regression_metrics(np.array(binning.centres)[labels], true, dataset)
        for name in metrics.keys() & same.keys():
            assert metrics[name] == same[name]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_must_be_finite_and_paired(value):
    with pytest.raises(ValueError, match="finite"):
        regression_metrics(np.array([value]), np.array([1.0]), "mosi")
    with pytest.raises(ValueError, match="N ≥ 1"):
        regression_metrics(np.array([]), np.array([]), "mosi")
    with pytest.raises(ValueError, match="N ≥ 1"):
        regression_metrics(np.array([1.0, 2.0]), np.array([1.0]), "mosi")
