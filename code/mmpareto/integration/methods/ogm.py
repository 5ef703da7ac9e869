"""OGM and OGM-GE, on-the-fly gradient modulation (Peng et al., CVPR 2022, arXiv 2203.15332)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.modulation import Modulation, check_epochs, true_class_scores
from mmpareto.integration.objectives import Objectives

# κ = 1 − tanh(43) ≈ 9e-38 is still a normal float32 number: a coefficient never vanishes.
LARGEST_ARGUMENT = 43.0
NOT_ADDITIVE = (
    "compares what the modalities contribute to the joint logits, and this fusion's are no sum over modalities: use "
    "one whose are (--fusion concat or sum)"
)


class OGM(Modulation):
    """Slow down the encoder whose part of the joint logits is the more confident in the true class.

    With z_k (B, C) the part of the joint logits that modality k contributes (W_k x_k + b/n), y the labels:

        s_k = Σᵢ softmax(z_k)[i, yᵢ]        ρ_k = s_k / (mean of the other modalities' s)
        κ_k = 1 − tanh(α·ρ_k) if ρ_k > 1, else 1

    κ_k multiplies the joint loss's gradients of encoder k's 4-D weights (convolutions), as in the released code
    (GeWu-Lab/OGM-GE_CVPR2022); paper and code have two modalities. That code slows the second of two equally confident
    modalities, the paper neither; so do we. It modulates in the epochs `modulation_starts` to `modulation_ends`, both
    included; in a loop of your own, say `set_epoch(…)`, or it always does. One modality: κ = 1. One backward pass.

    `backward` needs the labels and `outputs` with the attribute `contributions`, modality → z_k. For outputs without it
    `unimodal` stands in, the logits of unimodal heads, which you then have to train yourself.

    Arguments:
        alpha: α > 0 [0.8 on CREMA-D, 0.1 on VGGSound].
        modulation_starts: the first epoch with modulation, from 0 [0].
        modulation_ends: the last epoch with modulation [50].

    Raises:
        ValueError: an option is out of range; `backward`: joint loss, labels or a modality's logits are missing, or
            `contributions` is empty, as it is where the joint logits are no sum over modalities.
    """

    source = "Peng et al., OGM-GE, CVPR 2022 (arXiv 2203.15332)"
    title = "OGM"
    needs_classes = True
    memory = ("active",)

    def __init__(self, alpha: float = 0.8, modulation_starts: int = 0, modulation_ends: int = 50) -> None:
        super().__init__()
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha must be a positive number, not {alpha}")
        check_epochs(modulation_starts, modulation_ends)
        self.alpha, self.modulation_starts, self.modulation_ends = alpha, modulation_starts, modulation_ends
        self.active = True

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, from 0."""
        self.active = self.modulation_starts <= epoch <= self.modulation_ends

    def begin_training(self, loop: TrainingContext) -> None:
        """Refuse a network that says that its joint logits are no sum over modalities."""
        if not getattr(loop.network, "additive", True):
            raise ValueError(f"{self.title} {NOT_ADDITIVE}")

    def begin_epoch(self, loop: TrainingContext) -> None:
        """Modulate in the epochs chosen."""
        self.set_epoch(loop.epoch - 1)  # the loop counts from 1

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Modality → s_k, () float64."""
        if labels is None:
            raise ValueError(f"{self.title} needs the labels: pass labels=…, the class indices (B,)")
        logits = self._logits(outputs)
        for name in objectives.encoders:
            if name not in logits:
                raise ValueError(f"{self.title} finds no logits of {name!r} in the model's outputs, only {[*logits]}")
        return {name: true_class_scores(z, labels) for name, z in logits.items()}

    def coefficients(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """κ of every modality; 1 outside the epochs chosen."""
        s = torch.stack([*gradients.statistics.values()])
        others = (s.sum() - s) / max(len(s) - 1, 1)
        rho = s / others
        # 1 − tanh(x), without its cancellation.
        slowed = 2 / (1 + torch.exp(2 * (self.alpha * rho).clamp(max=LARGEST_ARGUMENT)))
        modulated = (rho > 1) & (len(s) > 1 and self.active)
        kappa = torch.where(modulated, slowed, torch.ones_like(s))
        return dict(zip(gradients.statistics, kappa, strict=True))

    def modulate(self, gradient: Tensor, coefficient: Tensor) -> Tensor:
        """κ times the gradient of a 4-D weight; any other as it is."""
        return gradient * coefficient if gradient.ndim == 4 else gradient.clone()

    def _logits(self, outputs: Any) -> Mapping[str, Tensor]:
        """Modality → (B, C): contributions, or unimodal logits for outputs that know no contributions."""
        contributions = getattr(outputs, "contributions", None)
        if contributions:
            return contributions
        if contributions is not None:
            raise ValueError(f"{self.title} {NOT_ADDITIVE}")
        unimodal = getattr(outputs, "unimodal", None)
        if not unimodal:
            raise ValueError(
                f"{self.title} needs the model's outputs: pass outputs=… with `contributions`, or else `unimodal`,"
                " logits (B, C) by modality"
            )
        return unimodal


class OGMGE(OGM):
    """OGM, and Gaussian noise of each gradient's own strength on the convolutions' weights.

    To each gradient g of a 4-D weight, after OGM multiplied it, N(0, std(g)²) is added, element by element; std is that
    of g before it was multiplied. The released code adds 1e-8 to it, which would make the noise depend on the scale of
    the loss; we do not. Drawn once a step from torch's generator of the device, in the epochs with modulation, and also
    for one modality alone. Everything else is OGM's.
    """

    title = "OGM-GE"

    def modulate(self, gradient: Tensor, coefficient: Tensor) -> Tensor:
        """κ·g + N(0, std(g)²) for a 4-D weight; any other as it is."""
        modulated = super().modulate(gradient, coefficient)
        if gradient.ndim != 4 or not self.active:
            return modulated
        working = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        std = working.std(correction=min(1, gradient.numel() - 1))  # a single element has no spread
        return modulated + torch.randn_like(working) * std
