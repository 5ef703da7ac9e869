"""Warnings about data with which a run's results would mislead."""

from mmpareto.data.loading.labels import class_counts
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
    train, test = (class_counts(part.labels, data.train.classes) for part in (data.train, data.test))
    absent = [name for name, count in train.items() if not count]
    if absent:
        warnings.append(f"no training sample is of class {first_few(absent)}, so that no prediction of it is learned")
    present = [name for name, count in test.items() if count]
    if len(present) == 1 and len(test) > 1:
        warnings.append(
            f"all test samples are of class {present[0]}, so that predicting it always would be right always"
        )
    return warnings
