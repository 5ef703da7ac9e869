"""Gradients summed over processes, each of which has a share of the batch (`torch.distributed`)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from mmpareto.integration.gradients import Gradients


class SumOver:
    """Has a method integrate what all processes of a group found together: `method.over = SumOver()`.

    Every process calls `backward` with the same model and its share of the samples, and, as with gradient accumulation,
    with losses that add up to the batch's: each a mean over its own samples, times their share of the batch. The
    objectives' gradients, the statistics and the flags `report.finite` are summed before anything is integrated, so
    that all processes get the same `.grad` and report, those of one process with the whole batch. Parts of a share
    (`accumulate`) are added up first; processes may differ in the number of parts. What a method draws, it must draw
    alike everywhere: seed PyTorch's generators with the same number.

    One flat buffer a backward pass is summed, while the next pass runs; then one for what lies outside the encoders and
    one for the numbers.

    Arguments:
        group: of torch.distributed; None for all processes.
    """

    def __init__(self, group: "dist.ProcessGroup | None" = None) -> None:
        self.group = group

    def begin(self) -> "Sums":
        """The sums of one step."""
        return Sums(self.group)


class Sums:
    """The sums of one step, begun as soon as there is something to sum, and waited for at the end."""

    def __init__(self, group: "dist.ProcessGroup | None") -> None:
        self._group = group
        self._begun: list[list[Tensor | None]] = []
        self._running: list[dist.Work] = []

    def begin(self, parameters: Sequence[Tensor], lists: Sequence[list[Tensor | None]]) -> None:
        """Begin to sum gradients; in their lists, views of the sums take their places, not to be read before `finish`.

        Arguments:
            parameters: whose gradients the lists hold, a list after the other. Their layout in memory is the buffer's,
                since that of the gradients may differ from process to process.
            lists: gradients; None at the same places in all processes.
        """
        entries = [(own, place, g) for own in lists for place, g in enumerate(own)]
        found = [(p, *entry) for p, entry in zip(parameters, entries, strict=True) if entry[2] is not None]
        summed = self._sum([g for *_, g in found if g is not None], [p for p, *_ in found])
        for (_, own, place, _), value in zip(found, summed, strict=True):
            own[place] = value
        self._begun += lists

    def finish(self, parameters: Mapping[str, Sequence[Tensor]], gradients: Gradients) -> None:
        """Sum what has not been begun, in place, and wait for all.

        Arguments:
            parameters: modality → its encoder's.
        """
        begun = {id(own) for own in self._begun}
        for place in range(max(map(len, gradients.encoders.values()), default=0)):
            left = {name: own[place] for name, own in gradients.encoders.items() if place < len(own)}
            left = {name: own for name, own in left.items() if id(own) not in begun}
            self.begin([p for name in left for p in parameters[name]], list(left.values()))
        summed = self._sum(list(gradients.others.values()), list(gradients.others))
        gradients.others = dict(zip(gradients.others, summed, strict=True))
        odd, *numbers = self._sum([~gradients.finite, *gradients.statistics.values()], exact=True)
        for work in self._running:
            work.wait()
        gradients.finite = odd == 0
        gradients.statistics = dict(zip(gradients.statistics, numbers, strict=True))

    def _sum(
        self, tensors: Sequence[Tensor], layouts: Sequence[Tensor] | None = None, exact: bool = False
    ) -> list[Tensor]:
        """Views of one flat buffer a type and device that is being summed; in float64 if `exact`."""
        kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for place, tensor in enumerate(tensors):
            kinds.setdefault((torch.float64 if exact else tensor.dtype, tensor.device), []).append(place)
        summed: list[Tensor] = list(tensors)
        for (dtype, device), places in kinds.items():
            chosen = [tensors[place] for place in places]
            buffer = torch.empty(sum(t.numel() for t in chosen), dtype=dtype, device=device)
            likes = chosen if layouts is None else [layouts[place] for place in places]
            views = [
                part.as_strided(t.shape, torch.empty_like(like, device="meta").stride(), part.storage_offset())
                for part, t, like in zip(buffer.split([t.numel() for t in chosen]), chosen, likes, strict=True)
            ]
            torch._foreach_copy_(views, chosen)
            work = dist.all_reduce(buffer, group=self._group, async_op=True)
            assert work is not None
            self._running.append(work)
            for place, view in zip(places, views, strict=True):
                summed[place] = view
        return summed
