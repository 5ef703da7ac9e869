"""What the methods share that hold back or help a modality, as it does worse or better than the others."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, collect_joint
from mmpareto.integration.report import EncoderReport


class Modulation(PlainSum):
    """Base of the methods that descend the joint loss, with a coefficient κ_k on some of encoder k's gradients.

    A subclass says `coefficients`, once a step, and `modulate`, tensor by tensor. The report's figures are the
    coefficients, as `coefficient_<modality>`. One backward pass.
    """

    descends_unimodal = False
    title: ClassVar[str]
    """The method's name in messages."""

    def __init__(self) -> None:
        super().__init__()
        self._coefficients: dict[str, Tensor] = {}

    @abc.abstractmethod
    def coefficients(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Modality → κ, () float64, for every encoder at least; the place for what is kept between steps."""

    @abc.abstractmethod
    def modulate(self, gradient: Tensor, coefficient: Tensor) -> Tensor:
        """A parameter's new gradient, given the one of the joint loss; the coefficient is on its device."""

    def objectives(
        self, joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """The joint loss, for everything that it reaches."""
        return collect_joint(joint, encoders, self.title)

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """The coefficients of the step."""
        self._coefficients = self.coefficients(objectives, gradients)
        return {f"coefficient_{name}": self._coefficients[name] for name in objectives.encoders}

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """The joint loss's gradient, modulated."""
        own = self._coefficients[modality]
        return [None if g is None else self.modulate(g, own.to(g.device)) for g in gradients[0]], None


def check_epochs(first: int, last: int) -> None:
    """Raise ValueError unless `modulation_starts` and `modulation_ends` are epochs, from 0, in this order."""
    if not 0 <= first <= last:
        raise ValueError(
            "modulation_starts must be at least 0 and modulation_ends no less than it, not"
            f" modulation_starts {first} and modulation_ends {last}"
        )


def true_class_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Σᵢ softmax(logits)[i, yᵢ], () float64 without a graph, for logits (B, C) and labels (B,)."""
    probabilities = logits.detach().double().softmax(1)
    return probabilities.gather(1, labels.to(logits.device).unsqueeze(1)).sum()
