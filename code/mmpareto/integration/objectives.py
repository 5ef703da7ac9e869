"""What is to be integrated: the losses of one step, and which of them each encoder learns from."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Parameters: TypeAlias = nn.Module | Iterable[Tensor]
Encoders: TypeAlias = Mapping[str, Parameters | tuple[Parameters, Sequence[str]]]

JOINT = "joint"


@dataclasses.dataclass
class Encoder:
    """An encoder's trainable tensors, and the names of the losses that are its objectives, in order.

    In place of trainable tensors there may be one inside the graph (`by_encoder`): what lies beyond is left alone then.
    """

    parameters: list[Tensor]
    objectives: list[str]


@dataclasses.dataclass
class Objectives:
    """The losses of one step by name (the joint loss first) and the encoders by modality."""

    losses: dict[str, Tensor]
    encoders: dict[str, Encoder]
    interaction: bool = False


def collect(joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders) -> Objectives:
    """Match losses with encoders and check both.

    An encoder's objectives are the joint loss and the unimodal loss of its own name, unless it is given as
    (parameters, [names of losses]); then the joint loss, where there is one, and those.

    Raises:
        ValueError: a loss is no scalar or needs no gradient, a loss is without an encoder or an encoder
            without its loss, an encoder has nothing to train, or two encoders share a parameter.
    """
    losses = ({} if joint is None else {JOINT: joint}) | dict(unimodal)
    if not losses:
        raise ValueError("no loss was given: pass the joint loss, the unimodal losses, or both")
    if joint is not None and JOINT in unimodal:
        raise ValueError(f"a unimodal loss is named {JOINT!r}, which is the joint loss's name: rename the modality")
    for name, loss in losses.items():
        _check_loss(name, loss)
    found: dict[str, Encoder] = {}
    for modality, given in encoders.items():
        parameters, own = _entry(given, [modality])
        for name in own:
            if name not in unimodal:
                raise ValueError(f"encoder {modality!r} has no loss {name!r}: add it to the unimodal losses")
        objectives = [JOINT, *own] if joint is not None else list(own)
        found[modality] = Encoder(_trainable(modality, parameters), objectives)
    _check_apart(found)
    for name in unimodal:
        if not any(name in encoder.objectives for encoder in found.values()):
            raise ValueError(f"unimodal loss {name!r} has no encoder: add encoders[{name!r}] or leave the loss out")
    return Objectives(losses, found)


def collect_joint(joint: Tensor | None, encoders: Encoders, method: str) -> Objectives:
    """The joint loss as the one objective of every encoder, for the methods that look at no other.

    Raises:
        ValueError: see `collect`; or there is no joint loss.
    """
    if joint is None:
        raise ValueError(f"{method} descends the joint loss: pass it")
    return collect(joint, {}, {name: (_entry(given, ())[0], ()) for name, given in encoders.items()})


def _entry(given: Any, default: Sequence[str]) -> tuple[Parameters, Sequence[str]]:
    """An entry of `encoders` with the names of its losses, `default` where it does not say them."""
    named = isinstance(given, tuple) and len(given) == 2 and not isinstance(given[1], Tensor)
    return given if named else (given, default)


def _check_loss(name: str, loss: Tensor) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError(f"loss {name!r} is no scalar tensor but {what}: average it over the batch first")
    if not loss.requires_grad:
        raise ValueError(
            f"loss {name!r} needs no gradient: compute it from the model's outputs, outside torch.no_grad() and "
            "without detach()"
        )


def _trainable(modality: str, given: Parameters) -> list[Tensor]:
    parameters = list(given.parameters() if isinstance(given, nn.Module) else given)
    trainable: dict[int, Tensor] = {}
    for parameter in parameters:
        if not isinstance(parameter, Tensor) or not parameter.is_leaf:
            raise ValueError(f"encoder {modality!r} holds something that is no parameter (a leaf tensor)")
        if parameter.requires_grad:
            trainable[id(parameter)] = parameter  # a parameter used twice inside an encoder counts once
    if not trainable:
        raise ValueError(f"encoder {modality!r} has no trainable parameter: unfreeze it or leave it out of encoders")
    return list(trainable.values())


def _check_apart(encoders: Mapping[str, Encoder]) -> None:
    owner: dict[int, str] = {}
    for modality, encoder in encoders.items():
        for parameter in encoder.parameters:
            other = owner.setdefault(id(parameter), modality)
            if other != modality:
                raise ValueError(
                    f"a parameter of shape {tuple(parameter.shape)} is in two encoders, {other!r} and {modality!r}: "
                    "give tied parameters as one encoder with the losses of both"
                )


def leaves(losses: Sequence[Tensor], ends: Iterable[Tensor] = ()) -> list[Tensor]:
    """The trainable tensors that the graphs of `losses` end in, found by walking them once.

    Arguments:
        ends: tensors inside the graphs that they end in, too: what lies beyond is not looked at.
    """
    nodes = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    found = {id(loss): loss for loss in losses if loss.grad_fn is None}
    seen, cuts = set(nodes), {(end.grad_fn, end.output_nr): end for end in ends}
    while nodes:
        node = nodes.pop()
        leaf = getattr(node, "variable", None)  # only an AccumulateGrad node has one
        if isinstance(leaf, Tensor):
            found[id(leaf)] = leaf
        for child, output in node.next_functions:
            if (end := cuts.get((child, output))) is not None:
                found[id(end)] = end
            elif child is not None and child not in seen:
                seen.add(child)
                nodes.append(child)
    return list(found.values())


def as_factor(scale: float | Tensor | None, loss: Tensor) -> Tensor:
    """`scale` (1 for None) in the shape, type and place of `loss`, without waiting for the device."""
    if isinstance(scale, Tensor):
        return scale.detach().to(loss.device, loss.dtype, non_blocking=True).reshape(loss.shape)
    return torch.full_like(loss, 1.0 if scale is None else scale)
