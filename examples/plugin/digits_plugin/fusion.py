"""A fusion: maps {modality: feature} to the joint logits, and one feature alone to unimodal logits."""

from collections.abc import Mapping

import torch
from mmpareto.models.fusion import Fusion
from torch import Tensor, nn

WIDTH = 64


class MaxFusion(Fusion):
    """A linear layer per modality, the maximum over the modalities, and a linear head.

    Arguments:
        feature_sizes: modality → length of its feature; they may differ.
        n_classes: number of joint logits.
    """

    def __init__(self, feature_sizes: Mapping[str, int], n_classes: int) -> None:
        super().__init__(n_classes)
        self.project = nn.ModuleDict({name: nn.Linear(size, WIDTH) for name, size in feature_sizes.items()})
        self.fc_out = nn.Linear(WIDTH, n_classes)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C), of the modalities that are given."""
        projected = [self.project[name](feature) for name, feature in features.items()]
        return self.fc_out(torch.stack(projected).amax(0))

    def alone(self, name: str, feature: Tensor) -> Tensor:
        """Logits (B, C) from one modality."""
        return self.forward({name: feature})
