"""Gradients of one step, per encoder and objective, in as few backward passes as possible.

There are two ways to compute the same gradients; `Method.differentiate` chooses between them:

- `differentiate`: each backward pass goes through all of its encoders at once.
- `differentiate_per_encoder`: the passes end at the encoders' outputs; then one encoder after another is differentiated
  and its graph is freed. This takes less memory, and is possible where `features.find_cut` finds that the losses depend
  on each encoder through its output alone.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mmpareto.integration.objectives import JOINT, Encoder, Objectives, graph_leaves, graph_nodes

PassHook = Callable[[Sequence[Tensor], Sequence[list[Tensor | None]]], None]
Mix = Callable[[str, list[Tensor | None]], list[Tensor | None]]


@dataclasses.dataclass(frozen=True)
class Pass:
    """Losses that are differentiated together, by one backward pass over their sum.

    Attributes:
        losses: names of the losses, of which some may be absent.
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
        names: the losses, as `Objectives.names`.
        finite: (number of losses,) bool: whether each loss and its gradients are finite; True for absent losses.
        scale: () factor that all gradients carry.
        present: (number of losses,) bool: whether each loss is present; None if all are.
        statistics: name → tensor that is summed over micro-batches; see `Method.statistics`.
    """

    encoders: dict[str, list[list[Tensor | None]]]
    others: dict[Tensor, Tensor]
    names: list[str]
    finite: Tensor
    scale: Tensor
    present: Tensor | None = None
    statistics: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def added(self, other: "Gradients") -> "Gradients":
        """Sum with a further micro-batch, which has the same encoders and losses or more. Uses the lists of both."""
        for modality, lists in other.encoders.items():
            for total, gradients in zip(self.encoders.get(modality, ()), lists, strict=modality in self.encoders):
                gradients[:] = [_sum(a, b) for a, b in zip(total, gradients, strict=True)]
        others = self.others | other.others
        for parameter in self.others.keys() & other.others.keys():
            others[parameter] = self.others[parameter] + other.others[parameter]
        finite = self._in_order(other.names, self.finite, missing=True) & other.finite
        present = other.present
        if present is not None:
            ours = torch.ones_like(self.finite) if self.present is None else self.present
            present = self._in_order(other.names, ours, missing=False) | present
        statistics = self.statistics | {
            name: self.statistics[name] + value if name in self.statistics else value
            for name, value in other.statistics.items()
        }
        return Gradients(other.encoders, others, other.names, finite, self.scale, present, statistics)

    def are_present(self, names: Sequence[str]) -> Tensor | None:
        """(len(names),) bool: whether these losses are present; None if all losses are."""
        if self.present is None:
            return None
        return torch.stack([self.present[self.names.index(name)] for name in names])

    def _in_order(self, names: Sequence[str], flags: Tensor, missing: bool) -> Tensor:
        """Flags of the losses in another order, with `missing` for losses that are not known here."""
        if names == self.names:
            return flags
        flag_of = dict(zip(self.names, flags.unbind(), strict=True))
        default = torch.full_like(flags[0], missing)
        return torch.stack([flag_of.get(name, default) for name in names])


def separate_passes(objectives: Objectives) -> list[Pass]:
    """Smallest number of passes that gives every encoder the gradient of each of its objectives separately.

    Losses share a pass when no encoder learns from two of them: one pass for the joint loss and one for all unimodal
    losses together, since a unimodal loss reaches its own encoder only. With cross-modal interaction it reaches other
    encoders too, and every loss has a pass of its own.
    """
    passes: list[Pass] = []
    for loss in objectives.names:
        encoders = [name for name, encoder in objectives.encoders.items() if loss in encoder.objectives]
        for shared in passes:
            if not objectives.interaction and not set(encoders) & set(shared.encoders):
                shared.losses.append(loss)
                shared.encoders.extend(encoders)
                break
        else:
            passes.append(Pass([loss], encoders))
    return passes


def lists_of_passes(
    objectives: Objectives, passes: Sequence[Pass], gradients: Gradients
) -> list[tuple[list[Tensor], list[list[Tensor | None]]]]:
    """(parameters, lists of their gradients) of every pass that has any; the lists are the ones in `gradients`."""
    order = {  # the losses that name an encoder's lists
        name: sorted((run.objectives_of(e)[0] for run in passes if name in run.encoders), key=e.objectives.index)
        for name, e in objectives.encoders.items()
    }
    found = []
    for run in passes:
        parameters: list[Tensor] = []
        lists = []
        for name in run.encoders:
            encoder = objectives.encoders[name]
            index = order[name].index(run.objectives_of(encoder)[0])
            if index < len(gradients.encoders[name]):  # fewer if the objectives were mixed
                parameters += encoder.parameters
                lists.append(gradients.encoders[name][index])
        if lists:
            found.append((parameters, lists))
    return found


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
        present = [name for name in run.losses if name in objectives.losses]
        losses = [objectives.losses[name] for name in present]
        outside = reached_outside if run.outside else []
        parameters = [p for name in run.encoders for p in objectives.encoders[name].parameters]
        inputs = [p for p in parameters if p in reached_inside] + outside
        result: Sequence[Tensor | None] = ()
        if losses and inputs:
            result = torch.autograd.grad(
                losses,
                inputs,
                grad_outputs=[_scale_like(scale, loss) for loss in losses],
                retain_graph=retain_graph or index + 1 < len(passes),
                allow_unused=True,
            )
        gradient_of = {p: g for p, g in zip(inputs, result, strict=False) if g is not None}
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
        _flag_nonfinite(is_finite, present, [gradient_of.get(leaf) for leaf in outside])
        if after_pass is not None:
            after_pass(parameters, lists)
        del result, gradient_of  # gradients that `after_pass` has replaced are freed before the next pass
    ordered = {
        name: [encoders[name][loss] for loss in encoder.objectives if loss in encoders[name]]
        for name, encoder in objectives.encoders.items()
    }
    like = next(iter(objectives.losses.values()), None)
    if like is None:  # all losses are absent
        parameters = [p for encoder in objectives.encoders.values() for p in encoder.parameters]
        like = next(iter(parameters), torch.zeros(())).new_zeros(())
    return Gradients(
        ordered,
        others,
        list(objectives.names),
        _in_order(objectives.names, is_finite, like),
        _scale_like(scale, like).reshape(()),
        _presence(objectives, like),
    )


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
        features: modality → the encoder's output, from `find_cut`; without modalities that are absent from the batch.
        mix: maps (modality, [∂Lᵢ/∂x per objective, None where the loss does not reach x]) to the list of gradients at
            x that go through the encoder instead. Called without a graph.

    Raises:
        ValueError: a loss does not reach its encoder.
    """
    encoders = objectives.encoders
    cut = {name: Encoder([features[name]], encoders[name].objectives) for name in encoders if name in features}
    cut_passes = [dataclasses.replace(run, encoders=[name for name in run.encoders if name in cut]) for run in passes]
    gradients = differentiate(dataclasses.replace(objectives, encoders=cut), cut_passes, scale)
    is_finite = dict(zip(objectives.names, gradients.finite.unbind(), strict=True))
    for modality, encoder in encoders.items():
        if modality not in features:  # absent from the batch
            count = 1 if mix is not None else sum(modality in run.encoders for run in passes)
            gradients.encoders[modality] = [[None] * len(encoder.parameters) for _ in range(count)]
            continue
        at_output = [gradient for (gradient,) in gradients.encoders[modality]]
        names = [run.objectives_of(encoder) for run in passes if modality in run.encoders]
        names.sort(key=lambda losses: encoder.objectives.index(losses[0]))  # the order of `at_output`
        if mix is not None:
            with torch.no_grad():
                at_output = mix(modality, at_output)
            names = [encoder.objectives]
        gradients.encoders[modality] = []
        trainable = [p for p in encoder.parameters if p.requires_grad]  # some may have been frozen by now
        for index, gradient in enumerate(at_output):
            gradient_of: dict[Tensor, Tensor | None] = {}
            if gradient is not None:
                result = torch.autograd.grad(
                    features[modality],
                    trainable,
                    gradient.to(features[modality].dtype),
                    retain_graph=any(later is not None for later in at_output[index + 1 :]),
                    allow_unused=True,
                )
                gradient_of = dict(zip(trainable, result, strict=True))
            gradients.encoders[modality].append([gradient_of.get(p) for p in encoder.parameters])
            _flag_nonfinite(is_finite, names[index], gradients.encoders[modality][-1])
    gradients.finite = torch.stack([*is_finite.values()])
    return gradients


