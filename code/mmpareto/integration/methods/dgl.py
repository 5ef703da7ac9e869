"""DGL, disentangled gradient learning (Wei, Luo & Luo, ICCV 2025, arXiv 2507.10213)."""

import dataclasses
from types import MappingProxyType
from typing import Any

from torch import Tensor

from mmpareto.integration.differentiation import Pass, separate_passes
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import JOINT, Encoders, Objectives, UnimodalLosses, collect, collect_joint
from mmpareto.integration.options import check_positive
from mmpareto.integration.report import EncoderReport


class DGL(Method):
    """DGL: the encoders learn from their unimodal losses alone, fusion and joint head from the joint loss alone.

    Each encoder descends α·L_u. The joint loss leaves no gradient on any encoder, as if the fusion were given detached
    features, and a unimodal loss leaves none outside its encoder. In the paper, unimodal predictions come from the
    shared fusion (`MultimodalNetwork(…, heads=None)`); heads of your own are not trained and keep `.grad` None. (In a
    compiled model the joint loss gives such a head a zero gradient, on which weight decay would act: freeze it.) One
    forward pass, one backward pass over the encoders and one over the fusion.

    The three parts of DGL, as the released code lists them, can be switched off one by one, as controls:

        option                    an encoder descends      fusion and heads descend
        all three on              α·L_u                    L_m
        truncate_joint=False      L_m + α·L_u              L_m
        truncate_unimodal=False   α·L_u                    L_m + α·Σ L_u
        unimodal_loss=False       nothing: stays random    L_m

    With neither truncation, everything descends L_m + α·Σ L_u; with neither unimodal losses nor `truncate_joint`, this
    is joint training.

    Arguments:
        alpha: α > 0, weight of the unimodal losses [released runs: 4 and 5 on CREMA-D, 2 and 3 on Kinetics-Sounds, 2 on
            VGGSound].
        unimodal_loss: unimodal regularisation: whether unimodal losses are descended.
        truncate_joint: multimodal gradient truncation: whether the joint loss leaves no gradient on the encoders.
        truncate_unimodal: unimodal gradient truncation: whether the unimodal losses leave none outside the encoders.

    Raises:
        ValueError: α is not positive; `backward`: there is no joint loss.
    """

    source = "Wei, Luo & Luo, DGL, ICCV 2025 (arXiv 2507.10213)"
    needs_fusion = True
    without_effect = MappingProxyType({name: {"unimodal_loss": False} for name in ("alpha", "truncate_unimodal")})
    network = MappingProxyType({"heads": "shared"})

    def __init__(
        self,
        alpha: float = 4.0,
        unimodal_loss: bool = True,
        truncate_joint: bool = True,
        truncate_unimodal: bool = True,
    ) -> None:
        super().__init__()
        check_positive("alpha", alpha)
        self.alpha = alpha
        self.descends_unimodal = self.separates = unimodal_loss
        self.truncate_joint, self.truncate_unimodal = truncate_joint, truncate_unimodal

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return L_m and every α·L_u; each encoder learns from its own α·L_u, and from L_m if that is not truncated."""
        if joint is None:
            raise ValueError("DGL trains fusion and joint head by the joint loss: pass it")
        if not self.descends_unimodal:
            objectives = collect_joint(joint, encoders, "DGL")
        else:
            objectives = collect(joint, unimodal, encoders)
            objectives.losses |= {
                name: self.alpha * objectives.losses[name] for name in unimodal if name in objectives.losses
            }
        if self.truncate_joint:
            for encoder in objectives.encoders.values():
                encoder.objectives.remove(JOINT)
        return objectives

    def passes(self, objectives: Objectives) -> list[Pass]:
        """Return one pass outside the encoders and one through them; several with interaction, one per loss."""
        outside = [loss for loss in objectives.names if loss == JOINT or not self.truncate_unimodal]
        inside = [loss for loss in objectives.names if loss != JOINT or not self.truncate_joint]
        if objectives.interaction:
            own = separate_passes(dataclasses.replace(objectives, names=inside))
        else:
            encoders = [name for name, encoder in objectives.encoders.items() if encoder.objectives]
            own = [Pass(inside, encoders)] if inside else []
        return [Pass(outside, []), *(dataclasses.replace(run, outside=False) for run in own)]

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Return the sum of the objectives' gradients."""
        total: list[Tensor | None] = []
        for tensors in zip(*gradients, strict=True):
            reached = [g for g in tensors if g is not None]
            total.append(sum(reached[1:], reached[0].clone()) if reached else None)
        return total, None
