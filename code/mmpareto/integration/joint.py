"""One joint loss: the baseline in which the weaker modality stays under-trained."""

from torch import Tensor

from mmpareto.integration.gradients import Pass
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.report import EncoderReport


class JointLoss(Method):
    """Descend L_m, the loss of the fused prediction, alone.

    The unimodal losses are not looked at: the unimodal heads get no gradient, so that their accuracy means
    nothing until they are fitted afterwards (a linear probe). One backward pass.
    """

    needs_unimodal = False

    def passes(self, objectives: Objectives) -> list[Pass]:
        """One pass over the joint loss."""
        return [Pass(list(objectives.losses), list(objectives.encoders))]

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """The joint gradient as it is."""
        return [None if g is None else g.clone() for g in gradients[0]], None
