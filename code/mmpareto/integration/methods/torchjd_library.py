"""What is to be known of the TorchJD library: its aggregators, their arguments, and what they keep between steps."""

import importlib
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def aggregators() -> dict[str, Any]:
    """Name → class of what TorchJD exports as an aggregator; not the bases of others."""
    try:
        library = importlib.import_module("torchjd.aggregation")
    except ImportError:
        return {}
    exported = {name: getattr(library, name) for name in library.__all__}
    found = {name: kind for name, kind in exported.items() if issubclass(kind, library.Aggregator)}
    bases = {base for kind in found.values() for base in kind.__mro__[1:]}
    return {name: kind for name, kind in found.items() if kind not in bases}


def described(kind: Any) -> tuple[str, str]:
    """The first sentence of an aggregator's docstring in plain text, and the address of its paper."""
    text = " ".join((inspect.getdoc(kind) or "").split())
    address = re.search(r"<(https?://[^>]+)>`_", text)
    text = text.replace(":class:`~torchjd.Stateful` ", "")
    text = re.sub(r":class:`~?(?:\w+\.)*(\w+)`", r"\1", text)
    text = re.sub(r"`([^`<]+) <[^>]+>`_", r"\1", text)
    source = f"{kind.__name__} of TorchJD" + (f", {address[1]}" if address else "")
    return re.split(r"(?<=\.) ", text)[0], source


def as_vector(value: Any, hint: Any) -> Any:
    """A tensor of text or a sequence, where the argument takes one; anything else as it is."""
    kinds = typing.get_args(hint) or (hint,)
    if Tensor not in kinds or not isinstance(value, str | list | tuple):
        return value
    if isinstance(value, str):
        try:
            value = [float(part) for part in value.split(",")]
        except ValueError:
            raise ValueError(f"{value!r} is not a number nor numbers with commas between, such as 0.3,0.7") from None
        if len(value) == 1 and float in kinds:
            return value[0]
    return torch.tensor(value, dtype=torch.float64)


def _places(aggregator: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """The attributes of an aggregator and its parts that are no options: (name, part, attribute)."""
    options = inspect.signature(type(aggregator)).parameters
    for path, part in aggregator.named_modules():
        for attribute in sorted((vars(part).keys() | part._buffers.keys()) - vars(nn.Module()).keys()):
            if attribute.removeprefix("_") not in options:
                yield f"{path}.{attribute}", part, attribute


def numbers_kept(aggregator: nn.Module) -> Iterator[tuple[str, Any]]:
    """What of it are tensors and builtins: name → value; arrays as tensors."""
    for name, part, attribute in _places(aggregator):
        value = getattr(part, attribute)
        if hasattr(value, "__array__"):
            yield name, torch.as_tensor(value).detach().clone()
        elif isinstance(value, bool | int | float | str):
            yield name, value


def restore(aggregator: nn.Module, kept: Mapping[str, Any], jacobian: Tensor) -> None:
    """Put back what `numbers_kept` gave.

    A first call lets the aggregator build what cannot be stored, and shows where and in what type each number belongs.
    """
    with torch.random.fork_rng([jacobian.device] if jacobian.is_cuda else []):
        aggregator(jacobian)
    for name, part, attribute in list(_places(aggregator)):
        if name in kept:
            value, like = kept[name], getattr(part, attribute)
            if isinstance(value, Tensor):
                array = hasattr(like, "__array__") and not isinstance(like, Tensor)
                value = (
                    value.numpy().copy() if array else value.to(like.device if isinstance(like, Tensor) else jacobian)
                )
            setattr(part, attribute, value)
