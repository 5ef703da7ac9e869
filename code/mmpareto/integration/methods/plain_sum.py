"""Joint training and the uniform baseline, the two methods that descend a plain sum of losses."""

from typing import Any, ClassVar

from torch import Tensor

from mmpareto.integration.differentiation import Pass
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses, collect_joint
from mmpareto.integration.options import check_positive
from mmpareto.integration.report import EncoderReport


class PlainSum(Method):
    """Base class of methods that choose their losses and descend the sum of them, in one backward pass."""

    separates = False

    def passes(self, objectives: Objectives) -> list[Pass]:
        """Return one pass over the sum."""
        return [Pass(objectives.names, [name for name, e in objectives.encoders.items() if e.objectives])]

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Return a copy of the sum's gradient."""
        return [None if g is None else g.clone() for g in gradients[0]], None


class JointLoss(PlainSum):
    """Joint training: descend L_m, the loss of the fused prediction, alone.

    Unimodal losses are ignored, so the unimodal heads receive no gradient and their accuracy is meaningless until they
    are fitted afterwards (by a linear probe). One backward pass.

    Raises:
        ValueError: `backward`: there is no joint loss.
    """

    source = "the common baseline"
    descends_unimodal = False
    needs_fusion = True
    title: ClassVar[str] = "joint training"
    """The method's name in error messages."""

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the joint loss, as the only objective of every encoder."""
        return collect_joint(joint, encoders, self.title)


class UniformSum(PlainSum):
    """Uniform baseline: descend L_m + Σₖ L_uᵏ, the plain sum of the joint loss and every unimodal loss.

    One backward pass over the sum (MMPareto paper, section 3.1).

    `encoder_scale` S multiplies the gradients of the encoders and no others. It is the control for a boosted magnitude:
    where no encoder is in conflict, the step of `MMPareto.released(γ)` is exactly this one with S = γ. Unlike a higher
    learning rate of the encoders, S leaves their weight decay as it is.

    Arguments:
        encoder_scale: S > 0; 1 for the plain sum.

    Raises:
        ValueError: `encoder_scale` is not positive.
    """

    source = "Wei & Hu, MMPareto, ICML 2024: its uniform baseline"

    def __init__(self, encoder_scale: float = 1.0) -> None:
        super().__init__()
        check_positive("encoder_scale", encoder_scale)
        self.encoder_scale = encoder_scale

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Return S times the sum's gradient."""
        return [None if g is None else g * self.encoder_scale for g in gradients[0]], None
