"""Conventional Pareto integration: the multiple-gradient descent algorithm (MGDA)."""

import torch
from torch import Tensor

from mmpareto.integration.min_norm import min_norm_weights
from mmpareto.integration.options import check_choice
from mmpareto.integration.weighted import GROUPS, WeightedGradients, groups_of


class Pareto(WeightedGradients):
    """Conventional Pareto: the min-norm combination of an encoder's gradients at every step, conflict or not.

        α minimises ‖Σ αᵢ gᵢ‖² over α ≥ 0, Σ αᵢ = 1        h = n Σ αᵢ gᵢ

    The direction harms no objective, but h is short and favours the shorter gradients, whose noise helps generalisation
    least; MMPareto corrects this. A zero gradient is a minimum, so that h = 0. One backward pass per objective of an
    encoder: two for the joint and unimodal losses. Three or more objectives are solved on the host.

    Arguments:
        weights: the group over which α is computed: the whole "encoder", as in the definition, or each "parameter"
            tensor.

    Raises:
        ValueError: `weights` has another value.
    """

    source = "Désidéri, MGDA, C. R. Acad. Sci. 2012; Sener & Koltun, NeurIPS 2018 (arXiv 1810.04650)"

    def __init__(self, weights: str = "encoder") -> None:
        super().__init__()
        check_choice("weights", weights, GROUPS)
        self.weights = weights

    def weigh(self, modality: str, grams: Tensor) -> Tensor:
        """Return the min-norm weights, of the objectives that are present."""
        groups = groups_of(grams, self.weights == "parameter")
        if modality not in self.present:
            return min_norm_weights(groups)
        present = self.present[modality].to(groups)
        if len(present) == 2:
            alpha = torch.where(present.all(), min_norm_weights(groups), present / present.sum().clamp(min=1))
        else:
            chosen = present.nonzero().flatten()
            alpha = torch.zeros_like(groups[..., 0])
            alpha[:, chosen] = min_norm_weights(groups[:, chosen][:, :, chosen])
        return alpha * present.mean()  # h = Σ αᵢ gᵢ times the number of those objectives
