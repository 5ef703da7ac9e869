"""Samples → batches → the device."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate


class Batch(NamedTuple):
    """B samples."""

    inputs: dict[str, Tensor]
    """Modality → tensor, batch first."""
    labels: Tensor
    """int64 (B,)"""
    indices: Tensor
    """int64 (B,): places in the data set."""
    flips: dict[str, Tensor] = {}  # noqa: RUF012 (a default that nobody changes)
    """Modality → (B, images) bool: which of a sample's images are yet to be mirrored."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One process's part of a batch or a data set: every `count`th sample, from the `rank`th (0 is the first) on."""

    rank: int = 0
    count: int = 1

    def indices(self, samples: int) -> range:
        """The places of its own among so many samples."""
        return range(self.rank, samples, self.count)


UNSHARDED = Shard()


class EpochOrder(Sampler[tuple[int, int]]):
    """Yields (epoch, index) for every index once, in an order that is a pure function of (seed, epoch).

    The epoch travels with the index because workers that outlive an epoch see nothing else of it.

    Arguments:
        size: number of samples.
        seed: ≥ 0.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch (≥ 0) that the next iteration goes through, leaving out its first `start` samples."""
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # The spawn key keeps this stream apart from that of sample 0, whose seed is padded with zeros.
        sequence = np.random.SeedSequence((self.seed, self.epoch), spawn_key=(0,))
        order = np.random.Generator(np.random.PCG64(sequence)).permutation(self.size)
        epoch = self.epoch
        return iter([(epoch, index) for index in order[self.start :].tolist()])

    def __len__(self) -> int:
        return max(self.size - self.start, 0)


class ShardedBatches(Sampler[list[tuple[int, int]]]):
    """A process's share of every batch of an order, or the batch's first sample where that is none (see `shares`)."""

    def __init__(self, order: EpochOrder, batch_size: int, share: Shard) -> None:
        self.order, self.batch_size, self.share = order, batch_size, share

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        keys = list(self.order)
        for start in range(0, len(keys), self.batch_size):
            batch = keys[start : start + self.batch_size]
            yield [batch[place] for place in self.share.indices(len(batch))] or batch[:1]

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)


def sharded_batches(
    batches: Iterable[Batch], samples: int, batch_size: int, share: Shard
) -> Iterator[tuple[Batch, int]]:
    """A process's share of every batch, perhaps of no sample, with the number of samples in the whole batch.

    Arguments:
        batches: of a loader made for this share.
        samples: in all batches together.
        batch_size: of the whole batches.
    """
    for batch in batches:
        whole = min(batch_size, samples)
        samples -= whole
        own = len(share.indices(whole))
        if len(batch.labels) > own:
            inputs = {name: values[:own] for name, values in batch.inputs.items()}
            flips = {name: values[:own] for name, values in batch.flips.items()}
            batch = Batch(inputs, batch.labels[:own], batch.indices[:own], flips)
        yield batch, whole


def make_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    order: EpochOrder | None = None,
    workers: int = 0,
    pin_memory: bool = False,
    share: Shard = UNSHARDED,
) -> DataLoader[Any]:
    """A loader of `Batch`es of at most `batch_size` samples; the last one of an epoch may be smaller.

    Arguments:
        dataset: gives (inputs, label, index) for the keys of `order`.
        batch_size: ≥ 1.
        order: of training; None goes through the data set from first to last, for evaluation.
        workers: processes that load; 0 loads in this one. They stay from epoch to epoch; see `stop_workers`.
        pin_memory: whether batches lie in page-locked memory, from which a GPU copies without waiting.
        share: load this part of every batch; without an order, of the data set, or its first sample where that is none.
    """
    how: dict[str, Any] = {"batch_size": batch_size, "sampler": order}
    if share.count > 1 and order is not None:
        how = {"batch_sampler": ShardedBatches(order, batch_size, share)}
    elif share.count > 1:
        own = share.indices(len(dataset)) or range(1)  # type: ignore[arg-type]
        how = {"batch_size": -(-batch_size // share.count), "sampler": own}
    return DataLoader(
        dataset,
        **how,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        collate_fn=_collate,
        worker_init_fn=_leave_the_group,
        generator=torch.Generator(),  # the loader draws a number an epoch: not from the global generator
    )


def stop_workers(loader: DataLoader[Any]) -> None:
    """End the workers of a loader now, if it has any; it starts new ones when it is next used.

    Left to the garbage collector, an iterator that is part of a cycle (an exception's traceback makes one) loses
    its queues before its workers, and then waits five seconds for each of them.
    """
    iterator, loader._iterator = loader._iterator, None
    if iterator is not None and hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def to_device(
    batch: Batch,
    device: torch.device | str,
    normalisation: Mapping[str, Sequence[Sequence[float]]],
) -> Batch:
    """Copy a batch to `device`, without waiting for it where memory is pinned; normalise and mirror its images there.

    Arguments:
        normalisation: modality → mean, std and channels negated (`sources.Normalisation`), for the modalities that are
            uint8 (…, C, H, W) and become float32 (x / 255 − mean) / std. Others are left as they are.
    """
    device = torch.device(device)
    inputs = {}
    for name, values in batch.inputs.items():
        values = values.to(device, non_blocking=True)
        if values.dtype == torch.uint8:
            mean, std, *negated = normalisation[name]
            values = values.float().div_(255).sub_(_channels(tuple(mean), device)).div_(_channels(tuple(std), device))
            if name in batch.flips:
                flips = batch.flips[name].to(device, non_blocking=True)
                signs = [-1.0 if channel in (negated[0] if negated else ()) else 1.0 for channel in range(len(mean))]
                values = _mirrored(values, flips, _channels(tuple(signs), device))
        inputs[name] = values
    return Batch(inputs, batch.labels.to(device, non_blocking=True), batch.indices.to(device, non_blocking=True))


def _mirrored(values: Tensor, flips: Tensor, signs: Tensor) -> Tensor:
    """Mirror the images (B, …, C, H, W) that `flips` (B, images) names, and negate channels that point sideways."""
    flips = flips.view(*flips.shape[: values.dim() - 3], *[1] * 3)
    return torch.where(flips, values.flip(-1) * signs, values)


@functools.lru_cache(maxsize=32)  # made once: a copy from pageable memory would wait for the device at every step
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept for training, too, where evaluation made it
        return torch.tensor(values, device=device).view(-1, 1, 1)


def _collate(samples: list[Any]) -> Batch:
    return Batch(*default_collate(samples))


def _leave_the_group(worker: int) -> None:
    """Keep signals that are meant for training from its workers.

    Ctrl-C and `timeout` signal the whole process group, and a worker that dies of it takes the step down that
    training is finishing. Workers still end with their parent: at once when it exits, within seconds of its being
    killed.
    """
    os.setpgid(0, 0)
