"""Activation checkpointing: an encoder's activations are recomputed in the backward pass instead of kept."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def encode_recomputed(encoder: Any, x: Tensor) -> Tensor:
    """encoder(x), keeping for the backward pass only the inputs of its stages.

    For an encoder without `stages()` and `pool()`, only `x` is kept.
    """
    if not hasattr(encoder, "stages"):
        return recomputed(encoder, x)
    batch = len(x)
    for stage in encoder.stages():
        x = recomputed(stage, x)
    return encoder.pool(x, batch)


def recomputed(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """part(x), keeping only `x` for the backward pass; each backward pass through it recomputes the rest.

    Every recomputation draws the same random numbers under the same autocast. Buffers (BatchNorm's statistics) are
    updated in the forward pass only.

    Arguments:
        part: a module, or a bound method of one.
    """
    if not torch.is_grad_enabled():
        return part(x)
    if torch.compiler.is_compiling():  # the compiler keeps buffer updates out of the recomputation by itself
        return checkpoint(part, x, use_reentrant=False)
    owner = part if isinstance(part, nn.Module) else part.__self__  # type: ignore[attr-defined]
    return checkpoint(part, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _BuffersKept(owner)))


class _BuffersKept(contextlib.AbstractContextManager[None]):
    """While entered, a module works on copies of its buffers; may be entered repeatedly.

    The copies are needed: without buffers, BatchNorm would save other tensors for its backward pass than in the
    forward pass, and `checkpoint` refuses that.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._originals: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        self._originals = [
            (module, name, buffer)
            for module in self._module.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        for module, name, buffer in self._originals:
            module._buffers[name] = buffer.clone()

    def __exit__(self, *error: object) -> None:
        for module, name, buffer in self._originals:
            module._buffers[name] = buffer
        self._originals = []
