"""Sums of gradients over processes that share a batch (`torch.distributed`)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from mmpareto.integration.differentiation import Gradients


class SumReducer:
    """Makes a method integrate the gradients of all processes of a group: `method.reduce = SumReducer()`.

    Every process calls `backward` with the same model, its share of the samples, and losses that add up to the batch's,
    as with gradient accumulation: each is a mean over the process's samples times their share of the batch. The
    objectives' gradients, the statistics and the flags `report.finite` are summed before anything is integrated, so
    that all processes get the `.grad` and the report of one process with the whole batch. Micro-batches of a share
    (`accumulate`) are added up first; the number of micro-batches may differ between processes. Random numbers that a
    method draws must be the same everywhere: seed PyTorch's generators alike.

    There is one all-reduce of a flat buffer per backward pass, which runs during the next pass, then one for the
    parameters outside the encoders and one for statistics and flags.

    Arguments:
        group: process group; None for all processes.
    """

    def __init__(self, group: "dist.ProcessGroup | None" = None) -> None:
        self.group = group

    def begin(self) -> "Reduction":
        """Begin the sums of one step."""
        return Reduction(self.group)


class Reduction:
    """Sums of one step: started as soon as gradients are computed, awaited at the end."""

    def __init__(self, group: "dist.ProcessGroup | None") -> None:
        self._group = group
        self._started: list[list[Tensor | None]] = []
        self._running: list[dist.Work] = []

    def start(self, parameters: Sequence[Tensor], lists: Sequence[list[Tensor | None]]) -> None:
        """Start summing gradients and put views of the sums into their lists; read them after `finish` only.

        Arguments:
            parameters: parameters of the lists' gradients, one list after another. The buffer has their memory format,
                since that of the gradients may differ between processes.
            lists: gradients; None at the same indices in all processes.
        """
        entries = [(gradients, index) for gradients in lists for index in range(len(gradients))]
        reached = [(p, *entry) for p, entry in zip(parameters, entries, strict=True) if entry[0][entry[1]] is not None]
        values = [g for _, gradients, index in reached if (g := gradients[index]) is not None]
        sums = self._all_reduce(values, [p for p, *_ in reached])
        for (_, gradients, index), value in zip(reached, sums, strict=True):
            gradients[index] = value
        self._started += lists

    def finish(self, parameters: Mapping[str, Sequence[Tensor]], gradients: Gradients) -> None:
        """Sum everything that has not been started, in place, and wait for all sums.

        Arguments:
            parameters: modality → parameters of its encoder.
        """
        started = {id(one) for one in self._started}
        for objective in range(max(map(len, gradients.encoders.values()), default=0)):
            lists = {name: lists[objective] for name, lists in gradients.encoders.items() if objective < len(lists)}
            lists = {name: one for name, one in lists.items() if id(one) not in started}
            self.start([p for name in lists for p in parameters[name]], list(lists.values()))
        sums = self._all_reduce(list(gradients.others.values()), list(gradients.others))
        gradients.others = dict(zip(gradients.others, sums, strict=True))
        nonfinite, *statistics = self._all_reduce([~gradients.finite, *gradients.statistics.values()], exact=True)
        for work in self._running:
            work.wait()
        gradients.finite = nonfinite == 0
        gradients.statistics = dict(zip(gradients.statistics, statistics, strict=True))

    def _all_reduce(
        self, tensors: Sequence[Tensor], like: Sequence[Tensor] | None = None, exact: bool = False
    ) -> list[Tensor]:
        """Views of one flat buffer per dtype and device that is being summed; in float64 if `exact`.

        Arguments:
            like: tensors whose memory format the views have.
        """
        indices_of: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for index, tensor in enumerate(tensors):
            indices_of.setdefault((torch.float64 if exact else tensor.dtype, tensor.device), []).append(index)
        sums: list[Tensor] = list(tensors)
        for (dtype, device), indices in indices_of.items():
            chosen = [tensors[index] for index in indices]
            buffer = torch.empty(sum(t.numel() for t in chosen), dtype=dtype, device=device)
            formats = chosen if like is None else [like[index] for index in indices]
            views = [
                part.as_strided(t.shape, torch.empty_like(model, device="meta").stride(), part.storage_offset())
                for part, t, model in zip(buffer.split([t.numel() for t in chosen]), chosen, formats, strict=True)
            ]
            torch._foreach_copy_(views, chosen)
            work = dist.all_reduce(buffer, group=self._group, async_op=True)
            assert work is not None
            self._running.append(work)
            for index, view in zip(indices, views, strict=True):
                sums[index] = view
        return sums


SumOver = SumReducer  # its former name
