import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpareto.data.loading.labels import LabelScale
from mmpareto.training.losses import correctness, loss_of
from mmpareto.training.metrics import (
    best_line,
    classification_metrics,
    main_metric,
    multilabel_metrics,
    regression_metrics,
)


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Σ (Rₙ − Rₙ₋₁)·Pₙ over the distinct scores as thresholds, from the highest down."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        selected = scores >= threshold
        hits = (selected & positive).sum()
        total += (hits / positive.sum() - recall) * hits / selected.sum()
        recall = hits / positive.sum()
    return total


def area_under_roc(positive: np.ndarray, scores: np.ndarray) -> float:
    """The fraction of pairs of a positive and a negative in which the positive has the higher score; a tie is half."""
    difference = scores[positive][:, None] - scores[~positive]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def compare_with_definitions(logits: torch.Tensor, labels: torch.Tensor) -> None:
    metrics = classification_metrics(logits, labels)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    classes = range(logits.shape[1])
    truth, predicted = labels.numpy(), logits.argmax(dim=1).numpy()
    scores = logits.double().softmax(dim=1).numpy()
    present = [c for c in classes if (truth == c).any()]
    assert metrics["accuracy"] == pytest.approx(np.mean(truth == predicted))
    assert metrics["confusion"] == [[int(((truth == i) & (predicted == j)).sum()) for j in classes] for i in classes]
    for c, value in enumerate(metrics["per_class_accuracy"]):
        assert value == (pytest.approx(np.mean(predicted[truth == c] == c)) if c in present else None)
    f1 = []
    for c in {*truth.tolist(), *predicted.tolist()}:
        right, wrong = ((truth == c) & (predicted == c)).sum(), ((truth == c) ^ (predicted == c)).sum()
        f1.append(2 * right / (2 * right + wrong))
    assert metrics["macro_f1"] == pytest.approx(np.mean(f1))
    assert metrics["mAP"] == pytest.approx(np.mean([average_precision(truth == c, scores[:, c]) for c in present]))
    areas = [area_under_roc(truth == c, scores[:, c]) for c in present if len(present) > 1]
    assert metrics["auroc"] == (pytest.approx(np.mean(areas)) if areas else None)


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1, 30),
    classes=st.integers(2, 6),
    used=st.integers(1, 6),
    levels=st.sampled_from([1, 2, 3, 1000]),
    seed=st.integers(0, 10_000),
)
def test_agrees_with_the_definitions_also_on_ties_and_absent_classes(
    samples: int, classes: int, used: int, levels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, levels, (samples, classes), generator=generator).float() / levels
    labels = torch.randint(0, min(used, classes), (samples,), generator=generator)
    compare_with_definitions(logits, labels)


def test_agrees_with_the_definitions_on_many_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 31, (500,), generator=generator)
    logits = torch.randn(500, 31, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 31)
    compare_with_definitions(logits, labels)


