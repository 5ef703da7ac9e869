"""GradNorm: loss weights learnt so that all objectives train at similar rates."""

import math
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.weighted import WeightedGradients


class GradNorm(WeightedGradients):
    """Learn an encoder's loss weights so that their gradients' norms follow how slowly each objective has trained.

    With W the encoder's last layer (its last tensor of two or more dimensions that has a gradient other than zero):

        Gᵢ = ‖wᵢ ∇_W Lᵢ‖        rᵢ = (Lᵢ/Lᵢ at the first step) over the mean of these        h = Σ wᵢ gᵢ
        w ← w − weights_learning_rate · ∂/∂w Σᵢ |Gᵢ − Ḡ·rᵢ^α|, with Ḡ·rᵢ^α held constant;   w ← w · n/Σw

    The step is taken with the weights from before their update, as in the paper's algorithm 1. A weight does not fall
    below a thousandth: the paper does not say what a negative one would mean. One backward pass an objective of an
    encoder. The reported weights are w/n.

    Arguments:
        alpha: α ≥ 0, how strongly slow objectives are favoured [1.5].
        weights_learning_rate: > 0, of the weights [0.025].

    Raises:
        ValueError: an option is out of range.
    """

    source = "Chen et al., GradNorm, ICML 2018 (arXiv 1711.02257)"
    memory = ("loss_weights", "first_losses")
    SMALLEST = 1e-3

    def __init__(self, alpha: float = 1.5, weights_learning_rate: float = 0.025) -> None:
        super().__init__()
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"alpha must be at least 0, not {alpha}")
        if not (math.isfinite(weights_learning_rate) and weights_learning_rate > 0):
            raise ValueError(f"weights_learning_rate must be a positive number, not {weights_learning_rate}")
        self.alpha, self.weights_learning_rate = alpha, weights_learning_rate
        self.loss_weights: dict[str, Tensor] = {}
        self.first_losses: dict[str, Tensor] = {}
        self._losses: dict[str, Tensor] = {}
        self._matrices: dict[str, list[int]] = {}
        self._finite = torch.tensor(True)

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """The losses; those of micro-batches are weighted already."""
        return {name: loss.detach().double().reshape(()) for name, loss in objectives.losses.items()}

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Each encoder's losses, and which of its tensors may be its last layer."""
        self._finite = gradients.finite.all()
        for modality, encoder in objectives.encoders.items():
            device = gradients.scale.device
            losses = torch.stack([gradients.statistics[name].to(device) for name in encoder.objectives])
            unseen = torch.full_like(losses, math.nan)  # until a step is finite
            first = self.first_losses.get(modality, unseen).to(device)
            first = torch.where(first.isnan() & self._finite.to(device), losses, first)
            self.first_losses = self.first_losses | {modality: first}
            matrices = [place for place, p in enumerate(encoder.parameters) if p.dim() >= 2]
            self._matrices[modality] = matrices or [*range(len(encoder.parameters))]
            self._losses[modality] = losses
        return {}

    def weigh(self, modality: str, grams: Tensor) -> Tensor:
        """w/n; then the weights are updated for the next step."""
        squares = torch.stack([grams[place].diagonal() for place in self._matrices[modality]])
        reached = squares.sum(-1) > 0
        last = torch.where(reached, torch.arange(len(reached), device=grams.device), 0).argmax(0, keepdim=True)
        norms = squares.index_select(0, last)[0].sqrt()
        count = len(norms)
        weights = self.loss_weights[modality].to(norms) if modality in self.loss_weights else torch.ones_like(norms)
        inverse_rates = self._losses[modality] / self.first_losses[modality].to(norms)
        target = (weights * norms).mean() * (inverse_rates / inverse_rates.mean()) ** self.alpha
        slope = torch.sign(weights * norms - target) * norms
        updated = (weights - self.weights_learning_rate * slope).clamp(min=self.SMALLEST)
        updated = updated * count / updated.sum()
        sound = self._finite.to(norms.device) & updated.isfinite().all()
        self.loss_weights = self.loss_weights | {modality: torch.where(sound, updated, weights)}
        return weights.unsqueeze(0) / count
