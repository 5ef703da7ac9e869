"""Sentiment scores: binning them into classes, and the metrics that papers report.

CMU-MOSI and CMU-MOSEI score from −3 to 3, CH-SIMS from −1 to 1. The rules are those of MMSA (Mao et al., "M-SENA: an
integrated platform for multimodal sentiment analysis", ACL 2022 demonstrations; `metricsTop.py` of thuiar/MMSA), which
follow MulT (Tsai et al., ACL 2019) and, for CH-SIMS, Yu et al., ACL 2020. Some papers' weighted F1 differs: MulT and
early MMSA pass predictions to scikit-learn as the true labels, which weights classes by their *predicted* frequency.
Here, as in MMSA today, the weights are the true frequencies.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmpareto.errors import InputError

Array = np.ndarray
Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Binning:
    """A division of scores into classes.

    Attributes:
        names: in the order of the score; a label is an index into them.
        labels: scores (N,) → labels (N,), int64.
        centres: a score in the middle of each class.
    """

    names: Sequence[str]
    labels: Callable[[Array], Array]
    centres: Sequence[float]


@dataclass(frozen=True)
class Scale:
    """The scores of a data set.

    Attributes:
        limit: scores are between −limit and limit.
        binnings: number of classes → binning. With two classes, a score of zero has no class: `kept`.
        neutral_is_positive: whether Acc-2 with zero separates negative from non-negative (MOSI, MOSEI) or non-positive
            from positive (CH-SIMS).
    """

    limit: float
    binnings: Mapping[int, Binning]
    neutral_is_positive: bool

    def binning(self, n_classes: int) -> Binning:
        """Return the binning into `n_classes`.

        Raises:
            InputError: there is none.
        """
        if n_classes not in self.binnings:
            known = ", ".join(str(count) for count in sorted(self.binnings))
            raise InputError(
                f"--n_classes is {n_classes}, but for scores from {-self.limit:g} to {self.limit:g} it can be {known}."
            )
        return self.binnings[n_classes]


def kept(scores: Array, n_classes: int) -> Array:
    """Indices of the scores (N,) that have a class: those that are not zero if there are two classes, else all."""
    return np.flatnonzero(scores != 0) if n_classes == 2 else np.arange(len(scores))


def _by_sign(scores: Array) -> Array:
    return np.sign(scores).astype(np.int64) + 1


def _positive(scores: Array) -> Array:
    return (scores > 0).astype(np.int64)


def _rounded(limit: int) -> Binning:
    """Round half to even, as NumPy does: 0.5 is neutral and 2.5 is 2."""

    def labels(scores: Array) -> Array:
        return np.round(np.clip(scores, -limit, limit)).astype(np.int64) + limit

    values = range(-limit, limit + 1)
    return Binning([f"{value:+d}" if value else "0" for value in values], labels, [float(value) for value in values])


def _binned(names: Sequence[str], edges: Sequence[float], centres: Sequence[float]) -> Binning:
    """Class i contains the scores above edge i − 1, up to and including edge i."""

    def labels(scores: Array) -> Array:
        # In float32, as in MMSA: a predicted score of float32(0.1) is on the edge 0.1.
        return np.searchsorted(np.asarray(edges, np.float32), scores.astype(np.float32), side="left").astype(np.int64)

    return Binning(names, labels, centres)


SIGN = ("negative", "neutral", "positive")
FIVE = ("negative", "weakly negative", "neutral", "weakly positive", "positive")
TWO_CLASSES = Binning(("negative", "positive"), _positive, (-1.0, 1.0))

MOSI_SCALE = Scale(
    limit=3.0,
    binnings={2: TWO_CLASSES, 3: Binning(SIGN, _by_sign, (-1.0, 0.0, 1.0)), 5: _rounded(2), 7: _rounded(3)},
    neutral_is_positive=True,
)
SIMS_SCALE = Scale(
    limit=1.0,
    binnings={
        2: TWO_CLASSES,
        3: _binned(SIGN, (-0.1, 0.1), (-0.6, 0.0, 0.6)),
        5: _binned(FIVE, (-0.7, -0.1, 0.1, 0.7), (-0.9, -0.4, 0.0, 0.4, 0.9)),
    },
    neutral_is_positive=False,
)
SCALES = {"mosi": MOSI_SCALE, "mosei": MOSI_SCALE, "chsims": SIMS_SCALE}
REGRESSION_CLASSES = {"mosi": (5, 7), "mosei": (5, 7), "chsims": (3, 5)}


def regression_metrics(predicted: Array, true: Array, dataset: str) -> Metrics:
    """Metrics of predicted scores.

    Arguments:
        predicted, true: scores (N,), N ≥ 1, finite. Those of CH-SIMS are first clipped to [−1, 1], as in MMSA.
        dataset: a key of `SCALES`.

    Returns:
        acc2_has0, f1_has0: accuracy and weighted F1 of negative against non-negative (CH-SIMS: non-positive against
            positive).
        acc2_non0, f1_non0: the same of negative against positive, of the samples whose true score is not zero; a
            predicted zero counts as negative. None if all true scores are zero.
        acc5, acc7 (CH-SIMS: acc3, acc5): accuracy of the class that the score falls into.
        mae: mean absolute error.
        correlation: Pearson's; None if the predicted or the true scores are constant.
    """
    scale = SCALES[dataset]
    predicted, true = _checked(predicted, true)
    if dataset == "chsims":
        predicted, true = np.clip(predicted, -1, 1), np.clip(true, -1, 1)
    metrics = _binary_metrics(predicted, true, scale)
    for count in REGRESSION_CLASSES[dataset]:
        labels = scale.binnings[count].labels
        metrics[f"acc{count}"] = _accuracy(labels(predicted), labels(true))
    return {**metrics, "mae": float(np.abs(predicted - true).mean()), "correlation": _correlation(predicted, true)}


def class_metrics(predicted: Array, true: Array, dataset: str, n_classes: int) -> Metrics:
    """Metrics that can be computed from a classifier's predictions.

    Arguments:
        predicted: labels (N,) in 0 … n_classes − 1, N ≥ 1.
        true: scores (N,), finite; with two classes, those of `kept`.
        dataset: a key of `SCALES`.
        n_classes: a number of classes that the data set has.

    Returns:
        acc{n} and f1_{n} of the n classes and, of seven rounded ones, also acc5 (of CH-SIMS' five, acc3); acc2_… and
        f1_… as in `regression_metrics`, with each predicted class represented by its centre (two classes: only those
        without zero). There is no error or correlation, which need a regression.

    Raises:
        InputError: the data set has no such number of classes.
    """
    scale = SCALES[dataset]
    binning = scale.binning(n_classes)
    labels, true = np.asarray(predicted, np.int64), np.asarray(true, np.float64)
    scores, true = _checked(np.asarray(binning.centres)[labels], true)
    metrics = _binary_metrics(scores, true, scale)
    if n_classes == 2:
        return {name: value for name, value in metrics.items() if name.endswith("non0")}
    metrics[f"acc{n_classes}"] = _accuracy(labels, binning.labels(true))
    metrics[f"f1_{n_classes}"] = weighted_f1(labels, binning.labels(true))
    for count in REGRESSION_CLASSES[dataset]:
        if count < n_classes:
            metrics[f"acc{count}"] = _accuracy(*map(scale.binnings[count].labels, (scores, true)))
    return metrics


def weighted_f1(predicted: Array, true: Array) -> float:
    """Mean of the classes' F1 scores, 2·TP/(2·TP + FP + FN), weighted by their numbers of true members.

    Arguments:
        predicted, true: labels (N,), N ≥ 1, starting at 0.
    """
    count = int(max(predicted.max(), true.max())) + 1
    members, guesses = np.bincount(true, minlength=count), np.bincount(predicted, minlength=count)
    hits = np.bincount(true[predicted == true], minlength=count)
    # 2·TP + FP + FN = members + guesses; the weight of a class with neither is zero.
    return float((members * 2 * hits / np.maximum(members + guesses, 1)).sum() / members.sum())


def _binary_metrics(predicted: Array, true: Array, scale: Scale) -> Metrics:
    def side(scores: Array) -> Array:
        return ((scores >= 0) if scale.neutral_is_positive else (scores > 0)).astype(np.int64)

    metrics: Metrics = {
        "acc2_has0": _accuracy(side(predicted), side(true)),
        "f1_has0": weighted_f1(side(predicted), side(true)),
        "acc2_non0": None,
        "f1_non0": None,
    }
    nonzero = true != 0
    if nonzero.any():
        pair = _positive(predicted[nonzero]), _positive(true[nonzero])
        metrics |= {"acc2_non0": _accuracy(*pair), "f1_non0": weighted_f1(*pair)}
    return metrics


def _accuracy(predicted: Array, true: Array) -> float:
    return float((predicted == true).mean())


def _correlation(predicted: Array, true: Array) -> float | None:
    if np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return None
    return float(np.corrcoef(predicted, true)[0, 1])


def _checked(predicted: Array, true: Array) -> tuple[Array, Array]:
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or predicted.ndim != 1 or not len(true):
        raise ValueError(f"two lists of N ≥ 1 values expected, got shapes {predicted.shape} and {true.shape}")
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        raise ValueError("scores must be finite")
    return predicted, true