def test_a_small_case_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, -9.0], [0.0, 2.0, -9.0], [1.0, 0.0, -9.0], [0.0, 3.0, -9.0]])
    metrics = classification_metrics(logits, torch.tensor([0, 0, 1, 1]))
    assert metrics["accuracy"] == 0.5
    assert metrics["per_class_accuracy"] == [0.5, 0.5, None]
    assert metrics["confusion"] == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert metrics["macro_f1"] == pytest.approx(0.5)  # class 2 occurs nowhere
    # Class 0 ranks 0✓ 2✗ 1✓ 3✗: (1 + 2/3)/2. Class 1 ranks 3✓ 1✗ 2✓ 0✗: the same.
    assert metrics["mAP"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.long)),
        (torch.zeros(2, 3), torch.tensor([0, 3])),
        (torch.zeros(2, 3), torch.tensor([-1, 0])),
    ],
)
def test_mismatched_shapes_and_labels_are_refused(logits: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        classification_metrics(logits, labels)


def test_regression_metrics() -> None:
    outputs, scores = torch.tensor([[0.5], [-1.0], [2.0], [-0.1]]), torch.tensor([1.0, -2.0, -0.5, 0.0])
    metrics = regression_metrics(outputs, scores)
    assert metrics["accuracy"] == 0.75  # 0 counts as negative
    assert metrics["mae"] == pytest.approx((0.5 + 1.0 + 2.5 + 0.1) / 4)
    assert metrics["correlation"] == pytest.approx(np.corrcoef(outputs[:, 0].numpy(), scores.numpy())[0, 1])
    assert regression_metrics(torch.zeros(3, 1), torch.arange(3.0))["correlation"] is None
    with pytest.raises(ValueError, match="N ≥ 1"):
        regression_metrics(torch.zeros(3, 2), torch.arange(3.0))


def test_float_labels_are_scores_and_integer_labels_are_classes() -> None:
    outputs, scores = torch.tensor([[0.5], [-1.0]]), torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert loss_of(outputs, scores).item() == pytest.approx((0.5 + 2.0) / 2)
    assert correctness(outputs, scores).tolist() == [1, 0]
    logits, labels = torch.tensor([[0.0, 1.0], [3.0, 1.0]]), torch.tensor([1, 1])
    assert loss_of(logits, labels).item() == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    assert correctness(logits, labels).tolist() == [1, 0]


def test_two_axes_of_labels_are_several_labels_per_sample() -> None:
    logits, labels = torch.tensor([[0.5, -2.0], [1.0, 3.0]]), torch.tensor([[1, 1], [0, 1]])
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    likelihoods = np.where(labels.numpy(), p, 1 - p)
    assert loss_of(logits, labels).item() == pytest.approx(-np.log(likelihoods).mean(), rel=1e-6)
    assert correctness(logits, labels).tolist() == [0.5, 0.5]
    assert loss_of(logits[:0], labels[:0]).item() == 0 and correctness(logits[:0], labels[:0]).sum() == 0


def test_metrics_of_several_labels() -> None:
    """Label 2 has no positive and label 3 no negative: neither has an area, and the former no precision."""
    random = np.random.default_rng(0)
    truth = random.random((30, 4)) < [0.3, 0.6, 0, 1]
    scores = random.normal(size=(30, 4)).round(1) + truth  # with ties
    metrics = multilabel_metrics(torch.from_numpy(scores), torch.from_numpy(truth).long())
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    predicted = scores > 0
    assert metrics["accuracy"] == pytest.approx((predicted == truth).mean())
    assert metrics["exact_match"] == pytest.approx((predicted == truth).all(axis=1).mean())
    f1 = [2 * (p & t).sum() / (p.sum() + t.sum()) for p, t in zip(predicted.T, truth.T, strict=True)]
    assert metrics["macro_f1"] == pytest.approx(np.mean(f1))
    precisions = [average_precision(truth[:, c], scores[:, c]) for c in (0, 1, 3)]
    areas = [area_under_roc(truth[:, c], scores[:, c]) for c in (0, 1)]
    assert metrics["mAP"] == pytest.approx(np.mean(precisions)) and metrics["auroc"] == pytest.approx(np.mean(areas))
    assert metrics["per_label_precision"] == [*map(pytest.approx, precisions[:2]), None, pytest.approx(precisions[2])]
    assert metrics["per_label_auroc"] == [*map(pytest.approx, areas), None, None]
    with pytest.raises(ValueError, match="N ≥ 1"):
        multilabel_metrics(torch.zeros(2, 3), torch.zeros(2))


def test_errors_of_standardised_scores_are_in_the_unit_of_the_data() -> None:
    predicted, true = np.array([38.0, 61.0, 55.0]), np.array([40.0, 58.0, 49.0])
    scale = LabelScale(50.0, 8.0)
    outputs, scores = (torch.from_numpy((values - scale.mean) / scale.std) for values in (predicted, true))
    metrics = regression_metrics(outputs[:, None], scores, scale)
    assert metrics["mae"] == pytest.approx(11 / 3) and metrics["rmse"] == pytest.approx(np.sqrt(49 / 3))
    assert metrics["r2"] == pytest.approx(1 - 49 / ((true - 49) ** 2).sum())
    assert metrics["accuracy"] == pytest.approx(2 / 3)  # on the correct side of the mean, 50
    assert metrics["correlation"] == pytest.approx(np.corrcoef(predicted, true)[0, 1])


@pytest.mark.parametrize(
    ("key", "values", "best"),
    [("acc", (0.5, 0.7, 0.7), 1), ("map", (0.5, None, 0.4), 0), ("mae", (3.0, 2.0, 2.5), 1)],
)
def test_the_best_epoch_is_chosen_by_the_main_metric(key: str, values, best: int) -> None:
    """Accuracy, and a larger one; for several labels mAP; and for scores the mean absolute error, a smaller one."""
    mark = {"map": {"exact_match": 0.1}}.get(key, {})
    lines = [mark | {"acc": 0.9 - 0.1 * n} | {key: v, f"val_{key}": values[-1 - n]} for n, v in enumerate(values)]
    assert main_metric(lines[0]).key == key
    assert best_line(lines) is lines[best]
    assert best_line(lines, "val_") is lines[{"acc": 0, "map": 2, "mae": 1}[key]]
