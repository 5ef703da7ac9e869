"""Samples → batches → the device."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from mmpareto.data.loading.worker_failures import ReportingLoader

WORKER_TIMEOUT = 60.0  # seconds


class Batch(NamedTuple):
    """B samples."""

    inputs: dict[str, Tensor]
    """Modality → tensor, batch first."""
    labels: Tensor
    """int64 (B,), int64 (B, C), floating point (B,) or int32 (B, T), by the task (`labels`)."""
    indices: Tensor
    """int64 (B,): indices in the data set."""
    flips: dict[str, Tensor] = {}  # noqa: RUF012 (never modified)
    """Modality → (B, images) bool: images to be mirrored on the device."""
    alone: Tensor | None = None
    """int64 (B,): the number of the only modality whose feature is used, or −1 for all; None if so for all samples."""

    def only(self, modalities: Iterable[str]) -> "Batch":
        """The batch with the inputs of these modalities alone, in its own order."""
        chosen = set(modalities)
        return self._replace(inputs={name: x for name, x in self.inputs.items() if name in chosen})


@dataclasses.dataclass(frozen=True)
class Shard:
    """One process's part of a batch or a data set: every `count`th sample, beginning with number `rank` (from 0)."""

    rank: int = 0
    count: int = 1

    def indices(self, samples: int) -> range:
        """Indices of this shard's samples among `samples`."""
        return range(self.rank, samples, self.count)


UNSHARDED = Shard()


Key: TypeAlias = tuple[int, int] | tuple[int, int, int]
"""Of a sample in an epoch: (epoch, index), or (epoch, number, modality) of a copy with one modality alone.

The index of a copy is its number modulo the size of the data set; numbers of copies differ, and so does what is random.
"""


class EpochOrder(Sampler[Key]):
    """Yields the key of every sample once, in an order that is a pure function of (seed, epoch) and of the copies.

    The epoch is part of the key because workers that persist across epochs cannot see it otherwise.

    Arguments:
        size: number of samples.
        seed: ≥ 0.
        used: number of samples per epoch, the first ones of its order; None for all.
    """

    def __init__(self, size: int, seed: int = 0, used: int | None = None) -> None:
        self.size = size
        self.seed = seed
        self.used = size if used is None else used
        self.copies: Sequence[tuple[int, int]] = ()
        self.set_epoch(0)

    def set_copies(self, copies: Sequence[tuple[int, int]], used: int) -> None:
        """Set the copies among the following epochs' samples.

        Arguments:
            copies: (index, number of the modality that is used alone); an index may occur several times.
            used: number of samples per epoch, copies included.
        """
        self.copies, self.used = copies, used

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Set the epoch (≥ 0) of the next iteration, and the number of samples to skip at its beginning."""
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[Key]:
        # The spawn key keeps this stream apart from that of sample 0, whose seed is padded with zeros.
        sequence = np.random.SeedSequence((self.seed, self.epoch), spawn_key=(0,))
        order = np.random.Generator(np.random.PCG64(sequence)).permutation(self.size + len(self.copies))
        return iter([self._key(position) for position in order[self.start : self.used].tolist()])

    def _key(self, position: int) -> Key:
        """The key of a sample, or of a copy, which come after all samples."""
        if position < self.size:
            return self.epoch, position
        copy = position - self.size
        index, modality = self.copies[copy]
        return self.epoch, self.size * (1 + copy) + index, modality

    def __len__(self) -> int:
        return max(self.used - self.start, 0)


class ShardedBatches(Sampler[list[Key]]):
    """Batch sampler: the shard of every batch, or the batch's first sample if it is empty (see `sharded_batches`)."""

    def __init__(self, order: EpochOrder, batch_size: int, shard: Shard) -> None:
        self.order, self.batch_size, self.shard = order, batch_size, shard

    def __iter__(self) -> Iterator[list[Key]]:
        keys = list(self.order)
        for start in range(0, len(keys), self.batch_size):
            batch = keys[start : start + self.batch_size]
            yield [batch[index] for index in self.shard.indices(len(batch))] or batch[:1]

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)


def sharded_batches(
    batches: Iterable[Batch], samples: int, batch_size: int, shard: Shard
) -> Iterator[tuple[Batch, int]]:
    """Yield the shard of every batch, which may be empty, and the number of samples in the whole batch.

    Arguments:
        batches: from a loader made for this shard.
        samples: total of all batches.
        batch_size: of the whole batches.
    """
    for batch in batches:
        total = min(batch_size, samples)
        samples -= total
        count = len(shard.indices(total))
        if len(batch.labels) > count:
            inputs = {name: values[:count] for name, values in batch.inputs.items()}
            flips = {name: values[:count] for name, values in batch.flips.items()}
            alone = None if batch.alone is None else batch.alone[:count]
            batch = Batch(inputs, batch.labels[:count], batch.indices[:count], flips, alone)
        yield batch, total


