"""DGL, disentangled gradient learning (Wei, Luo & Luo, ICCV 2025, arXiv 2507.10213)."""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from mmpareto.integration.differentiation import Pass
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import JOINT, Encoders, Objectives, collect
from mmpareto.integration.report import EncoderReport


class DGL(Method):
    """Disentangled gradient learning: the encoders learn from α·L_u alone, fusion and joint head from L_m alone.

    The joint loss leaves nothing on any encoder, as if the fusion saw detached features; a unimodal loss leaves nothing
    outside its encoder. In the paper the unimodal prediction comes from the fusion that all share
    (`MultimodalNetwork(…, heads=None)`); any other head of your own stays as it is, with `.grad` None. (A compiled
    model's joint loss gives such a head zeros, which weight decay would act on: freeze it.) One forward pass; one
    backward pass over the encoders and one over the fusion.

    Arguments:
        alpha: α > 0, the weight of the unimodal losses. Released runs: 4 and 5 on CREMA-D, 2 and 3 on Kinetics-Sounds.

    Raises:
        ValueError: α is not positive; `backward`: there is no joint loss.
    """

    source = "Wei, Luo & Luo, DGL, ICCV 2025 (arXiv 2507.10213)"
    network = MappingProxyType({"heads": "shared"})

    def __init__(self, alpha: float = 4.0) -> None:
        super().__init__()
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha must be a positive number, not {alpha}")
        self.alpha = alpha

    def objectives(
        self, joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Every encoder's unimodal loss is its only objective."""
        if joint is None:
            raise ValueError("DGL trains fusion and joint head by the joint loss: pass it")
        objectives = collect(joint, unimodal, encoders)
        for encoder in objectives.encoders.values():
            encoder.objectives.remove(JOINT)
        return objectives

    def passes(self, objectives: Objectives) -> list[Pass]:
        """One pass for the joint loss, outside the encoders; the unimodal losses inside them."""
        unimodal = {name: loss for name, loss in objectives.losses.items() if name != JOINT}
        inside = super().passes(dataclasses.replace(objectives, losses=unimodal))
        return [Pass([JOINT], []), *(Pass(run.losses, run.encoders, outside=False) for run in inside)]

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """α·g_u; of several unimodal losses on one encoder, α times their sum."""
        total: list[Tensor | None] = []
        for tensors in zip(*gradients, strict=True):
            reached = [g for g in tensors if g is not None]
            total.append(sum(reached[1:], reached[0]) * self.alpha if reached else None)
        return total, None
