"""What is reported about a classifier's logits."""

from typing import Any

import torch
from torch import Tensor


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Figures of N samples and C classes, as plain numbers and lists (ready for JSON).

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
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits (N, C) and labels (N,) with N ≥ 1 expected, got {logits.shape} and {labels.shape}")
    logits, labels = logits.detach().cpu().double(), labels.detach().cpu().long()
    classes = logits.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels from 0 to {classes - 1} expected, got {int(labels.min())} to {int(labels.max())}")
    confusion = torch.bincount(labels * classes + logits.argmax(dim=1), minlength=classes * classes)
    confusion = confusion.view(classes, classes)
    right, there, predicted = confusion.diagonal().double(), confusion.sum(dim=1), confusion.sum(dim=0)
    recall = (right / there).tolist()
    f1 = 2 * right / (there + predicted)
    targets = torch.nn.functional.one_hot(labels, classes).bool()
    precision = average_precision(logits.softmax(dim=1), targets)
    return {
        "accuracy": right.sum().item() / len(labels),
        "per_class_accuracy": [value if count else None for value, count in zip(recall, there.tolist(), strict=True)],
        "macro_f1": f1[there + predicted > 0].mean().item(),
        "mAP": precision[there > 0].mean().item(),
        "confusion": confusion.tolist(),
    }


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Average precision of every column: (C,), NaN for a column without a positive.

    Arguments:
        scores: (N, C); larger means more likely positive.
        targets: (N, C), bool.
    """
    scores, order = scores.sort(dim=0, descending=True)
    hits = targets.gather(0, order).to(scores.dtype)
    rank = torch.arange(len(scores)).unsqueeze(1).expand_as(scores)
    # A threshold takes in all samples of equal score, so each counts with the precision at its group's last rank.
    last = torch.ones_like(targets)
    last[:-1] = scores[:-1] != scores[1:]
    end = torch.where(last, rank, len(scores)).flip(0).cummin(dim=0).values.flip(0)
    precision = (hits.cumsum(dim=0) / (rank + 1)).gather(0, end)
    return (hits * precision).sum(dim=0) / hits.sum(dim=0)
