"""Base class of methods that scale the joint loss's gradients per modality."""

import abc

from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.methods.plain_sum import JointLoss
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.report import EncoderReport


class Modulation(JointLoss):
    """Base class of methods that descend the joint loss and scale encoder k's gradients by a coefficient κ_k.

    A subclass implements `coefficients`, called once per step, and `modulate`, called per parameter tensor. The
    report's metrics are the coefficients, named `coefficient_<modality>`. One backward pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._coefficients: dict[str, Tensor] = {}

    @abc.abstractmethod
    def coefficients(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Return modality → κ, () float64, for at least every encoder, and update the state between steps."""

    @abc.abstractmethod
    def modulate(self, gradient: Tensor, coefficient: Tensor) -> Tensor:
        """Return a parameter's new gradient, given the joint loss's gradient and κ () on its device."""

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Compute the coefficients of the step, and return them as metrics."""
        self._coefficients = self.coefficients(objectives, gradients)
        return {f"coefficient_{name}": self._coefficients[name] for name in objectives.encoders}

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Return the modulated gradient of the joint loss."""
        kappa = self._coefficients[modality]
        return [None if g is None else self.modulate(g, kappa.to(g.device)) for g in gradients[0]], None
