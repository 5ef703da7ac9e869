"""Projections of features for contrastive pre-training, in place of classifiers; nothing later uses them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmpareto.models.fusion import Fusion

PROJECTION_SIZE = 128
"""Length of a projection, as in SimCLR."""


class JointProjections(Fusion):
    """Maps every modality's feature into one space, by a linear layer per modality without a bias (CLIP).

    Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021. It is a `Fusion`
    because the joint loss alone trains it, and because a prediction `alone` is a part of it (DGL).

    Arguments:
        feature_sizes: modality → length of its feature.
        size: length of the projections, D.
    """

    def __init__(self, feature_sizes: Mapping[str, int], size: int = PROJECTION_SIZE) -> None:
        super().__init__(size)
        self.project = nn.ModuleDict(
            {name: nn.Linear(length, size, bias=False) for name, length in feature_sizes.items()}
        )

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """The projections (B, modalities, D) of the modalities that are given, in order; not normalised."""
        return torch.stack([self.alone(name, features[name]) for name in self.project if name in features], dim=1)

    def alone(self, name: str, feature: Tensor) -> Tensor:
        """One modality's projection (B, D)."""
        return self.project[name](feature)


class ProjectionHead(nn.Module):
    """SimCLR's projection of one modality's feature: W₂ ReLU(W₁ x), with biases and a hidden layer of x's length.

    Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020. It is apart from
    the joint projection, as in SLIP (Mu et al., ECCV 2022), so that the two losses share the encoders alone.

    Arguments:
        feature_size: length of the feature.
        size: length of the projection, D.
    """

    def __init__(self, feature_size: int, size: int = PROJECTION_SIZE) -> None:
        super().__init__()
        self.out_features = size
        self.hidden = nn.Linear(feature_size, feature_size)
        self.out = nn.Linear(feature_size, size)

    def forward(self, feature: Tensor) -> Tensor:
        """Map (B, feature size) to (B, D); not normalised."""
        return self.out(self.hidden(feature).relu())
