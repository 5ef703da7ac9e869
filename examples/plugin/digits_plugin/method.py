"""A method: combines the gradients that an encoder receives from several losses."""

from mmpareto.integration.weighted import WeightedGradients
from torch import Tensor


class EqualNorms(WeightedGradients):
    """Weighs an encoder's gradients so that none dominates by its norm.

        α ∝ 1/‖gᵢ‖^strength, Σ αᵢ = 1        h = n Σ αᵢ gᵢ

    Arguments:
        strength: 1 gives all weighted gradients the same norm; 0 is the plain sum.

    Raises:
        ValueError: `strength` is negative.
    """

    source = "a worked example of a plug-in"

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        if strength < 0:
            raise ValueError(f"strength is {strength}; it must be at least 0")
        self.strength = strength

    def weigh(self, modality: str, grams: Tensor) -> Tensor:
        """Return the weights (1, n) of the whole encoder from the Gramians (P, n, n) of its tensors."""
        norms = grams.sum(0, keepdim=True).diagonal(dim1=1, dim2=2).sqrt()
        inverse = norms.clamp(min=1e-12) ** -self.strength
        return inverse / inverse.sum(1, keepdim=True)
