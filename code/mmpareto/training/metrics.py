"""Metrics of logits and predicted scores, and the one by which epochs are compared."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmpareto.data.loading.labels import UNSCALED, LabelScale
from mmpareto.training.effects import CONTRASTIVE


class MainMetric(NamedTuple):
    """The metric of a task by which results are summarised and, with labels, epochs are compared.

    Attributes:
        key: in metrics.jsonl; on the validation set with the prefix "val_".
        title: for people.
        sign: 1 if a larger value is better, else −1.
        percent: whether it is a fraction, shown in percent.
    """

    key: str
    title: str
    sign: int
    percent: bool

    def text(self, value: float) -> str:
        """The value in percent with two decimals, or with four significant digits."""
        return f"{100 * value:.2f}" if self.percent else f"{value:.4g}"


MAIN_METRICS = {
    "classification": MainMetric("acc", "accuracy", 1, percent=True),
    "multilabel": MainMetric("map", "mAP", 1, percent=True),
    "regression": MainMetric("mae", "mean absolute error", -1, percent=False),
}


INFO_NCE = MainMetric("loss", "InfoNCE loss", -1, percent=False)


def main_metric(line: Mapping[str, Any]) -> MainMetric:
    """The main metric of the task that a line of metrics.jsonl is about."""
    task = "regression" if "mae" in line else "multilabel" if "exact_match" in line else "classification"
    return MAIN_METRICS[task]


def is_contrastive(record: Mapping[str, Any]) -> bool:
    """True for a record of contrastive pre-training: a line of metrics.jsonl, a checkpoint, or arguments of a run.

    Its accuracies are those of linear probes, where there are any.
    """
    return record.get("objective") == CONTRASTIVE


def selection_metric(line: Mapping[str, Any]) -> MainMetric:
    """The metric by which a run's epochs are compared: the main metric; without labels, the joint InfoNCE loss."""
    return INFO_NCE if is_contrastive(line) else main_metric(line)


def best_line(lines: Iterable[Mapping[str, Any]], prefix: str = "") -> Mapping[str, Any]:
    """The line of metrics.jsonl that `selection_metric` says is best; a tie goes to the earlier one.

    Arguments:
        lines: one or more.
        prefix: "val_" for the validation set, "" for the test set.
    """

    def value(line: Mapping[str, Any]) -> float:
        metric = selection_metric(line)
        measured = line[prefix + metric.key]
        return -np.inf if measured is None else metric.sign * measured

    return max(lines, key=value)


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Metrics of N samples and C classes in plain numbers and lists (ready for JSON).

    Arguments:
        logits: (N, C), finite.
        labels: (N,), integers in 0 … C − 1.

    Returns:
        accuracy: fraction of samples whose largest logit is that of the label.
        per_class_accuracy: accuracy (recall) within each class; None for a class without samples.
        macro_f1: mean F1 score of the classes that occur among labels or predictions.
        mAP: mean average precision Σ (Rₙ − Rₙ₋₁)·Pₙ of the classes with samples, each against the rest, ranked by
            softmax; equal scores share one threshold.
        auroc: mean area under the ROC curve of the classes with samples, each against the rest; None if all samples are
            of one class.
        confusion: C lists of C counts; rows are labels, columns predictions.

    Raises:
        ValueError: the shapes do not match, N is 0, or a label is out of range.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits (N, C) and labels (N,) with N ≥ 1 expected, got {logits.shape} and {labels.shape}")
    n_classes = logits.shape[1]
    truth, predicted = labels.cpu().numpy(), logits.argmax(dim=1).cpu().numpy()
    if truth.min() < 0 or truth.max() >= n_classes:
        raise ValueError(f"labels from 0 to {n_classes - 1} expected, got {truth.min()} to {truth.max()}")
    confusion = np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)
    correct, samples = confusion.diagonal(), confusion.sum(axis=1)
    occurrences = samples + confusion.sum(axis=0)  # among labels and among predictions
    # In float64: in float32, different probabilities near 1 would tie.
    scores = logits.detach().cpu().double().softmax(dim=1).numpy()
    precisions, areas = _ranking_metrics(np.eye(n_classes, dtype=bool)[truth], scores)
    return {
        "accuracy": float(correct.sum() / len(truth)),
        "per_class_accuracy": [float(correct[c] / samples[c]) if samples[c] else None for c in range(n_classes)],
        "macro_f1": float(np.mean((2 * correct / np.maximum(occurrences, 1))[occurrences > 0])),
        "mAP": _mean(precisions),
        "auroc": _mean(areas),
        "confusion": confusion.tolist(),
    }


