"""Unimodal training: one modality, or one task, without the others."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor

from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses, collect, split_entry


class Unimodal(PlainSum):
    """Unimodal training: descend one modality's unimodal loss alone, ignoring the other modalities.

    train.py reads and builds nothing else: the network has one encoder, and its only head is the joint head. In your
    own model, parameters that the modality's loss does not reach keep `.grad` None. One forward and one backward pass
    over one encoder.

    Where an encoder has several tasks, `task` chooses one of them, and the encoder learns from its loss alone: the
    single-task baseline of multi-task learning. train.py then builds no head for the other tasks.

    Arguments:
        modality: name of the modality; may be omitted if there is only one.
        task: name of the task; may be omitted if no encoder has several.

    Raises:
        ValueError: `backward`: there are several modalities or tasks and none is chosen, or the chosen one has no loss.
    """

    source = "the common unimodal baseline"
    network = MappingProxyType({"heads": "shared"})
    descends_joint = False

    def __init__(self, modality: str | None = None, task: str | None = None) -> None:
        super().__init__()
        self.modality, self.task = modality, task
        self.modalities = None if modality is None else (modality,)
        self.tasks = None if task is None else (task,)

    def begin_training(self, context: TrainingContext) -> None:
        """Reject a network with several modalities or tasks if none is chosen, or without the chosen one."""
        self._choose(context.network.modalities)
        self._choose_task(getattr(context.network, "tasks", []))

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the modality's own loss, or the task's, and its own encoder."""
        chosen = self._choose(unimodal if self.modality in unimodal else encoders)
        if chosen not in encoders:
            raise ValueError(f"modality {chosen!r} has no encoder: add encoders[{chosen!r}]")
        parameters, losses = split_entry(encoders[chosen], [chosen])
        loss = self._choose_task(losses) or losses[0]
        return collect(None, {loss: unimodal.get(loss)}, {chosen: (parameters, [loss])})

    def _choose_task(self, tasks: Sequence[str]) -> str | None:
        known = ", ".join(tasks) or "none"
        if self.task is None and len(tasks) > 1:
            raise ValueError(
                f"single-task training uses one of the tasks, {known}: choose it by `task` (train.py: --task)"
            )
        if self.task is not None and self.task not in tasks:
            raise ValueError(f"task {self.task!r} is not among the tasks, {known}: choose one of these")
        return self.task

    def _choose(self, names: Any) -> str:
        if self.modality in names:
            return str(self.modality)
        if self.modality is None and len(names) == 1:
            return str(next(iter(names)))
        known = ", ".join(names) or "none"
        if self.modality is None:
            raise ValueError(
                f"unimodal training uses one of the modalities, {known}: choose it by `modality` (train.py: --modality)"
            )
        raise ValueError(f"modality {self.modality!r} is not among the modalities, {known}: choose one of these")
