"""Conventional Pareto integration: the multiple-gradient descent algorithm, MGDA."""

from torch import Tensor

from mmpareto.integration.min_norm import min_norm_weights
from mmpareto.integration.weighted import WeightedGradients, check_weights_option, groups_of


class Pareto(WeightedGradients):
    """Conventional Pareto: the min-norm combination of an encoder's gradients at every step, conflict or not.

        α minimises ‖Σ αᵢ gᵢ‖² over α ≥ 0, Σ αᵢ = 1        h = n Σ αᵢ gᵢ

    The direction harms no objective, but it is short and favours the shorter gradients, whose noise helps least: what
    MMPareto mends. A zero gradient is a minimum: h = 0. One backward pass an objective of an encoder, so two for joint
    and unimodal losses; three and more objectives are solved on the host.

    Arguments:
        weights: over what α is computed: the whole "encoder", as the definition says, or each "parameter" tensor.

    Raises:
        ValueError: `weights` is something else.
    """

    source = "Désidéri, MGDA, C. R. Acad. Sci. 2012; Sener & Koltun, NeurIPS 2018 (arXiv 1810.04650)"

    def __init__(self, weights: str = "encoder") -> None:
        super().__init__()
        check_weights_option(weights)
        self.weights = weights

    def weigh(self, modality: str, grams: Tensor) -> Tensor:
        """The min-norm weights."""
        return min_norm_weights(groups_of(grams, self.weights == "parameter"))
