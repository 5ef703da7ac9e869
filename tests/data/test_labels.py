"""Labels of the kinds of task, and their strata."""

import numpy as np
import pytest
import torch
from mmpareto.data.loading.labels import LabelScale, batch_label, class_counts, has_class, strata, task_of_batch
from mmpareto.data.preparation.splits import own_split, stratified
from mmpareto.errors import InputError
from torch.utils.data import default_collate

CASES = [
    ([2, 0, 2], "classification", (3,), {"a": 1, "b": 0, "c": 2}),
    ([(1, 0, 1), (0, 0, 1), (0, 0, 0)], "multilabel", (3, 3), {"a": 1, "b": 0, "c": 2}),
    ([1.5, -2.0, 0.0], "regression", (3,), {"score": 3}),
    ([{"l": 2, "r": 0}, {"l": 2, "r": 1}, {"l": 0, "r": 2}], "multitask", (3, 2), {"a": 2, "b": 1, "c": 3}),
]


@pytest.mark.parametrize(("labels", "task", "shape", "counts"), CASES)
def test_labels_survive_collation(labels, task: str, shape, counts) -> None:
    batch = default_collate([batch_label(label, LabelScale()) for label in labels])
    assert task_of_batch(batch) == task and batch.shape == shape
    rows = [label.values() if isinstance(label, dict) else label for label in labels]
    assert batch.tolist() == [row if isinstance(row, int | float) else list(row) for row in rows]
    classes = ["score"] if task == "regression" else ["a", "b", "c"]
    assert class_counts(labels, classes) == counts
    assert [sum(has_class(label, c) for label in labels) for c in range(len(classes))] == [*counts.values()]


def test_scores_are_standardised_in_a_batch() -> None:
    assert batch_label(7.0, LabelScale(5.0, 4.0)) == 0.5


def test_every_label_is_on_both_sides_of_a_split() -> None:
    """Even one that three of 200 samples have, together with more frequent ones."""
    random = np.random.default_rng(0)
    rows = random.random((200, 4)) < [0.5, 0.3, 0.1, 0]
    rows[:3, 3] = True
    labels = [tuple(map(int, row)) for row in rows]
    held_out = stratified(strata(labels, 0.2), 0.2, seed=0)
    assert 30 <= len(held_out) <= 50
    chosen = np.zeros(200, bool)
    chosen[held_out] = True
    assert rows[chosen].any(0).all() and rows[~chosen].any(0).all()


@pytest.mark.parametrize(("samples", "fraction"), [(1000, 0.1), (30, 0.2), (5, 0.2), (8, 0.5)])
def test_a_split_of_scores_covers_their_range(samples: int, fraction: float) -> None:
    scores = np.random.default_rng(1).exponential(size=samples).tolist()
    held_out = stratified(strata(scores, fraction), fraction, seed=0)
    assert len(held_out) == round(fraction * samples)
    ranks = np.argsort(np.argsort(scores))[held_out]
    tenths = np.bincount(ranks * 10 // samples, minlength=10)
    assert samples < 1000 or tenths.tolist() == [samples * fraction / 10] * 10


def test_a_validation_part_alone_is_for_testing() -> None:
    labels = {"a": 0, "b": 1, "c": 0}
    split = own_split(labels, {"a": "train", "b": "valid", "c": "train"}, "x.csv", None, 0)
    assert (split.train, split.test, split.valid) == (["a", "c"], ["b"], [])
    assert split.sentence == "as x.csv has it, its validation part for testing"
    with pytest.raises(InputError, match=r"no sample is for training in the split of x.csv"):
        own_split(labels, dict.fromkeys(labels, "test"), "x.csv", None, 0)
    with pytest.raises(InputError, match="between 0 and 1"):
        own_split(labels, None, "", 1.5, 0)
    assert torch.is_tensor(batch_label((1, 0), LabelScale()))
