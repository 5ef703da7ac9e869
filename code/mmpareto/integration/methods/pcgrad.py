"""PCGrad, gradient surgery for multi-task learning."""

import torch
from torch import Tensor

from mmpareto.integration.weighted import WeightedGradients, check_weights_option, groups_of


class PCGrad(WeightedGradients):
    """Take from each gradient what points against another one, by projection, and add up what is left.

        for every i, for the others j in random order: if ⟨gᵢ, gⱼ⟩ < 0:  gᵢ ← gᵢ − ⟨gᵢ, gⱼ⟩/‖gⱼ‖² · gⱼ        h = Σ gᵢ

    with gⱼ as it was at first. All that happens in the span of the gradients, so that the Gramian suffices. One
    backward pass an objective of an encoder. Orders are drawn once a step, from PyTorch's CPU generator; for two
    objectives there is none to draw. The reported weights are the coefficients of the gradients in h, divided by their
    number.

    Arguments:
        weights: over what the inner products are taken: the whole "encoder", or each "parameter" tensor.

    Raises:
        ValueError: `weights` is something else.
    """

    source = "Yu et al., PCGrad, NeurIPS 2020 (arXiv 2001.06782)"

    def __init__(self, weights: str = "encoder") -> None:
        super().__init__()
        check_weights_option(weights)
        self.weights = weights

    def weigh(self, modality: str, grams: Tensor) -> Tensor:
        """The coefficients of all projected gradients, summed."""
        groups = groups_of(grams, self.weights == "parameter")
        count = groups.shape[-1]
        total = torch.zeros_like(groups[..., 0])
        for i in range(count):
            own = torch.zeros_like(total)  # coefficients of gᵢ as it is projected
            own[:, i] = 1
            for j in _others_in_random_order(i, count):
                product = (own * groups[:, j]).sum(-1)
                against = product < 0
                step = torch.where(against, product / torch.where(against, groups[:, j, j], 1.0), 0.0)
                own[:, j] -= step
            total = total + own
        return total / count


def _others_in_random_order(i: int, count: int) -> list[int]:
    others = [j for j in range(count) if j != i]
    return [others[place] for place in torch.randperm(count - 1).tolist()]  # of one, no number is drawn
