"""Calibration: whether probabilities are as large as the predictions are often right, and temperature scaling."""

import math

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

BINS = 15  # as in Guo et al.
LARGEST_TEMPERATURE = 100.0


def calibration_metrics(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> dict[str, float]:
    """Metrics of the probabilities that N logits stand for, computed in float64.

    Arguments:
        logits: (N, C).
        labels: (N,) class indices; or (N, C) zeros and ones, of which each is a prediction of its own, by a sigmoid.
        temperature: divides the logits.

    Returns:
        ece: expected calibration error, Σ_b n_b/N · |accuracy_b − confidence_b| over 15 bins of equal width, each with
            its upper edge, by the probability of the predicted class (Guo et al., "On calibration of modern neural
            networks", ICML 2017, equation 3).
        nll: negative log-likelihood, mean −log p of the true class, natural logarithm.
        brier: Brier score, mean Σ_c (p_c − 1[c is true])², from 0 to 2 (Brier 1950); with several labels per sample,
            the mean of (p − label)² over samples and labels, from 0 to 1.
    """
    z = logits.double() / temperature
    if labels.dim() == 2:
        p, truth = z.sigmoid(), labels.double()
        nll, brier = F.binary_cross_entropy_with_logits(z, truth), (p - truth).square().mean()
        confidence, correct = p.maximum(1 - p).flatten(), ((p > 0.5) == (truth > 0.5)).flatten()
    else:
        p = z.softmax(1)
        nll = F.cross_entropy(z, labels)
        brier = (p - F.one_hot(labels, p.shape[1])).square().sum(1).mean()
        confidence, correct = p.amax(1), logits.argmax(1) == labels
    return {
        "ece": expected_calibration_error(confidence, correct),
        "nll": nll.item(),
        "brier": brier.item(),
    }


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """Σ_b n_b/N · |accuracy_b − confidence_b| over `bins` bins of equal width, (0, 1/bins], (1/bins, 2/bins] ….

    Arguments:
        confidence: (N,) probabilities of the predictions.
        correct: (N,) bool.
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    index = torch.bucketize(confidence.double(), edges)  # a value on an edge is in the bin below
    excess = correct.double() - confidence.double()
    return torch.zeros(bins, dtype=torch.float64).index_add_(0, index, excess).abs().sum().item() / len(confidence)


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The temperature T > 0 that minimises the negative log-likelihood of logits / T (Guo et al., section 4.2).

    The likelihood is convex in 1/T. It has no minimum, and the result is None, if all predictions are right, so that
    the best T is 0; or if they are no better than chance, so that it is infinite.

    Arguments:
        logits, labels: of the validation set; see `calibration_metrics`.
    """
    from scipy.optimize import minimize_scalar  # a slow import

    z = logits.double()
    if labels.dim() == 2:
        signs = 2 * labels.double() - 1
        all_right, evidence = bool((signs * z > 0).all()), (signs * z).mean()
    else:
        true = z.gather(1, labels.unsqueeze(1)).squeeze(1)
        all_right, evidence = bool((true >= z.amax(1)).all()), (true - z.mean(1)).mean()
    if all_right or evidence <= 0:  # minus the slope of the likelihood at 1/T = 0
        return None
    bound = math.log(LARGEST_TEMPERATURE)

    def objective(log_temperature: float) -> float:
        return calibration_metrics(logits, labels, math.exp(log_temperature))["nll"]

    fitted = minimize_scalar(objective, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    return math.exp(fitted.x)
