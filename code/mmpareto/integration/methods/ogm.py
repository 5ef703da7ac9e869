"""OGM and OGM-GE, on-the-fly gradient modulation (Peng et al., CVPR 2022, arXiv 2203.15332)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.features import read_output
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.fusing import FusingMethod
from mmpareto.integration.methods.modulation import Modulation
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.options import check_choice, check_epoch_range, check_positive

# κ = 1 − tanh(43) ≈ 9e-38 is still a normal float32 number: a coefficient never vanishes.
LARGEST_ARGUMENT = 43.0
NOT_ADDITIVE = (
    "compares what each modality contributes to the joint logits, but this fusion computes no sum over modalities: use "
    "one that does (--fusion concat or sum), or set score to 'zeroed' (--score zeroed)"
)


class OGM(Modulation, FusingMethod):
    """OGM, on-the-fly gradient modulation: slow down the encoder that is more confident in the true class.

    With z_k (B, C) the part of the joint logits that modality k contributes (W_k x_k + b/n), and y the labels:

        s_k = Σᵢ softmax(z_k)[i, yᵢ]        ρ_k = s_k / (mean of the other modalities' s)
        κ_k = 1 − tanh(α·ρ_k) if ρ_k > 1, else 1

    κ_k multiplies the joint loss's gradients of encoder k's 4-D weights (convolutions), as in the released code
    (GeWu-Lab/OGM-GE_CVPR2022), whose encoders are ResNets. Transformers and MLPs have none: such an encoder is refused,
    unless `modulated` is "weights". Paper and code have two modalities; if both are equally confident, the code slows
    down the first one (audio) and the paper neither, as we do. Modulation is active from epoch `modulation_starts` to
    epoch `modulation_ends`, both included. With one modality, κ = 1. One backward pass.

    z_k is defined where the joint logits are a sum over modalities. For other fusions, the authors advise to set the
    features of the other modalities to 0 (issue 21 of their code), which is `score` "zeroed". The released code has
    such fusions, too, but computes z_k by the formula for concatenation, whose shapes do not fit them.

    In your own loop, call `set_epoch(…)` when an epoch begins; otherwise modulation is always active. `backward` needs
    the labels, and `outputs` with the attribute `contributions`, modality → z_k. If `outputs` has no such attribute,
    its `unimodal` logits are used instead; you then have to train the unimodal heads yourself. `score` "zeroed" needs
    `outputs.features` instead, and one call of `use_fusion(…)` before training.

    Arguments:
        alpha: α > 0 [0.8 on CREMA-D, 0.1 on VGGSound].
        modulation_starts: the first epoch with modulation, from 0 [0].
        modulation_ends: the last epoch with modulation [50].
        modulated: "convolutions": the gradients of 4-D weights [so], which of a vision transformer is the patch
            embedding alone; "weights": every gradient that is not 1-D, as AGM.
        score: "contribution": z_k is the part of the joint logits that modality k contributes; "zeroed": it is the
            joint logits with zeros as the features of all other modalities, for any fusion.

    Raises:
        ValueError: an option is out of range; `backward`: the joint loss, the labels or a modality's logits are
            missing, `contributions` is empty because the joint logits are not a sum over modalities, or an encoder has
            no trainable parameter that is modulated.
    """

    source = "Peng et al., OGM-GE, CVPR 2022 (arXiv 2203.15332)"
    title = "OGM"
    absent = "contribution"  # z_k, as in s_k
    needs_classes = True
    memory = ("active",)
    nothing_to_modulate = (
        "multiplies the gradients of 4-D weights (convolutions), and encoder {name!r} has none that is trainable: set "
        "modulated to 'weights' (--modulated weights), for all weights that are not 1-D"
    )

    def __init__(
        self,
        alpha: float = 0.8,
        modulation_starts: int = 0,
        modulation_ends: int = 50,
        modulated: str = "convolutions",
        score: str = "contribution",
    ) -> None:
        super().__init__()
        check_positive("alpha", alpha)
        check_epoch_range(modulation_starts, modulation_ends)
        check_choice("modulated", modulated, ("convolutions", "weights"))
        check_choice("score", score, ("contribution", "zeroed"))
        self.alpha, self.modulation_starts, self.modulation_ends = alpha, modulation_starts, modulation_ends
        self.modulated, self.score = modulated, score
        self.active = True

    def set_epoch(self, epoch: int) -> None:
        """Set the current epoch, from 0."""
        self.active = self.modulation_starts <= epoch <= self.modulation_ends

    def begin_training(self, context: TrainingContext) -> None:
        """Reject a network whose fusion has no score, or whose encoders have nothing to modulate."""
        if self.score == "zeroed":
            super().begin_training(context)
        elif not getattr(context.network, "additive", True):
            raise ValueError(f"{self.title} {NOT_ADDITIVE}")
        for name, encoder in getattr(context.network, "encoders", {}).items():
            self.check_encoder(name, encoder.parameters())

    def begin_epoch(self, context: TrainingContext) -> None:
        """Switch modulation on or off for the epoch."""
        self.set_epoch(context.epoch - 1)  # the context counts from 1

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Return modality → s_k, () float64."""
        if labels is None:
            raise ValueError(f"{self.title} needs the labels: pass labels=…, the class indices (B,)")
        logits = self._logits(outputs)
        for name in objectives.encoders:
            if name not in logits:
                raise ValueError(f"{self.title} needs logits of {name!r}, but outputs has only those of {[*logits]}")
        return {name: _true_class_score(z, labels) for name, z in logits.items()}

    def coefficients(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Return κ of every modality; 1 in epochs without modulation."""
        s = torch.stack([*gradients.statistics.values()])
        others = (s.sum() - s) / max(len(s) - 1, 1)
        rho = s / others
        # 1 − tanh(x), without its cancellation.
        slowed = 2 / (1 + torch.exp(2 * (self.alpha * rho).clamp(max=LARGEST_ARGUMENT)))
        modulated = (rho > 1) & (len(s) > 1 and self.active)
        kappa = torch.where(modulated, slowed, torch.ones_like(s))
        return dict(zip(gradients.statistics, kappa, strict=True))

    def acts_on(self, parameter: Tensor) -> bool:
        """Return whether it is a 4-D weight or, with `modulated` "weights", not 1-D."""
        return parameter.ndim == 4 if self.modulated == "convolutions" else parameter.ndim != 1

    def modulate(self, gradient: Tensor, coefficient: Tensor) -> Tensor:
        """Return κ·g."""
        return gradient * coefficient

    def _logits(self, outputs: Any) -> Mapping[str, Tensor]:
        """Return modality → z_k (B, C); of outputs without contributions, the unimodal logits."""
        if self.score == "zeroed":
            return self._logits_with_others_zeroed(read_output(outputs, "features"))
        contributions = read_output(outputs, "contributions")
        if contributions:
            return contributions
        if contributions is not None:
            raise ValueError(f"{self.title} {NOT_ADDITIVE}")
        unimodal = read_output(outputs, "unimodal")
        if not unimodal:
            raise ValueError(
                f"{self.title} needs the model's outputs: pass outputs=… with `contributions` or `unimodal`, modality →"
                " logits (B, C)"
            )
        return unimodal

    def _logits_with_others_zeroed(self, features: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        if not features:
            raise ValueError(f"{self.title} needs the features: pass outputs=… with `features`, modality → (B, …)")
        zeros = {name: torch.zeros_like(x) for name, x in features.items()}
        return {name: self.fuse({**zeros, name: x.detach()}) for name, x in features.items()}


class OGMGE(OGM):
    """OGM-GE: OGM plus Gaussian noise on the gradients that it modulates, each with its gradient's own spread.

    N(0, std(g)²) is added to each element of a gradient g that OGM modulates, after it has multiplied it; std is that
    of g before the multiplication. The released code adds 1e-8 to std, which would make the noise depend on the scale
    of the loss; we do not. The noise is drawn once per step from PyTorch's generator of the device, in epochs with
    modulation, and with one modality as well. Everything else is as in OGM.
    """

    title = "OGM-GE"

    def modulate(self, gradient: Tensor, coefficient: Tensor) -> Tensor:
        """Return κ·g + N(0, std(g)²)."""
        modulated = super().modulate(gradient, coefficient)
        if not self.active:
            return modulated
        working = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        std = working.std(correction=min(1, gradient.numel() - 1))  # 0 for a single element
        return modulated + torch.randn_like(working) * std


def _true_class_score(logits: Tensor, labels: Tensor) -> Tensor:
    """Return Σᵢ softmax(logits)[i, yᵢ], () float64 without a graph, for logits (B, C) and labels (B,)."""
    probabilities = logits.detach().double().softmax(1)
    return probabilities.gather(1, labels.to(logits.device).unsqueeze(1)).sum()
