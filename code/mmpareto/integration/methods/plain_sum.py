"""The two baselines: one joint loss, and the plain sum of all losses."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmpareto.integration.differentiation import Pass
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import Encoders, Objectives, collect_joint
from mmpareto.integration.report import EncoderReport


class PlainSum(Method):
    """Base of the methods that choose what is descended, and then descend its sum: one backward pass."""

    def passes(self, objectives: Objectives) -> list[Pass]:
        """One pass over the sum."""
        return [Pass(list(objectives.losses), [name for name, e in objectives.encoders.items() if e.objectives])]

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """The gradient of the sum as it is."""
        return [None if g is None else g.clone() for g in gradients[0]], None


class JointLoss(PlainSum):
    """Descend L_m, the loss of the fused prediction, alone.

    The unimodal losses are not looked at: the unimodal heads get no gradient, so that their accuracy means
    nothing until they are fitted afterwards (a linear probe). One backward pass.
    """

    source = "the baseline of all"
    descends_unimodal = False

    def objectives(
        self, joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """The joint loss, for everything that it reaches."""
        return collect_joint(joint, encoders, "joint training")


class UniformSum(PlainSum):
    """Descend L_m + Σₖ L_uᵏ, the plain sum of the joint loss and every unimodal loss.

    One backward pass over the sum (MMPareto paper, section 3.1).
    """

    source = "Wei & Hu, MMPareto, ICML 2024: its uniform baseline"
