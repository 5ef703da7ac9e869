"""The convex combination of gradients that has the smallest norm, found from their Gramian."""

import torch
from torch import Tensor


def min_norm_weights(gramian: Tensor, *, skip_zero: bool = False) -> Tensor:
    """Weights α ≥ 0, Σα = 1, that minimise ‖Σ αᵢ gᵢ‖² (Désidéri 2012; Sener & Koltun 2018).

    Two gradients have a closed form, on the device: with a = ‖g₁‖², b = ‖g₂‖², c = ⟨g₁, g₂⟩, α₁ = 1 if c ≥ a, 0 if
    c ≥ b, otherwise (b − c)/(a + b − 2c); ½ for equal gradients. More are solved exactly, in float64 on the host.

    Arguments:
        gramian: (..., n, n) inner products.
        skip_zero: for n > 2, leave out gradients that are zero (their weight is 0), unless all are; else they make the
            minimum 0.

    Returns:
        (..., n) weights; not finite where the Gramian is not.
    """
    n = gramian.shape[-1]
    if n == 1:
        return torch.ones_like(gramian[..., 0])
    if n == 2:
        return _two(gramian)
    groups = gramian.detach().reshape(-1, n, n).to("cpu", torch.float64)
    alpha = torch.stack([_many(group, skip_zero) for group in groups]) if len(groups) else groups[..., 0]
    return alpha.reshape(gramian.shape[:-1]).to(gramian)


def _two(gramian: Tensor) -> Tensor:
    # The clamp stands for c ≥ a and c ≥ b: the quotients leave [0, 1] just there. α₂ has one of its own, since 1 − α₁
    # has no digit left of the weight of a gradient that is many orders of magnitude longer.
    a, b, c = gramian[..., 0, 0], gramian[..., 1, 1], gramian[..., 0, 1]
    parts = torch.stack([b - c, a - c], dim=-1)
    span = parts.sum(-1, keepdim=True)
    return torch.where(span == 0, 0.5, (parts / span).clamp(0, 1))


def _many(gramian: Tensor, skip_zero: bool) -> Tensor:
    """One group of n > 2: (n, n) float64 on the CPU → (n,)."""
    norms = gramian.diagonal().sqrt()
    if not bool(gramian.isfinite().all()):
        return torch.full_like(norms, float("nan"))
    zero = norms == 0
    if bool(zero.all()) or (bool(zero.any()) and not skip_zero):
        return zero / zero.sum(dtype=norms.dtype)
    alpha = torch.zeros_like(norms)
    alpha[~zero] = _least_distance(gramian[~zero][:, ~zero], norms[~zero])
    return alpha


def _least_distance(gramian: Tensor, norms: Tensor) -> Tensor:
    """Solve the programme as a least-distance problem (Lawson & Hanson 1974, chapter 23), whatever the norms' scale.

    With the directions ĝᵢ = gᵢ/‖gᵢ‖ and tᵢ = min‖g‖/‖gᵢ‖, the shortest x with ⟨x, ĝᵢ⟩ ≥ tᵢ points along the solution.
    It is x = Σ μᵢ ĝᵢ, where μ ≥ 0 minimises ½ μᵀ(Ĝ + ttᵀ)μ − tᵀμ, and αᵢ ∝ μᵢ tᵢ: numbers between 0 and 1 only.
    """
    t = norms.min() / norms
    matrix = gramian / norms.outer(norms) + t.outer(t)
    mu = _nonnegative(matrix, t)
    alpha = mu * t
    return alpha / alpha.sum()


def _nonnegative(matrix: Tensor, target: Tensor, tolerance: float = 1e-13) -> Tensor:
    """The μ ≥ 0 that minimises ½ μᵀAμ − bᵀμ for a positive semidefinite A, by Lawson & Hanson's active set."""
    mu = torch.zeros_like(target)
    passive = torch.zeros_like(target, dtype=torch.bool)
    refused = torch.zeros_like(passive)
    for _ in range(10 * len(target)):  # it ends sooner: no support comes twice, but for rounding
        descent = torch.where(passive | refused, 0.0, target - matrix @ mu)
        entering = int(descent.argmax())
        if descent[entering] <= tolerance:
            break
        passive[entering] = True
        while True:
            solution = _solved(matrix, target, passive)
            if solution[entering] <= 0:  # rounding: it cannot enter
                passive[entering], refused[entering] = False, True
                break
            negative = passive & (solution <= 0)
            if not bool(negative.any()):
                mu = solution
                refused[:] = False
                break
            step = (mu / (mu - solution))[negative].min()
            mu = mu + step * (solution - mu)
            passive &= mu > tolerance
            mu = torch.where(passive, mu, 0.0)
            if not bool(passive[entering]):
                refused[entering] = True
                break
    tight = (target - matrix @ mu).abs() <= tolerance  # gradients that are alike share their weight
    shared = _solved(matrix, target, tight | passive)
    return shared if bool((shared >= 0).all()) else mu


def _solved(matrix: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
    """The shortest solution of Aμ = b on the chosen places, 0 elsewhere."""
    found = torch.zeros_like(target)
    part = matrix[chosen][:, chosen]
    found[chosen] = torch.linalg.lstsq(part, target[chosen, None], driver="gelsd").solution[:, 0]
    return found
