"""MetaBalance: auxiliary gradients brought down to the size of the target's, tensor by tensor."""

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.weighted import WeightedGradients


class MetaBalance(WeightedGradients):
    """Shrink auxiliary gradients that are larger than the target's towards its size, tensor by tensor.

    With moving averages m of the norms of a tensor's gradients, and the first objective (the joint loss, where there is
    one) as the target:

        where ‖gᵢ‖ > ‖g₁‖:  gᵢ ← r·(m₁/mᵢ)·gᵢ + (1 − r)·gᵢ        h = Σ gᵢ

    One backward pass an objective of an encoder. The reported weights are the factors, divided by their number.

    Arguments:
        relax_factor: r in [0, 1], how far the norms are brought together [0.7].
        beta: of the moving averages, in [0, 1) [0.9].
        strategy: "shrink" larger auxiliary gradients only; or "both", which enlarges smaller ones as well, as the
            released code does (facebookresearch/MetaBalance).

    Raises:
        ValueError: an option is out of range.
    """

    source = "He et al., MetaBalance, WWW 2022 (arXiv 2203.06801)"
    memory = ("averages",)

    def __init__(self, relax_factor: float = 0.7, beta: float = 0.9, strategy: str = "shrink") -> None:
        super().__init__()
        if not 0 <= relax_factor <= 1:
            raise ValueError(f"relax_factor must lie between 0 and 1, not be {relax_factor}")
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be at least 0 and below 1, not {beta}")
        if strategy not in ("shrink", "both"):
            raise ValueError(f"strategy must be 'shrink' or 'both', not {strategy!r}")
        self.relax_factor, self.beta, self.strategy = relax_factor, beta, strategy
        self.averages: dict[str, Tensor] = {}
        self._finite = torch.tensor(True)

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Note whether the step is one, or overflowed."""
        self._finite = gradients.finite.all()
        return {}

    def weigh(self, modality: str, grams: Tensor) -> Tensor:
        """The factors of the gradients of every tensor."""
        norms = grams.diagonal(dim1=-2, dim2=-1).sqrt()
        before = self.averages[modality].to(norms) if modality in self.averages else torch.zeros_like(norms)
        averages = self.beta * before + (1 - self.beta) * norms
        sound = self._finite.to(norms.device) & averages.isfinite().all()
        self.averages = self.averages | {modality: torch.where(sound, averages, before)}
        balanced = norms > norms[:, :1] if self.strategy == "shrink" else norms > 0
        ratio = averages[:, :1] / torch.where(balanced, averages, 1.0)
        factors = torch.where(balanced, self.relax_factor * ratio + (1 - self.relax_factor), 1.0)
        return factors / factors.shape[-1]
