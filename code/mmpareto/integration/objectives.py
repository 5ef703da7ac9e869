"""Losses of one step and the encoders that learn from them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

Parameters: TypeAlias = nn.Module | Iterable[Tensor]
Encoders: TypeAlias = Mapping[str, Parameters | tuple[Parameters, Sequence[str]]]

JOINT = "joint"


@dataclasses.dataclass
class Encoder:
    """Trainable tensors of an encoder and the names of the losses that are its objectives, in order.

    `differentiate_per_encoder` puts the encoder's output in place of its parameters.
    """

    parameters: list[Tensor]
    objectives: list[str]


@dataclasses.dataclass
class Objectives:
    """Losses of one step by name (the joint loss first) and encoders by modality."""

    losses: dict[str, Tensor]
    encoders: dict[str, Encoder]
    interaction: bool = False


def collect(joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders) -> Objectives:
    """Match losses with encoders and check both.

    The objectives of an encoder are the joint loss and the unimodal loss of the same name, unless the encoder is given
    as (parameters, [names of losses]): then they are the joint loss, if there is one, and those.

    Raises:
        ValueError: a loss is no scalar or requires no gradient, a loss has no encoder or an encoder no loss, an encoder
            has nothing to train, or two encoders share a parameter.
    """
    losses = ({} if joint is None else {JOINT: joint}) | dict(unimodal)
    if not losses:
        raise ValueError("no loss was given: pass the joint loss, the unimodal losses, or both")
    if joint is not None and JOINT in unimodal:
        raise ValueError(f"a unimodal loss is named {JOINT!r}, which is the joint loss's name: rename the modality")
    for name, loss in losses.items():
        _check_loss(name, loss)
    collected: dict[str, Encoder] = {}
    for modality, given in encoders.items():
        parameters, names = _split_entry(given, [modality])
        for name in names:
            if name not in unimodal:
                raise ValueError(f"encoder {modality!r} has no loss {name!r}: add it to the unimodal losses")
        objectives = [JOINT, *names] if joint is not None else list(names)
        collected[modality] = Encoder(_trainable(modality, parameters), objectives)
    _check_disjoint(collected)
    for name in unimodal:
        if not any(name in encoder.objectives for encoder in collected.values()):
            raise ValueError(f"unimodal loss {name!r} has no encoder: add encoders[{name!r}] or leave the loss out")
    return Objectives(losses, collected)


def collect_joint(joint: Tensor | None, encoders: Encoders, method: str) -> Objectives:
    """The joint loss as the only objective of every encoder, for methods that descend no other loss.

    Raises:
        ValueError: see `collect`; or there is no joint loss.
    """
    if joint is None:
        raise ValueError(f"{method} descends the joint loss: pass it")
    return collect(joint, {}, {name: (_split_entry(given, ())[0], ()) for name, given in encoders.items()})


def collect_frozen(joint: Tensor | None, encoders: Encoders, method: str) -> Objectives:
    """The joint loss without an encoder that learns from it, for methods that keep the encoders frozen.

    Raises:
        ValueError: see `collect_joint`; or an encoder has a trainable parameter.
    """
    for name, given in encoders.items():
        parameters = _split_entry(given, ())[0]
        if any(p.requires_grad for p in (parameters.parameters() if isinstance(parameters, nn.Module) else parameters)):
            raise ValueError(f"{method} keeps encoder {name!r} frozen: call its requires_grad_(False) and its eval()")
    return collect_joint(joint, {}, method)


def _split_entry(given: Any, default: Sequence[str]) -> tuple[Parameters, Sequence[str]]:
    """An entry of `encoders` as (parameters, names of its losses); `default` where the entry names none."""
    names_losses = isinstance(given, tuple) and len(given) == 2 and not isinstance(given[1], Tensor)
    return given if names_losses else (given, default)


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
    trainable: dict[int, Tensor] = {}
    for parameter in list(given.parameters() if isinstance(given, nn.Module) else given):
        if not isinstance(parameter, Tensor) or not parameter.is_leaf:
            raise ValueError(f"encoder {modality!r} has an entry that is not a parameter (a leaf tensor)")
        if parameter.requires_grad:
            trainable[id(parameter)] = parameter  # a parameter used twice inside an encoder counts once
    if not trainable:
        raise ValueError(f"encoder {modality!r} has no trainable parameter: unfreeze it or leave it out of encoders")
    return list(trainable.values())


def _check_disjoint(encoders: Mapping[str, Encoder]) -> None:
    owner: dict[int, str] = {}
    for modality, encoder in encoders.items():
        for parameter in encoder.parameters:
            other = owner.setdefault(id(parameter), modality)
            if other != modality:
                raise ValueError(
                    f"a parameter of shape {tuple(parameter.shape)} is in two encoders, {other!r} and {modality!r}: "
                    "give tied parameters as one encoder with the losses of both"
                )


def graph_leaves(tensors: Sequence[Tensor], cut: Iterable[Tensor] = ()) -> list[Tensor]:
    """Trainable tensors that the autograd graphs of `tensors` end in, found by one walk over the graphs.

    Arguments:
        cut: tensors inside the graphs that count as ends, too; the walk does not go past them.
    """
    leaves = {id(tensor): tensor for tensor in tensors if tensor.grad_fn is None}
    nodes = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen, cut_at = set(nodes), {(tensor.grad_fn, tensor.output_nr): tensor for tensor in cut}
    while nodes:
        node = nodes.pop()
        leaf = getattr(node, "variable", None)  # only an AccumulateGrad node has one
        if isinstance(leaf, Tensor):
            leaves[id(leaf)] = leaf
        for child, output in node.next_functions:
            if (end := cut_at.get((child, output))) is not None:
                leaves[id(end)] = end
            elif child is not None and child not in seen:
                seen.add(child)
                nodes.append(child)
    return list(leaves.values())
