"""OGM and OGM-GE, on-the-fly gradient modulation (Peng et al., CVPR 2022, arXiv 2203.15332)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.modulation import COMPARISONS, Modulation, slowed, with_noise
from mmpareto.integration.methods.scoring import ScoringMethod, check_score, true_class_score
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.options import check_choice, check_epoch_range, check_positive


class OGM(Modulation, ScoringMethod):
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

    `variants["balancebenchmark"]` is the computation of GeWu-Lab/BalanceBenchmark (trainer/OGM_trainer.py, method
    OGM_GE, which here is `ogm_ge`; its plain OGM does not run), with the values of its configuration. All weights that
    are not 1-D are modulated. With three modalities, s_k sums softmax(cos z_k)[i, yᵢ], of the cosine of each logit,
    over the samples that z_k classifies correctly, and ρ_k = s_k/(min s + 1e-5): all but the weakest modality are
    slowed, however small the difference. Where z_k is right on no sample, its code fails; here, s_k = 0. It has no more
    than three modalities; with two, its s and ρ are those above.

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
        comparison: of three and more modalities: "mean", with the mean of the others, as above; "balancebenchmark".

    Raises:
        ValueError: an option is out of range; `backward`: the joint loss, the labels or a modality's logits are
            missing, `contributions` is empty because the joint logits are not a sum over modalities, or an encoder has
            no trainable parameter that is modulated.
    """

    source = "Peng et al., OGM-GE, CVPR 2022 (arXiv 2203.15332)"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"comparison": "mean"},
        "balancebenchmark": {
            "alpha": 0.3,
            "modulation_starts": 10,
            "modulation_ends": 80,
            "modulated": "weights",
            "comparison": "balancebenchmark",
        },
    }
    title = "OGM"
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
        comparison: str = "mean",
    ) -> None:
        super().__init__()
        check_positive("alpha", alpha)
        check_epoch_range(modulation_starts, modulation_ends)
        check_choice("modulated", modulated, ("convolutions", "weights"))
        check_score(score)
        check_choice("comparison", comparison, COMPARISONS)
        self.alpha, self.modulation_starts, self.modulation_ends = alpha, modulation_starts, modulation_ends
        self.modulated, self.score, self.comparison = modulated, score, comparison
        self.active = True

    def set_epoch(self, epoch: int) -> None:
        """Set the current epoch, from 0."""
        self.active = self.modulation_starts <= epoch <= self.modulation_ends

    def begin_training(self, context: TrainingContext) -> None:
        """Reject a network whose fusion has no score, or whose encoders have nothing to modulate."""
        super().begin_training(context)
        for name, encoder in getattr(context.network, "encoders", {}).items():
            self.check_encoder(name, encoder.parameters())

    def begin_epoch(self, context: TrainingContext) -> None:
        """Switch modulation on or off for the epoch."""
        self.set_epoch(context.epoch - 1)  # the context counts from 1

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Return modality → s_k, () float64."""
        benchmark = self._as_benchmark(len(objectives.encoders))
        return self.scores(outputs, labels, objectives.encoders, score_of_cosines if benchmark else true_class_score)

    def coefficients(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Return κ of every modality; 1 in epochs without modulation."""
        s = torch.stack([*gradients.statistics.values()])
        if len(s) == 1 or not self.active:
            kappa = torch.ones_like(s)
        elif self._as_benchmark(len(objectives.encoders)):
            kappa = slowed(s / (s.min() + 1e-5), self.alpha)
        else:
            kappa = slowed(s / ((s.sum() - s) / (len(s) - 1)), self.alpha)
        return dict(zip(gradients.statistics, kappa, strict=True))

    def _as_benchmark(self, count: int) -> bool:
        return self.comparison == "balancebenchmark" and count > 2

    def acts_on(self, parameter: Tensor) -> bool:
        """Return whether it is a 4-D weight or, with `modulated` "weights", not 1-D."""
        return parameter.ndim == 4 if self.modulated == "convolutions" else parameter.ndim != 1

    def modulate(self, gradient: Tensor, coefficient: Tensor) -> Tensor:
        """Return κ·g."""
        return gradient * coefficient


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
        return with_noise(modulated, gradient) if self.active else modulated


def score_of_cosines(logits: Tensor, labels: Tensor) -> Tensor:
    """Return Σ softmax(cos(logits))[i, yᵢ] over the samples i whose largest logit is that of yᵢ, ()."""
    correct = logits.argmax(1) == labels
    probabilities = logits.cos().softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return (probabilities * correct).sum()
