"""Peak memory of a piece of work."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(work: Callable[[], Any], device: torch.device) -> int:
    """Largest number of bytes that `work` has allocated at one time.

    On a GPU, counted by the caching allocator, including temporary buffers inside operations. On the CPU, where no
    allocator counts, by `TensorMemory`.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with TensorMemory() as memory:
        work()
    return memory.peak


class TensorMemory(TorchDispatchMode):
    """Context manager that counts the bytes of tensors that operations return inside it, until they are freed.

    A storage is counted once, however many tensors share it and whoever holds it: Python, the autograd graph, `.grad`.
    Not counted are temporary buffers inside an operation (for example the reordered copies of a convolution) and
    tensors that existed before. Operations are slow inside, so measure time separately.

    Attributes:
        live: bytes at present.
        peak: largest value of `live` so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):
            self._known.add(storage)  # existed before: a result that shares it allocates nothing
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage not in self._known:
                self._known.add(storage)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.live)
        return result

    def _free(self, nbytes: int) -> None:
        self.live -= nbytes


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
