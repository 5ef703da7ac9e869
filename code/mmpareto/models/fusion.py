"""Fusion modules: the features of all modalities → the joint logits."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class ConcatFusion(nn.Module):
    """Concatenates the features, then applies one linear head, `fc_out`.

    Arguments:
        feature_sizes: modality → length of its feature; their order is the order of concatenation.
        n_classes: number of joint logits.
    """

    def __init__(self, feature_sizes: Mapping[str, int], n_classes: int) -> None:
        super().__init__()
        self.modalities = tuple(feature_sizes)
        self.fc_out = nn.Linear(sum(feature_sizes.values()), n_classes)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Map modality → (B, feature size) to joint logits (B, n_classes)."""
        return self.fc_out(torch.cat([features[name] for name in self.modalities], dim=1))
