"""Balanced multimodal learning: MMPareto (ICML 2024) and related methods.

    from mmpareto import MMPareto, METHODS
    trained = mmpareto.load("runs/cremad-mmpareto-seed0")

Names are imported on first use, so that importing the package, and `--help`, needs no torch.
"""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmpareto.analysis.trained import Trained
    from mmpareto.integration import *  # noqa: F403
else:
    from mmpareto.integration import METHODS, __getattr__  # noqa: F401
    from mmpareto.integration import __all__ as _of_integration

    __all__ = [*_of_integration, "load"]

    def __dir__():
        return __all__


__version__ = "0.2.0"


def load(path: "str | os.PathLike[str]", dataset: str | None = None) -> "Trained":
    """Load a trained network, with its preprocessing, class names and settings; nothing in the file is executed.

    Arguments:
        path: the folder of a run, for its best.pt; or a checkpoint, or a .safetensors file of export.py.
        dataset: for checkpoints of the released code, which lack it (default: cremad).

    Raises:
        InputError: the file is missing, damaged, or of another architecture, version or data set.
        ModuleNotFoundError: a package of the group `train` is not installed.
    """
    try:
        trained = importlib.import_module(f"{__name__}.analysis.trained")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"mmpareto.load needs what training needs ({error}): pip install 'mmpareto[train]'.", name=error.name
        ) from error
    return trained.load(path, dataset)