def make_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    order: EpochOrder | None = None,
    workers: int = 0,
    pin_memory: bool = False,
    share: Shard = UNSHARDED,
    timeout: float = WORKER_TIMEOUT,
) -> DataLoader[Any]:
    """Return a loader of `Batch`es of at most `batch_size` samples; the last one of an epoch may be smaller.

    Arguments:
        dataset: maps a key of `order` to a `samples.Sample`.
        batch_size: ≥ 1.
        order: of training; None for the data set's own order, for evaluation.
        workers: number of loader processes; 0 loads in this process. They persist across epochs; see `stop_workers`.
        pin_memory: whether batches are in page-locked memory, from which copies to a GPU are asynchronous.
        share: the part of every batch to load; without an order, the part of the data set. If that is empty, the first
            sample is loaded.
        timeout: seconds without a batch, after which the workers count as hung.

    Reading from it raises InputError if a worker hangs or dies (`worker_failures.ReportingLoader`).
    """
    how: dict[str, Any] = {"batch_size": batch_size, "sampler": order}
    if share.count > 1 and order is not None:
        how = {"batch_sampler": ShardedBatches(order, batch_size, share)}
    elif share.count > 1:
        indices = share.indices(len(dataset)) or range(1)  # type: ignore[arg-type]
        how = {"batch_size": -(-batch_size // share.count), "sampler": indices}
    return ReportingLoader(
        dataset,
        **how,
        timeout=timeout if workers else 0,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        collate_fn=_collate,
        worker_init_fn=_leave_process_group,
        generator=torch.Generator(),  # the loader draws one number per epoch: not from the global generator
    )


def stop_workers(loader: DataLoader[Any]) -> None:
    """Stop the workers of a loader, if it has any; it starts new ones when it is next used.

    An iterator in a reference cycle (an exception's traceback creates one) that is left to the garbage collector loses
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
    """Copy a batch to `device`, asynchronously from pinned memory, and normalise and mirror its images there.

    Arguments:
        normalisation: modality → mean, std and negated channels (`sources.Normalisation`), for modalities of uint8
            images (…, C, H, W), which become float32 (x / 255 − mean) / std. Other modalities are unchanged.
    """
    device = torch.device(device)
    inputs = {}
    for name, values in batch.inputs.items():
        values = values.to(device, non_blocking=True)
        if values.dtype == torch.uint8:
            mean, std, *negated = normalisation[name]
            values = values.float().div_(255).sub_(_per_channel(tuple(mean), device))
            values = values.div_(_per_channel(tuple(std), device))
            if name in batch.flips:
                flips = batch.flips[name].to(device, non_blocking=True)
                signs = [-1.0 if channel in (negated[0] if negated else ()) else 1.0 for channel in range(len(mean))]
                values = _mirrored(values, flips, _per_channel(tuple(signs), device))
        inputs[name] = values
    labels, indices, alone = (
        None if values is None else values.to(device, non_blocking=True)
        for values in (batch.labels, batch.indices, batch.alone)
    )
    assert labels is not None and indices is not None
    return Batch(inputs, labels, indices, alone=alone)


def _mirrored(values: Tensor, flips: Tensor, signs: Tensor) -> Tensor:
    """Mirror the images (B, …, C, H, W) where `flips` (B, images) is true, and multiply their channels by `signs`."""
    flips = flips.view(*flips.shape[: values.dim() - 3], *[1] * 3)
    return torch.where(flips, values.flip(-1) * signs, values)


@functools.lru_cache(maxsize=32)  # a copy from pageable memory would synchronise with the device at every step
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training uses the cached tensor, too, even if evaluation created it
        return torch.tensor(values, device=device).view(-1, 1, 1)


def _collate(samples: list[Any]) -> Batch:
    return Batch(*default_collate(samples))


def _leave_process_group(worker: int) -> None:
    """Protect a loader worker from signals that are meant for training.

    Ctrl-C and `timeout` signal the whole process group, and a worker that dies of it breaks the step that training is
    finishing. Workers still end with their parent: at once when it exits, within seconds when it is killed.
    """
    os.setpgid(0, 0)
