"""Activation checkpointing: what an encoder computes is not kept for the backward pass but computed again."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def encode(encoder: Any, x: Tensor) -> Tensor:
    """The encoder's feature of `x`, of which only what lies between its stages is kept.

    An encoder without `stages()` and `pool()` keeps its input alone.
    """
    if not hasattr(encoder, "stages"):
        return recomputed(encoder, x)
    batch = len(x)
    for stage in encoder.stages():
        x = recomputed(stage, x)
    return encoder.pool(x, batch)


def recomputed(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """part(x), of which nothing but x is kept: each backward pass through it computes the rest again.

    Random numbers and autocast are the same each time, and buffers (BatchNorm's statistics) change the first time only.

    Arguments:
        part: a module, or a method of one.
    """
    if not torch.is_grad_enabled():
        return part(x)
    if torch.compiler.is_compiling():  # the compiler takes buffers out of what it computes again
        return checkpoint(part, x, use_reentrant=False)
    owner = part if isinstance(part, nn.Module) else part.__self__  # type: ignore[attr-defined]
    return checkpoint(part, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _BuffersKept(owner)))


class _BuffersKept(contextlib.AbstractContextManager[None]):
    """Inside, a module works on copies of its buffers; can be entered again and again.

    Without buffers BatchNorm would keep other things for its backward pass than it kept the first time.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._own: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        self._own = [
            (module, name, buffer)
            for module in self._module.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        for module, name, buffer in self._own:
            module._buffers[name] = buffer.clone()

    def __exit__(self, *error: object) -> None:
        for module, name, buffer in self._own:
            module._buffers[name] = buffer
        self._own = []
