"""Base class of methods that scale the joint loss's gradients per modality."""

import abc
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.linear_algebra import at_least_float32
from mmpareto.integration.methods.plain_sum import JointLoss
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses
from mmpareto.integration.report import EncoderReport

# κ = 1 − tanh(43) ≈ 9e-38 is still a normal float32 number: a coefficient never vanishes.
LARGEST_ARGUMENT = 43.0
COMPARISONS = ("mean", "balancebenchmark")


class Modulation(JointLoss):
    """Base class of methods that descend the joint loss and scale encoder k's gradients by a coefficient κ_k.

    A subclass implements `coefficients`, called once per step, and `modulate`, called for every parameter tensor for
    which `acts_on` is true. The report's metrics are the coefficients, named `coefficient_<modality>`. One backward
    pass. An encoder without such a parameter is refused: the report would show a coefficient, and the gradients would
    be those of joint training.
    """

    nothing_to_modulate: ClassVar[str] = "finds nothing to modulate in encoder {name!r}: all its parameters are 1-D"
    """The sentence, after the method's title, about an encoder without a parameter that κ acts on."""

    def __init__(self) -> None:
        super().__init__()
        self._coefficients: dict[str, Tensor] = {}

    @abc.abstractmethod
    def coefficients(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Return modality → κ, () float64, for at least every encoder, and update the state between steps."""

    def acts_on(self, parameter: Tensor) -> bool:
        """Return whether κ acts on this parameter of an encoder, or on this gradient of one: by default, True."""
        return True

    @abc.abstractmethod
    def modulate(self, gradient: Tensor, coefficient: Tensor) -> Tensor:
        """Return a parameter's new gradient, given the joint loss's gradient and κ () on its device."""

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the joint loss, after checking that there is something to modulate in every encoder."""
        objectives = super().objectives(joint, unimodal, encoders, outputs, labels)
        for name, encoder in objectives.encoders.items():
            self.check_encoder(name, encoder.parameters)
        return objectives

    def check_encoder(self, name: str, parameters: Iterable[Tensor]) -> None:
        """Raise ValueError if an encoder has trainable parameters, but none that κ acts on."""
        trainable = [p for p in parameters if p.requires_grad]
        if trainable and not any(self.acts_on(p) for p in trainable):
            raise ValueError(f"{self.title} {self.nothing_to_modulate.format(name=name)}")

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Compute the coefficients of the step, and return them as metrics."""
        self._coefficients = self.coefficients(objectives, gradients)
        return {f"coefficient_{name}": self._coefficients[name] for name in objectives.encoders}

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Return the modulated gradient of the joint loss."""
        kappa = self._coefficients[modality]
        return [
            None if g is None else self.modulate(g, kappa.to(g.device)) if self.acts_on(g) else g.clone()
            for g in gradients[0]
        ], None


def slowed(rho: Tensor, alpha: float) -> Tensor:
    """Return 1 − tanh(α·ρ) where ρ > 1, else 1, without cancellation."""
    kappa = 2 / (1 + torch.exp(2 * (alpha * rho).clamp(max=LARGEST_ARGUMENT)))
    return torch.where(rho > 1, kappa, torch.ones_like(rho))


def with_noise(modulated: Tensor, gradient: Tensor) -> Tensor:
    """Return `modulated` + N(0, std(gradient)²), drawn from PyTorch's generator of the device."""
    std = gradient.double().std(correction=min(1, gradient.numel() - 1))  # 0 for a single element; no square overflows
    noise = torch.randn_like(at_least_float32(gradient))
    return modulated + noise * std.to(noise.dtype)
