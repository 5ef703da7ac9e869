"""State of a method between steps: by itself, and as a part of the model that the method is assigned to."""

import io
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

EXTRA_STATE = "_extra_state"
"""PyTorch's key of what a module keeps besides parameters and buffers."""


class StatefulModule(nn.Module):
    """A module without parameters or forward pass, whose state is the values of the attributes named in `memory`.

    By itself, `state_dict()` is a plain dict, attribute → value, and `load_state_dict` restores it. Store it in a
    checkpoint beside the optimizer's, or call Accelerate's `register_for_checkpointing` with the method.

    Assigned to a model, `model.integrate = GradNorm()`, the same dict is the entry "integrate._extra_state" of the
    model's `state_dict`, as the bytes of a `torch.save` in a uint8 tensor, since formats such as safetensors store
    only tensors. Without `memory` there is no entry. A checkpoint that lacks the entry, because it is older than
    `model.integrate`, loads with a warning; one with the state of another method raises PyTorch's RuntimeError. The
    owner's `to`, `half`, … do not change the state: methods move it to the gradients' device when they use it.
    """

    memory: tuple[str, ...] = ()
    """Attributes kept between steps: tensors, builtins, dicts and lists of them; replaced, never changed in place."""
    __jit_unused_properties__: ClassVar[list[str]] = []

    if TYPE_CHECKING:
        __getattr__: None  # type: ignore[assignment, misc]  # unknown attributes are errors, unlike in nn.Module

    def __init_subclass__(cls, **options: Any) -> None:
        """Adapt the class to the tools that decide by the class, not by the instance, how to treat a module."""
        super().__init_subclass__(**options)
        packing = (cls._pack, cls._unpack) if cls.memory else (nn.Module.get_extra_state, nn.Module.set_extra_state)
        cls.get_extra_state, cls.set_extra_state = packing  # type: ignore[method-assign, assignment]
        # TorchScript compiles the properties of a model's submodules, even if unused.
        cls.__jit_unused_properties__ = [name for name in dir(cls) if isinstance(getattr(cls, name, None), property)]

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        """Raise TypeError: there is no forward pass."""
        raise TypeError(f"{type(self).__name__} has no forward pass: call its `backward`")

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """Return the state, in tensors and builtins; empty without `memory`. Only an owner passes arguments."""
        if args or options:
            return super().state_dict(*args, **options)
        return {name: getattr(self, name) for name in self.memory}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore the state that `state_dict` returned, or that is cut out of an owner's (`{"_extra_state": …}`).

        `strict` and `assign` have no effect.

        Raises:
            ValueError: the state is another method's.
        """
        if EXTRA_STATE in state_dict:
            return super().load_state_dict(state_dict, strict, assign)
        if set(state_dict) != set(self.memory):
            raise ValueError(f"the state holds {sorted(state_dict)}, which is not {type(self).__name__}'s")
        for name, value in state_dict.items():
            setattr(self, name, value)
        return None

    def _pack(self) -> Tensor:
        """Return the state as the bytes of a file."""
        file = io.BytesIO()
        torch.save(self.state_dict(), file)
        return torch.frombuffer(bytearray(file.getbuffer()), dtype=torch.uint8)

    def _unpack(self, packed: Tensor) -> None:
        """Restore the state that `_pack` returned."""
        content = bytearray(packed.numel())
        torch.frombuffer(content, dtype=torch.uint8).copy_(packed)
        self.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load this module's entry of its owner's state; warn if there is none."""
        key = prefix + EXTRA_STATE
        if self.memory and not isinstance(state_dict.get(key), Tensor):
            state_dict.pop(key, None)  # torch.distributed.checkpoint fills in a placeholder
            warnings.warn(f"the checkpoint has no {key!r}: {type(self).__name__} starts without it", stacklevel=2)
        try:
            super()._load_from_state_dict(
                state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
        except Exception as error:  # of any kind, if the bytes are damaged or no method's
            error_msgs.append(f"{key!r} cannot be loaded: {error}")
        if key in missing_keys:
            missing_keys.remove(key)
