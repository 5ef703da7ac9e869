"""The gradients of one step, an encoder and an objective at a time, in as few backward passes as can be."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mmpareto.integration.objectives import JOINT, Encoder, Objectives, as_factor, leaves


@dataclasses.dataclass(frozen=True)
class Pass:
    """Losses that are differentiated together, by one backward pass over their sum.

    Each of `encoders` takes what comes of it as the gradient of one objective. The other encoders take nothing. What
    lies outside the encoders takes it as well, unless `outside` is False.
    """

    losses: list[str]
    encoders: list[str]
    outside: bool = True

    def own(self, encoder: Encoder) -> list[str]:
        """The losses among an encoder's objectives, in their order; the first names what the encoder takes."""
        return [loss for loss in encoder.objectives if loss in self.losses]


@dataclasses.dataclass
class Gradients:
    """What the passes of a step gave; sums of these are what gradient accumulation integrates.

    Attributes:
        encoders: modality → a list an objective of gradients, in the order of the encoder's parameters; None
            where the objective does not reach the parameter.
        others: parameter → gradient for everything else that a loss reaches: the plain sum.
        finite: (number of losses,) bool: whether a loss and its gradients are finite.
        scale: () the factor that all gradients bear.
        statistics: what else the method needs of the batch: name → tensor that is summed over micro-batches.
    """

    encoders: dict[str, list[list[Tensor | None]]]
    others: dict[Tensor, Tensor]
    finite: Tensor
    scale: Tensor
    statistics: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def add(self, more: "Gradients") -> None:
        """Add the gradients of a further micro-batch."""
        for modality, objectives in self.encoders.items():
            for total, gradients in zip(objectives, more.encoders[modality], strict=True):
                total[:] = [_sum(a, b) for a, b in zip(total, gradients, strict=True)]
        for parameter, gradient in more.others.items():
            self.others[parameter] = self.others[parameter] + gradient if parameter in self.others else gradient
        self.finite = self.finite & more.finite
        self.statistics = {name: value + more.statistics[name] for name, value in self.statistics.items()}


def separate_passes(objectives: Objectives) -> list[Pass]:
    """As few passes as give every encoder the gradient of each of its objectives alone.

    Losses share a pass when no encoder learns from two of them: one pass for the joint loss and one for all
    unimodal losses together, since a unimodal loss reaches its own encoder only. In a model with cross-modal
    interaction it reaches others too, so that there every loss takes a pass of its own.
    """
    passes: list[Pass] = []
    for loss in objectives.losses:
        takers = [name for name, encoder in objectives.encoders.items() if loss in encoder.objectives]
        for shared in passes:
            if not objectives.interaction and not set(takers) & set(shared.encoders):
                shared.losses.append(loss)
                shared.encoders.extend(takers)
                break
        else:
            passes.append(Pass([loss], takers))
    return passes


def differentiate(
    objectives: Objectives,
    passes: Sequence[Pass],
    scale: float | Tensor | None = None,
    *,
    retain_graph: bool = False,
    after_pass: Callable[[Sequence[Tensor], Sequence[list[Tensor | None]]], None] | None = None,
) -> Gradients:
    """Run the passes. Nothing is written to `.grad`, so that an error leaves everything as it was.

    The graph is kept until the last pass and freed by it, as `Tensor.backward` does, unless `retain_graph`.

    Arguments:
        after_pass: called after each pass with the parameters of its encoders and the lists of their gradients, a list
            after the other, whose content it may replace.

    Raises:
        ValueError: a loss does not reach its encoder.
    """
    used = [objectives.losses[name] for run in passes for name in run.losses]
    inner = [tensor for encoder in objectives.encoders.values() for tensor in encoder.parameters if not tensor.is_leaf]
    reach = {name: leaves([objectives.losses[name]], inner) for run in passes for name in run.losses}
    _check_reach(objectives, reach)
    reached = list(dict.fromkeys(leaf for found in reach.values() for leaf in found))
    owned = {p for encoder in objectives.encoders.values() for p in encoder.parameters}
    others_reached = [leaf for leaf in reached if leaf not in owned]
    inside = owned.intersection(reached)

    encoders: dict[str, dict[str, list[Tensor | None]]] = {name: {} for name in objectives.encoders}
    others: dict[Tensor, Tensor] = {}
    finite = {name: loss.detach().isfinite().reshape(()) for name, loss in objectives.losses.items()}
    for number, run in enumerate(passes, start=1):
        losses = [objectives.losses[name] for name in run.losses]
        takers = {name: objectives.encoders[name] for name in run.encoders}
        outside = others_reached if run.outside else []
        inputs = [p for encoder in takers.values() for p in encoder.parameters if p in inside] + outside
        if not inputs:
            continue
        found = torch.autograd.grad(
            losses,
            inputs,
            grad_outputs=[as_factor(scale, loss) for loss in losses],
            retain_graph=retain_graph or number < len(passes),
            allow_unused=True,
        )
        gradient = {p: g for p, g in zip(inputs, found, strict=True) if g is not None}
        for name, encoder in takers.items():
            own = run.own(encoder)
            encoders[name][own[0]] = [gradient.get(p) for p in encoder.parameters]
            judge(finite, own, [gradient[p] for p in encoder.parameters if p in gradient])
        remaining = [leaf for leaf in outside if leaf in gradient]
        judge(finite, run.losses, [gradient[leaf] for leaf in remaining])
        others |= {p: others[p] + gradient[p] if p in others else gradient[p] for p in remaining}
        if after_pass is not None:
            taken = [encoders[name][run.own(encoder)[0]] for name, encoder in takers.items()]
            after_pass([p for encoder in takers.values() for p in encoder.parameters], taken)
            del found, gradient  # what has been replaced is not kept through the next pass
    ordered = {
        name: [encoders[name][loss] for loss in encoder.objectives if loss in encoders[name]]
        for name, encoder in objectives.encoders.items()
    }
    return Gradients(ordered, others, torch.stack([*finite.values()]), as_factor(scale, used[0]).reshape(()))


def _check_reach(objectives: Objectives, reach: Mapping[str, Sequence[Tensor]]) -> None:
    """Refuse losses of another graph: of another model, or of features that were detached."""
    ids = {name: {id(leaf) for leaf in found} for name, found in reach.items()}
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


def judge(finite: dict[str, Tensor], losses: Sequence[str], gradients: Sequence[Tensor]) -> None:
    """Clear the flags of `losses` where their common gradient is not finite, unless one of them is cleared already."""
    gradients = [g for g in gradients if g.numel()]
    if gradients:
        told = ~torch.stack([finite[loss] for loss in losses]).all()
        sound = torch.stack([value.isfinite().to(told.device) for value in _extremes(gradients)]).all()
        for loss in losses:
            finite[loss] = finite[loss] & (sound | told)


def _extremes(tensors: Sequence[Tensor]) -> Iterable[Tensor]:
    """() values that are all finite only if every element is; a kernel for many tensors on a GPU."""
    if all(tensor.is_cuda for tensor in tensors):
        return torch._foreach_norm([*tensors], float("inf"))
    return (value for tensor in tensors for value in tensor.aminmax())  # on the CPU, 17 times as fast as that norm


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
