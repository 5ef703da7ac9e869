"""Losses that compare two predictions, or the rows of two tensors."""

import math

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.integration.linear_algebra import at_least_float32


def normalised(rows: Tensor) -> Tensor:
    """Rows of length 1, (B, D), in float32 at least."""
    return F.normalize(at_least_float32(rows), dim=1)


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE loss (): each row of one tensor is to find the same row of the other among all B, and back.

    CLIP's loss: −½·mean over i of log softmax_j(sᵢⱼ)[i] + log softmax_j(sⱼᵢ)[i], where sᵢⱼ is the cosine of row i of
    `first` and row j of `second`, over the temperature. 0 for one row, which has nothing to be told from.

    Arguments:
        first, second: (B, D), B ≥ 1; normalised here, and computed in float32 at least.
        temperature: τ > 0.
    """
    similarity = normalised(first) @ normalised(second).T / temperature
    target = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def jensen_shannon(a: Tensor, b: Tensor, *, reverse: bool = False) -> Tensor:
    """Mean Jensen-Shannon divergence (), in nats, of softmax(a) and softmax(b), for logits (B, C); 0 if B is 0.

    Arguments:
        reverse: with KL(m‖p) of the middle m in the place of KL(p‖m).
    """
    log_p, log_q = a.log_softmax(1), b.log_softmax(1)
    log_middle = torch.logaddexp(log_p, log_q) - math.log(2)
    pairs = [(log_middle, own) if reverse else (own, log_middle) for own in (log_p, log_q)]
    return 0.5 * torch.stack([(of.exp() * (of - to)).sum() for of, to in pairs]).sum() / max(len(a), 1)
