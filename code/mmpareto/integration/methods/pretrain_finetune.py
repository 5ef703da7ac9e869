"""Unimodal pre-training, followed by joint fine-tuning."""

from typing import Any

from torch import Tensor

from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses, collect, collect_frozen, collect_joint
from mmpareto.integration.options import check_at_least


class PretrainFinetune(PlainSum):
    """Pre-train + fine-tune: train every encoder on its own unimodal loss, then everything on the joint loss.

    During pre-training Σₖ L_uᵏ is descended. Encoders share no parameters, so each is trained as if alone, while fusion
    and joint head do not change. From epoch `pretrain_epochs` + 1 on, L_m is descended and the unimodal heads do not
    change. The optimizer keeps its state. One backward pass. In your own loop, call `finetune()` when fine-tuning
    begins.

    With `freeze_encoders`, fine-tuning trains fusion and joint head alone. The encoders are in evaluation mode, so that
    BatchNorm's running averages do not change either, and no backward pass goes through them. In your own loop, call
    `requires_grad_(False)` of every encoder when fine-tuning begins, and its `eval()` after every `train()` of the
    model.

    Arguments:
        pretrain_epochs: number of epochs of pre-training, ≥ 0; None for half of the run's.
        freeze_encoders: whether the encoders are frozen during fine-tuning.

    Raises:
        ValueError: the number of epochs is negative; `backward`: the losses of the current stage are missing, or an
            encoder that is to be frozen has a trainable parameter.
    """

    source = "the two-stage baseline; rerun under one protocol in the MCR paper, table 1, with frozen encoders as well"
    memory = ("descends_joint", "descends_unimodal", "pretrain_epochs")
    descends_joint = False
    no_interaction = "trains every encoder alone at first"
    needs_fusion = True

    def __init__(self, pretrain_epochs: int | None = None, freeze_encoders: bool = False) -> None:
        super().__init__()
        if pretrain_epochs is not None:
            check_at_least("pretrain_epochs", pretrain_epochs, 0)
        self.pretrain_epochs, self.freeze_encoders = pretrain_epochs, freeze_encoders

    @property
    def trains_encoders(self) -> bool:
        """False during fine-tuning with `freeze_encoders`."""
        return not (self.freeze_encoders and self.descends_joint)

    def begin_epoch(self, context: TrainingContext) -> None:
        """Begin fine-tuning when pre-training is over."""
        if self.pretrain_epochs is None:
            self.pretrain_epochs = context.epochs // 2
        if context.epoch > self.pretrain_epochs:
            self.finetune()

    def finetune(self) -> None:
        """Descend the joint loss from now on."""
        self.descends_joint, self.descends_unimodal = True, False

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the unimodal losses or the joint loss, depending on the stage."""
        if not self.descends_joint:
            return collect(None, unimodal, encoders)
        if self.freeze_encoders:
            return collect_frozen(joint, encoders, "fine-tuning")
        return collect_joint(joint, encoders, "joint fine-tuning")
