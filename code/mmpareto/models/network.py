"""The network: one encoder a modality, a fusion with the joint head, one unimodal head a modality."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from mmpareto.errors import InputError
from mmpareto.models import ENCODERS, FUSIONS
from mmpareto.models.checkpoints import load_pretrained
from mmpareto.models.initialisation import released_initialisation


class Outputs(NamedTuple):
    """What the network returns for a batch of B samples and C classes.

    Tensors, and dicts of tensors by modality, only: DataParallel gathers nothing else.
    """

    joint: Tensor
    """Joint logits (B, C)."""
    unimodal: dict[str, Tensor]
    """Modality → logits (B, C) of its own head."""
    features: dict[str, Tensor]
    """Modality → feature (B, feature size) of its encoder."""


class MultimodalNetwork(nn.Module):
    """Encodes every modality, fuses the features, and classifies jointly and by each modality alone.

    Arguments:
        encoders: modality → module mapping that modality's input to (B, feature size).
        fusion: module mapping {modality: feature} to the joint logits; the joint head is part of it.
        heads: modality → module mapping its feature to logits.

    The order of `encoders` is the order of modalities everywhere.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], fusion: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if not encoders or set(heads) != set(encoders):
            raise ValueError(f"one encoder and one head a modality, got encoders {[*encoders]} and heads {[*heads]}")
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.heads = nn.ModuleDict({name: heads[name] for name in encoders})

    @property
    def modalities(self) -> list[str]:
        """The modalities' names, in order."""
        return list(self.encoders)

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Classify a batch given as {modality: tensor with the batch first}.

        Raises:
            InputError: a modality of the network is not among the inputs, or the reverse.
        """
        if set(inputs) != set(self.encoders):
            raise InputError(
                f"the model takes the modalities {', '.join(self.encoders)} but the batch has"
                f" {', '.join(inputs) or 'none'}; use the data set that the model was made for."
            )
        features = {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}
        unimodal = {name: head(features[name]) for name, head in self.heads.items()}
        return Outputs(self.fusion(features), unimodal, features)


def build_network(
    channels: Mapping[str, int],
    n_classes: int,
    *,
    encoder: str = "resnet18",
    fusion: str = "concat",
    pretrained: Path | None = None,
) -> MultimodalNetwork:
    """The network of the paper's setting, with freshly initialised weights (`released_initialisation`).

    Arguments:
        channels: modality → channels of its input; the order is that of the modalities.
        n_classes: number of classes.
        encoder: a name in `ENCODERS`; every modality gets one of its own.
        fusion: a name in `FUSIONS`.
        pretrained: a local file of ImageNet weights for the encoders (`load_pretrained`).

    Raises:
        InputError: an unknown name, or a weight file that cannot be read or does not fit.
    """
    encoders = {name: ENCODERS[encoder](count) for name, count in channels.items()}
    sizes = {name: module.feature_size for name, module in encoders.items()}
    heads = {name: nn.Linear(size, n_classes) for name, size in sizes.items()}
    network = MultimodalNetwork(encoders, FUSIONS[fusion](sizes, n_classes), heads)
    released_initialisation(network)
    if pretrained is not None:
        for module in encoders.values():
            load_pretrained(module, pretrained)
    return network
