"""Training in several processes, started by torchrun: what they have to tell each other.

Every process holds the whole model and a share of each batch, and does the same as all others but for that share: it
sees the same losses and gradients, which are summed before anything is done with them, decides the same, and ends at
the same step. The first one alone writes and prints.
"""

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from mmpareto.cli import BAD_INPUT
from mmpareto.data.loading.batches import UNSHARDED, Shard
from mmpareto.training.devices import choose_devices

Value = TypeVar("Value")

# How long a process waits for the others before it gives up: longer than one of them prepares data or writes a file.
TIMEOUT = datetime.timedelta(minutes=30)
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes that train one model, as one of them sees them; without torchrun, one alone.

    Attributes:
        share: this one's of every batch and of every data set.
        local_rank, local_count: its number among the processes of its machine, and theirs.
        together: whether there is a group of processes, perhaps of one.
    """

    share: Shard = UNSHARDED
    local_rank: int = 0
    local_count: int = 1
    together: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.share.rank == 0

    def devices(self, gpu_ids: str) -> tuple[torch.device, list[int]]:
        """As `choose_devices`; of several processes, each has a GPU of its own."""
        return choose_devices(gpu_ids, self.local_rank if self.together else None)

    def summed(self, figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """() tensors by name, each summed over the processes, float64; as they are in one process alone."""
        if not self.together:
            return dict(figures)
        sums = torch.stack([value.detach().double() for value in figures.values()])
        distributed.all_reduce(sums)
        return dict(zip(figures, sums.unbind(), strict=True))

    def sum_gradients(self, module: nn.Module) -> None:
        """Sum `.grad` of every parameter over the processes."""
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if self.together and gradients:
            self._sum_in_place(gradients)

    def share_buffers(self, module: nn.Module, samples: int) -> None:
        """Average, over the samples of all processes, what a forward pass has left in buffers: mean gates of MMTM.

        BatchNorm's averages are left alone: synchronised, they are the same everywhere.

        Arguments:
            samples: in this process's forward pass.
        """
        buffers = [
            buffer
            for inner in module.modules()
            if not isinstance(inner, nn.modules.batchnorm._BatchNorm)
            for name, buffer in inner.named_buffers(recurse=False)
            if buffer.is_floating_point() and name not in inner._non_persistent_buffers_set
        ]
        if not self.together or not buffers:
            return
        weighted = [b.double() * samples if samples else torch.zeros_like(b, dtype=torch.float64) for b in buffers]
        count = torch.full((), float(samples), dtype=torch.float64, device=buffers[0].device)
        self._sum_in_place([*weighted, count])
        for buffer, value in zip(buffers, weighted, strict=True):
            buffer.copy_(value / count)

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers; waits for them."""
        if not self.together:
            return number
        all_of_them = torch.tensor(number)
        distributed.all_reduce(all_of_them, distributed.ReduceOp.MAX)
        return int(all_of_them)

    def gathered(self, values: Tensor, samples: int) -> Tensor:
        """The rows (samples, …) of which every process has its share's, in their order, on all processes."""
        if not self.together:
            return values
        rows = -(-samples // self.share.count)
        padded = torch.cat([values, values.new_zeros(rows - len(values), *values.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(self.share.count)]
        distributed.all_gather(parts, padded.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)[:samples]

    def alike(self, module: nn.Module) -> None:
        """Give all processes the first one's parameters and buffers."""
        if self.together:
            for tensor in module.state_dict().values():
                distributed.broadcast(tensor, 0)

    def checking(self, check: Callable[[], None], samples: int, batch_size: int) -> Callable[[], None]:
        """`check`, for as many of a data set's batches as every process has, since all must ask together.

        Arguments:
            samples: in the data set.
            batch_size: of all processes together.
        """
        if not self.together:
            return check
        in_all = -(-(samples // self.share.count) // -(-batch_size // self.share.count))
        left = iter(range(in_all))
        return lambda: check() if next(left, None) is not None else None

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.largest(0)

    def of_first(self, function: Callable[[], Value]) -> Value:
        """What the first process's `function` returns, on all processes; where it raises, the others leave silently."""
        if not self.together:
            return function()
        found: list[Any] = [False, None]
        try:
            if self.first:
                found = [True, function()]
        finally:
            distributed.broadcast_object_list(found, 0, device=torch.device("cpu"))
        if not found[0]:
            raise SystemExit(BAD_INPUT)
        return found[1]

    def after_first(self, function: Callable[[], Value]) -> Value:
        """What `function` returns, called in the first process before it is in the others: it may make files.

        Where it raises in the first one, the others leave silently.
        """
        found: list[Value] = []
        self.of_first(lambda: found.append(function()))
        return found[0] if found else function()

    @contextlib.contextmanager
    def own_random(self, device: torch.device, *numbers: int) -> Iterator[None]:
        """Inside, each process draws numbers of its own, which follow from `numbers`.

        Outside, all draw the same, and how much was drawn inside, on shares of unequal size, makes no difference.
        """
        if not self.together:
            yield
            return
        seed = np.random.SeedSequence((*numbers, self.share.rank)).generate_state(1, np.uint64)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(seed[0] >> np.uint64(1)))
            yield

    def _sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        buffer = torch.cat([t.flatten() for t in tensors])
        distributed.all_reduce(buffer)
        for tensor, part in zip(tensors, buffer.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


ALONE = Processes()


@contextlib.contextmanager
def started_by_torchrun() -> Iterator[Processes]:
    """The processes that torchrun started, as a group while this is entered; without torchrun, this one alone.

    The others print nothing on standard output. A process that fails leaves without waiting: what the others wait for
    then never comes, and they fail, too, at once or when torchrun ends them.
    """
    if not all(name in os.environ for name in VARIABLES):
        yield ALONE
        return
    rank, count, local_rank, local_count = (int(os.environ[name]) for name in VARIABLES[:4])
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=TIMEOUT)
    processes = Processes(Shard(rank, count), local_rank, local_count, together=True)
    with contextlib.ExitStack() as stack:
        if not processes.first:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
        yield processes
    processes.wait()
    distributed.destroy_process_group()
