"""Gradients of one step, per encoder and objective, in as few backward passes as possible.

There are two ways to compute the same gradients; `Method.differentiate` chooses between them:

- `differentiate`: each backward pass goes through all of its encoders at once.
- `differentiate_per_encoder`: the passes end at the encoders' outputs; then one encoder after another is differentiated
  and its graph is freed. This takes less memory, and is possible where `find_cut` finds that the losses depend on each
  encoder through its output alone.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.objectives import JOINT, Encoder, Objectives, graph_leaves

PassHook = Callable[[Sequence[Tensor], Sequence[list[Tensor | None]]], None]
Mix = Callable[[str, list[Tensor | None]], list[Tensor | None]]


@dataclasses.dataclass(frozen=True)
class Pass:
    """Losses that are differentiated together, by one backward pass over their sum.

    Attributes:
        losses: names of the losses.
        encoders: encoders that take the result as the gradient of one of their objectives; the others take nothing.
        outside: whether parameters outside the encoders take the result as well.
    """

    losses: list[str]
    encoders: list[str]
    outside: bool = True

    def objectives_of(self, encoder: Encoder) -> list[str]:
        """Losses of this pass that are objectives of the encoder, in its order; the first one names the gradient."""
        return [loss for loss in encoder.objectives if loss in self.losses]


@dataclasses.dataclass
class Gradients:
    """Gradients of one step. Gradient accumulation integrates the sum of these over the micro-batches.

    Attributes:
        encoders: modality → one list of gradients per objective, in the order of the encoder's parameters; None where
            the objective does not reach the parameter.
        others: parameter outside the encoders → its gradient, the plain sum over the losses that reach it.
        finite: (number of losses,) bool: whether each loss and its gradients are finite.
        scale: () factor that all gradients carry.
        statistics: name → tensor that is summed over micro-batches; see `Method.statistics`.
    """

    encoders: dict[str, list[list[Tensor | None]]]
    others: dict[Tensor, Tensor]
    finite: Tensor
    scale: Tensor
    statistics: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def add_(self, other: "Gradients") -> None:
        """Add the gradients of a further micro-batch in place."""
        for modality, objectives in self.encoders.items():
            for total, gradients in zip(objectives, other.encoders[modality], strict=True):
                total[:] = [_sum(a, b) for a, b in zip(total, gradients, strict=True)]
        for parameter, gradient in other.others.items():
            self.others[parameter] = self.others[parameter] + gradient if parameter in self.others else gradient
        self.finite = self.finite & other.finite
        self.statistics = {name: value + other.statistics[name] for name, value in self.statistics.items()}


def separate_passes(objectives: Objectives) -> list[Pass]:
    """Smallest number of passes that gives every encoder the gradient of each of its objectives separately.

    Losses share a pass when no encoder learns from two of them: one pass for the joint loss and one for all unimodal
    losses together, since a unimodal loss reaches its own encoder only. With cross-modal interaction it reaches other
    encoders too, and every loss has a pass of its own.
    """
    passes: list[Pass] = []
    for loss in objectives.losses:
        encoders = [name for name, encoder in objectives.encoders.items() if loss in encoder.objectives]
        for shared in passes:
            if not objectives.interaction and not set(encoders) & set(shared.encoders):
                shared.losses.append(loss)
                shared.encoders.extend(encoders)
                break
        else:
            passes.append(Pass([loss], encoders))
    return passes


def differentiate(
    objectives: Objectives,
    passes: Sequence[Pass],
    scale: float | Tensor | None = None,
    *,
    retain_graph: bool = False,
    after_pass: PassHook | None = None,
) -> Gradients:
    """Run the passes, each through all of its encoders at once. Nothing is written to `.grad`.

    The graph is kept until the last pass, which frees it as `Tensor.backward` does unless `retain_graph` is set.

    Arguments:
        after_pass: called after each pass with the parameters of its encoders and one list of gradients per encoder,
            in the same order; it may replace the lists' contents.

    Raises:
        ValueError: a loss does not reach its encoder.
    """
    reached = _reached_leaves(objectives, passes)
    encoder_parameters = {p for encoder in objectives.encoders.values() for p in encoder.parameters}
    reached_outside = [leaf for leaf in reached if leaf not in encoder_parameters]
    reached_inside = encoder_parameters.intersection(reached)

    encoders: dict[str, dict[str, list[Tensor | None]]] = {name: {} for name in objectives.encoders}
    others: dict[Tensor, Tensor] = {}
    is_finite = {name: loss.detach().isfinite().reshape(()) for name, loss in objectives.losses.items()}
    for index, run in enumerate(passes):
        losses = [objectives.losses[name] for name in run.losses]
        outside = reached_outside if run.outside else []
        parameters = [p for name in run.encoders for p in objectives.encoders[name].parameters]
        inputs = [p for p in parameters if p in reached_inside] + outside
        if not inputs:
            continue
        result = torch.autograd.grad(
            losses,
            inputs,
            grad_outputs=[_scale_like(scale, loss) for loss in losses],
            retain_graph=retain_graph or index + 1 < len(passes),
            allow_unused=True,
        )
        gradient_of = {p: g for p, g in zip(inputs, result, strict=True) if g is not None}
        lists = []
        for name in run.encoders:
            encoder = objectives.encoders[name]
            names = run.objectives_of(encoder)
            lists.append([gradient_of.get(p) for p in encoder.parameters])
            encoders[name][names[0]] = lists[-1]
            _flag_nonfinite(is_finite, names, lists[-1])
        for leaf in outside:
            if leaf in gradient_of:
                others[leaf] = others[leaf] + gradient_of[leaf] if leaf in others else gradient_of[leaf]
        _flag_nonfinite(is_finite, run.losses, [gradient_of.get(leaf) for leaf in outside])
        if after_pass is not None:
            after_pass(parameters, lists)
        del result, gradient_of  # gradients that `after_pass` has replaced are freed before the next pass
    ordered = {
        name: [encoders[name][loss] for loss in encoder.objectives if loss in encoders[name]]
        for name, encoder in objectives.encoders.items()
    }
    first = objectives.losses[passes[0].losses[0]]
    return Gradients(ordered, others, torch.stack([*is_finite.values()]), _scale_like(scale, first).reshape(()))


def differentiate_per_encoder(
    objectives: Objectives,
    features: Mapping[str, Tensor],
    passes: Sequence[Pass],
    scale: float | Tensor | None = None,
    mix: Mix | None = None,
) -> Gradients:
    """Run the passes as far as the encoders' outputs, then differentiate one encoder after another.

    With x the output of an encoder and θ its parameters, gᵢ = (∂x/∂θ)ᵀ ∂Lᵢ/∂x. All ∂Lᵢ/∂x are computed first, through
    fusion and heads alone; each then takes one backward pass through its encoder. The gradients and the work are those
    of `differentiate`, but gradients of one encoder only are held beside a graph that is still needed.

    Arguments:
        features: modality → the encoder's output, from `find_cut`.
        mix: maps (modality, [∂Lᵢ/∂x per objective, None where the loss does not reach x]) to the list of gradients at
            x that go through the encoder instead. Called without a graph.

    Raises:
        ValueError: a loss does not reach its encoder.
    """
    cut = {modality: Encoder([features[modality]], e.objectives) for modality, e in objectives.encoders.items()}
    gradients = differentiate(dataclasses.replace(objectives, encoders=cut), passes, scale)
    is_finite = dict(zip(objectives.losses, gradients.finite.unbind(), strict=True))
    for modality, encoder in objectives.encoders.items():
        at_output = [gradient for (gradient,) in gradients.encoders[modality]]
        names = [run.objectives_of(encoder) for run in passes if modality in run.encoders]
        names.sort(key=lambda losses: encoder.objectives.index(losses[0]))  # the order of `at_output`
        if mix is not None:
            with torch.no_grad():
                at_output = mix(modality, at_output)
            names = [encoder.objectives]
        gradients.encoders[modality] = []
        for index, gradient in enumerate(at_output):
            result: Sequence[Tensor | None] = [None] * len(encoder.parameters)
            if gradient is not None:
                result = torch.autograd.grad(
                    features[modality],
                    encoder.parameters,
                    gradient.to(features[modality].dtype),
                    retain_graph=index + 1 < len(at_output),
                    allow_unused=True,
                )
            _flag_nonfinite(is_finite, names[index], result)
            gradients.encoders[modality].append([*result])
    gradients.finite = torch.stack([*is_finite.values()])
    return gradients


@dataclasses.dataclass(frozen=True)
class Cut:
    """Outputs of all encoders through which alone the losses depend on them, or the reason why there are none.

    Attributes:
        features: modality → output of its encoder; None where the graph cannot be cut there.
        needed: with None, what would have to be true.
    """

    features: dict[str, Tensor] | None
    needed: str = ""


def find_cut(objectives: Objectives, outputs: Any) -> Cut:
    """Look for the encoders' outputs among `outputs.features` and check that the losses depend on nothing else of them.

    The graph is walked once per loss. Compiled and replicated models cannot be cut: their features are further outputs,
    beside the logits, and not on the way from the losses to the encoders.
    """
    if objectives.interaction:
        return Cut(None, "encoders that exchange nothing inside, not interaction=True")
    given = getattr(outputs, "features", None)
    if not isinstance(given, Mapping):
        return Cut(None, "the encoders' outputs, outputs.features by modality: pass outputs")
    features: dict[str, Tensor] = {}
    for modality, encoder in objectives.encoders.items():
        feature = given.get(modality)
        if not isinstance(feature, Tensor) or feature.grad_fn is None:
            return Cut(None, f"outputs.features[{modality!r}] as encoder {modality!r} computed it")
        parameters = {id(p) for p in encoder.parameters}
        if not all(id(leaf) in parameters for leaf in graph_leaves([feature])):
            return Cut(
                None,
                f"outputs.features[{modality!r}] to depend on encoder {modality!r} alone, but it depends on other "
                "trainable tensors, too",
            )
        features[modality] = feature
    owner = {id(p): modality for modality, encoder in objectives.encoders.items() for p in encoder.parameters}
    for name, loss in objectives.losses.items():
        for leaf in graph_leaves([loss], features.values()):
            if id(leaf) in owner:
                return Cut(
                    None,
                    f"losses that reach the encoders through outputs.features alone, but loss {name!r} reaches encoder "
                    f"{owner[id(leaf)]!r} in another way (as in compiled and in replicated models)",
                )
    return Cut(features)


def _reached_leaves(objectives: Objectives, passes: Sequence[Pass]) -> list[Tensor]:
    """Trainable tensors that the losses of the passes reach. Losses of another graph are refused."""
    cut = [tensor for encoder in objectives.encoders.values() for tensor in encoder.parameters if not tensor.is_leaf]
    leaves = {name: graph_leaves([objectives.losses[name]], cut) for run in passes for name in run.losses}
    ids = {name: {id(leaf) for leaf in reached} for name, reached in leaves.items()}
    unreached: dict[str, list[str]] = {}
    for modality, encoder in objectives.encoders.items():
        for loss in encoder.objectives:
            if loss in ids and not any(id(parameter) in ids[loss] for parameter in encoder.parameters):
                unreached.setdefault(loss, []).append(modality)
    for loss, encoders in unreached.items():
        if loss != JOINT or len(encoders) == len(objectives.encoders):
            raise ValueError(
                f"loss {loss!r} does not reach encoder {encoders[0]!r}: compute it from the outputs of the model whose "
                "encoders you pass, without detach()"
            )
    return list(dict.fromkeys(leaf for reached in leaves.values() for leaf in reached))


def _flag_nonfinite(is_finite: dict[str, Tensor], losses: Sequence[str], gradients: Sequence[Tensor | None]) -> None:
    """Clear the flags of `losses` if their common gradient is not finite, unless one of them is cleared already."""
    tensors = [g for g in gradients if g is not None and g.numel()]
    if tensors:
        already_flagged = ~torch.stack([is_finite[loss] for loss in losses]).all()
        finite = torch.stack([x.isfinite().to(already_flagged.device) for x in _extremes(tensors)]).all()
        for loss in losses:
            is_finite[loss] = is_finite[loss] & (finite | already_flagged)


def _extremes(tensors: Sequence[Tensor]) -> Iterable[Tensor]:
    """() values that are all finite only if every element is; on a GPU, one kernel for many tensors."""
    if all(tensor.is_cuda for tensor in tensors):
        return torch._foreach_norm([*tensors], float("inf"))
    return (value for tensor in tensors for value in tensor.aminmax())  # on the CPU, 17 times as fast as that norm


def _scale_like(scale: float | Tensor | None, loss: Tensor) -> Tensor:
    """`scale` (1 for None) with the shape, dtype and device of `loss`, without waiting for the device."""
    if isinstance(scale, Tensor):
        return scale.detach().to(loss.device, loss.dtype, non_blocking=True).reshape(loss.shape)
    return torch.full_like(loss, 1.0 if scale is None else scale)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
