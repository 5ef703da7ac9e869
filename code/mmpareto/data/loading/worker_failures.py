"""A data loader whose workers' failures are one sentence, with the samples that they were reading."""

import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from mmpareto.errors import InputError, first_few, worker_failure

START = 5  # timeouts that the first batch may take: workers import PyTorch before they read


class ReportingLoader(DataLoader[Any]):
    """PyTorch's DataLoader, which raises InputError where a worker hangs, dies, or has no shared memory left.

    Its data set has `names`, those of the samples by index; a key of its sampler is an index or begins with
    (epoch, index).
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches."""
        batches = super().__iter__()
        return self._reported(batches) if self.num_workers else batches

    def _reported(self, batches: Iterator[Any]) -> Iterator[Any]:
        for number in itertools.count():
            for attempt in range(START if number == 0 else 1, 0, -1):
                try:
                    batch = next(batches)
                    break
                except StopIteration:
                    return
                except (RuntimeError, ConnectionError, EOFError) as error:  # the latter two: it died while handing over
                    timed_out = "timed out" in str(error)
                    if timed_out and attempt > 1:
                        continue
                    if (sentence := worker_failure(error, self._samples(number), self.timeout)) is None:
                        raise
                    raise InputError(sentence) from error
            yield batch

    def _samples(self, number: int) -> str:
        """Names of the samples of a batch, counted from where this iteration began."""
        assert self.batch_sampler is not None
        keys = next(itertools.islice(self.batch_sampler, number, None), [])
        names = getattr(self.dataset, "names", None)
        if not names:
            return "a batch"
        indices = [key[1] if isinstance(key, tuple) else key for key in keys]
        return first_few([names[index % len(names)] for index in indices])
