"""Calibration metrics compared with hand counts, scikit-learn and a loop; temperatures with a grid."""

import math

import numpy as np
import pytest
import torch
from mmpareto.analysis.calibration import calibration_metrics, expected_calibration_error, fit_temperature
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor


def samples(n: int = 400, classes: int = 4, sharpness: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of a model that is `sharpness` times too sure, and labels drawn from softmax(logits / sharpness)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    return sharpness * logits, labels


def ece_by_hand(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """The definition of Guo et al., bin by bin."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            total += inside.sum() / len(confidence) * abs(correct[inside].mean() - confidence[inside].mean())
    return float(total)


def test_the_error_is_that_of_a_hand_count() -> None:
    """Bins (0, ½] and (½, 1]: one right of two at 0.5, and three right of four at 0.9."""
    confidence = torch.tensor([0.5, 0.5, 0.9, 0.9, 0.9, 0.9])
    correct = torch.tensor([True, False, True, True, True, False])
    expected = 2 / 6 * abs(0.5 - 0.5) + 4 / 6 * abs(0.75 - 0.9)
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(expected)
    assert expected_calibration_error(confidence, correct, bins=1) == pytest.approx(abs(4 / 6 - 4.6 / 6))


def test_metrics_of_classes() -> None:
    logits, labels = samples()
    metrics = calibration_metrics(logits.float(), labels, temperature=2.0)
    p = np.exp(logits.float().double().numpy() / 2)
    p /= p.sum(1, keepdims=True)
    truth = labels.numpy()
    assert metrics["nll"] == pytest.approx(log_loss(truth, p), rel=1e-9)
    assert metrics["brier"] == pytest.approx(((p - np.eye(4)[truth]) ** 2).sum(1).mean(), rel=1e-9)
    assert metrics["brier"] == pytest.approx(brier_score_loss(truth, p, scale_by_half=False, labels=range(4)), rel=1e-9)
    assert metrics["ece"] == pytest.approx(ece_by_hand(p.max(1), p.argmax(1) == truth, 15), rel=1e-9)


def test_metrics_of_several_labels_per_sample() -> None:
    logits, _ = samples(classes=3)
    labels = (torch.rand(400, 3, generator=torch.Generator().manual_seed(1)) < logits.sigmoid() / 2).long()
    metrics = calibration_metrics(logits, labels)
    p, truth = 1 / (1 + np.exp(-logits.numpy().ravel())), labels.numpy().ravel()
    assert metrics["nll"] == pytest.approx(log_loss(truth, p), rel=1e-9)
    assert metrics["brier"] == pytest.approx(brier_score_loss(truth, p), rel=1e-9)
    assert metrics["ece"] == pytest.approx(ece_by_hand(np.maximum(p, 1 - p), (p > 0.5) == truth, 15), rel=1e-9)


def test_certain_and_right_predictions_have_no_error() -> None:
    labels = torch.tensor([0, 2, 1])
    metrics = calibration_metrics(1000.0 * torch.eye(3)[labels], labels)
    assert metrics == {"ece": 0.0, "nll": 0.0, "brier": 0.0}


def test_the_temperature_minimises_the_likelihood() -> None:
    logits, labels = samples(n=3000)
    temperature = fit_temperature(logits, labels)
    assert temperature is not None
    grid = np.exp(np.linspace(math.log(0.5), math.log(20), 400))
    losses = [torch.nn.functional.cross_entropy(logits / t, labels).item() for t in grid]
    assert temperature == pytest.approx(grid[int(np.argmin(losses))], rel=0.02)
    assert temperature == pytest.approx(3.0, rel=0.15)  # how much too sure the model is
    before, after = calibration_metrics(logits, labels), calibration_metrics(logits, labels, temperature)
    assert all(after[name] < before[name] for name in before)
    assert fit_temperature(5 * logits, labels) == pytest.approx(5 * temperature, rel=1e-4)


def test_without_a_minimum_there_is_no_temperature() -> None:
    labels = torch.tensor([0, 1, 1])
    right = torch.eye(2)[labels]
    assert fit_temperature(right, labels) is None and fit_temperature(-right, labels) is None
    signs = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    assert fit_temperature(signs, (signs > 0).long()) is None and fit_temperature(signs, (signs < 0).long()) is None
    almost = torch.cat([right, 0.5 - right[:1]])  # one in four is wrong: log(3) · T = 1
    temperature = fit_temperature(almost, torch.tensor([0, 1, 1, 0]))
    assert temperature == pytest.approx(1 / math.log(3), rel=1e-4)
