"""CML, calibrating multimodal learning (Ma et al., ICML 2023, arXiv 2306.01265)."""

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpareto.integration.features import given_labels
from mmpareto.integration.methods.fusing import FusingMethod
from mmpareto.integration.methods.plain_sum import JointLoss
from mmpareto.integration.objectives import JOINT, Encoders, Objectives, UnimodalLosses
from mmpareto.integration.options import check_at_least

SUBSETS = "subsets"  # the report's name of all that is descended besides the joint loss


class CML(JointLoss, FusingMethod):
    """CML, calibrating multimodal learning: confidence must not rise when a modality is removed.

    z_S (B, C) are the joint logits with zeros as the features of all modalities outside S, and conf(z) = max softmax(z)
    is the confidence of a sample. Of n modalities, one after another is removed, S₁ ⊃ S₂ ⊃ … ⊃ Sₙ, and

        L = 1/n Σⱼ CE(z_Sⱼ, y) + λ Σⱼ mean over samples of max(0, conf(z_Sⱼ₊₁) − conf(z_Sⱼ))

    is descended by everything that it reaches; the unimodal losses are ignored. The order of removal is random for each
    sample in the released code. Here L is its mean over all n! orders, which needs the 2ⁿ − 1 sets S once each, and no
    random numbers. CE(z_S₁) is the joint loss L_m as it is given. With one modality, L = L_m. One backward pass.

    The principle is the paper's abstract; its equations are unchecked. The loss is that of the released code
    (QingyangZhang/CML, cpm and miwae), which applies it to networks that impute what was removed.
    `variants["released"]` leaves the hinge of a sample out where the prediction is right without the modality and wrong
    with it, as cpm does. (miwae also detaches conf(z_Sⱼ) where both predictions are wrong: left out.) The released code
    sums the hinges over the samples: in cpm over all of them, like its other losses (λ is 1 by its help text, 0 by its
    code); in miwae over batches of 200 beside a mean CE, with λ = 0.1, which here is 20. BalanceBenchmark
    (CML_trainer.py) takes one order for all samples, drawn once per epoch, and max(0, ·) of the sum over a batch, so
    that a rise may hide behind other samples' falls, with λ = 0.1: 6.4 here for batches of 64.

    In your own loop, call `use_fusion(…)` once before training. `backward` needs the labels, and `outputs` with
    `features`, modality → (B, …).

    Arguments:
        lam: weight λ ≥ 0 of the hinges [unchecked in the paper].
        skip_corrected: whether to leave out samples that the removal corrects.

    Raises:
        ValueError: λ is negative; `backward`: the joint loss, the labels, the features or the fusion are missing.
    """

    source = "Ma et al., Calibrating multimodal learning, ICML 2023 (arXiv 2306.01265)"
    title = "CML"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"skip_corrected": False},
        "released": {"skip_corrected": True},
    }
    title = "CML"
    needs_classes = True

    def __init__(self, lam: float = 1.0, skip_corrected: bool = False) -> None:
        super().__init__()
        check_at_least("lam", lam, 0)
        self.lam, self.skip_corrected = lam, skip_corrected

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the joint loss, weighted, and the sum of all other terms."""
        objectives = super().objectives(joint, unimodal, encoders, outputs, labels)
        features = self.features_in(outputs)
        labels = given_labels(labels, self.title)
        if len(features) > 1:
            objectives.losses[JOINT] = objectives.losses[JOINT] / len(features)
            objectives.add(SUBSETS, self.share * self._terms(features, labels), features)
        return objectives

    def _terms(self, features: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return L without CE(z_S₁), ()."""
        stages = [[*itertools.combinations(features, size)] for size in range(len(features), 0, -1)]
        logits = {s: self.fuse_only(features, s) for stage in stages for s in stage}
        labels = labels.to(next(iter(logits.values())).device)
        confidence = {s: z.softmax(1).max(1).values for s, z in logits.items()}
        right = {s: z.argmax(1) == labels for s, z in logits.items()}
        total = torch.zeros((), device=labels.device)
        for larger, smaller in itertools.pairwise(stages):
            errors = [self.loss(logits[s], labels) for s in smaller]
            rises = [
                self._rise(confidence[s], confidence[t], right[s] & ~right[t])
                for t in larger
                for s in itertools.combinations(t, len(t) - 1)
            ]
            total = total + torch.stack(errors).mean() / len(stages) + self.lam * torch.stack(rises).mean()
        return total

    def _rise(self, smaller: Tensor, larger: Tensor, corrected: Tensor) -> Tensor:
        """Return the mean over samples (B,) of the rise in confidence, (); 0 for an empty batch."""
        hinge = (smaller - larger).relu()
        if self.skip_corrected:
            hinge = hinge.masked_fill(corrected, 0.0)
        return hinge.sum() / max(len(hinge), 1)
