"""Training in several processes started by torchrun: communication between them.

Every process holds the whole model and computes on its share of each batch. Losses and gradients are summed over the
processes before they are used, so that all processes take the same decisions and stop at the same step. Only rank 0
writes files and prints.
"""

import contextlib
import dataclasses
import datetime
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from mmpareto.cli import BAD_INPUT
from mmpareto.data.loading.batches import UNSHARDED, Shard
from mmpareto.models.mmtm import MMTM
from mmpareto.training.batch_norm import convert_sync_batchnorm
from mmpareto.training.devices import choose_devices

Value = TypeVar("Value")

TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclasses.dataclass(frozen=True)
class Processes:
    """The group of processes that train one model, from the view of one of them; without torchrun, a single process.

    Attributes:
        share: this process's share of every batch and of every data set; its `rank` and `count` are the group's.
        local_rank, local_world_size: rank and number of processes on this machine.
        is_distributed: whether torchrun started a group of processes (perhaps of one). Without it, no method
            communicates.
    """

    share: Shard = UNSHARDED
    local_rank: int = 0
    local_world_size: int = 1
    is_distributed: bool = False

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return self.share.count

    @property
    def is_rank0(self) -> bool:
        """True if this is the process that writes files and prints."""
        return self.share.rank == 0

    def devices(self, gpu_ids: str) -> tuple[torch.device, list[int]]:
        """`choose_devices`; with several processes, one GPU per process."""
        return choose_devices(gpu_ids, self.local_rank if self.is_distributed else None)

    def all_reduce_sum(self, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum each of the () tensors over the processes, in float64; a single process returns them unchanged."""
        if not self.is_distributed:
            return dict(metrics)
        sums = torch.stack([value.detach().double() for value in metrics.values()])
        distributed.all_reduce(sums)
        return dict(zip(metrics, sums.unbind(), strict=True))

    def all_reduce_max(self, number: int) -> int:
        """The maximum of the processes' numbers; waits for all of them."""
        if not self.is_distributed:
            return number
        maximum = torch.tensor(number)
        distributed.all_reduce(maximum, distributed.ReduceOp.MAX)
        return int(maximum)

    def all_reduce_gradients(self, module: nn.Module) -> None:
        """Sum `.grad` of every parameter over the processes."""
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        if self.is_distributed and gradients:
            _all_reduce_in_place(gradients)

    def average_buffers(self, module: nn.Module, samples: int) -> None:
        """Average the buffers that a forward pass has updated over the samples of all processes.

        BatchNorm and MMTM are left out: after `synchronise` their buffers are equal already.

        Arguments:
            samples: number of samples in this process's forward pass.
        """
        buffers = [
            buffer
            for inner in module.modules()
            if not isinstance(inner, nn.modules.batchnorm._BatchNorm | MMTM)
            for name, buffer in inner.named_buffers(recurse=False)
            if buffer.is_floating_point() and name not in inner._non_persistent_buffers_set
        ]
        if not self.is_distributed or not buffers:
            return
        weighted = [b.double() * samples if samples else torch.zeros_like(b, dtype=torch.float64) for b in buffers]
        count = torch.full((), float(samples), dtype=torch.float64, device=buffers[0].device)
        _all_reduce_in_place([*weighted, count])
        for buffer, value in zip(buffers, weighted, strict=True):
            buffer.copy_(value / count)

    def all_gather(self, values: Tensor, samples: int) -> Tensor:
        """Rows (samples, …) in their order, on all processes, from the rows of each process's share."""
        if not self.is_distributed:
            return values
        rows = math.ceil(samples / self.world_size)
        padded = torch.cat([values, values.new_zeros(rows - len(values), *values.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        distributed.all_gather(parts, padded.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)[:samples]

    def synchronise(self, network: nn.Module, device: torch.device) -> Any:
        """The network with rank 0's parameters and buffers, and with batch statistics over all processes."""
        if not self.is_distributed:
            return network
        for tensor in network.state_dict().values():
            distributed.broadcast(tensor, 0)
        for module in network.modules():
            if isinstance(module, MMTM):
                module.batch_means = self.batch_means
        return convert_sync_batchnorm(network, device)

    def batch_means(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean of each (B, C) tensor over the rows of all processes, (C,) float64; a process may have no row."""
        means = {name: rows.double().sum(0) for name, rows in values.items()}
        count = torch.full_like(next(iter(means.values()))[:1], len(next(iter(values.values()))))
        _all_reduce_in_place([*means.values(), count])
        return {name: total / count for name, total in means.items()}

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        self.all_reduce_max(0)

    def collective_check(self, check: Callable[[], None], samples: int, batch_size: int) -> Callable[[], None]:
        """A `check` to call after every batch of a data set that calls the collective `check` equally often everywhere.

        Processes may differ by one batch; after those that all of them have, it does nothing.

        Arguments:
            samples: number of samples in the data set.
            batch_size: of all processes together.
        """
        if not self.is_distributed:
            return check
        common_batches = math.ceil((samples // self.world_size) / math.ceil(batch_size / self.world_size))
        remaining = iter(range(common_batches))
        return lambda: check() if next(remaining, None) is not None else None

    def run_on_rank0(self, function: Callable[[], Value]) -> Value:
        """The result of `function`, called on rank 0 and broadcast; if it raises, the other processes exit silently."""
        if not self.is_distributed:
            return function()
        result: list[Any] = [False, None]
        try:
            if self.is_rank0:
                result = [True, function()]
        finally:
            distributed.broadcast_object_list(result, 0, device=torch.device("cpu"))
        succeeded, value = result
        if not succeeded:
            raise SystemExit(BAD_INPUT)
        return value

    def rank0_first(self, function: Callable[[], Value]) -> Value:
        """The result of `function`, called on rank 0 before the other processes call it: it may create files.

        If it raises on rank 0, the other processes exit silently.
        """
        results: list[Value] = []
        self.run_on_rank0(lambda: results.append(function()))
        return results[0] if results else function()

    @contextlib.contextmanager
    def per_rank_rng(self, device: torch.device, *seeds: int) -> Iterator[None]:
        """Inside, each process draws its own random numbers, seeded by (*seeds, rank).

        Outside, all processes draw the same numbers, however many each of them draws inside for its share.
        """
        if not self.is_distributed:
            yield
            return
        seed = np.random.SeedSequence((*seeds, self.share.rank)).generate_state(1, np.uint64)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(seed[0] >> np.uint64(1)))
            yield


SINGLE_PROCESS = Processes()


def _all_reduce_in_place(tensors: Sequence[Tensor]) -> None:
    buffer = torch.cat([t.flatten() for t in tensors])
    distributed.all_reduce(buffer)
    for tensor, part in zip(tensors, buffer.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


@contextlib.contextmanager
def process_group(timeout: float = 1800.0) -> Iterator[Processes]:
    """The processes that torchrun started, as a process group while entered; without torchrun, a single process.

    Arguments:
        timeout: seconds that a process waits for the others, longer than one of them prepares data or writes a file.

    All ranks but 0 print nothing to standard output. A process that fails exits without waiting for the others; they
    then fail in their next collective call, or torchrun ends them.
    """
    if not all(name in os.environ for name in TORCHRUN_VARIABLES):
        yield SINGLE_PROCESS
        return
    rank, world_size, local_rank, local_world_size = (int(os.environ[name]) for name in TORCHRUN_VARIABLES[:4])
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout))
    processes = Processes(Shard(rank, world_size), local_rank, local_world_size, is_distributed=True)
    with contextlib.ExitStack() as stack:
        if not processes.is_rank0:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
        yield processes
    processes.barrier()
    distributed.destroy_process_group()
