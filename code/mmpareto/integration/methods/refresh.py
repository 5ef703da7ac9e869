"""Past two backward passes, as an approximation: what was decided at one step is used at the steps after it."""

import math
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.by_encoder import NotSeparableError, differentiate_by_encoder, features_of
from mmpareto.integration.gradients import Gradients
from mmpareto.integration.linear_algebra import combine
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.report import EncoderReport


class Refreshed(Method):
    """Base of a method whose step is h = β Σ 2αᵢ gᵢ, where α and the magnitude β are those of the whole encoder.

    They are decided at every K-th step, from the gradients gᵢ at the encoder's parameters θ, and are used at the K − 1
    steps after it, too. There, with x the encoder's output, gᵢ = (∂x/∂θ)ᵀ ∂Lᵢ/∂x, so that

        h = β (∂x/∂θ)ᵀ (2α₁ ∂L₁/∂x + 2α₂ ∂L₂/∂x)

    takes one backward pass through the encoders, of cotangents that are mixed at their outputs; ∂Lᵢ/∂x needs fusion and
    heads alone. What lies outside the encoders takes the plain sum at every step. A backward pass being two forward
    passes, K steps take 3K + 2 where the plain sum takes 3K: 1 + 0.67/K times as much.

    A step that is not finite decides nothing: the last decision stays, or the plain sum where there is none. In the
    report of a step between, weights, conflict and rescaling are those in use; cosine and norms, which are not known,
    are NaN.

    With K > 1, `backward` needs `outputs` with `features`: modality → the encoder's output, through which alone the
    losses reach the encoder, and which depends on no other trainable tensor. Each encoder has two objectives.

    Arguments:
        refresh: K ≥ 1; with 1, every step decides, and nothing is asked or kept.

    Raises:
        ValueError: K is below 1; `backward`: the outputs or the model are not as they must be.
    """

    def __init__(self, refresh: int) -> None:
        super().__init__()
        if refresh < 1:
            raise ValueError(f"refresh must be at least 1, not {refresh}")
        self.refresh = refresh
        self.memory = ("age", "decided") if refresh > 1 else ()
        self.age = 0  # steps taken with what is decided
        self.decided: dict[str, dict[str, Tensor]] = {}
        self.between = False
        self._finite = torch.tensor(True)

    def differentiate(self, objectives: Objectives, outputs: Any, scale: float | Tensor | None) -> Gradients:
        """Both gradients of every encoder, or, between two decisions, the mixed one alone."""
        if self.refresh == 1:
            return super().differentiate(objectives, outputs, scale)
        for modality, encoder in objectives.encoders.items():
            if len(encoder.objectives) != 2:
                raise ValueError(f"refresh needs two objectives an encoder; {modality!r} has {len(encoder.objectives)}")
        try:
            features = features_of(outputs, objectives)
        except NotSeparableError as reason:
            raise ValueError(f"refresh needs {reason}") from None
        self.between = 0 < self.age < self.refresh and set(objectives.encoders) <= set(self.decided)
        if not self.between:
            return super().differentiate(objectives, outputs, scale)
        return differentiate_by_encoder(objectives, features, self.passes(objectives), scale, self._mixed)

    def _mixed(self, modality: str, cotangents: list[Tensor | None]) -> list[Tensor | None]:
        """2α₁ ∂L₁/∂x + 2α₂ ∂L₂/∂x, as the one cotangent of the encoder's output x."""
        return combine([[cotangent] for cotangent in cotangents], self.decided[modality]["weights"])

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Count the step: once for all its micro-batches."""
        self.age = self.age + 1 if self.between else 1
        self._finite = gradients.finite.all()
        return {}

    def decide(self, modality: str, **factors: Tensor) -> None:
        """Keep what was decided for an encoder, unless the step is not finite.

        Arguments:
            factors: weights (1, 2), conflict (1,) bool, rescale (1,), magnitude (1,).
        """
        if self.refresh == 1:
            return
        plain = {"weights": 0.5, "conflict": False, "rescale": 1.0, "magnitude": 1.0}
        before = self.decided.get(modality) or {n: torch.full_like(t, plain[n]) for n, t in factors.items()}
        finite = torch.stack([factor.isfinite().all() for factor in factors.values()]).all()
        finite = finite & self._finite.to(finite.device)
        kept = {name: torch.where(finite, new, before[name].to(new.device)) for name, new in factors.items()}
        self.decided = self.decided | {modality: kept}

    def as_decided(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport]:
        """What `integrate` returns between two decisions, from the mixed gradient."""
        factors = {name: factor.to(scale.device) for name, factor in self.decided[modality].items()}
        combined = combine(gradients, factors["magnitude"].expand(len(gradients[0]), 1))
        norms = torch.full_like(factors["weights"][0], math.nan)
        return combined, EncoderReport(norms[0], norms, factors["weights"], factors["conflict"], factors["rescale"])
