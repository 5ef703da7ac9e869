"""How much memory a piece of work takes beside what lay there before it."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(work: Callable[[], Any], device: torch.device) -> int:
    """Bytes that `work` holds at once at most, of what it allocates itself.

    On a GPU, what the caching allocator hands out, temporary buffers inside an operation included. On the CPU, where no
    allocator counts, what `TensorMemory` does.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with TensorMemory() as counted:
        work()
    return counted.peak


class TensorMemory(TorchDispatchMode):
    """Inside it, counts the bytes of the tensors that operations make, from then until nothing holds them any more.

    A storage counts once, however many tensors share it, and whoever holds it: Python, the autograd graph, `.grad`.
    What an operation needs within itself (the reordered copies of a convolution, say) is not seen, nor is what was made
    outside. Work under it is slow: time it apart.

    Attributes:
        live: bytes now.
        peak: the most that they were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):
            self._known.add(storage)  # made outside: a result that shares it is nothing new
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage not in self._known:
                self._known.add(storage)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._let_go, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.live)
        return result

    def _let_go(self, nbytes: int) -> None:
        self.live -= nbytes


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
