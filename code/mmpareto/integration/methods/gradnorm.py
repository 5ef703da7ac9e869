"""GradNorm: loss weights learned so that all objectives train at similar rates."""

import math
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.options import check_at_least, check_positive
from mmpareto.integration.weighted import WeightedGradients

SMALLEST_WEIGHT = 1e-3  # a bound of our own: the paper does not define a negative weight


class GradNorm(WeightedGradients):
    """GradNorm: learn an encoder's loss weights so that objectives that train slowly get larger gradients.

    With W the encoder's last layer (its last tensor of two or more dimensions that has a nonzero gradient):

        Gᵢ = ‖wᵢ ∇_W Lᵢ‖        rᵢ = (Lᵢ / Lᵢ at the first step), divided by the mean of these ratios        h = Σ wᵢ gᵢ
        w ← w − weights_learning_rate · ∂/∂w Σᵢ |Gᵢ − Ḡ·rᵢ^α|, with Ḡ·rᵢ^α held constant;   w ← w · n/Σw

    The step uses the weights from before their update, as in the paper's algorithm 1. Weights are kept at 0.001 or
    above, because the paper does not define negative ones. One backward pass per objective of an encoder. The reported
    weights are w/n. A step that is not finite, or in which an objective is absent, changes neither weights nor first
    losses.

    Arguments:
        alpha: α ≥ 0, how strongly slow objectives are favoured [1.5].
        weights_learning_rate: learning rate of the weights, > 0 [0.025].

    Raises:
        ValueError: an option is out of range.
    """

    source = "Chen et al., GradNorm, ICML 2018 (arXiv 1711.02257)"
    memory = ("loss_weights", "first_losses")

    def __init__(self, alpha: float = 1.5, weights_learning_rate: float = 0.025) -> None:
        super().__init__()
        check_at_least("alpha", alpha, 0)
        check_positive("weights_learning_rate", weights_learning_rate)
        self.alpha, self.weights_learning_rate = alpha, weights_learning_rate
        self.loss_weights: dict[str, Tensor] = {}
        self.first_losses: dict[str, Tensor] = {}
        self._losses: dict[str, Tensor] = {}
        self._layers: dict[str, list[int]] = {}
        self._finite = torch.tensor(True)

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Return the losses, 0 if absent; those of micro-batches are already weighted by their share of the samples."""
        known = {name: loss.detach().double().reshape(()) for name, loss in objectives.losses.items()}
        zero = torch.zeros_like(next(iter(known.values()), torch.zeros((), dtype=torch.float64)))
        return {name: known.get(name, zero) for name in objectives.names}

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Record every encoder's losses, and the indices of its tensors that can be its last layer."""
        super().prepare(objectives, gradients)
        self._finite = gradients.finite.all()
        for modality, encoder in objectives.encoders.items():
            device = gradients.scale.device
            losses = torch.stack([gradients.statistics[name].to(device) for name in encoder.objectives])
            unknown = torch.full_like(losses, math.nan)  # until the first finite step
            first = self.first_losses.get(modality, unknown).to(device)
            counts = self._finite.to(device) & self.all_present(modality, losses)
            first = torch.where(first.isnan() & counts, losses, first)
            self.first_losses = self.first_losses | {modality: first}
            matrices = [index for index, p in enumerate(encoder.parameters) if p.dim() >= 2]
            self._layers[modality] = matrices or [*range(len(encoder.parameters))]
            self._losses[modality] = losses
        return {}

    def weigh(self, modality: str, grams: Tensor) -> Tensor:
        """Return w/n, and update w for the next step."""
        squares = torch.stack([grams[index].diagonal() for index in self._layers[modality]])
        reached = squares.sum(-1) > 0
        last = torch.where(reached, torch.arange(len(reached), device=grams.device), 0).argmax(0, keepdim=True)
        norms = squares.index_select(0, last)[0].sqrt()
        count = len(norms)
        weights = self.loss_weights[modality].to(norms) if modality in self.loss_weights else torch.ones_like(norms)
        inverse_rates = self._losses[modality] / self.first_losses[modality].to(norms)
        target = (weights * norms).mean() * (inverse_rates / inverse_rates.mean()) ** self.alpha
        slope = torch.sign(weights * norms - target) * norms
        updated = (weights - self.weights_learning_rate * slope).clamp(min=SMALLEST_WEIGHT)
        updated = updated * count / updated.sum()
        counts = self._finite.to(norms.device) & updated.isfinite().all() & self.all_present(modality, norms)
        self.loss_weights = self.loss_weights | {modality: torch.where(counts, updated, weights)}
        return weights.unsqueeze(0) / count
