"""Past two backward passes, as an approximation: what was decided at one step is used at the steps after it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.gradients import Gradients, differentiate, judge, separate_passes
from mmpareto.integration.linear_algebra import combine
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import Encoder, Objectives, leaves
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
        features = features_of(outputs, objectives)
        self.between = 0 < self.age < self.refresh and set(objectives.encoders) <= set(self.decided)
        if not self.between:
            return super().differentiate(objectives, outputs, scale)
        weights = {modality: self.decided[modality]["weights"] for modality in objectives.encoders}
        return mixed_gradients(objectives, features, weights, scale)

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


def mixed_gradients(
    objectives: Objectives,
    features: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    scale: float | Tensor | None,
) -> Gradients:
    """The gradients of Σ 2αᵢ Lᵢ at the encoders, one list for each, and those of the plain sum elsewhere.

    Arguments:
        features: modality → its encoder's output, as `features_of` returns them.
        weights: modality → (1, 2) α.
    """
    cut = {modality: Encoder([features[modality]], e.objectives) for modality, e in objectives.encoders.items()}
    at_outputs = dataclasses.replace(objectives, encoders=cut)
    gradients = differentiate(at_outputs, separate_passes(at_outputs), scale)

    cotangents: dict[str, Tensor] = {}
    with torch.no_grad():
        for modality, feature in features.items():
            (mixed,) = combine(gradients.encoders[modality], weights[modality])
            if mixed is not None:
                cotangents[modality] = mixed.to(feature.dtype)
    inputs = [p for modality in cotangents for p in objectives.encoders[modality].parameters]
    found = torch.autograd.grad([features[m] for m in cotangents], inputs, [*cotangents.values()], allow_unused=True)

    gradient = dict(zip(inputs, found, strict=True))
    finite = dict(zip(objectives.losses, gradients.finite.unbind(), strict=True))
    for modality, encoder in objectives.encoders.items():
        own = [gradient.get(p) for p in encoder.parameters]
        judge(finite, encoder.objectives, [g for g in own if g is not None])
        gradients.encoders[modality] = [own]
    gradients.finite = torch.stack([*finite.values()])
    return gradients


def features_of(outputs: Any, objectives: Objectives) -> dict[str, Tensor]:
    """The encoders' outputs among the model's, where it is sure that gradients may be mixed there.

    Raises:
        ValueError: there are none; an encoder has not two objectives; encoders exchange information; a feature depends
            on more than its encoder; a loss reaches an encoder in another way.
    """
    if objectives.interaction:
        raise ValueError("refresh needs encoders that exchange nothing inside, not interaction=True")
    given = getattr(outputs, "features", None)
    if not isinstance(given, Mapping):
        raise ValueError("refresh needs the encoders' outputs, outputs.features by modality: pass outputs")
    features: dict[str, Tensor] = {}
    for modality, encoder in objectives.encoders.items():
        if len(encoder.objectives) != 2:
            raise ValueError(f"refresh needs two objectives an encoder; {modality!r} has {len(encoder.objectives)}")
        feature = given.get(modality)
        if not isinstance(feature, Tensor) or feature.grad_fn is None:
            raise ValueError(f"refresh needs outputs.features[{modality!r}] as encoder {modality!r} computed it")
        own = {id(p) for p in encoder.parameters}
        if not all(id(leaf) in own for leaf in leaves([feature])):
            raise ValueError(
                f"refresh needs outputs.features[{modality!r}] to depend on encoder {modality!r} alone, but it depends "
                "on other trainable tensors, too"
            )
        features[modality] = feature
    owner = {id(p): modality for modality, encoder in objectives.encoders.items() for p in encoder.parameters}
    for name, loss in objectives.losses.items():
        for leaf in leaves([loss], features.values()):
            if id(leaf) in owner:
                raise ValueError(
                    f"refresh needs losses that reach the encoders through outputs.features alone, but loss {name!r} "
                    f"reaches encoder {owner[id(leaf)]!r} in another way (as in compiled and in replicated models)"
                )
    return features
