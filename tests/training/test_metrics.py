import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpareto.training.losses import correctness, loss_of
from mmpareto.training.metrics import classification_metrics, regression_metrics


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Σ (Rₙ − Rₙ₋₁)·Pₙ over the distinct scores as thresholds, from the highest down."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        selected = scores >= threshold
        hits = (selected & positive).sum()
        total += (hits / positive.sum() - recall) * hits / selected.sum()
        recall = hits / positive.sum()
    return total


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
