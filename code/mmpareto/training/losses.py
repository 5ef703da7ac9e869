"""The losses of a batch: of classes, or of scores (regression), told apart by the type of the labels."""

from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.models.network import Outputs


class Losses(NamedTuple):
    """`loss_of` the batch: () each."""

    joint: Tensor
    unimodal: Mapping[str, Tensor]


def losses(outputs: Outputs, labels: Tensor, share: float = 1.0) -> Losses:
    """L_m of the fused prediction, and L_uᵏ of every modality's own head on its own feature.

    Arguments:
        share: of the step's samples that these are: the losses are multiplied by it, so that they add up to the step's.
    """
    unimodal = {name: loss_of(logits, labels) * share for name, logits in outputs.unimodal.items()}
    return Losses(loss_of(outputs.joint, labels) * share, unimodal)


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """() mean over the batch; 0 for one of no sample.

    Arguments:
        logits: (B, C).
        labels: (B,) class indices, whose cross-entropy it is; or scores in floating point: C is 1 then, and it is the
            mean absolute error (MMSA's for these data sets).
    """
    reduction = "mean" if len(labels) else "sum"
    if labels.is_floating_point():
        return F.l1_loss(logits.squeeze(1), labels.to(logits.dtype), reduction=reduction)
    return F.cross_entropy(logits, labels, reduction=reduction)


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) bool: whether the predicted class is the label's; of scores, whether the sign is (0 counts as negative)."""
    if labels.is_floating_point():
        return (logits.squeeze(1) > 0) == (labels > 0)
    return logits.argmax(1) == labels
