"""One modality alone: what its encoder reaches without the others."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, collect


class Unimodal(PlainSum):
    """Descend one modality's unimodal loss alone; the other modalities are not looked at.

    In train.py nothing else is read or built: the network has one encoder, and its one head is the joint head. In a
    model of your own, what the modality's loss does not reach stays as it is, with `.grad` None. One forward and one
    backward pass over one encoder.

    Arguments:
        modality: the modality's name; may be left out where there is only one.

    Raises:
        ValueError: `backward`: there are several modalities and none is chosen, or the one chosen has no loss.
    """

    source = "the unimodal baseline of all"
    network = MappingProxyType({"heads": "shared"})
    descends_joint = False

    def __init__(self, modality: str | None = None) -> None:
        super().__init__()
        self.modality = modality
        self.modalities = None if modality is None else (modality,)

    def begin_training(self, loop: TrainingContext) -> None:
        """Refuse a network of several modalities."""
        self._choose(loop.network.modalities)

    def objectives(
        self, joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """The modality's own loss and its own encoder."""
        chosen = self._choose(unimodal)
        if chosen not in encoders:
            raise ValueError(f"modality {chosen!r} has no encoder: add encoders[{chosen!r}]")
        return collect(None, {chosen: unimodal[chosen]}, {chosen: encoders[chosen]})

    def _choose(self, names: Any) -> str:
        if self.modality in names:
            return str(self.modality)
        if self.modality is None and len(names) == 1:
            return str(next(iter(names)))
        found = ", ".join(names) or "none"
        if self.modality is None:
            raise ValueError(f"unimodal training is of one of the modalities, {found}: choose it by `modality`")
        raise ValueError(f"modality {self.modality!r} is not among the unimodal losses, {found}: choose one that is")
