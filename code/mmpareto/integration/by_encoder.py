"""The gradients of one step in two stages: at the encoders' outputs, then through one encoder after another."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.gradients import Gradients, Pass, differentiate, judge
from mmpareto.integration.objectives import Encoder, Objectives, leaves

Mix = Callable[[str, list[Tensor | None]], list[Tensor | None]]


class NotSeparableError(ValueError):
    """The encoders' outputs do not tell all that an encoder has to do with the losses; says why."""


def differentiate_by_encoder(
    objectives: Objectives,
    features: Mapping[str, Tensor],
    passes: Sequence[Pass],
    scale: float | Tensor | None = None,
    mix: Mix | None = None,
) -> Gradients:
    """What `differentiate` returns, from less memory: an encoder's graph is freed before the next one is entered.

    With x an encoder's output and θ its parameters, gᵢ = (∂x/∂θ)ᵀ ∂Lᵢ/∂x. All ∂Lᵢ/∂x come first: `passes` through
    fusion and heads alone. Then each takes one backward pass through its encoder. That is the work of `differentiate`,
    but while an encoder's graph is kept for its second objective, gradients of that encoder lie beside it, not of all.

    Arguments:
        features: modality → the encoder's output, as `features_of` returns them.
        mix: (modality, ∂Lᵢ/∂x an objective, None where it does not reach) → what goes through the encoder in their
            place; called without a graph.

    Raises:
        ValueError: a loss does not reach its encoder.
    """
    cut = {modality: Encoder([features[modality]], e.objectives) for modality, e in objectives.encoders.items()}
    gradients = differentiate(dataclasses.replace(objectives, encoders=cut), passes, scale)
    finite = dict(zip(objectives.losses, gradients.finite.unbind(), strict=True))
    for modality, encoder in objectives.encoders.items():
        feature, cotangents = features[modality], [own[0] for own in gradients.encoders[modality]]
        differentiated = [run.own(encoder) for run in passes if modality in run.encoders]
        differentiated.sort(key=lambda losses: encoder.objectives.index(losses[0]))  # as their gradients are
        if mix is not None:
            with torch.no_grad():
                cotangents = mix(modality, cotangents)
            differentiated = [encoder.objectives]
        gradients.encoders[modality] = []
        for place, cotangent in enumerate(cotangents):
            own: Sequence[Tensor | None] = [None] * len(encoder.parameters)
            if cotangent is not None:
                own = torch.autograd.grad(
                    feature,
                    encoder.parameters,
                    cotangent.to(feature.dtype),
                    retain_graph=place + 1 < len(cotangents),
                    allow_unused=True,
                )
            judge(finite, differentiated[place], [g for g in own if g is not None])
            gradients.encoders[modality].append([*own])
    gradients.finite = torch.stack([*finite.values()])
    return gradients


def features_of(outputs: Any, objectives: Objectives) -> dict[str, Tensor]:
    """Modality → the encoder's output among the model's, where each stands for all that losses see of its encoder.

    Raises:
        NotSeparableError: there are none; encoders exchange information; a feature depends on more than its encoder;
            a loss reaches an encoder in another way.
    """
    if objectives.interaction:
        raise NotSeparableError("encoders that exchange nothing inside, not interaction=True")
    given = getattr(outputs, "features", None)
    if not isinstance(given, Mapping):
        raise NotSeparableError("the encoders' outputs, outputs.features by modality: pass outputs")
    features: dict[str, Tensor] = {}
    for modality, encoder in objectives.encoders.items():
        feature = given.get(modality)
        if not isinstance(feature, Tensor) or feature.grad_fn is None:
            raise NotSeparableError(f"outputs.features[{modality!r}] as encoder {modality!r} computed it")
        own = {id(p) for p in encoder.parameters}
        if not all(id(leaf) in own for leaf in leaves([feature])):
            raise NotSeparableError(
                f"outputs.features[{modality!r}] to depend on encoder {modality!r} alone, but it depends on other "
                "trainable tensors, too"
            )
        features[modality] = feature
    owner = {id(p): modality for modality, encoder in objectives.encoders.items() for p in encoder.parameters}
    for name, loss in objectives.losses.items():
        for leaf in leaves([loss], features.values()):
            if id(leaf) in owner:
                raise NotSeparableError(
                    f"losses that reach the encoders through outputs.features alone, but loss {name!r} reaches encoder "
                    f"{owner[id(leaf)]!r} in another way (as in compiled and in replicated models)"
                )
    return features
