"""Linear probe: what a frozen encoder's feature tells about the class."""

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.training.evaluation import Predictions


def linear_probe(training: Predictions) -> dict[str, dict[str, Tensor]]:
    """Fit a fresh linear head for every modality on the frozen features of the training set.

    The unimodal heads of a model trained on the joint loss alone are as they were initialised, so that their own
    accuracy means nothing.

    Arguments:
        training: the model's outputs on the training set, without augmentation.

    Returns:
        Modality → {"weight": (C, F), "bias": (C,)} for that modality's head.
    """
    n_classes = training.outputs.joint.shape[1]
    if training.labels.is_floating_point():
        return {name: fit_scores(values, training.labels) for name, values in training.outputs.features.items()}
    return {name: fit_head(values, training.labels, n_classes) for name, values in training.outputs.features.items()}


def fit_head(features: Tensor, labels: Tensor, n_classes: int, decay: float = 1e-3) -> dict[str, Tensor]:
    """Multinomial logistic regression on standardised features, by L-BFGS in float64 until it stands still.

    Arguments:
        features: (N, F).
        labels: (N,) class indices.
        decay: weight of ½‖W‖² beside the mean cross-entropy; without it, separable classes have no minimum.

    Returns:
        The head's weight (C, F) and bias (C,) for the features as they are, float32.
    """
    x = features.double()
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    x = (x - mean) / std
    weight = torch.zeros(n_classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(n_classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), labels) + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(objective)
    scaled = weight.detach() / std
    return {"weight": scaled.float(), "bias": (bias.detach() - scaled @ mean).float()}


def fit_scores(features: Tensor, scores: Tensor, decay: float = 1e-3) -> dict[str, Tensor]:
    """Ridge regression on standardised features, by its normal equations in float64; otherwise as `fit_head`."""
    x, y = features.double(), scores.double()
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    x = (x - mean) / std
    gram = x.T @ x / len(x) + decay * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(gram, x.T @ (y - y.mean()) / len(x)) / std
    return {"weight": weight.float().unsqueeze(0), "bias": (y.mean() - weight @ mean).float().unsqueeze(0)}
