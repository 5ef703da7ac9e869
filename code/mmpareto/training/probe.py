"""Linear probes: linear heads fitted to the features of frozen encoders."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.data.loading.labels import strata, task_of_batch
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.data.preparation.splits import stratified
from mmpareto.integration.objectives import JOINT
from mmpareto.training.distributed import Processes
from mmpareto.training.evaluation import Predictions, head_metrics

DECAY = 1e-3  # factor of ½‖W‖²; without it, separable classes have no minimum
MAX_SAMPLES = 25_000  # more than any training set here has, except those of CG-MNIST and VGGSound
NEGLIGIBLE = 1e-5  # bound on the change of a logit by a direction of feature space that is left out
Head = dict[str, Tensor]


def probe_samples(training: PreparedDataset, seed: int) -> PreparedDataset:
    """The training samples that probes are fitted to: all, or of a larger set `MAX_SAMPLES`, up to rounding.

    These are drawn with the seed, the same fraction of each class (`strata`).
    """
    if len(training) <= MAX_SAMPLES:
        return training
    fraction = MAX_SAMPLES / len(training)
    return training.subset(stratified(strata(training.labels, fraction), fraction, seed).tolist())


def probe_entries(
    training: Predictions, test: Predictions, processes: Processes, *, available: int, n_classes: int, joint: bool
) -> dict[str, Any]:
    """The entries of a checkpoint: the heads ("probe"), and their metrics on the test set ("probe_result").

    Arguments:
        training: predictions for `probe_samples`.
        test: for the test set.
        processes: the heads are fitted on rank 0.
        available: number of samples in the training set.
        n_classes, joint: as for `linear_probe`. With `joint`, nothing else in the run is an accuracy, and the losses of
            the metrics are the run's own, not the probes'.
    """
    heads = processes.run_on_rank0(lambda: linear_probe(training, n_classes, joint=joint))
    metrics = head_metrics(test.with_heads(heads))
    if joint:
        metrics = {key: value for key, value in metrics.items() if not key.startswith("loss")}
    else:
        metrics = {key: value for key, value in metrics.items() if key.endswith(tuple(f"_{name}" for name in heads))}
    result = {"samples": len(training.labels), "available": available, "metrics": metrics}
    return {"probe": heads, "probe_result": result}


def linear_probe(training: Predictions, n_classes: int, *, joint: bool = False) -> dict[str, Head]:
    """A linear head per modality, fitted to the features of the training set.

    It measures the unimodal accuracy of a model trained on the joint loss alone, whose own unimodal heads are still as
    initialised; and that of a model which was pre-trained without labels and has no heads at all.

    Arguments:
        training: the model's outputs on the training samples, without augmentation.
        n_classes: C.
        joint: whether to fit one to the concatenated features, too.

    Returns:
        Modality, and "joint" → {"weight": (C, F), "bias": (C,)}.
    """
    features, labels = dict(training.outputs.features), training.labels
    if joint:
        features[JOINT] = torch.cat([*features.values()], dim=1)
    if task_of_batch(labels) == "regression":
        return {name: fit_ridge_regression(values, labels) for name, values in features.items()}
    return {name: fit_logistic_regression(values, labels, n_classes) for name, values in features.items()}


def fit_logistic_regression(features: Tensor, labels: Tensor, n_classes: int) -> Head:
    """Logistic regression on standardised features, by L-BFGS in float64 until convergence.

    Minimises the mean cross-entropy (multinomial; with several labels per sample, the sum of the binary ones) plus
    ½·DECAY·‖W‖². The coordinates are the principal axes of the features, scaled
    such that the Hessian at W = 0 is about the identity: the minimum is the same, the steps are fewer, and so are the
    coordinates where features are linearly dependent, as those of `SmallCNN` (512 of rank 64).

    Arguments:
        features: (N, F).
        labels: (N,) class indices, or (N, C) zeros and ones.

    Returns:
        Weight (C, F) and bias (C,) for features that are not standardised, float32.
    """
    x, mean, std = _standardised(features)
    variances, axes = torch.linalg.eigh(x.T @ x / len(x))
    # The optimal weight along an axis is at most √variance / DECAY, so its logits are at most variance / DECAY.
    kept = variances > NEGLIGIBLE * DECAY
    binary = task_of_batch(labels) == "multilabel"
    curvatures = variances[kept] / (4 if binary else n_classes) + DECAY
    basis = axes[:, kept] / curvatures.sqrt()
    x = x @ basis
    weight = torch.zeros(n_classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(n_classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=500,
        tolerance_grad=1e-6,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        logits = F.linear(x, weight, bias)
        if binary:
            loss = F.binary_cross_entropy_with_logits(logits, labels.double(), reduction="sum") / len(labels)
        else:
            loss = F.cross_entropy(logits, labels)
        loss = loss + DECAY / 2 * (weight.square() / curvatures).sum()
        loss.backward()
        return loss

    solver.step(objective)
    scaled = weight.detach() @ basis.T / std
    return {"weight": scaled.float(), "bias": (bias.detach() - scaled @ mean).float()}


def fit_ridge_regression(features: Tensor, scores: Tensor) -> Head:
    """Ridge regression on standardised features, by the normal equations in float64.

    Minimises half the mean squared error plus ½·DECAY·‖w‖².

    Arguments:
        features: (N, F).
        scores: (N,).

    Returns:
        Weight (1, F) and bias (1,) for features that are not standardised, float32.
    """
    x, mean, std = _standardised(features)
    y = scores.double()
    gramian = x.T @ x / len(x) + DECAY * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(gramian, x.T @ (y - y.mean()) / len(x)) / std
    return {"weight": weight.float().unsqueeze(0), "bias": (y.mean() - weight @ mean).float().unsqueeze(0)}


def _standardised(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features scaled to mean 0 and deviation 1, and the original mean and deviation (1 for a constant), float64."""
    x = features.double()
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    return (x - mean) / std, mean, std
