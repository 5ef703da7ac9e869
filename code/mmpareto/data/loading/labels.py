"""Labels of the kinds of task, told apart by their type: classes, several labels per sample, scores, several tasks.

| task | label of a sample in a `SampleList` | labels of a batch |
|---|---|---|
| classification | int: index of its class | int64 (B,) |
| multilabel | tuple of C zeros and ones | int64 (B, C) |
| regression | float: its score, in the unit of the data | floating point (B,), as (score − mean) / std |
| multitask | dict: task → index of its class | int32 (B, T): one column per task, in their order |

A multi-label sample has or lacks each class; in a multi-task one, every task has a class of its own, so each head has
classes as in a classification (`training.losses.head_labels`).
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Task = Literal["classification", "multilabel", "regression", "multitask"]
SCORE = "score"  # the only "class" of a regression
STRATA = 10  # of the scores of a regression


class LabelScale(NamedTuple):
    """Mean and standard deviation by which the scores of a regression are standardised for training."""

    mean: float = 0.0
    std: float = 1.0


UNSCALED = LabelScale()


def task_of_labels(labels: Sequence[Any]) -> Task:
    """The task of the labels in a `SampleList`."""
    first = labels[0] if len(labels) else 0
    if isinstance(first, dict):
        return "multitask"
    return "multilabel" if isinstance(first, tuple) else "regression" if isinstance(first, float) else "classification"


def task_of_batch(labels: "Tensor") -> Task:
    """The task of the labels of a batch."""
    if labels.dim() == 2:
        import torch  # not at the top: the command line needs no torch

        return "multitask" if labels.dtype == torch.int32 else "multilabel"
    return "regression" if labels.is_floating_point() else "classification"


def batch_label(label: Any, scale: LabelScale) -> Any:
    """The label of a sample in the form from which `default_collate` makes the labels of a batch."""
    if isinstance(label, tuple | dict):
        import torch  # not at the top: the command line needs no torch

        return torch.tensor(label) if isinstance(label, tuple) else torch.tensor([*label.values()], dtype=torch.int32)
    return (label - scale.mean) / scale.std if isinstance(label, float) else label


def has_class(label: Any, number: int) -> bool:
    """True if a sample with this label is of the class of this index, in any of its tasks.

    In a regression, every sample is of class 0.
    """
    if isinstance(label, dict):
        return number in label.values()
    if isinstance(label, tuple):
        return bool(label[number])
    return isinstance(label, float) or label == number


def class_counts(labels: Sequence[Any], classes: Sequence[str]) -> dict[str, int]:
    """Class → number of samples that have it; of a regression, the number of samples; of several tasks, their sum."""
    task = task_of_labels(labels)
    if task == "regression":
        return {SCORE: len(labels)}
    if task == "multilabel":
        return dict(zip(classes, map(int, np.sum(labels, axis=0)), strict=True))
    tally = Counter(labels if task == "classification" else (c for label in labels for c in label.values()))
    return {name: tally[label] for label, name in enumerate(classes)}


def strata(labels: Sequence[Any], fraction: float) -> list[Hashable]:
    """The stratum of every sample, for `splits.stratified`, which draws about `fraction` of each stratum.

    Classes are the strata. With several labels per sample, a sample is in the stratum of its rarest one, or of those
    without any. Scores are ranked, and divided into at most ten strata of equal size that are large enough to draw one
    sample from. Of several tasks, the classes of the first are the strata.
    """
    task = task_of_labels(labels)
    if task == "multilabel":
        present = np.array(labels)
        counts = present.sum(axis=0)
        return [min(np.flatnonzero(row), key=lambda label: (counts[label], label), default=-1) for row in present]
    if task == "regression":
        number = min(STRATA, max(1, int(len(labels) * min(fraction, 1 - fraction))))
        ranks = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
        return (ranks * number // len(labels)).tolist()
    return [next(iter(label.values())) for label in labels] if task == "multitask" else list(labels)
