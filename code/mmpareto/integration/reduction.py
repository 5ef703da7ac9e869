"""Sums and means of gradients over the processes that train together (`torch.distributed`)."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from mmpareto.integration.differentiation import Gradients, Pass, lists_of_passes
from mmpareto.integration.layout import Layout, check_alike, describe
from mmpareto.integration.objectives import JOINT, Encoder, Objectives, graph_leaves


class SumReducer:
    """Makes a method integrate gradients that are summed over processes: `method.reduce = SumReducer(model)`.

    Every process calls `backward` once per step with the same model and its share of the samples. The objectives'
    gradients, the statistics and the flags `report.finite` are summed before anything is integrated, so that all
    processes get the same `.grad` and the same report. With losses that add up to the batch's (each a mean over the
    process's samples times their share of the batch), these are the ones of one process with the whole batch.
    Micro-batches of a share (`accumulate`) are added up first; their number may differ between processes. Random
    numbers that a method draws must be the same everywhere: seed PyTorch's generators alike.

    A process may lack losses, of a modality or the joint one: they count as zero, and so does what only they reach.
    For this, the processes agree at the first step on all that is exchanged; a parameter that no process reaches then
    has a gradient of zero, not None. Pass the model if processes may differ in which parameters outside the encoders
    they reach, as for `find_unused_parameters=True` of DistributedDataParallel, and assign a new reducer in all
    processes if such parameters change later.

    A tensor outside the encoders that is no nn.Parameter, such as an input that requires a gradient, keeps its own
    gradient unless `model` contains it.

    There is one all-reduce of a flat buffer per backward pass, which runs during the next pass, then one for the
    parameters outside the encoders and one for statistics and flags.

    Arguments:
        model: module or parameters that the losses may reach; None for those that they reach at the first step, in
            every process alike.
        group: process group; None for all processes.
        same_graph: promise that the losses reach the same parameters in every process at every step. Nothing is agreed
            on then, and a parameter that is not reached keeps its `.grad`, as in one process.

    Raises:
        ValueError: `backward`: the processes do not fit together.
    """

    divides = False

    def __init__(
        self,
        model: nn.Module | Iterable[Tensor] | None = None,
        *,
        group: "dist.ProcessGroup | None" = None,
        same_graph: bool = False,
    ) -> None:
        if not (model is None or isinstance(model, nn.Module)):
            model = list(model)
        self.model, self.group, self.same_graph = model, group, same_graph
        self.layout: Layout | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the processes agreed on: a copy of the method agrees anew."""
        return vars(self) | {"layout": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> "SumReducer":
        """Copy everything but the process group, so that a model with the method can be copied."""
        new = memo[id(self)] = copy.copy(self)
        vars(new).update({name: copy.deepcopy(value, memo) for name, value in vars(new).items() if name != "group"})
        return new

    @property
    def processes(self) -> int:
        """Number of processes in the group; 1 without one."""
        if not (dist.is_available() and dist.is_initialized()):
            return 1
        return max(1, dist.get_world_size(self.group))  # -1 in a process that is not in the group

    def all_reduce(self, buffer: Tensor) -> Any:
        """Start summing a flat buffer in place over the processes; return its handle (`dist.Work`) to wait for.

        Override it to compress what is sent, for example.
        """
        if self.divides:
            buffer.div_(self.processes)  # first, as DistributedDataParallel does: the sum stays in range
        return dist.all_reduce(buffer, group=self.group, async_op=True)

    def fill(self, objectives: Objectives) -> None:
        """Add to a step's objectives what other processes may have of it: it counts as absent here."""
        if self.layout is not None and self.layout.contains(objectives):
            objectives.names, objectives.encoders = list(self.layout.names), self.layout.trainable()

    def begin(self, objectives: Objectives, passes: Sequence[Pass], *, named: bool = True) -> "Reduction":
        """Begin the sums of one step, with more than one process.

        Arguments:
            objectives: of the step, after `fill`; at the first step, what other processes may have of it is added.
            passes: of the step.
            named: whether the caller named the encoders, rather than their features.
        """
        if self.same_graph:
            return Reduction(self, overlaps=True)
        layout = self.layout
        known = layout is not None and layout.contains(objectives)
        if layout is not None and not known and not named:
            raise ValueError(
                "a feature depends on parameters that none depended on at the first step: name the encoders, or assign "
                "a new reducer to method.reduce in all processes"
            )
        if self.model is not None and known:
            known = _same(self._outside(objectives, passes), layout.outside)  # type: ignore[union-attr]
        if not known:
            self.layout = self._agree(objectives, passes)
            self.fill(objectives)
        return Reduction(self, overlaps=known)

    def _outside(self, objectives: Objectives, passes: Sequence[Pass]) -> list[Tensor]:
        """Trainable parameters outside the encoders: those of the model, else those that the losses reach."""
        if self.model is None:
            names = [name for run in passes if run.outside for name in run.losses]
            # Sorted, since the order must be the same in every process.
            leaves = graph_leaves([objectives.losses[name] for name in sorted(names) if name in objectives.losses])
            parameters = [leaf for leaf in leaves if isinstance(leaf, nn.Parameter)]
        else:
            parameters = [*(self.model.parameters() if isinstance(self.model, nn.Module) else self.model)]
        inside = {id(p) for encoder in objectives.encoders.values() for p in encoder.parameters}
        return [p for p in parameters if id(p) not in inside and p.requires_grad]

    def _agree(self, objectives: Objectives, passes: Sequence[Pass]) -> Layout:
        """Compare the processes and return what all of them will exchange. Waits for the device, at the first step.

        Raises:
            ValueError: in all processes, if they do not fit together.
        """
        layout = Layout(list(objectives.names), dict(objectives.encoders), self._outside(objectives, passes))
        layouts: list[Any] = [None] * self.processes
        dist.all_gather_object(layouts, describe(layout), group=self.group)
        for rank, other in enumerate(layouts[1:], start=1):
            check_alike(layouts[0], other, rank, has_model=self.model is not None)
        names = dict.fromkeys(name for one in layouts for name in one["names"])
        layout.names = sorted(names, key=lambda name: name != JOINT)
        layout.encoders = {  # in the order of process 0, and with the joint loss if any process has it
            name: Encoder(layout.encoders[name].parameters, max((one["encoders"][name][0] for one in layouts), key=len))
            for name in layouts[0]["encoders"]
        }
        return layout


class MeanReducer(SumReducer):
    """Like `SumReducer`, but divides the sums by the number of processes: what DistributedDataParallel does.

    `method.reduce = "mean"`, the default, is `MeanReducer()`. Write the losses as for DistributedDataParallel: each is
    a mean over the process's samples. With shares of different sizes, multiply it by (samples here) · (number of
    processes) / (samples in the batch) to get the mean over the batch's samples.
    """

    divides = True


class Reduction:
    """Sums of one step: started as soon as gradients are computed, awaited at the end.

    Attributes:
        overlaps: whether the sum of a pass may be started before the next pass.
    """

    def __init__(self, reducer: SumReducer, *, overlaps: bool) -> None:
        self.overlaps = overlaps
        self._reducer, self._layout = reducer, None if reducer.same_graph else reducer.layout
        self._started: list[list[Tensor | None]] = []
        self._running: list[Any] = []

    def start(self, parameters: Sequence[Tensor], lists: Sequence[list[Tensor | None]]) -> None:
        """Start summing gradients and put views of the sums into their lists; read them after `finish` only.

        Arguments:
            parameters: parameters of the lists' gradients, one list after another. The buffer has their memory format,
                since that of the gradients may differ between processes.
            lists: gradients; None counts as zero, or stays None if the graphs are the same everywhere.
        """
        entries = [(gradients, index) for gradients in lists for index in range(len(gradients))]
        slots = [(p, *entry) for p, entry in zip(parameters, entries, strict=True)]
        if self._layout is None:
            slots = [slot for slot in slots if slot[1][slot[2]] is not None]
        sums = self._all_reduce([gradients[index] for _, gradients, index in slots], [p for p, *_ in slots])
        for (_, gradients, index), value in zip(slots, sums, strict=True):
            gradients[index] = value
        self._started += lists

    def finish(self, objectives: Objectives, passes: Sequence[Pass], gradients: Gradients) -> None:
        """Sum everything that has not been started, in place, and wait for all sums.

        Raises:
            ValueError: the losses reach a parameter that is not exchanged.
        """
        started = {id(one) for one in self._started}
        for parameters, lists in lists_of_passes(objectives, passes, gradients):
            if not any(id(one) in started for one in lists):
                self.start(parameters, lists)
        reached = [p for p in gradients.others if isinstance(p, nn.Parameter)]
        outside = reached if self._layout is None else self._layout.outside
        _check_exchanged(reached, outside)
        sums = self._all_reduce([gradients.others.get(p) for p in outside], outside)
        gradients.others |= zip(outside, sums, strict=True)

        flags = [~gradients.finite]
        if self._layout is not None:
            flags.append(torch.ones_like(flags[0]) if gradients.present is None else gradients.present)
        statistics = sorted(gradients.statistics)  # micro-batches may have come in another order elsewhere
        summed = self._all_reduce([*flags, *(gradients.statistics[name] for name in statistics)], exact=True)
        for work in self._running:
            work.wait()
        gradients.finite = summed[0] == 0
        gradients.present = summed[1] > 0 if self._layout is not None else gradients.present
        gradients.statistics |= zip(statistics, summed[len(flags) :], strict=True)

    def _all_reduce(
        self, tensors: Sequence[Tensor | None], like: Sequence[Tensor] = (), exact: bool = False
    ) -> list[Tensor]:
        """Views of one flat buffer per dtype and device that is being summed; in float64 if `exact`.

        Arguments:
            tensors: None counts as zero.
            like: tensors whose dtype, device and memory format the views have; `tensors` themselves if left out.
        """
        models = like or [tensor for tensor in tensors if tensor is not None]
        indices_of: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for index, model in enumerate(models):
            indices_of.setdefault((torch.float64 if exact else model.dtype, model.device), []).append(index)
        sums: list[Tensor] = list(models)
        for (dtype, device), indices in indices_of.items():
            lengths = [models[index].numel() for index in indices]
            buffer = torch.zeros(sum(lengths), dtype=dtype, device=device)
            for index, part in zip(indices, buffer.split(lengths), strict=True):
                strides = torch.empty_like(models[index], device="meta").stride()
                sums[index] = part.as_strided(models[index].shape, strides, part.storage_offset())
            given = [(sums[index], tensor) for index in indices if (tensor := tensors[index]) is not None]
            if given:
                torch._foreach_copy_([view for view, _ in given], [tensor for _, tensor in given])
            self._running.append(self._reducer.all_reduce(buffer))
        return sums


def _same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return [*map(id, a)] == [*map(id, b)]


def _check_exchanged(reached: Sequence[Tensor], exchanged: Sequence[Tensor]) -> None:
    known = {*map(id, exchanged)}
    for parameter in reached:
        if id(parameter) not in known:
            raise ValueError(
                f"a loss reaches a parameter of shape {tuple(parameter.shape)} outside the encoders that is not "
                "exchanged between processes, since no loss reached it at the first step: pass the model, "
                "method.reduce = MeanReducer(model)"
            )


SumOver = SumReducer  # its former name
