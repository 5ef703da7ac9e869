"""Losses of one step and the encoders that learn from them."""

import dataclasses
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

Parameters: TypeAlias = nn.Module | Iterable[Tensor]
Encoders: TypeAlias = Mapping[str, Parameters | tuple[Parameters, Sequence[str]]] | nn.ModuleDict
UnimodalLosses: TypeAlias = Mapping[str, Tensor | None]

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
    """Losses of one step and encoders by modality.

    Attributes:
        losses: name → () loss, the joint loss first; without those that are absent.
        encoders: modality → encoder, without frozen ones.
        names: names of all losses, also absent ones: the joint loss, those of the encoders in their order, the others.
        features: modality → output of its encoder, if the caller passed them.
        interaction: whether a unimodal loss may reach other encoders than its own.
    """

    losses: dict[str, Tensor]
    encoders: dict[str, Encoder]
    names: list[str]
    features: Mapping[str, Tensor] | None = None
    interaction: bool = False

    def is_absent(self, modality: str) -> bool:
        """True if the encoder has objectives other than the joint loss, and the losses of all of them are absent."""
        own = [name for name in self.encoders[modality].objectives if name != JOINT]
        return bool(own) and not any(name in self.losses for name in own)

    def add(self, name: str, loss: Tensor, modalities: Iterable[str]) -> None:
        """Add a () loss that the encoders of these modalities learn from, those among them that are not frozen."""
        self.losses[name] = loss
        self.names.append(name)
        for modality in modalities:
            if modality in self.encoders:
                self.encoders[modality].objectives.append(name)


def collect(joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders) -> Objectives:
    """Match losses with encoders and check both.

    The objectives of an encoder are the joint loss and the unimodal loss of the same name, unless the encoder is given
    as (parameters, [names of losses]): then they are the joint loss, if there is one, and those. An objective whose
    loss is left out or None is absent: it counts as an objective without gradient. An encoder without trainable
    parameters is frozen: it has no objectives, and its losses train what else they reach, if anything.

    Raises:
        ValueError: a loss is no scalar or requires no gradient, a loss has no encoder, there are no unimodal losses,
            two encoders share a parameter, an iterator is exhausted, or a parameter is sharded.
    """
    present = {name: loss for name, loss in unimodal.items() if loss is not None}
    losses = ({} if joint is None else {JOINT: joint}) | present
    if joint is not None and JOINT in unimodal:
        raise ValueError(f"a unimodal loss is named {JOINT!r}, which is the joint loss's name: rename the modality")
    collected: dict[str, Encoder] = {}
    frozen: dict[str, None] = {}  # an ordered set of losses
    for modality, given in encoders.items():
        parameters, names = split_entry(given, [modality])
        if trainable := _trainable(modality, parameters):
            collected[modality] = Encoder(trainable, [JOINT, *names] if joint is not None else list(names))
        else:
            frozen |= dict.fromkeys(names)
    _check_disjoint(collected)
    own = dict.fromkeys(name for encoder in collected.values() for name in encoder.objectives)
    if joint is not None and len(own) > 1 and not unimodal:
        raise ValueError("no unimodal loss was given: pass one per modality, None for a modality that is absent")
    for name in present:
        if name not in own and name not in frozen:
            raise ValueError(f"unimodal loss {name!r} has no encoder: add encoders[{name!r}] or leave the loss out")
    for name, loss in [*losses.items()]:
        _check_scalar(name, loss)
        if not loss.requires_grad and name in frozen and name not in own:
            del losses[name], frozen[name]  # of a frozen head
        elif not loss.requires_grad:
            raise ValueError(
                f"loss {name!r} needs no gradient: compute it from the model's outputs, outside torch.no_grad() and "
                "without detach()"
            )
    joint_first = [JOINT] if joint is not None else []
    return Objectives(losses, collected, list(dict.fromkeys([*joint_first, *own, *frozen])))


