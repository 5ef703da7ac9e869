"""How the gradients of several losses become one: a method a file, on torch alone.

A method is used in place of `loss.backward()` in any training loop:

    integrate = MMPareto()
    report = integrate.backward(joint_loss, {"audio": loss_a, "visual": loss_v},
                                encoders={"audio": net.audio, "visual": net.visual})
    optimizer.step()

The way to read it: `method.py` (the call that every method shares) → `gradients.py` (which losses are
differentiated together, and what comes of it) → `mmpareto.py` (what is done with it).
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["DGL", "METHODS", "JointLoss", "MMPareto", "UniformSum"]

_CLASSES = {
    "joint": "joint:JointLoss",
    "uniform": "uniform:UniformSum",
    "mmpareto": "mmpareto:MMPareto",
    "dgl": "dgl:DGL",
}


class Methods(Mapping[str, Any]):
    """Maps a method's name to its class, which is imported on first use."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = _CLASSES[name].partition(":")
        return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


METHODS = Methods()


def __getattr__(name: str) -> Any:
    for place in _CLASSES.values():
        module, _, attribute = place.partition(":")
        if attribute == name:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
