"""The update of a step without and with cross terms, side by side.

Where encoders interact, the unimodal loss of modality j also reaches encoder k. Leaving these cross terms out takes a
backward pass per loss; including them takes one pass for all unimodal losses, but a different step. Both steps are
computed here from the same losses and the same state of the method, by the method itself, so that the comparison is of
what the optimizer would be given, whatever the method does with the gradients. (The gradients that the recorder keeps
do not do: they are of the objectives without cross terms alone.)
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients, differentiate
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import Encoders, Objectives

CROSS_COSINE, CROSS_DIFFERENCE = "cross_cosine", "cross_difference"
Update = dict[str, list[Tensor | None]]  # modality → gradient per parameter


@dataclasses.dataclass
class _Step:
    """A step that a copy of the method takes; `objectives` without their losses."""

    method: Method
    excluded: bool
    objectives: Objectives | None = None
    gradients: Gradients | None = None


class CrossTermComparison:
    """Compares the two updates of one step; the method and `.grad` do not change.

    Arguments:
        method: in its state before the step.
    """

    def __init__(self, method: Method) -> None:
        self._steps = [_Step(copy.deepcopy(method), excluded) for excluded in (True, False)]

    def add(
        self,
        joint: Tensor | None,
        unimodal: Mapping[str, Tensor],
        encoders: Encoders,
        outputs: Any,
        labels: Tensor | None,
        scale: Tensor | None,
    ) -> None:
        """Differentiate the losses of the step, or of one of its micro-batches, keeping their graph.

        Arguments: those of `Method.backward`.
        """
        for step in self._steps:
            objectives = step.method.objectives(joint, unimodal, encoders, outputs, labels)
            objectives.interaction = step.excluded
            gradients = differentiate(objectives, step.method.passes(objectives), scale, retain_graph=True)
            with torch.no_grad():
                gradients.statistics = step.method.statistics(outputs, labels, objectives)
            step.gradients = gradients if step.gradients is None else step.gradients.added(gradients)
            step.objectives = dataclasses.replace(objectives, losses={}, features=None)  # frees the graph

    @torch.no_grad()
    def finish(self) -> dict[str, Tensor]:
        """Integrate both, and compare them.

        Returns:
            cross_cosine_<modality>: () float32, the cosine between the encoder's updates without and with cross terms;
            cross_difference_<modality>: () float32, the norm of their difference over that of the update without. NaN
            where an update is zero.
        """
        without, included = (self._integrate(step) for step in self._steps)
        metrics: dict[str, Tensor] = {}
        for modality, exact in without.items():
            dot, exact_square, other_square, difference_square = _inner_products(exact, included[modality])
            metrics[f"{CROSS_COSINE}_{modality}"] = (dot / (exact_square * other_square).sqrt()).clamp(-1, 1).float()
            difference = (difference_square / exact_square).sqrt().where(exact_square > 0, torch.nan)
            metrics[f"{CROSS_DIFFERENCE}_{modality}"] = difference.float()
        return metrics

    def _integrate(self, step: _Step) -> Update:
        assert step.objectives is not None and step.gradients is not None
        method, objectives, gradients = step.method, step.objectives, step.gradients
        if (reducer := method.active_reducer) is not None:
            passes = method.passes(objectives)
            reducer.begin(objectives, passes).finish(objectives, passes, gradients)
        device = gradients.scale.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # both draw the same numbers
            method.prepare(objectives, gradients)
            return {
                modality: method.integrate(modality, lists, gradients.scale)[0]
                for modality, lists in gradients.encoders.items()
                if lists
            }


def _inner_products(exact: list[Tensor | None], other: list[Tensor | None]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """⟨e, o⟩, ‖e‖², ‖o‖² and ‖e − o‖², () float64 each, over all parameters; None counts as zero."""
    pairs = [(a, b) for a, b in zip(exact, other, strict=True) if a is not None or b is not None]
    sums = torch.zeros(4, dtype=torch.float64)
    for a, b in pairs:
        like = a if a is not None else b
        assert like is not None
        e, o = (torch.zeros_like(like, dtype=torch.float64) if x is None else x.double() for x in (a, b))
        values = torch.stack([(e * o).sum(), e.square().sum(), o.square().sum(), (e - o).square().sum()])
        sums = sums.to(values.device) + values
    dot, exact_square, other_square, difference_square = sums.unbind()
    return dot, exact_square, other_square, difference_square