def collect_joint(joint: Tensor | None, encoders: Encoders, method: str) -> Objectives:
    """The joint loss as the only objective of every encoder, for methods that descend no other loss.

    Raises:
        ValueError: see `collect`; or there is no joint loss.
    """
    if joint is None:
        raise ValueError(f"{method} descends the joint loss: pass it")
    return collect(joint, {}, {name: (split_entry(given, ())[0], ()) for name, given in encoders.items()})


def collect_frozen(joint: Tensor | None, encoders: Encoders, method: str) -> Objectives:
    """The joint loss without an encoder that learns from it, for methods that keep the encoders frozen.

    Raises:
        ValueError: see `collect_joint`; or an encoder has a trainable parameter.
    """
    for name, given in encoders.items():
        parameters = split_entry(given, ())[0]
        if any(p.requires_grad for p in (parameters.parameters() if isinstance(parameters, nn.Module) else parameters)):
            raise ValueError(f"{method} keeps encoder {name!r} frozen: call its requires_grad_(False) and its eval()")
    return collect_joint(joint, {}, method)


def split_entry(given: Any, default: Sequence[str]) -> tuple[Parameters, Sequence[str]]:
    """An entry of `encoders` as (parameters, names of its losses); `default` where the entry names none."""
    names_losses = isinstance(given, tuple) and len(given) == 2 and not isinstance(given[1], Tensor)
    return given if names_losses else (given, default)


def _check_scalar(name: str, loss: Tensor) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError(f"loss {name!r} is no scalar tensor but {what}: average it over the batch first")


def _trainable(modality: str, given: Parameters) -> list[Tensor]:
    trainable: dict[int, Tensor] = {}
    parameters = list(given.parameters() if isinstance(given, nn.Module) else given)
    if not parameters and isinstance(given, Iterator):
        raise ValueError(
            f"encoder {modality!r} is an iterator without parameters, such as a generator that was used before: pass "
            "the module, or a list"
        )
    for parameter in parameters:
        _check_whole(modality, parameter)
        if not isinstance(parameter, Tensor) or not parameter.is_leaf:
            raise ValueError(f"encoder {modality!r} has an entry that is not a parameter (a leaf tensor)")
        if parameter.requires_grad:
            trainable[id(parameter)] = parameter  # a parameter used twice inside an encoder counts once
    return list(trainable.values())


def check_whole(encoders: Encoders) -> None:
    """Refuse modules with sharded parameters.

    `collect` does so, too, but `fully_shard` shows whole parameters between the forward and the backward pass of a root
    module.

    Raises:
        ValueError: an encoder has a sharded parameter.
    """
    for modality, given in encoders.items():
        parameters = split_entry(given, ())[0]
        for parameter in parameters.parameters() if isinstance(parameters, nn.Module) else ():
            _check_whole(modality, parameter)


def _check_whole(modality: str, parameter: Any) -> None:
    # A DTensor has placements; FullyShardedDataParallel marks the parameters that it has flattened.
    if hasattr(parameter, "placements") or getattr(parameter, "_fsdp_flattened", False):
        raise ValueError(
            f"encoder {modality!r} has sharded parameters (FSDP, fully_shard or DTensor), which are not supported: a "
            "process holds only a part of each gradient. Use DistributedDataParallel"
        )


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
    ends = {(tensor.grad_fn, tensor.output_nr): tensor for tensor in cut}
    for node in graph_nodes(tensors, ends):
        leaf = getattr(node, "variable", None)  # only an AccumulateGrad node has one
        if isinstance(leaf, Tensor):
            leaves[id(leaf)] = leaf
        for edge in node.next_functions if ends else ():
            if (end := ends.get(edge)) is not None:
                leaves[id(end)] = end
    return list(leaves.values())


def graph_nodes(tensors: Sequence[Tensor], ends: Container[tuple[Any, int]] = ()) -> Iterator[Any]:
    """Nodes of the autograd graphs of `tensors`, without those behind the edges `ends`."""
    nodes = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        yield node
        for edge in node.next_functions:
            if edge[0] is not None and edge[0] not in seen and edge not in ends:
                seen.add(edge[0])
                nodes.append(edge[0])
