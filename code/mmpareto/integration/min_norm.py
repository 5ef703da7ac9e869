"""Min-norm weights: the convex combination of gradients with the smallest norm, computed from their Gramian."""

import torch
from torch import Tensor


def min_norm_weights(gramian: Tensor, *, skip_zero: bool = False) -> Tensor:
    """Return the weights α ≥ 0, Σα = 1, that minimise ‖Σ αᵢ gᵢ‖² (Désidéri 2012; Sener & Koltun 2018).

    Two gradients have a closed form, evaluated on the device. With a = ‖g₁‖², b = ‖g₂‖² and c = ⟨g₁, g₂⟩, α₁ is 1 if
    c ≥ a, 0 if c ≥ b, and otherwise (b − c)/(a + b − 2c); it is ½ for equal gradients. More than two gradients are
    solved exactly, in float64 on the host.

    Arguments:
        gramian: (..., n, n) inner products.
        skip_zero: for n > 2, give zero gradients the weight 0 unless all gradients are zero; by default a zero gradient
            is itself the minimum.

    Returns:
        (..., n) weights; not finite where the Gramian is not finite.
    """
    n = gramian.shape[-1]
    if n == 1:
        return torch.ones_like(gramian[..., 0])
    if n == 2:
        return _closed_form(gramian)
    groups = gramian.detach().reshape(-1, n, n).to("cpu", torch.float64)
    alpha = torch.stack([_solve(group, skip_zero) for group in groups]) if len(groups) else groups[..., 0]
    return alpha.reshape(gramian.shape[:-1]).to(gramian)


def _closed_form(gramian: Tensor) -> Tensor:
    # The clamp covers c ≥ a and c ≥ b, the cases in which the quotient is outside [0, 1]. α₂ has a quotient of its own
    # because 1 − α₁ loses all digits of the weight of a gradient that is many orders of magnitude longer.
    a, b, c = gramian[..., 0, 0], gramian[..., 1, 1], gramian[..., 0, 1]
    parts = torch.stack([b - c, a - c], dim=-1)
    total = parts.sum(-1, keepdim=True)
    return torch.where(total == 0, 0.5, (parts / total).clamp(0, 1))


def _solve(gramian: Tensor, skip_zero: bool) -> Tensor:
    """Return the weights (n,) of one group of n > 2 gradients, from its Gramian (n, n), float64 on the CPU."""
    norms = gramian.diagonal().sqrt()
    if not bool(gramian.isfinite().all()):
        return torch.full_like(norms, float("nan"))
    zero = norms == 0
    if bool(zero.all()) or (bool(zero.any()) and not skip_zero):
        return zero / zero.sum(dtype=norms.dtype)
    alpha = torch.zeros_like(norms)
    alpha[~zero] = _solve_as_least_distance(gramian[~zero][:, ~zero], norms[~zero])
    return alpha


def _solve_as_least_distance(gramian: Tensor, norms: Tensor) -> Tensor:
    """Solve the programme as a least-distance problem (Lawson & Hanson 1974, chapter 23), at any scale of the norms.

    With the directions ĝᵢ = gᵢ/‖gᵢ‖ and tᵢ = min‖g‖/‖gᵢ‖, the shortest x with ⟨x, ĝᵢ⟩ ≥ tᵢ points along the solution.
    It is x = Σ μᵢ ĝᵢ, where μ ≥ 0 minimises ½ μᵀ(Ĝ + ttᵀ)μ − tᵀμ, and αᵢ ∝ μᵢ tᵢ. All of these numbers are between 0
    and 1. Where gradients cancel that are r times as long as the shortest one, Ĝ + ttᵀ loses digits of ttᵀ: the error
    of h, relative to the shortest gradient, is then about r²·1e-16 (1e-4 for r = 1e6).
    """
    t = norms.min() / norms
    matrix = gramian / norms.outer(norms) + t.outer(t)
    alpha = _nonnegative_minimum(matrix, t) * t
    return alpha / alpha.sum()


def _nonnegative_minimum(matrix: Tensor, target: Tensor, tolerance: float = 1e-13) -> Tensor:
    """Return the μ ≥ 0 that minimises ½ μᵀAμ − bᵀμ for a positive semidefinite A (Lawson & Hanson's active sets)."""
    mu = torch.zeros_like(target)
    passive = torch.zeros_like(target, dtype=torch.bool)
    rejected = torch.zeros_like(passive)
    for _ in range(10 * len(target)):  # a bound for rounding errors alone: in exact arithmetic no support recurs
        descent = torch.where(passive | rejected, 0.0, target - matrix @ mu)
        entering = int(descent.argmax())
        if descent[entering] <= tolerance:
            break
        passive[entering] = True
        while True:
            solution = _least_squares(matrix, target, passive)
            if solution[entering] <= 0:  # a rounding error: this index cannot enter
                passive[entering], rejected[entering] = False, True
                break
            negative = passive & (solution <= 0)
            if not bool(negative.any()):
                mu = solution
                rejected[:] = False
                break
            step = (mu / (mu - solution))[negative].min()
            mu = mu + step * (solution - mu)
            passive &= mu > tolerance
            mu = torch.where(passive, mu, 0.0)
            if not bool(passive[entering]):
                rejected[entering] = True
                break
    tight = (target - matrix @ mu).abs() <= tolerance  # equal gradients share their weight
    shared = _least_squares(matrix, target, tight | passive)
    return shared if bool((shared >= 0).all()) else mu


def _least_squares(matrix: Tensor, target: Tensor, selected: Tensor) -> Tensor:
    """Return the shortest solution of Aμ = b in the selected entries, with 0 in all others."""
    solution = torch.zeros_like(target)
    part = matrix[selected][:, selected]
    solution[selected] = torch.linalg.lstsq(part, target[selected, None], driver="gelsd").solution[:, 0]
    return solution
