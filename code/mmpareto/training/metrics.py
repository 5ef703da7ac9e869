"""Metrics of logits and predicted scores."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


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
        confusion: C lists of C counts; rows are labels, columns predictions.

    Raises:
        ValueError: the shapes do not match, N is 0, or a label is out of range.
    """
    import sklearn  # here, because the import takes more than a second
    from sklearn.metrics import average_precision_score

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
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        precisions = [average_precision_score(truth == c, scores[:, c]) for c in range(n_classes) if samples[c]]
    return {
        "accuracy": float(correct.sum() / len(truth)),
        "per_class_accuracy": [float(correct[c] / samples[c]) if samples[c] else None for c in range(n_classes)],
        "macro_f1": float(np.mean((2 * correct / np.maximum(occurrences, 1))[occurrences > 0])),
        "mAP": float(sum(precisions) / len(precisions)),
        "confusion": confusion.tolist(),
    }


def regression_metrics(outputs: Tensor, scores: Tensor) -> dict[str, Any]:
    """Metrics of N predicted scores, in plain numbers.

    Arguments:
        outputs: (N, 1), finite.
        scores: (N,) true scores.

    Returns:
        accuracy: fraction of samples whose predicted sign is correct; 0 counts as negative.
        mae: mean absolute error.
        correlation: Pearson's; None if predicted or true scores are constant.

    Raises:
        ValueError: the shapes do not match, or N is 0.
    """
    if outputs.shape != (len(scores), 1) or not len(scores):
        raise ValueError(f"outputs (N, 1) and scores (N,) with N ≥ 1 expected, got {outputs.shape} and {scores.shape}")
    predicted, true = outputs[:, 0].detach().cpu().double(), scores.cpu().double()
    varied = bool(predicted.var(correction=0) > 0) and bool(true.var(correction=0) > 0)
    return {
        "accuracy": float(((predicted > 0) == (true > 0)).double().mean()),
        "mae": float((predicted - true).abs().mean()),
        "correlation": float(torch.corrcoef(torch.stack([predicted, true]))[0, 1]) if varied else None,
    }
