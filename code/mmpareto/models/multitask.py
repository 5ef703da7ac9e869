"""The network for several tasks: one encoder that they share, and one head per task."""

from collections.abc import Mapping

from torch import Tensor, nn

from mmpareto.models.network import MultimodalNetwork, Outputs


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

    def forward(self, inputs: Mapping[str, Tensor], hold: str | None = None) -> Outputs:
        """Classify a batch; see `MultimodalNetwork.forward`."""
        self._check(inputs)
        features = self._encode(self._maps(inputs))
        (feature,) = features.values()
        return Outputs(None, {task: head(feature) for task, head in self.heads.items()}, features, {})
