"""MMPareto, "Boosting Multimodal Learning with Innocent Unimodal Assistance" (Wei & Hu, ICML 2024)."""

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpareto.integration.linear_algebra import combine_measure_and_release, gramians, machine_epsilon, scale_
from mmpareto.integration.method import Method
from mmpareto.integration.min_norm import min_norm_weights
from mmpareto.integration.options import check_choice, check_positive
from mmpareto.integration.report import EncoderReport
from mmpareto.integration.weighted import GROUPS, groups_of, in_conflict

STATIONARY = 32  # times ε: a conflicting group whose ‖h‖ is below this share of its gradients' norms is stationary


class MMPareto(Method):
    """MMPareto: min-norm weights where an encoder's gradients g_m and g_u conflict, with the magnitude restored.

        ⟨g_m, g_u⟩ ≥ 0   α = (½, ½), so h = g_m + g_u
        ⟨g_m, g_u⟩ < 0   conflict: α minimises ‖α_m g_m + α_u g_u‖², h = 2α_m g_m + 2α_u g_u,
                         λ = ‖g_m + g_u‖ / ‖h‖, h ← γ · max(1, λ) · h

    The direction harms neither loss; its magnitude, which min-norm weights make small, is restored and boosted. With
    n objectives per encoder, there is a conflict where any two inner products are negative, α minimises over all
    objectives whose gradient is not zero in that group, and h = n Σ αᵢ gᵢ, n of those. The same step in plain PyTorch,
    for two objectives, is `mmpareto.integration.reference`.

    The paper's text and the released code differ in three choices, which `variants` names; a *group* is one parameter
    tensor or the whole encoder. A step takes two backward passes over the encoders, whatever the number of modalities.
    Inner products are computed in the gradients' dtype, at least float32, and in float64 where float32 would lose their
    squares. A conflicting group is stationary, and its gradient 0, where h is lost in rounding. Where three or more
    gradients of nearly the same few directions cancel, rounding may leave more of h than that; it is then restored as
    if it were a direction.

    Arguments:
        gamma: γ > 0, the boost.
        weights: "parameter" or "encoder": group over which the inner product and α are computed.
        rescale: "parameter" or "encoder": group over which λ is computed; "none": no λ, so that h has the magnitude
            that min-norm weights leave. The groups that may be stationary are then those of `weights`.
        boost: "conflict": γ applies in conflict; "always": γ applies everywhere.
        zero_is_conflict: whether ⟨g_m, g_u⟩ = 0 counts as a conflict (unless a gradient is zero), as in the released
            code.

    Raises:
        ValueError: an option has another value, or weights="parameter" with rescale="encoder", which has no meaning.
    """

    source = "Wei & Hu, MMPareto, ICML 2024 (arXiv 2405.17730)"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "per_tensor": {"weights": "parameter", "rescale": "parameter", "boost": "conflict"},
        "paper": {"weights": "encoder", "rescale": "encoder", "boost": "conflict"},
        "released": {"weights": "encoder", "rescale": "parameter", "boost": "always", "zero_is_conflict": True},
    }
    variant_aliases = MappingProxyType({"brief": "per_tensor"})
    without_effect = MappingProxyType({"boost": {"gamma": 1}})
    refreshable = True

    def __init__(
        self,
        gamma: float = 1.5,
        weights: str = "parameter",
        rescale: str = "parameter",
        boost: str = "conflict",
        zero_is_conflict: bool = False,
    ) -> None:
        super().__init__()
        check_positive("gamma", gamma)
        check_choice("weights", weights, GROUPS)
        check_choice("rescale", rescale, (*GROUPS, "none"))
        check_choice("boost", boost, ("conflict", "always"))
        if weights == "parameter" and rescale == "encoder":
            raise ValueError("weights='parameter' with rescale='encoder' has no meaning: tensors would share λ, not α")
        self.gamma, self.weights, self.rescale, self.boost = gamma, weights, rescale, boost
        self.zero_is_conflict = zero_is_conflict

    @classmethod
    def per_tensor(cls, gamma: float = 1.5) -> "MMPareto":
        """The default: weights and λ per parameter tensor, γ on conflict."""
        return cls(gamma, **cls.variants["per_tensor"])

    brief = per_tensor  # its former name

    @classmethod
    def paper(cls, gamma: float = 1.5) -> "MMPareto":
        """The paper's text: weights and λ per encoder, γ on conflict."""
        return cls(gamma, **cls.variants["paper"])

    @classmethod
    def released(cls, gamma: float = 1.5) -> "MMPareto":
        """The released code: weights per encoder, λ per tensor, γ always. Here, rescaling may make h oppose a loss."""
        return cls(gamma, **cls.variants["released"])

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Steps 1 to 3 below, for all groups of the encoder at once."""
        per_tensor = gramians(gradients, scale)
        epsilon = machine_epsilon(itertools.chain(*gradients))

        # 1. Conflict and weights.
        groups = groups_of(per_tensor, self.weights == "parameter")
        conflict = self._conflict(groups)
        alpha = torch.where(conflict.unsqueeze(-1), min_norm_weights(groups, skip_zero=True), 1 / len(gradients))

        # 2. Direction h, tensor by tensor. It counts the objectives that are not zero in the group.
        nonzero = (groups.diagonal(dim1=-2, dim2=-1) > 0).double().mean(-1, keepdim=True)
        factors = torch.where(conflict.unsqueeze(-1), alpha * nonzero, alpha).expand(per_tensor.shape[:2])
        combined, norm, plain = combine_measure_and_release(gradients, factors, scale)

        # 3. Magnitude. Where ‖h‖ is lost in rounding there is no direction to restore: the group is stationary.
        norms = per_tensor.diagonal(dim1=-2, dim2=-1).sqrt()
        if (self.weights if self.rescale == "none" else self.rescale) == "encoder":
            norm, plain, norms = (x.square().sum(0, keepdim=True).sqrt() for x in (norm, plain, norms))
        stationary = conflict & (norm < STATIONARY * epsilon * norms.sum(-1))
        rescale = torch.where(norm == 0, 1.0, plain / norm).clamp(min=1)  # max(1, λ)
        restored = conflict if self.rescale != "none" else torch.zeros_like(conflict)
        rescale = torch.where(stationary, 0.0, torch.where(restored, rescale, 1.0))
        combined = scale_(combined, self.magnitude(conflict, rescale).expand(len(combined)))
        return combined, EncoderReport.of(per_tensor.sum(0), alpha, conflict, rescale)

    def magnitude(self, conflict: Tensor, rescale: Tensor) -> Tensor:
        """Factor of the direction h: max(1, λ), times γ where the boost applies."""
        return rescale * (torch.where(conflict, self.gamma, 1.0) if self.boost == "conflict" else self.gamma)

    def _conflict(self, groups: Tensor) -> Tensor:
        if not self.zero_is_conflict:
            return in_conflict(groups)
        nonzero = groups.diagonal(dim1=-2, dim2=-1) > 0
        pairs = nonzero.unsqueeze(-1) & nonzero.unsqueeze(-2)
        different = ~torch.eye(groups.shape[-1], dtype=torch.bool, device=groups.device)
        return ((groups <= 0) & pairs & different).flatten(1).any(1)
