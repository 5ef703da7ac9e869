"""ReconBoost, boosting for modality reconcilement (Hua et al., ICML 2024, arXiv 2405.09321)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.integration.features import read_output
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.linear_algebra import at_least_float32
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses, collect, collect_joint
from mmpareto.integration.options import check_at_least, check_choice


class ReconBoost(PlainSum):
    """ReconBoost: one modality after another is trained for some epochs, on what the others leave to be learned.

    φ_k (B, C) are the logits of modality k through its encoder and an MLP that all share; a prediction is z = β Σ φ_k.
    Stages follow one another, of modality 1, 2, …, n, 1, …, with two phases each, and a new optimiser for each phase:

        boosting, T epochs:        encoder k and the MLP descend the mean over samples of
                                   −Σ_c (w₁ y_c − w₂ s_c) log p_c + α ‖p − p'‖²/C
        rectification, T' epochs:  all encoders that have had a stage, the MLP and β descend L_m

    p = softmax(φ_k), y is one-hot, s = softmax(β Σ_{j≠k} φ_j), and p' = softmax(φ_j) of the modality of the stage
    before; s and p' are constants. With w₁ = w₂, the first term's gradient at φ_k is s − y, as in gradient boosting:
    where the others are right, nothing is left to fit. Sums are over the modalities that have had a stage; in the first
    stage there is no other one, s = 0, and there is no p'. Encoders that a phase does not train are frozen, in
    evaluation mode.

    From the code (huacong/ReconBoost, train.py, train_MSA.py and models/dynamic_net.py) and the paper's abstract; its
    text could not be read here. By the abstract, a Kullback-Leibler divergence from the other modalities regularises
    training, so that it resembles gradient boosting. CE(y, p) − w₂ KL(s‖p) is, but for a constant, the sum over all
    classes with w₁ = 1: this is `variants["paper"]`. w₂ = 1, and a gradient of the last term, are unchecked. That p' is
    of another modality, and not of an earlier encoder k, is from the code.
    `variants["released"]` is the code:

    - the sum over c is that of the label alone, −(w₁ − w₂ s_y) log p_y, with w₁ = 5 (on CREMA-D; 4 on AVE and
      ModelNet40, 1 on MOSI, MOSEI and SIMS), divided by C; in the first stage, s_y = 1;
    - p is detached in the last term, which therefore has no gradient: α is 0.

    Left out: its commands start from checkpoints of unimodal training (`--pretrained` does so for the encoders); frozen
    encoders are in training mode there, so that BatchNorm's averages change; its learning rates fall after some stages.

    With one modality, both phases descend its cross-entropy. A step is a forward pass of all encoders, and a backward
    pass of those that are trained. In your own loop, call `set_epoch(…)` when an epoch begins, freeze all encoders but
    `trains_encoders`, and make a new optimizer where `renews_optimizer(…)` says so. `backward` needs labels, and
    `outputs` with `unimodal`, modality → φ_k, and `contributions`, modality → β φ_k.

    Arguments:
        boost_epochs: T ≥ 1.
        rectify_epochs: T' ≥ 0.
        target_weight: w₁ ≥ 0.
        others_weight: w₂ ≥ 0.
        agreement: α ≥ 0 [0.5].
        classes: "all": the sum over c; "target": the released code's mask and division by C.

    Raises:
        ValueError: an option is out of range; `backward`: the epoch was never set, or labels, outputs or, in
            rectification, the joint loss are missing.
    """

    source = "Hua et al., ReconBoost, ICML 2024 (arXiv 2405.09321)"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"target_weight": 1.0, "agreement": 0.5, "classes": "all"},
        "released": {"target_weight": 5.0, "agreement": 0.0, "classes": "target"},
    }
    memory = ("epoch", "order", "descends_joint", "descends_unimodal")
    network = MappingProxyType({"fusion": "boosted", "heads": "shared"})
    descends_joint = False
    needs_classes = True
    needs_fusion = True
    no_interaction = "trains one encoder while the others are frozen"

    def __init__(
        self,
        boost_epochs: int = 4,
        rectify_epochs: int = 4,
        target_weight: float = 1.0,
        others_weight: float = 1.0,
        agreement: float = 0.5,
        classes: str = "all",
    ) -> None:
        super().__init__()
        check_at_least("boost_epochs", boost_epochs, 1)
        check_at_least("rectify_epochs", rectify_epochs, 0)
        check_at_least("target_weight", target_weight, 0)
        check_at_least("others_weight", others_weight, 0)
        check_at_least("agreement", agreement, 0)
        check_choice("classes", classes, ("all", "target"))
        self.boost_epochs, self.rectify_epochs, self.classes = boost_epochs, rectify_epochs, classes
        self.target_weight, self.others_weight, self.agreement = target_weight, others_weight, agreement
        self.epoch = 0
        self.order: list[str] = []

    # --- stages ---

    def set_epoch(self, epoch: int, modalities: Sequence[str]) -> None:
        """Set the current epoch, from 0, and the modalities, in the order of their stages."""
        self.epoch, self.order = epoch, list(modalities)
        self.descends_unimodal = self.epoch % self.stage_epochs < self.boost_epochs
        self.descends_joint = not self.descends_unimodal

    def begin_epoch(self, context: TrainingContext) -> None:
        """Set the epoch."""
        self.set_epoch(context.epoch - 1, context.network.modalities)  # the context counts from 1

    def renews_optimizer(self, context: TrainingContext) -> bool:
        """Return whether the epoch is the first of a phase."""
        return self.epoch % self.stage_epochs in (0, self.boost_epochs)

    @property
    def stage_epochs(self) -> int:
        """The number of epochs of a stage, T + T'."""
        return self.boost_epochs + self.rectify_epochs

    @property
    def stage(self) -> int:
        """The number of the current stage, from 0."""
        return self.epoch // self.stage_epochs

    @property
    def trains_encoders(self) -> bool | Sequence[str]:
        """The stage's modality in boosting, those that have had a stage in rectification."""
        return self._trained() if self.order else True

    def _trained(self) -> list[str]:
        return self.order[: self.stage + 1] if self.descends_joint else [self.order[self.stage % len(self.order)]]

    # --- a step ---

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the loss of the phase, for the encoders that it trains."""
        if not self.order:
            raise ValueError("ReconBoost trains in stages: call set_epoch() when an epoch begins")
        if labels is None or not all(read_output(outputs, name) for name in ("unimodal", "contributions")):
            raise ValueError(
                "ReconBoost needs labels=…, the class indices (B,), and outputs=… with `unimodal` and `contributions`, "
                "modality → logits (B, C)"
            )
        trained = {name: encoders[name] for name in self._trained() if name in encoders}
        if self.descends_joint:
            return collect_joint(self._joint(joint, outputs, labels), trained, "the rectification of ReconBoost")
        (name,) = self._trained()
        return collect(None, {name: self._boosting_loss(name, outputs, labels) * self.share}, trained)

    def _joint(self, joint: Tensor | None, outputs: Any, labels: Tensor) -> Tensor | None:
        """Return the loss of β Σ φ_j over the modalities so far, which is the joint one when they are all."""
        if self.stage + 1 >= len(self.order):
            return joint
        contributions = read_output(outputs, "contributions")
        parts = [contributions[name] for name in self.order[: self.stage + 1] if name in contributions]
        return self.loss(_sum(parts), labels) * self.share

    def _boosting_loss(self, name: str, outputs: Any, labels: Tensor) -> Tensor:
        """Return the mean over samples of the loss that φ_k descends."""
        logits, contributions = (read_output(outputs, field) for field in ("unimodal", "contributions"))
        if name not in logits:
            raise ValueError(f"ReconBoost trains {name!r} in this stage, which the batch lacks: skip the batch")
        logs = at_least_float32(logits[name]).log_softmax(1)
        earlier = [other for other in self.order[: self.stage] if other != name and other in contributions]
        others = [contributions[other].detach() for other in earlier]
        if others:
            s = _sum(others).softmax(1)
        else:  # a constant, which the released code takes the softmax of
            s = torch.full_like(logs, 1.0 if self.classes == "target" and len(self.order) > 1 else 0.0)
        y = F.one_hot(labels, logs.shape[1]).to(logs)
        residual = self.target_weight * y - self.others_weight * s
        if self.classes == "target":
            residual = residual * y / logs.shape[1]
        loss = -(residual * logs).sum(1)
        if self.agreement and others:
            before = self.order[(self.stage - 1) % len(self.order)]
            if before in logits:
                p_before = at_least_float32(logits[before]).detach().softmax(1)
                loss = loss + self.agreement * (logs.exp() - p_before).square().mean(1)
        return loss.sum() / max(len(loss), 1)  # a process may have no sample of a batch


def _sum(logits: Sequence[Tensor]) -> Tensor:
    """Return their sum, in float32 at least."""
    return at_least_float32(torch.stack([*logits]).sum(0))
