"""MetaBalance: auxiliary gradients scaled to the size of the target's, per parameter tensor."""

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.options import check_choice, check_decay
from mmpareto.integration.weighted import WeightedGradients


class MetaBalance(WeightedGradients):
    """MetaBalance: shrink auxiliary gradients that are larger than the target's towards its size, per tensor.

    With moving averages m of the norms of a tensor's gradients, and the first objective that is present (the joint
    loss, if there is one) as the target:

        where ‖gᵢ‖ > ‖g₁‖:  gᵢ ← r·(m₁/mᵢ)·gᵢ + (1 − r)·gᵢ        h = Σ gᵢ

    One backward pass per objective of an encoder. The reported weights are the factors of the gradients, divided by the
    number of objectives. A step that is not finite, or in which an objective is absent, does not change the averages.

    Arguments:
        relax_factor: r in [0, 1], how closely the norms are matched [0.7].
        beta: decay of the moving averages, in [0, 1) [0.9].
        strategy: "shrink" scales larger auxiliary gradients only; "both" also enlarges smaller ones, as the released
            code does (facebookresearch/MetaBalance).

    Raises:
        ValueError: an option is out of range.
    """

    source = "He et al., MetaBalance, WWW 2022 (arXiv 2203.06801)"
    memory = ("averages",)

    def __init__(self, relax_factor: float = 0.7, beta: float = 0.9, strategy: str = "shrink") -> None:
        super().__init__()
        if not 0 <= relax_factor <= 1:
            raise ValueError(f"relax_factor must be between 0 and 1, not {relax_factor}")
        check_decay("beta", beta)
        check_choice("strategy", strategy, ("shrink", "both"))
        self.relax_factor, self.beta, self.strategy = relax_factor, beta, strategy
        self.averages: dict[str, Tensor] = {}
        self._finite = torch.tensor(True)

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Record whether the step is finite."""
        super().prepare(objectives, gradients)
        self._finite = gradients.finite.all()
        return {}

    def weigh(self, modality: str, grams: Tensor) -> Tensor:
        """Return the factors of every tensor's gradients, divided by their number, and update the averages."""
        norms = grams.diagonal(dim1=-2, dim2=-1).sqrt()
        before = self.averages[modality].to(norms) if modality in self.averages else torch.zeros_like(norms)
        averages = self.beta * before + (1 - self.beta) * norms
        counts = self._finite.to(norms.device) & averages.isfinite().all() & self.all_present(modality, norms)
        self.averages = self.averages | {modality: torch.where(counts, averages, before)}
        target = torch.arange(norms.shape[1], device=norms.device) == 0
        if modality in self.present:  # the first one that is present
            present = self.present[modality].to(norms.device)
            target = present & (present.cumsum(0) == 1)
        target_norm, target_average = (torch.where(target, t, 0.0).sum(1, keepdim=True) for t in (norms, averages))
        balanced = norms > target_norm if self.strategy == "shrink" else norms > 0
        ratio = target_average / torch.where(balanced, averages, 1.0)
        factors = torch.where(balanced, self.relax_factor * ratio + (1 - self.relax_factor), 1.0)
        return factors / factors.shape[-1]
