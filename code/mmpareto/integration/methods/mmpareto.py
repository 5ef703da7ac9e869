"""MMPareto (Wei & Hu, "Innocent Unimodal Assistance", ICML 2024, arXiv 2405.17730)."""

import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpareto.integration.linear_algebra import combine_and_measure, gramians, machine_epsilon, scaled
from mmpareto.integration.methods.refresh import Refreshed
from mmpareto.integration.min_norm import min_norm_weights
from mmpareto.integration.report import EncoderReport
from mmpareto.integration.weighted import groups_of, in_conflict


class MMPareto(Refreshed):
    """Pareto integration of an encoder's joint and unimodal gradients g_m and g_u.

        ⟨g_m, g_u⟩ ≥ 0   α = (½, ½), so h = g_m + g_u
        ⟨g_m, g_u⟩ < 0   conflict: α minimises ‖α_m g_m + α_u g_u‖², h = 2α_m g_m + 2α_u g_u,
                         λ = ‖g_m + g_u‖ / ‖h‖, h ← γ · max(1, λ) · h

    The direction harms neither loss, and its magnitude, which min-norm weights make small, is restored and boosted.
    With n objectives an encoder, there is a conflict where any two inner products are negative, α minimises over all of
    them but those whose gradient is zero in that group, and the rest is the same (h = n Σ αᵢ gᵢ, n of those left).

    Paper, brief and released code differ in three choices; a *group* is a tensor or the whole encoder. Two backward
    passes over the encoders, whatever the number of modalities. Inner products are taken in the gradients' type,
    float32 at least: there, gradients of norms between 1e-15 and 1e15 are told apart exactly as the equations say.
    Where three or more gradients of nearly the same few directions cancel, rounding may leave more of h than is taken
    for nothing (32 ε); it is then restored as if it were a direction.

    Arguments:
        gamma: γ > 0, the boost.
        weights: "parameter" or "encoder": the group over which the inner product and α are computed.
        rescale: "parameter" or "encoder": the group over which λ is computed.
        boost: "conflict": γ applies where there is one; "always": everywhere.
        zero_is_conflict: whether ⟨g_m, g_u⟩ = 0 counts as a conflict (unless a gradient is zero), as in the released
            code.
        refresh: K ≥ 1. Above 1, an approximation (`refresh.py`): α, λ and conflict are computed at every Kth step and
            used at those between, which take one backward pass each. With weights and rescale "encoder" only.

    Raises:
        ValueError: an option has another value, or they do not go together: weights="parameter" with rescale="encoder"
            has no meaning.
    """

    source = "Wei & Hu, MMPareto, ICML 2024 (arXiv 2405.17730)"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "per_tensor": {"weights": "parameter", "rescale": "parameter", "boost": "conflict"},
        "paper": {"weights": "encoder", "rescale": "encoder", "boost": "conflict"},
        "released": {"weights": "encoder", "rescale": "parameter", "boost": "always", "zero_is_conflict": True},
    }

    def __init__(
        self,
        gamma: float = 1.5,
        weights: str = "parameter",
        rescale: str = "parameter",
        boost: str = "conflict",
        zero_is_conflict: bool = False,
        refresh: int = 1,
    ) -> None:
        super().__init__(refresh)
        if not (math.isfinite(gamma) and gamma > 0):
            raise ValueError(f"gamma must be a positive number, not {gamma}")
        for name, value, known in (
            ("weights", weights, ("parameter", "encoder")),
            ("rescale", rescale, ("parameter", "encoder")),
            ("boost", boost, ("conflict", "always")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be {known[0]!r} or {known[1]!r}, not {value!r}")
        if weights == "parameter" and rescale == "encoder":
            raise ValueError("weights='parameter' with rescale='encoder' has no meaning: tensors would share λ, not α")
        if refresh > 1 and (weights, rescale) != ("encoder", "encoder"):
            raise ValueError(
                f"refresh={refresh} goes with weights='encoder' and rescale='encoder' (the variant 'paper'), not with "
                f"{weights!r} and {rescale!r}: factors of a tensor's own cannot be applied at the encoder's output"
            )
        self.gamma, self.weights, self.rescale, self.boost = gamma, weights, rescale, boost
        self.zero_is_conflict = zero_is_conflict

    @classmethod
    def per_tensor(cls, gamma: float = 1.5) -> "MMPareto":
        """The default: weights and λ per parameter tensor, γ on conflict."""
        return cls(gamma, **cls.variants["per_tensor"])

    @classmethod
    def paper(cls, gamma: float = 1.5, refresh: int = 1) -> "MMPareto":
        """The paper's text: weights and λ an encoder, γ on conflict."""
        return cls(gamma, **cls.variants["paper"], refresh=refresh)

    @classmethod
    def released(cls, gamma: float = 1.5) -> "MMPareto":
        """The released code: weights an encoder, λ a tensor, γ always; here h may oppose a loss after rescaling."""
        return cls(gamma, **cls.variants["released"])

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Steps 1 to 3 of the class docstring, for every group of the encoder at once."""
        if self.between:
            return self.as_decided(modality, gradients, scale)
        grams = gramians(gradients, scale)
        eps = 32 * machine_epsilon(itertools.chain(*gradients))

        # 1. Conflict and weights.
        groups = groups_of(grams, self.weights == "parameter")
        conflict = self._conflict(groups)
        alpha = torch.where(conflict.unsqueeze(-1), min_norm_weights(groups, skip_zero=True), 1 / len(gradients))

        # 2. The direction, tensor by tensor; the gradients are let go on the way.
        share = (groups.diagonal(dim1=-2, dim2=-1) > 0).double().mean(-1, keepdim=True)
        factors = torch.where(conflict.unsqueeze(-1), alpha * share, alpha)
        combined, norm, total = combine_and_measure(gradients, factors.expand(grams.shape[:2]), scale)

        # 3. The magnitude. Where ‖h‖ is lost in rounding, there is no direction to restore: stationary.
        reach = grams.diagonal(dim1=-2, dim2=-1).sqrt()
        if self.rescale == "encoder":
            norm, total, reach = (x.square().sum(0, keepdim=True).sqrt() for x in (norm, total, reach))
        stationary = conflict & (norm < eps * reach.sum(-1))
        restored = torch.where(norm == 0, 1.0, total / norm).clamp(min=1)
        restored = torch.where(stationary, 0.0, torch.where(conflict, restored, 1.0))
        boost = torch.where(conflict, self.gamma, 1.0) if self.boost == "conflict" else self.gamma
        magnitude = restored * boost
        combined = scaled(combined, magnitude.expand(len(combined)))

        self.decide(modality, weights=alpha, conflict=conflict, rescale=restored, magnitude=magnitude)
        return combined, EncoderReport.of(grams.sum(0), alpha, conflict, restored)

    def _conflict(self, gramians: Tensor) -> Tensor:
        if not self.zero_is_conflict:
            return in_conflict(gramians)
        nonzero = gramians.diagonal(dim1=-2, dim2=-1) > 0
        pairs = nonzero.unsqueeze(-1) & nonzero.unsqueeze(-2)
        different = ~torch.eye(gramians.shape[-1], dtype=torch.bool, device=gramians.device)
        return ((gramians <= 0) & pairs & different).flatten(1).any(1)
