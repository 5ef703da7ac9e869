"""Sentiment scores: the classes they are cut into, and the figures that papers report on them.

CMU-MOSI and CMU-MOSEI score from −3 to 3, CH-SIMS from −1 to 1. The rules are those of MMSA (Mao et al., "M-SENA: an
integrated platform for multimodal sentiment analysis", ACL 2022 demonstrations; `metricsTop.py` of thuiar/MMSA), which
follow MulT (Tsai et al., ACL 2019) and, for CH-SIMS, Yu et al., ACL 2020. Papers' weighted F1 differs where they
follow MulT and early MMSA, which hand scikit-learn predictions as the truth and so weight by *predicted* class; here,
as in MMSA today, the weights are those of the true classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmpareto.errors import InputError

Array = np.ndarray
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Classes:
    """A way to cut scores into classes.

    Attributes:
        names: in the order of the score; a label is a place in it.
        of: scores (N,) → labels (N,), int64.
        centres: a score in the middle of each class.
    """

    names: Sequence[str]
    of: Callable[[Array], Array]
    centres: Sequence[float]


@dataclass(frozen=True)
class Scale:
    """The scores of a data set.

    Attributes:
        limit: scores lie between −limit and limit.
        classes: number of classes → how the scores are cut. Two classes have no place for a score of zero: `kept`.
        neutral_is_positive: whether Acc-2 with zero tells negative from non-negative (MOSI, MOSEI) or non-positive
            from positive (CH-SIMS).
    """

    limit: float
    classes: Mapping[int, Classes]
    neutral_is_positive: bool

    def cut(self, n_classes: int) -> Classes:
        """The cut into `n_classes`.

        Raises:
            InputError: there is none.
        """
        if n_classes not in self.classes:
            known = ", ".join(str(count) for count in sorted(self.classes))
            raise InputError(f"--n_classes is {n_classes}; scores from {-self.limit:g} to {self.limit:g} have {known}.")
        return self.classes[n_classes]


def kept(scores: Array, n_classes: int) -> Array:
    """Places of the scores (N,) that have a class: without the zeros where there are two classes, else all."""
    return np.flatnonzero(scores != 0) if n_classes == 2 else np.arange(len(scores))


def _by_sign(scores: Array) -> Array:
    return np.sign(scores).astype(np.int64) + 1


def _positive(scores: Array) -> Array:
    return (scores > 0).astype(np.int64)


def _rounded(limit: int) -> Classes:
    """Half to even, as NumPy rounds: 0.5 is neutral and 2.5 is 2."""

    def of(scores: Array) -> Array:
        return np.round(np.clip(scores, -limit, limit)).astype(np.int64) + limit

    values = range(-limit, limit + 1)
    return Classes([f"{value:+d}" if value else "0" for value in values], of, [float(value) for value in values])


def _binned(names: Sequence[str], edges: Sequence[float], centres: Sequence[float]) -> Classes:
    """Class i holds the scores above edge i − 1, up to and with edge i."""

    def of(scores: Array) -> Array:
        # In float32, as MMSA compares: a predicted score of float32(0.1) lies on the edge 0.1.
        return np.searchsorted(np.asarray(edges, np.float32), scores.astype(np.float32), side="left").astype(np.int64)

    return Classes(names, of, centres)


SIGN = ("negative", "neutral", "positive")
FIVE = ("negative", "weakly negative", "neutral", "weakly positive", "positive")
TWO_CLASSES = Classes(("negative", "positive"), _positive, (-1.0, 1.0))

MOSI_SCALE = Scale(
    limit=3.0,
    classes={2: TWO_CLASSES, 3: Classes(SIGN, _by_sign, (-1.0, 0.0, 1.0)), 5: _rounded(2), 7: _rounded(3)},
    neutral_is_positive=True,
)
SIMS_SCALE = Scale(
    limit=1.0,
    classes={
        2: TWO_CLASSES,
        3: _binned(SIGN, (-0.1, 0.1), (-0.6, 0.0, 0.6)),
        5: _binned(FIVE, (-0.7, -0.1, 0.1, 0.7), (-0.9, -0.4, 0.0, 0.4, 0.9)),
    },
    neutral_is_positive=False,
)
SCALES = {"mosi": MOSI_SCALE, "mosei": MOSI_SCALE, "chsims": SIMS_SCALE}
REGRESSION_CLASSES = {"mosi": (5, 7), "mosei": (5, 7), "chsims": (3, 5)}


def regression_figures(predicted: Array, true: Array, dataset: str) -> Figures:
    """The figures of predicted scores.

    Arguments:
        predicted, true: scores (N,), N ≥ 1, finite. Those of CH-SIMS are clipped to [−1, 1] first, as MMSA does.
        dataset: a key of `SCALES`.

    Returns:
        acc2_has0, f1_has0: accuracy and weighted F1 of negative against non-negative (CH-SIMS: non-positive against
            positive).
        acc2_non0, f1_non0: the same of negative against positive where the true score is not zero; a predicted zero
            counts as negative. None where all true scores are zero.
        acc5, acc7 (CH-SIMS: acc3, acc5): accuracy of the class that the score falls into.
        mae: mean absolute error.
        correlation: Pearson's; None where one side is constant.
    """
    scale = SCALES[dataset]
    predicted, true = _checked(predicted, true)
    if dataset == "chsims":
        predicted, true = np.clip(predicted, -1, 1), np.clip(true, -1, 1)
    figures = _binary_figures(predicted, true, scale)
    for count in REGRESSION_CLASSES[dataset]:
        cut = scale.classes[count]
        figures[f"acc{count}"] = _accuracy(cut.of(predicted), cut.of(true))
    return {**figures, "mae": float(np.abs(predicted - true).mean()), "correlation": _correlation(predicted, true)}


def class_figures(predicted: Array, true: Array, dataset: str, n_classes: int) -> Figures:
    """The figures that a classifier's classes allow.

    Arguments:
        predicted: labels (N,) in 0 … n_classes − 1, N ≥ 1.
        true: scores (N,), finite; with two classes, those of `kept`.
        dataset: a key of `SCALES`.
        n_classes: a number of classes that it has.

    Returns:
        acc{n} and f1_{n} for its own classes and, of seven rounded ones, acc5 too (of CH-SIMS' five, acc3); acc2_… and
        f1_… as `regression_figures` gives them, each predicted class standing for a score in its middle (two classes:
        without zero only). Error and correlation are a regression's.

    Raises:
        InputError: the data set has no such number of classes.
    """
    scale = SCALES[dataset]
    cut = scale.cut(n_classes)
    labels, true = np.asarray(predicted, np.int64), np.asarray(true, np.float64)
    scores, true = _checked(np.asarray(cut.centres)[labels], true)
    figures = _binary_figures(scores, true, scale)
    if n_classes == 2:
        return {name: value for name, value in figures.items() if name.endswith("non0")}
    figures[f"acc{n_classes}"] = _accuracy(labels, cut.of(true))
    figures[f"f1_{n_classes}"] = weighted_f1(labels, cut.of(true))
    coarser = [count for count in REGRESSION_CLASSES[dataset] if count < n_classes]
    return {**figures, **{f"acc{count}": _accuracy(*map(scale.classes[count].of, (scores, true))) for count in coarser}}


def weighted_f1(predicted: Array, true: Array) -> float:
    """The F1 scores 2·TP/(2·TP + FP + FN) of the classes, averaged with their numbers of true members as weights.

    Arguments:
        predicted, true: labels (N,), N ≥ 1, from 0 on.
    """
    count = int(max(predicted.max(), true.max())) + 1
    members, guesses = np.bincount(true, minlength=count), np.bincount(predicted, minlength=count)
    hits = np.bincount(true[predicted == true], minlength=count)
    # 2·TP + FP + FN = members + guesses; a class with neither weighs nothing.
    return float((members * 2 * hits / np.maximum(members + guesses, 1)).sum() / members.sum())


def _binary_figures(predicted: Array, true: Array, scale: Scale) -> Figures:
    def side(scores: Array) -> Array:
        return ((scores >= 0) if scale.neutral_is_positive else (scores > 0)).astype(np.int64)

    figures: Figures = {
        "acc2_has0": _accuracy(side(predicted), side(true)),
        "f1_has0": weighted_f1(side(predicted), side(true)),
        "acc2_non0": None,
        "f1_non0": None,
    }
    signed = true != 0
    if signed.any():
        pair = _positive(predicted[signed]), _positive(true[signed])
        figures |= {"acc2_non0": _accuracy(*pair), "f1_non0": weighted_f1(*pair)}
    return figures


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
