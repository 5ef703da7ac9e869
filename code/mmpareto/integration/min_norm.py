"""The convex combination of gradients that has the smallest norm, found from their Gramian."""

import torch
from torch import Tensor


def min_norm_weights(gramian: Tensor) -> Tensor:
    """Weights α ≥ 0, Σα = 1, that minimise ‖Σ αᵢ gᵢ‖² for two gradients (Désidéri 2012; Sener & Koltun 2018).

    With a = ‖g₁‖², b = ‖g₂‖², c = ⟨g₁, g₂⟩: α₁ = 1 if c ≥ a, 0 if c ≥ b, otherwise (b − c)/(a + b − 2c); ½ for
    equal gradients. The clamp stands for the first two cases: the quotient leaves [0, 1] just there.

    Arguments:
        gramian: (..., 2, 2) inner products.

    Returns:
        (..., 2) weights; not finite where the Gramian is not.
    """
    a, b, c = gramian[..., 0, 0], gramian[..., 1, 1], gramian[..., 0, 1]
    span = a + b - 2 * c
    first = torch.where(span == 0, 0.5, ((b - c) / span).clamp(0, 1))
    return torch.stack([first, 1 - first], dim=-1)
