"""The gradients of one step, an encoder and an objective at a time, in as few backward passes as can be."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from mmpareto.integration.objectives import Objectives, as_factor, leaves


@dataclasses.dataclass(frozen=True)
class Pass:
    """Losses that are differentiated together, by one backward pass over their sum.

    Each of `encoders` takes what comes of it as the gradient of one objective. The other encoders take nothing.
    """

    losses: list[str]
    encoders: list[str]


@dataclasses.dataclass
class Gradients:
    """What the passes of a step gave; sums of these are what gradient accumulation integrates.

    Attributes:
        encoders: modality → a list an objective of gradients, in the order of the encoder's parameters; None
            where the objective does not reach the parameter.
        others: (parameter, gradient) for everything else that a loss reaches: the plain sum.
        finite: (number of losses,) bool: whether a loss and its gradients are finite.
        scale: () the factor that all gradients bear.
    """

    encoders: dict[str, list[list[Tensor | None]]]
    others: dict[Tensor, Tensor]
    finite: Tensor
    scale: Tensor

    def add(self, more: "Gradients") -> None:
        """Add the gradients of a further micro-batch."""
        for modality, objectives in self.encoders.items():
            for total, gradients in zip(objectives, more.encoders[modality], strict=True):
                total[:] = [_sum(a, b) for a, b in zip(total, gradients, strict=True)]
        for parameter, gradient in more.others.items():
            self.others[parameter] = self.others[parameter] + gradient if parameter in self.others else gradient
        self.finite = self.finite & more.finite


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


def differentiate(objectives: Objectives, passes: Sequence[Pass], scale: float | Tensor | None = None) -> Gradients:
    """Run the passes. Nothing is written to `.grad`, so that an error leaves everything as it was.

    The graph is kept until the last pass and freed by it, as `Tensor.backward` does.
    """
    used = [objectives.losses[name] for run in passes for name in run.losses]
    reached = leaves(used)
    owned = {id(p) for encoder in objectives.encoders.values() for p in encoder.parameters}
    outside = [leaf for leaf in reached if id(leaf) not in owned]
    inside = {id(leaf) for leaf in reached} & owned

    encoders: dict[str, list[list[Tensor | None]]] = {name: [] for name in objectives.encoders}
    others: dict[Tensor, Tensor] = {}
    finite: dict[str, Tensor] = {}
    for number, run in enumerate(passes, start=1):
        losses = [objectives.losses[name] for name in run.losses]
        wanted = [[p for p in objectives.encoders[name].parameters if id(p) in inside] for name in run.encoders]
        inputs = [*(p for parameters in wanted for p in parameters), *outside]
        gradients = torch.autograd.grad(
            losses,
            inputs,
            grad_outputs=[as_factor(scale, loss) for loss in losses],
            retain_graph=number < len(passes),
            allow_unused=True,
        )
        of = {id(p): g for p, g in zip(inputs, gradients, strict=True) if g is not None}
        for name in run.encoders:
            encoders[name].append([of.get(id(p)) for p in objectives.encoders[name].parameters])
        for leaf in outside:
            if id(leaf) in of:
                others[leaf] = others[leaf] + of[id(leaf)] if leaf in others else of[id(leaf)]
        finite |= _finite(objectives, run, encoders, [of[id(leaf)] for leaf in outside if id(leaf) in of])
    flags = torch.stack([finite[name] if name in finite else _is_finite(v) for name, v in objectives.losses.items()])
    return Gradients(encoders, others, flags, as_factor(scale, used[0]).reshape(()))


def _finite(
    objectives: Objectives, run: Pass, encoders: dict[str, list[list[Tensor | None]]], outside: list[Tensor]
) -> dict[str, Tensor]:
    """Whether each loss of a pass, and its gradient on each encoder that learns from it, is finite."""
    flags = {loss: _is_finite(objectives.losses[loss]) for loss in run.losses}
    for name in run.encoders:
        sound = _all_finite([g for g in encoders[name][-1] if g is not None], like=flags[run.losses[0]])
        for loss in set(run.losses) & set(objectives.encoders[name].objectives):
            flags[loss] = flags[loss] & sound
    # A gradient outside the encoders belongs to no single loss: it counts only where nothing else told.
    sound = _all_finite(outside, like=flags[run.losses[0]])
    told = ~torch.stack(list(flags.values())).all()
    return {loss: flag & (sound | told) for loss, flag in flags.items()}


def _is_finite(loss: Tensor) -> Tensor:
    return loss.detach().isfinite().reshape(())


def _all_finite(gradients: list[Tensor], like: Tensor) -> Tensor:
    if not gradients:
        return torch.ones_like(like)
    norms = torch._foreach_norm(gradients, float("inf"))
    return torch.stack([norm.isfinite().to(like.device) for norm in norms]).all()


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
