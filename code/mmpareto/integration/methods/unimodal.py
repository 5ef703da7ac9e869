"""Unimodal training: one modality without the others."""

from types import MappingProxyType
from typing import Any

from torch import Tensor

from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses, collect


class Unimodal(PlainSum):
    """Unimodal training: descend one modality's unimodal loss alone, ignoring the other modalities.

    train.py reads and builds nothing else: the network has one encoder, and its only head is the joint head. In your
    own model, parameters that the modality's loss does not reach keep `.grad` None. One forward and one backward pass
    over one encoder.

    Arguments:
        modality: name of the modality; may be omitted if there is only one.

    Raises:
        ValueError: `backward`: there are several modalities and none is chosen, or the chosen one has no loss.
    """

    source = "the common unimodal baseline"
    network = MappingProxyType({"heads": "shared"})
    descends_joint = False

    def __init__(self, modality: str | None = None) -> None:
        super().__init__()
        self.modality = modality
        self.modalities = None if modality is None else (modality,)

    def begin_training(self, context: TrainingContext) -> None:
        """Reject a network with several modalities if none is chosen, or without the chosen one."""
        self._choose(context.network.modalities)

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the modality's own loss and its own encoder."""
        chosen = self._choose(unimodal if self.modality in unimodal else encoders)
        if chosen not in encoders:
            raise ValueError(f"modality {chosen!r} has no encoder: add encoders[{chosen!r}]")
        return collect(None, {chosen: unimodal.get(chosen)}, {chosen: encoders[chosen]})

    def _choose(self, names: Any) -> str:
        if self.modality in names:
            return str(self.modality)
        if self.modality is None and len(names) == 1:
            return str(next(iter(names)))
        known = ", ".join(names) or "none"
        if self.modality is None:
            raise ValueError(f"unimodal training uses one of the modalities, {known}: choose it by `modality`")
        raise ValueError(f"modality {self.modality!r} is not among the modalities, {known}: choose one of these")
