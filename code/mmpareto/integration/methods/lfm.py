"""LFM, learning the modality gap dynamically (Yang et al., NeurIPS 2024)."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpareto.integration.comparisons import info_nce, jensen_shannon
from mmpareto.integration.features import read_output
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.linear_algebra import at_least_float32
from mmpareto.integration.methods.plain_sum import JointLoss
from mmpareto.integration.objectives import JOINT, Encoders, Objectives, UnimodalLosses
from mmpareto.integration.options import check_choice, check_positive

GAP = "modality gap"  # the report's name of A
# α of the released code, of the epoch 0 … 199: a polynomial fitted to a run with a learned α; powers ascend.
FITTED = (7.95376296e-1, -3.35472727e-3, -1.22989557e-4, 2.92947416e-6, -2.23835486e-8, 5.39717505e-11)
FITTED_EPOCHS = 200
NOT_ADDITIVE = (
    "compares what each modality contributes to the joint logits, but this fusion computes no sum over modalities: use "
    "one that does (--fusion concat or sum), or set gap to 'contrastive' (--gap contrastive)"
)


class LFM(JointLoss):
    """LFM, learning the modality gap: bring the modalities together at first, and fit the labels more and more.

        L = c·((1 − α)·L_m + α·A)

    is descended by everything that it reaches; the unimodal losses are ignored. A is the mean of the modality gap over
    all pairs (j, k) of modalities; for one pair, it is

        gap "contrastive"   the symmetric InfoNCE loss of the features x_j and x_k of a batch, as in CLIP: the cosine of
                            two samples' features over τ are the logits of which sample of the batch is the same
        gap "divergence"    the mean over samples of the Jensen-Shannon divergence ½·KL(p_j‖m) + ½·KL(p_k‖m), where
                            p_k = softmax(n·z_k) and m = ½·(p_j + p_k). Reversed: ½·KL(m‖p_j) + ½·KL(m‖p_k)

    z_k (B, C) is the part of the joint logits that modality k contributes, and n the number of modalities: the released
    network's joint logits are the mean of the unimodal ones, which n·z_k so are. α depends on the epoch t = 1 … T:

        gap_weight "decreasing"     1 − exp(−1/t)
        gap_weight "fitted"         the released polynomial of the epoch, for T = 200: from 0.80 to 0.08, −0.01 at the
                                    least. For another T, it is stretched

    With one modality, L = L_m. One backward pass. The negatives of gap "contrastive" are the batch's other samples, so
    that it needs the whole batch in one process.

    The paper is unchecked, except for its abstract: contrastive learning, with a heuristic or a learned weight. The
    decreasing α is that of summaries of it; the InfoNCE loss is in its authors' code (njustkmg/NeurIPS24-LFM, f3af6ea,
    Crema_ours.py), though not in use. `variants["released"]` is that code at ad44fa0, Crema_epoch.py: F.kl_div with its
    arguments in the wrong order, so that the divergence is unbounded, where Jensen-Shannon's is at most log 2; L times
    2; the fitted α. `variants["corrected"]` is the same with the Jensen-Shannon divergence.

    Left out: the learned α, of which no rule could be established. In the code (Crema_epoch_learnable.py, and
    LFM_trainer.py of BalanceBenchmark), it changes once per epoch by 1e-4 times the mean, over the first parameter
    tensor alone, of the Hessian of (1 − α)·L_m + α·A times ∇L_m, on a few samples that are always the same. A step on
    that loss changes L_m by −η·⟨∇L_m, ∇A − ∇L_m⟩ per unit of α, with no Hessian. α starts at 0.95 in the one and at
    0.05 in the other. BalanceBenchmark also has z_k in place of n·z_k.

    In your own loop, call `set_epoch(…)` when an epoch begins. `backward` needs `outputs`: `features`, modality →
    (B, …), for gap "contrastive"; `contributions`, modality → z_k, for "divergence".

    Arguments:
        gap: "contrastive" or "divergence".
        gap_reversed: whether the divergence is the reversed one.
        gap_weight: α: "decreasing" or "fitted".
        gap_temperature: τ > 0 of the cosines.
        loss_weight: c > 0.

    Raises:
        ValueError: an option is out of range; `backward`: the epoch was never set, the joint loss or what the gap
            compares is missing, the features differ in length, or the batch is not whole.
    """

    source = "Yang et al., Facilitating multimodal classification via dynamically learning modality gap, NeurIPS 2024"
    title = "LFM"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"gap": "contrastive", "gap_reversed": False, "gap_weight": "decreasing", "loss_weight": 1.0},
        "corrected": {"gap": "divergence", "gap_reversed": False, "gap_weight": "fitted", "loss_weight": 2.0},
        "released": {"gap": "divergence", "gap_reversed": True, "gap_weight": "fitted", "loss_weight": 2.0},
    }
    without_effect = MappingProxyType(
        {"gap_reversed": {"gap": "contrastive"}, "gap_temperature": {"gap": "divergence"}}
    )
    memory = ("alpha",)
    needs_classes = True

    def __init__(
        self,
        gap: str = "contrastive",
        gap_reversed: bool = False,
        gap_weight: str = "decreasing",
        gap_temperature: float = 0.07,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("gap", gap, ("contrastive", "divergence"))
        check_choice("gap_weight", gap_weight, ("decreasing", "fitted"))
        check_positive("gap_temperature", gap_temperature)
        check_positive("loss_weight", loss_weight)
        self.gap, self.gap_reversed, self.gap_weight = gap, gap_reversed, gap_weight
        self.gap_temperature, self.loss_weight = gap_temperature, loss_weight
        self.alpha: float | None = None  # before the first epoch

    @property
    def needs_whole_batch(self) -> bool:
        """True if samples are compared with the others of their batch."""
        return self.gap == "contrastive"

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Set the current epoch, from 0, and the number of epochs."""
        if self.gap_weight == "decreasing":
            self.alpha = -math.expm1(-1 / (epoch + 1))
        else:
            time = epoch * FITTED_EPOCHS / epochs
            self.alpha = sum(factor * time**power for power, factor in enumerate(FITTED))

    def begin_training(self, context: TrainingContext) -> None:
        """Reject a network whose fusion has no contributions, if they are compared."""
        if self.gap == "divergence" and not getattr(context.network, "additive", True):
            raise ValueError(f"LFM {NOT_ADDITIVE}")

    def begin_epoch(self, context: TrainingContext) -> None:
        """Set α of the epoch."""
        self.set_epoch(context.epoch - 1, context.epochs)  # the context counts from 1

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the joint loss and the modality gap, weighted."""
        objectives = super().objectives(joint, unimodal, encoders, outputs, labels)
        compared, distance = self._comparison(outputs)
        if len(compared) > 1:
            if self.needs_whole_batch:
                self.check_whole_batch("LFM with gap 'contrastive'", ", or set gap to 'divergence'")
            if self.alpha is None:
                raise ValueError("LFM's weight depends on the epoch: call set_epoch() when an epoch begins")
            pairs = [distance(x, y) for x, y in itertools.combinations(compared.values(), 2)]
            objectives.losses[JOINT] = self.loss_weight * (1 - self.alpha) * objectives.losses[JOINT]
            gap = self.loss_weight * self.alpha * self.share * torch.stack(pairs).mean()
            objectives.add(GAP, gap, compared)
        return objectives

    def _comparison(self, outputs: Any) -> tuple[Mapping[str, Tensor], Callable[[Tensor, Tensor], Tensor]]:
        """Return what is compared, modality → (B, D) in float32 at least, and the gap () between two of them."""
        name = "features" if self.gap == "contrastive" else "contributions"
        given = read_output(outputs, name)
        if given is None:
            raise ValueError(f"LFM with gap {self.gap!r} needs the {name}: pass outputs=… with `{name}`, by modality")
        compared = {key: at_least_float32(x.flatten(1)) for key, x in given.items() if x is not None}
        if self.gap == "divergence":
            if not compared:
                raise ValueError(f"LFM {NOT_ADDITIVE}")
            logits = {key: len(compared) * z for key, z in compared.items()}
            return logits, functools.partial(jensen_shannon, reverse=self.gap_reversed)
        sizes = {key: x.shape[1] for key, x in compared.items()}
        if len(set(sizes.values())) > 1:
            text = ", ".join(f"{size} of {key!r}" for key, size in sizes.items())
            raise ValueError(
                f"LFM with gap 'contrastive' compares features of one length, not {text}: use encoders of one kind, or "
                "set gap to 'divergence' (--gap divergence)"
            )
        return compared, functools.partial(info_nce, temperature=self.gap_temperature)
