"""The losses of a batch."""

from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.models.network import Outputs


class Losses(NamedTuple):
    """Cross-entropies averaged over the batch: () each."""

    joint: Tensor
    unimodal: Mapping[str, Tensor]


def losses(outputs: Outputs, labels: Tensor) -> Losses:
    """L_m of the fused prediction, and L_uᵏ of every modality's own head on its own feature."""
    unimodal = {name: F.cross_entropy(logits, labels) for name, logits in outputs.unimodal.items()}
    return Losses(F.cross_entropy(outputs.joint, labels), unimodal)
