"""Ensemble of unimodal models."""

from types import MappingProxyType
from typing import Any

from torch import Tensor

from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses, collect


class Ensemble(PlainSum):
    """Ensemble: train every modality's encoder and head alone, and average their predictions.

    Σₖ L_uᵏ is descended, and the joint loss is not. Encoders and heads share no parameters, so each modality is trained
    exactly as if alone, with two exceptions: gradients that are clipped are clipped by their common norm, and there is
    one best epoch for all. To choose an epoch per modality, train each by `Unimodal`. One backward pass.

    The joint prediction is the mean of the unimodal softmax probabilities, or of the scores in a regression. In
    train.py it comes from the fusion "average"; in your own loop, compute it yourself. (The MCR paper's released code
    adds logits instead, those of each modality standardised over the batch.)

    Raises:
        ValueError: `backward`: a loss or an encoder is missing.
    """

    source = "the simplest baseline; reported in the MCR paper (Kontras et al., arXiv 2411.07335)"
    needs_fusion = True
    network = MappingProxyType({"fusion": "average", "heads": "shared"})
    descends_joint = False
    no_interaction = "trains every modality as if it were alone"

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the unimodal losses."""
        return collect(None, unimodal, encoders)