def multilabel_metrics(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Metrics of N samples with C labels each, a label being predicted if its probability is above ½.

    Arguments:
        logits: (N, C), finite.
        labels: (N, C) zeros and ones.

    Returns:
        accuracy: fraction of the N·C labels that are predicted correctly, which is 1 − the Hamming loss.
        exact_match: fraction of the samples of which all labels are.
        macro_f1: mean F1 score of the labels that occur in the data or among the predictions; None if none does.
        mAP: mean over the labels that occur of their average precision; None if none does.
        auroc: mean area under the ROC curve of the labels that some but not all samples have; None if there is none.
        per_label_precision, per_label_auroc: the two by label; None where they are not defined.

    Raises:
        ValueError: the shapes do not match, or N is 0.
    """
    if logits.dim() != 2 or labels.shape != logits.shape or not len(labels):
        raise ValueError(f"logits and labels (N, C) with N ≥ 1 expected, got {logits.shape} and {labels.shape}")
    truth = labels.cpu().numpy() > 0
    scores = logits.detach().cpu().double().numpy()  # the order is that of the probabilities
    predicted = scores > 0
    occurrences = truth.sum(axis=0) + predicted.sum(axis=0)
    f1 = 2 * (truth & predicted).sum(axis=0)[occurrences > 0] / occurrences[occurrences > 0]
    precisions, areas = _ranking_metrics(truth, scores)
    return {
        "accuracy": float((truth == predicted).mean()),
        "exact_match": float((truth == predicted).all(axis=1).mean()),
        "macro_f1": _mean(f1.tolist()),
        "mAP": _mean(precisions),
        "auroc": _mean(areas),
        "per_label_precision": precisions,
        "per_label_auroc": areas,
    }


def _ranking_metrics(truth: Any, scores: Any) -> tuple[list[float | None], list[float | None]]:
    """Average precision and area under the ROC curve per column, by scikit-learn; None where it is not defined.

    Arguments:
        truth: (N, C) bool.
        scores: (N, C), finite; equal ones share one threshold.
    """
    import sklearn  # here, because the import takes more than a second
    from sklearn.metrics import average_precision_score, roc_auc_score

    counts = truth.sum(axis=0)
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        precisions = [
            float(average_precision_score(column, score)) if count else None
            for column, score, count in zip(truth.T, scores.T, counts, strict=True)
        ]
        areas = [
            float(roc_auc_score(column, score)) if 0 < count < len(truth) else None
            for column, score, count in zip(truth.T, scores.T, counts, strict=True)
        ]
    return precisions, areas


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are defined; None if there is none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def regression_metrics(outputs: Tensor, scores: Tensor, scale: LabelScale = UNSCALED) -> dict[str, Any]:
    """Metrics of N predicted scores, in plain numbers.

    Arguments:
        outputs: (N, 1), finite.
        scores: (N,) true scores.
        scale: by which both were standardised; the errors are in the unit before that.

    Returns:
        accuracy: fraction of samples whose predicted sign is correct; 0 counts as negative. Of standardised scores, the
            fraction on the correct side of the training set's mean.
        mae, rmse: mean absolute error, and root of the mean squared error.
        r2: coefficient of determination, 1 − Σ(y − ŷ)² / Σ(y − ȳ)²; None if the true scores are constant.
        correlation: Pearson's; None if predicted or true scores are constant.

    Raises:
        ValueError: the shapes do not match, or N is 0.
    """
    if outputs.shape != (len(scores), 1) or not len(scores):
        raise ValueError(f"outputs (N, 1) and scores (N,) with N ≥ 1 expected, got {outputs.shape} and {scores.shape}")
    predicted, true = outputs[:, 0].detach().cpu().double(), scores.cpu().double()
    error, variance = predicted - true, true.var(correction=0)
    varied = bool(predicted.var(correction=0) > 0) and bool(variance > 0)
    return {
        "accuracy": float(((predicted > 0) == (true > 0)).double().mean()),
        "mae": float(error.abs().mean()) * scale.std,
        "rmse": float(error.square().mean().sqrt()) * scale.std,
        "r2": float(1 - error.square().mean() / variance) if variance > 0 else None,
        "correlation": float(torch.corrcoef(torch.stack([predicted, true]))[0, 1]) if varied else None,
    }
