"""The network: one encoder a modality, a fusion with the joint head, one unimodal head a modality."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmpareto.errors import InputError
from mmpareto.models import BLOCKS, ENCODERS, FUSIONS
from mmpareto.models.activation_checkpointing import encode, recomputed
from mmpareto.models.initialisation import released_initialisation
from mmpareto.models.pretrained import load_pretrained


class Outputs(NamedTuple):
    """What the network returns for a batch of B samples and C classes.

    Tensors, and dicts of tensors by modality, only: DataParallel gathers nothing else.
    """

    joint: Tensor
    """Joint logits (B, C)."""
    unimodal: dict[str, Tensor]
    """Modality → logits (B, C) of its own head, or of the fusion on its feature alone."""
    features: dict[str, Tensor]
    """Modality → feature (B, feature size) of its encoder."""
    contributions: dict[str, Tensor]
    """Modality → the part (B, C) of the joint logits that it contributes; {} where they are no sum of parts."""


class MultimodalNetwork(nn.Module):
    """Encodes every modality, fuses the features, and classifies jointly and by each modality alone.

    Arguments:
        encoders: modality → module mapping that modality's input to (B, feature size).
        fusion: module mapping {modality: feature} to the joint logits; the joint head is part of it.
        heads: modality → module mapping its feature to logits; none where the fusion predicts from one modality, too.
        blocks: modules through which the encoders exchange information, one after each of their last stages. The
            encoders then have `stages()`, `widths` and `pool()`, as ResNet18 has.

    The order of `encoders` is the order of modalities everywhere.

    Attributes:
        interaction: whether a unimodal loss reaches other encoders than its own.
        channels_last: whether images are laid out with their channels last, as `lay_out_channels_last` makes it.
        recompute: whether each backward pass computes the encoders' activations again, in place of keeping them.
    """

    encoders: Any
    fusion: Any
    heads: Any
    blocks: Any
    interaction: bool

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        heads: Mapping[str, nn.Module] | None = None,
        blocks: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        if not encoders or (heads is not None and set(heads) != set(encoders)):
            raise ValueError(f"one encoder and one head a modality, got encoders {[*encoders]} and heads {heads}")
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.heads = nn.ModuleDict({name: heads[name] for name in encoders} if heads else {})
        self.blocks = nn.ModuleList(blocks)
        self.interaction = len(self.blocks) > 0
        self.channels_last = False
        self.recompute = False

    @property
    def modalities(self) -> list[str]:
        """The modalities' names, in order."""
        return list(self.encoders)

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return next(iter(self.heads.values())).out_features if self.heads else self.fusion.n_classes

    @property
    def additive(self) -> bool:
        """Whether the joint logits are a sum of what the modalities contribute."""
        return self.fusion.additive

    def forward(self, inputs: Mapping[str, Tensor], hold: str | None = None) -> Outputs:
        """Classify a batch given as {modality: tensor with the batch first}.

        Arguments:
            hold: with blocks, the modality whose gates keep to their running mean.

        Raises:
            InputError: a modality of the network is not among the inputs, or the reverse.
        """
        if set(inputs) != set(self.encoders):
            raise InputError(
                f"the model takes the modalities {', '.join(self.encoders)} but the batch has"
                f" {', '.join(inputs) or 'none'}; use the data set that the model was made for."
            )
        features = self._encode(inputs, hold)
        if self.heads:
            unimodal = {name: head(features[name]) for name, head in self.heads.items()}
        else:
            unimodal = {name: self.fusion.alone(name, feature) for name, feature in features.items()}
        return Outputs(self.fusion(features), unimodal, features, self.fusion.contributions(features))

    def _encode(self, inputs: Mapping[str, Tensor], hold: str | None) -> dict[str, Tensor]:
        maps = {name: _channels_last(inputs[name]) if self.channels_last else inputs[name] for name in self.encoders}
        if not self.blocks:
            run = encode if self.recompute else _call
            return {name: run(encoder, maps[name]) for name, encoder in self.encoders.items()}
        run = recomputed if self.recompute else _call
        batch = len(next(iter(maps.values())))
        stages = {name: encoder.stages() for name, encoder in self.encoders.items()}
        plain = len(next(iter(stages.values()))) - len(self.blocks)
        for number in range(plain + len(self.blocks)):
            maps = {name: run(stages[name][number], x) for name, x in maps.items()}
            if number >= plain:
                maps = self.blocks[number - plain](maps, batch, hold)
        return {name: encoder.pool(maps[name], batch) for name, encoder in self.encoders.items()}

    def bypass(self) -> dict[str, list[nn.Parameter]]:
        """Modality → the blocks' parameters that its gates depend on: its own, and those that all share."""
        shared = [p for block in self.blocks for p in block.squeeze.parameters()]
        return {name: shared + [p for b in self.blocks for p in b.excite[name].parameters()] for name in self.encoders}

    def lay_out_channels_last(self) -> None:
        """Put the channels of images and of convolutions' weights last in memory, for good; the shapes stay."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch declares it for a tensor only
        self.channels_last = True

    def train_parts(self, *, joint: bool, unimodal: bool) -> None:
        """Train what the losses that are descended reach; the encoders stay as they are.

        Elsewhere a gradient may be zero in place of None (in compiled and replicated models), and weight decay would
        shrink the weights.
        """
        self.fusion.requires_grad_(joint or (unimodal and not self.heads))
        self.heads.requires_grad_(unimodal)


def _call(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return part(x)


def _channels_last(x: Tensor) -> Tensor:
    """Images (B, …, C, H, W) with C last in memory, also where encoders see them as (B·…, C, H, W); others as is."""
    if x.dim() < 4:
        return x
    return x.flatten(0, -4).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:-3])


HEADS = ("own", "shared")


def build_network(
    channels: Mapping[str, int],
    n_classes: int,
    *,
    encoder: str = "resnet18",
    fusion: str = "concat",
    heads: str = "own",
    blocks: str | None = None,
    pretrained: Path | None = None,
) -> MultimodalNetwork:
    """The network of the papers' setting, with freshly initialised weights (`released_initialisation`).

    Arguments:
        channels: modality → channels of its input; the order is that of the modalities.
        n_classes: number of classes.
        encoder: a name in `ENCODERS`; every modality gets one of its own.
        fusion: a name in `FUSIONS`.
        heads: "own", a linear head a modality; or "shared", unimodal predictions by the fusion (DGL).
        blocks: a name in `BLOCKS`, put after the encoders' last three stages; none where None.
        pretrained: a local file of ImageNet weights for the encoders (`load_pretrained`).

    Raises:
        InputError: an unknown name, parts that do not fit together, or a weight file that cannot be read.
    """
    if heads not in HEADS:
        raise InputError(f"heads is {heads!r}; it must be {HEADS[0]!r} or {HEADS[1]!r}.")
    encoders = {name: ENCODERS[encoder](count) for name, count in channels.items()}
    sizes = {name: module.feature_size for name, module in encoders.items()}
    own = {name: nn.Linear(size, n_classes) for name, size in sizes.items()} if heads == "own" else None
    try:
        fused = FUSIONS[fusion](sizes, n_classes)
    except ValueError as error:
        raise InputError(f"--fusion {FUSIONS.name(fusion)}: {error}.") from error
    network = MultimodalNetwork(encoders, fused, own, _blocks(blocks, encoder, encoders) if blocks else ())
    released_initialisation(network)
    if pretrained is not None:
        for module in encoders.values():
            load_pretrained(module, pretrained)
    return network


def _blocks(kind: str, encoder: str, encoders: Mapping[str, Any]) -> list[nn.Module]:
    """A block after each of the encoders' last three stages, as Wu et al. have them."""
    block = BLOCKS[kind]
    if not all(hasattr(module, "stages") and len(module.widths) >= 3 for module in encoders.values()):
        raise InputError(f"{kind} blocks follow an encoder's last three stages, and {encoder} has none; take resnet18.")
    widths = [{name: module.widths[stage] for name, module in encoders.items()} for stage in (-3, -2, -1)]
    return [block(widths_there) for widths_there in widths]
