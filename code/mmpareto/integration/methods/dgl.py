"""DGL, disentangled gradient learning (Wei, Luo & Luo, ICCV 2025, arXiv 2507.10213)."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from mmpareto.integration.differentiation import Pass
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import JOINT, Encoders, Objectives, collect
from mmpareto.integration.options import check_positive
from mmpareto.integration.report import EncoderReport


class DGL(Method):
    """DGL: the encoders learn from their unimodal losses alone, fusion and joint head from the joint loss alone.

    Each encoder descends α·L_u. The joint loss leaves no gradient on any encoder, as if the fusion were given detached
    features, and a unimodal loss leaves none outside its encoder. In the paper, unimodal predictions come from the
    shared fusion (`MultimodalNetwork(…, heads=None)`); heads of your own are not trained and keep `.grad` None. (In a
    compiled model the joint loss gives such a head a zero gradient, on which weight decay would act: freeze it.) One
    forward pass, one backward pass over the encoders and one over the fusion.

    Arguments:
        alpha: α > 0, weight of the unimodal losses [released runs: 4 and 5 on CREMA-D, 2 and 3 on Kinetics-Sounds].

    Raises:
        ValueError: α is not positive; `backward`: there is no joint loss.
    """

    source = "Wei, Luo & Luo, DGL, ICCV 2025 (arXiv 2507.10213)"
    network = MappingProxyType({"heads": "shared"})

    def __init__(self, alpha: float = 4.0) -> None:
        super().__init__()
        check_positive("alpha", alpha)
        self.alpha = alpha

    def objectives(
        self, joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return all losses, with its unimodal loss as the only objective of each encoder."""
        if joint is None:
            raise ValueError("DGL trains fusion and joint head by the joint loss: pass it")
        objectives = collect(joint, unimodal, encoders)
        for encoder in objectives.encoders.values():
            encoder.objectives.remove(JOINT)
        return objectives

    def passes(self, objectives: Objectives) -> list[Pass]:
        """Return one pass for the joint loss outside the encoders, and the unimodal losses' passes inside them."""
        unimodal = {name: loss for name, loss in objectives.losses.items() if name != JOINT}
        inside = super().passes(dataclasses.replace(objectives, losses=unimodal))
        return [Pass([JOINT], []), *(Pass(run.losses, run.encoders, outside=False) for run in inside)]

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Return α·g_u; with several unimodal losses on one encoder, α times the sum of their gradients."""
        total: list[Tensor | None] = []
        for tensors in zip(*gradients, strict=True):
            reached = [g for g in tensors if g is not None]
            total.append(sum(reached[1:], reached[0]) * self.alpha if reached else None)
        return total, None
