"""PCGrad, gradient surgery for multi-task learning."""

import torch
from torch import Tensor

from mmpareto.integration.options import check_choice
from mmpareto.integration.weighted import GROUPS, WeightedGradients, groups_of


class PCGrad(WeightedGradients):
    """PCGrad: remove from each gradient, by projection, what opposes another gradient, and add up the results.

        for every i, for the others j in random order: if ⟨gᵢ, gⱼ⟩ < 0:  gᵢ ← gᵢ − ⟨gᵢ, gⱼ⟩/‖gⱼ‖² · gⱼ        h = Σ gᵢ

    Here gⱼ is the original gradient. All projections stay in the span of the gradients, so the Gramian is sufficient.
    One backward pass per objective of an encoder. The orders are drawn once per step from PyTorch's CPU generator; with
    two objectives there is only one order, and nothing is drawn. The reported weights are the coefficients of the
    gradients in h, divided by the number of objectives.

    Arguments:
        weights: the group over which inner products are computed: the whole "encoder", or each "parameter" tensor.

    Raises:
        ValueError: `weights` has another value.
    """

    source = "Yu et al., PCGrad, NeurIPS 2020 (arXiv 2001.06782)"

    def __init__(self, weights: str = "encoder") -> None:
        super().__init__()
        check_choice("weights", weights, GROUPS)
        self.weights = weights

    def weigh(self, modality: str, grams: Tensor) -> Tensor:
        """Return the sum of the projected gradients' coefficients, divided by their number."""
        groups = groups_of(grams, self.weights == "parameter")
        count = groups.shape[-1]
        total = torch.zeros_like(groups[..., 0])
        for i in range(count):
            projected = torch.zeros_like(total)  # gᵢ in coefficients of the original gradients
            projected[:, i] = 1
            for j in _others_in_random_order(i, count):
                product = (projected * groups[:, j]).sum(-1)
                conflict = product < 0
                step = torch.where(conflict, product / torch.where(conflict, groups[:, j, j], 1.0), 0.0)
                projected[:, j] -= step
            total = total + projected
        return total / count


def _others_in_random_order(i: int, count: int) -> list[int]:
    others = [j for j in range(count) if j != i]
    return [others[index] for index in torch.randperm(count - 1).tolist()]  # draws nothing for a single index
