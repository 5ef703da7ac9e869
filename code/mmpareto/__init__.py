"""Balanced multimodal learning: MMPareto (ICML 2024) and related methods.

    from mmpareto import MMPareto, METHODS

Names are imported on first use, so that importing the package, and `--help`, needs no torch.
"""

import importlib
from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.integration"), name)
