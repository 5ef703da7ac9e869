"""Warnings about data with which a run's results would mislead."""

from collections.abc import Sequence
from typing import Any

from mmpareto.errors import first_few
from mmpareto.training.data import Data

FEW = 30  # validation samples


def data_warnings(data: Data) -> list[str]:
    """Return a sentence per reason why accuracies would mislead: too few samples, or classes that are absent."""
    warnings = []
    if data.val is not None and len(data.val) < FEW:
        warnings.append(
            f"the validation set has only {len(data.val)} samples, so that chance decides which epoch is the best on it"
        )
    classes, train, test = data.train.classes, _classes_of(data.train.labels), _classes_of(data.test.labels)
    absent = [name for index, name in enumerate(classes) if index not in train]
    if train and absent:
        names = first_few(absent)
        warnings.append(f"no training sample is of class {names}, so that no prediction of it is learned")
    if len(test) == 1 and len(classes) > 1:
        warnings.append(
            f"all test samples are of class {classes[test.pop()]}, so that predicting it always would be right always"
        )
    return warnings


def _classes_of(labels: Sequence[Any]) -> set[int]:
    """The classes that occur; none for labels that are no class indices, such as scores."""
    return set(labels) if all(isinstance(label, int) for label in labels) else set()
