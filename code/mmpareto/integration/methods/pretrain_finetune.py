"""Unimodal pre-training, then joint fine-tuning."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, collect, collect_joint


class PretrainFinetune(PlainSum):
    """Train every encoder on its own unimodal loss first, then everything on the joint loss.

    At first Σₖ L_uᵏ is descended: encoders share nothing, so that each is trained as if alone, and fusion and joint
    head wait. From epoch `pretrain_epochs` + 1 on it is L_m, and the unimodal heads stay as they are. The optimiser
    goes on with its state. One backward pass. In a loop of your own, call `finetune()` when the second part begins.

    Arguments:
        pretrain_epochs: epochs of the first part, ≥ 0; None: half of the run's.

    Raises:
        ValueError: a negative number of epochs.
    """

    source = "the baseline of two stages; rerun under one protocol in the MCR paper, table 1"
    memory = ("descends_joint", "descends_unimodal", "pretrain_epochs")
    descends_joint = False

    def __init__(self, pretrain_epochs: int | None = None) -> None:
        super().__init__()
        if pretrain_epochs is not None and pretrain_epochs < 0:
            raise ValueError(f"pretrain_epochs must be at least 0, not {pretrain_epochs}")
        self.pretrain_epochs = pretrain_epochs

    def begin_epoch(self, loop: TrainingContext) -> None:
        """Change to the second part when it is time."""
        if self.pretrain_epochs is None:
            self.pretrain_epochs = loop.epochs // 2
        if loop.epoch > self.pretrain_epochs:
            self.finetune()

    def finetune(self) -> None:
        """From now on, descend the joint loss."""
        self.descends_joint, self.descends_unimodal = True, False

    def objectives(
        self, joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """The unimodal losses, or the joint loss."""
        if self.descends_joint:
            return collect_joint(joint, encoders, "joint fine-tuning")
        return collect(None, unimodal, encoders)
