"""The network: one encoder per modality, a fusion module with the joint head, and one unimodal head per modality.

For several tasks: one encoder that they share, and one head per task.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmpareto.errors import InputError
from mmpareto.models.activation_checkpointing import encode_recomputed, recomputed

ABSENT = ("feature", "contribution", "input")


class Outputs(NamedTuple):
    """Outputs of the network for B samples and C classes.

    Only tensors and dicts of tensors by modality: DataParallel gathers nothing else. In contrastive pre-training,
    projections of length D take the place of logits: (B, modalities, D) in `joint`, (B, D) in `unimodal`.
    """

    joint: Tensor | None
    """Joint logits (B, C); None for several tasks, which have no prediction in common."""
    unimodal: dict[str, Tensor]
    """Modality → logits (B, C) of its own head, or of the fusion applied to its feature alone; task → its logits."""
    features: dict[str, Tensor]
    """Modality → feature (B, feature size) of its encoder."""
    contributions: dict[str, Tensor]
    """Modality → its contribution (B, C) to the joint logits; {} unless the fusion is additive."""


class MultimodalNetwork(nn.Module):
    """Encodes every modality, fuses the features, and classifies jointly and from each modality alone.

    Arguments:
        encoders: modality → module that maps its input to (B, feature size); sizes may differ. Their order is the order
            of modalities everywhere.
        fusion: module that maps {modality: feature} to the joint logits; it includes the joint head.
        heads: modality → module that maps its feature to logits; None if the fusion predicts from one modality, too.
        blocks: modules through which the encoders exchange information, one after each of their last stages: the MMTM
            gates between ResNets, or MBT's bottleneck tokens, which travel with the tokens of every modality. A block
            maps {modality: map}, the batch size and `hold` to {modality: map}, for the modalities that are given.
            Blocks need encoders with `stages()`, the functions that lead from the input to the last map, and `pool()`,
            from there to the feature. They are part of no encoder: like fusion and heads, they descend the plain sum of
            the losses that reach them.

    Attributes:
        frozen: modality → the parameters that `train_parts` has frozen, for encoders that are not trained at present:
            without gradients, and in evaluation mode.
        interaction: whether a unimodal loss reaches encoders other than its own.
        channels_last: whether images have their channels last in memory (`to_channels_last`).
        recompute: whether the encoders' activations are recomputed in the backward pass instead of kept.
        absent: how the joint prediction does without a modality that the inputs lack (`Hooks.absent` of the method).
            "feature": the fusion leaves its feature out. "contribution": the joint logits are the sum of the other
            modalities' contributions. "input": its input is zeros.
        input_shapes: modality → shape of its input without the batch dimension, for `absent` = "input".
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
            raise ValueError(f"one encoder and one head per modality, got encoders {[*encoders]} and heads {heads}")
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.heads = nn.ModuleDict({name: heads[name] for name in encoders} if heads else {})
        self.blocks = nn.ModuleList(blocks)
        self.frozen: dict[str, list[nn.Parameter]] = {}
        self.interaction = len(self.blocks) > 0
        self.channels_last = False
        self.recompute = False
        self.absent = "feature"
        self.input_shapes: Mapping[str, Sequence[int]] = {}

    @property
    def modalities(self) -> list[str]:
        """The names of the modalities, in order."""
        return list(self.encoders)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks of a `MultiTaskNetwork`, in order; [] here."""
        return []

    @property
    def head_names(self) -> list[str]:
        """The names of the predictions beside the joint one: the modalities, or the tasks."""
        return self.tasks or self.modalities

    @property
    def own_losses(self) -> dict[str, list[str]]:
        """Modality → the names of the losses, besides the joint one, that its encoder learns from."""
        return {name: [name] for name in self.encoders}

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return next(iter(self.heads.values())).out_features if self.heads else self.fusion.n_classes

    @property
    def additive(self) -> bool:
        """True if the joint logits are a sum of one contribution per modality."""
        return self.fusion.additive

    def forward(self, inputs: Mapping[str, Tensor], hold: str | None = None, alone: Tensor | None = None) -> Outputs:
        """Classify a batch.

        Arguments:
            inputs: modality → tensor with the batch first. A modality may be absent: the joint prediction then does
                without it (`absent`), and the outputs have no other entry for it.
            hold: with MMTM blocks, the modality whose gates are replaced by their running mean.
            alone: (B,) the number of the only modality whose feature is used, or −1 for all; the others are zeros.

        Raises:
            InputError: there is no input, or one of a modality that the network does not have.
        """
        self._check(inputs)
        given = [name for name in self.encoders if name in inputs]
        whole = len(given) == len(self.encoders)
        if not whole and self.absent == "input":
            inputs = self._with_zeros(inputs)
        names = [name for name in self.encoders if name in inputs]
        maps = self._maps({name: inputs[name] for name in names})
        encoded = self._encode_with_blocks(maps, hold) if self.blocks else self._encode(maps)
        if alone is not None:
            encoded = _alone(encoded, alone, self.modalities)
        features = {name: encoded[name] for name in given}
        if self.heads:
            unimodal = {name: self.heads[name](feature) for name, feature in features.items()}
        else:
            unimodal = {name: self.fusion.alone(name, feature) for name, feature in features.items()}
        contributions = self.fusion.contributions(features)
        if not whole and self.absent == "contribution" and contributions:
            return Outputs(torch.stack([*contributions.values()]).sum(0), unimodal, features, contributions)
        return Outputs(self.fusion(encoded), unimodal, features, contributions)

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        if not inputs or any(name not in self.encoders for name in inputs):
            raise InputError(
                f"the model takes the modalities {', '.join(self.encoders)} but the batch has"
                f" {', '.join(inputs) or 'none'}; use the data set that the model was made for."
            )

    def _maps(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs in the memory format of the network."""
        return {name: _channels_last(x) if self.channels_last else x for name, x in inputs.items()}

    def _with_zeros(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of all modalities, zeros for those that are absent."""
        given = next(iter(inputs.values()))
        inputs = dict(inputs)
        for name in self.encoders:
            if name not in inputs and name not in self.input_shapes:
                raise InputError(f"{name} is absent, and the size of its input is not known; set input_shapes.")
            if name not in inputs:
                inputs[name] = given.new_zeros(given.shape[0], *self.input_shapes[name])
        return inputs

    def _encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: encode_recomputed(self.encoders[name], x) if self.recompute else self.encoders[name](x)
            for name, x in inputs.items()
        }

    def _encode_with_blocks(self, maps: dict[str, Tensor], hold: str | None) -> dict[str, Tensor]:
        """All encoders stage by stage, with a block after each of the last stages."""
        batch = next(iter(maps.values())).shape[0]
        stages = {name: self.encoders[name].stages() for name in maps}
        for name in maps:
            for stage in stages[name][: -len(self.blocks)]:
                maps[name] = self._apply_stage(stage, maps[name])
        for index, block in enumerate(self.blocks, start=-len(self.blocks)):
            maps = block({name: self._apply_stage(stages[name][index], x) for name, x in maps.items()}, batch, hold)
        return {name: self.encoders[name].pool(x, batch) for name, x in maps.items()}

    def _apply_stage(self, stage: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return recomputed(stage, x) if self.recompute else stage(x)

    def bypass(self) -> dict[str, list[nn.Parameter]]:
        """Modality → the parameters of the blocks that its gates depend on: shared layers, then its own."""
        shared = [p for block in self.blocks for p in block.squeeze.parameters()]
        return {name: shared + [p for b in self.blocks for p in b.excite[name].parameters()] for name in self.encoders}

    def train(self, mode: bool = True) -> "MultimodalNetwork":
        """Set the training mode; frozen encoders stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.encoders[name].eval()
        return self

    def to_channels_last(self) -> None:
        """Store images and the weights of convolutions with their channels last from now on; shapes do not change."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch declares it for a tensor only
        self.channels_last = True

    def train_parts(self, *, joint: bool, unimodal: bool, encoders: bool | Collection[str] = True) -> None:
        """Make trainable what the descended losses reach, and freeze the other heads.

        Otherwise, an unused head's gradient may be zero instead of None (in compiled and replicated models), and
        weight decay would shrink its weights.

        Arguments:
            encoders: whether the encoders are trained, or the modalities of those that are. The others are frozen until
                a later call names them; what was frozen before, by others, stays so.
        """
        trained = list(encoders) if isinstance(encoders, Collection) else self.modalities if encoders else []
        for name, encoder in self.encoders.items():
            if name in trained:
                for parameter in self.frozen.pop(name, ()):
                    parameter.requires_grad_(True)
            elif name not in self.frozen:
                self.frozen[name] = [p for p in encoder.parameters() if p.requires_grad]
                encoder.requires_grad_(False)
            encoder.train(self.training and name in trained)
        self.fusion.requires_grad_(joint or (unimodal and not self.heads))
        for name in getattr(self.fusion, "joint_only", ()):
            getattr(self.fusion, name).requires_grad_(joint)
        self.heads.requires_grad_(unimodal)


class MultiTaskNetwork(MultimodalNetwork):
    """Encodes one input, and classifies its feature once per task.

    Outputs are those of `MultimodalNetwork`, with tasks in the place of modalities: `unimodal` maps a task to its
    logits. There is no joint prediction: `joint` is None, as is the joint loss of `Method.backward`.

    A class of its own, and not heads that are added to the other one, because nothing is fused: none of its options
    (fusion, shared heads, blocks, absent modalities) has a meaning here.

    Arguments:
        modality: name of the input.
        encoder: module that maps the input to (B, feature size).
        heads: task → module that maps the feature to logits (B, C); their order is that of the tasks everywhere.
    """

    def __init__(self, modality: str, encoder: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__({modality: encoder}, fusion=nn.Identity())
        if not heads:
            raise ValueError("several tasks need one head each, and there is none")
        self.heads = nn.ModuleDict(heads)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, in order."""
        return list(self.heads)

    @property
    def own_losses(self) -> dict[str, list[str]]:
        """The encoder learns from the losses of all tasks."""
        return dict.fromkeys(self.encoders, self.tasks)

    @property
    def additive(self) -> bool:
        """False: there are no joint logits."""
        return False

    def forward(self, inputs: Mapping[str, Tensor], hold: str | None = None, alone: Tensor | None = None) -> Outputs:
        """Classify a batch; see `MultimodalNetwork.forward`."""
        self._check(inputs)
        features = self._encode(self._maps(inputs))
        (feature,) = features.values()
        return Outputs(None, {task: head(feature) for task, head in self.heads.items()}, features, {})


def _alone(features: Mapping[str, Tensor], alone: Tensor, modalities: Sequence[str]) -> dict[str, Tensor]:
    """The features, with zeros for the samples that use another modality alone."""
    numbers = {name: modalities.index(name) for name in features}
    unused = {name: ((alone >= 0) & (alone != number)).unsqueeze(1) for name, number in numbers.items()}
    return {name: x.masked_fill(unused[name], 0) for name, x in features.items()}


def _channels_last(x: Tensor) -> Tensor:
    """Images (B, …, C, H, W) with C last in memory, also when an encoder views them as (B·…, C, H, W)."""
    if x.dim() < 4:
        return x  # not an image
    return x.flatten(0, -4).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:-3])
