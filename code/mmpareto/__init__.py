"""Balanced multimodal learning: MMPareto (ICML 2024) and related methods.

    from mmpareto import MMPareto, METHODS

Names are imported on first use, so that importing the package, and `--help`, needs no torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmpareto.integration import *  # noqa: F403
else:
    from mmpareto.integration import METHODS, __all__, __dir__, __getattr__  # noqa: F401

__version__ = "0.2.0"
