"""What is reported about a model's outputs."""

from typing import Any

import torch
from torch import Tensor


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Figures of N samples and C classes, as plain numbers and lists (ready for JSON), by scikit-learn.

    Arguments:
        logits: (N, C), finite.
        labels: (N,), integers in 0 … C − 1.

    Returns:
        accuracy: fraction of the samples whose largest logit is that of their label.
        per_class_accuracy: the same within every class (its recall); None for a class without samples.
        macro_f1: mean of the F1 scores over the classes that occur among labels or predictions.
        mAP: mean over the classes with samples of the average precision Σ (Rₙ − Rₙ₋₁)·Pₙ, one class against the
            rest, ranked by softmax; equal scores share one threshold.
        confusion: C lists of C counts; row = label, column = prediction.

    Raises:
        ValueError: the shapes do not fit, N is 0, or a label is out of range.
    """
    from sklearn import metrics  # here, since it takes more than a second to import

    if logits.dim() != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits (N, C) and labels (N,) with N ≥ 1 expected, got {logits.shape} and {labels.shape}")
    classes = logits.shape[1]
    truth, predicted = labels.cpu().numpy(), logits.argmax(dim=1).cpu().numpy()
    if truth.min() < 0 or truth.max() >= classes:
        raise ValueError(f"labels from 0 to {classes - 1} expected, got {truth.min()} to {truth.max()}")
    confusion = metrics.confusion_matrix(truth, predicted, labels=range(classes))
    samples = confusion.sum(axis=1)
    # In float64: in float32, probabilities near 1 that differ would tie.
    scores = logits.detach().cpu().double().softmax(dim=1).numpy()
    precisions = [metrics.average_precision_score(truth == c, scores[:, c]) for c in range(classes) if samples[c]]
    return {
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        "per_class_accuracy": [float(confusion[c, c] / samples[c]) if samples[c] else None for c in range(classes)],
        "macro_f1": float(metrics.f1_score(truth, predicted, average="macro", zero_division=0)),
        "mAP": float(sum(precisions) / len(precisions)),
        "confusion": confusion.tolist(),
    }


def regression_metrics(outputs: Tensor, scores: Tensor) -> dict[str, Any]:
    """Figures of N predicted scores, as plain numbers.

    Arguments:
        outputs: (N, 1), finite.
        scores: (N,) the true ones.

    Returns:
        accuracy: fraction of the samples whose sign is right, 0 counting as negative.
        mae: mean absolute error.
        correlation: Pearson's; None where one side is constant.

    Raises:
        ValueError: the shapes do not fit, or N is 0.
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