def _reached_leaves(objectives: Objectives, passes: Sequence[Pass]) -> list[Tensor]:
    """Trainable tensors that the losses of the passes reach. Losses of another graph are refused."""
    cut = [tensor for encoder in objectives.encoders.values() for tensor in encoder.parameters if not tensor.is_leaf]
    losses = {name: objectives.losses[name] for run in passes for name in run.losses if name in objectives.losses}
    leaves = {name: graph_leaves([loss], cut) for name, loss in losses.items()}
    ids = {name: {id(leaf) for leaf in reached} for name, reached in leaves.items()}
    unreached: dict[str, list[str]] = {}
    for modality, encoder in objectives.encoders.items():
        for loss in encoder.objectives:
            if loss in ids and not any(id(parameter) in ids[loss] for parameter in encoder.parameters):
                unreached.setdefault(loss, []).append(modality)
    expected = [name for name in objectives.encoders if not objectives.is_absent(name)]
    for loss, encoders in unreached.items():
        wrong = [name for name in expected if name in encoders] if loss == JOINT else encoders
        if wrong and (loss != JOINT or len(wrong) == len(expected)):  # the joint loss need not reach all encoders
            raise ValueError(_unreached(loss, objectives.losses[loss], wrong[0]))
    return list(dict.fromkeys(leaf for reached in leaves.values() for leaf in reached))


def _unreached(name: str, loss: Tensor, encoder: str) -> str:
    """The error of a loss whose graph does not contain its encoder."""
    if any(node.name() == "CheckpointFunctionBackward" for node in graph_nodes([loss])):
        return (
            f"reentrant checkpointing hides encoder {encoder!r} from loss {name!r}, and does not work with "
            "torch.autograd.grad: pass use_reentrant=False to torch.utils.checkpoint"
        )
    return (
        f"loss {name!r} does not reach encoder {encoder!r}: compute it from the outputs of the model whose encoders "
        "you pass, without detach()"
    )


def _in_order(names: Sequence[str], is_finite: dict[str, Tensor], like: Tensor) -> Tensor:
    """Flags of the losses in the order of `names`; True for absent ones."""
    missing = torch.ones((), dtype=torch.bool, device=like.device)
    return torch.stack([is_finite.get(name, missing) for name in names])


def _presence(objectives: Objectives, like: Tensor) -> Tensor | None:
    """(number of losses,) bool: whether each is present; None if all are."""
    if len(objectives.losses) == len(objectives.names):
        return None
    flags = [torch.full((), name in objectives.losses, device=like.device) for name in objectives.names]
    return torch.stack(flags)  # unlike torch.tensor([…]), does not wait for the device


def _flag_nonfinite(is_finite: dict[str, Tensor], losses: Sequence[str], gradients: Sequence[Tensor | None]) -> None:
    """Clear the flags of `losses` if their common gradient is not finite, unless one of them is cleared already."""
    losses = [loss for loss in losses if loss in is_finite]
    tensors = [g for g in gradients if g is not None and g.numel()]
    if any(g.layout != torch.strided for g in tensors):
        raise ValueError("a parameter has a sparse gradient, which is not supported: use nn.Embedding(sparse=False)")
    if tensors:
        already_flagged = ~torch.stack([is_finite[loss] for loss in losses]).all()
        finite = torch.stack([x.to(already_flagged.device) for x in _extremes(tensors)]).isfinite().all()
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
