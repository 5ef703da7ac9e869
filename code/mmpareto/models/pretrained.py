"""Weights trained elsewhere: ImageNet files and checkpoints of the released MMPareto code."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmpareto.errors import InputError, first_few

# First component of a parameter name in the released code → ours. Its joint head concatenates audio and visual
# (flow and visual for UCF-101), which is the order of the encoders in its files.
RELEASED_NAMES = {
    "audio_net": "encoders.audio",
    "visual_net": "encoders.visual",
    "flow_net": "encoders.flow",
    "head": "fusion.fc_out",
    "head_audio": "heads.audio",
    "head_video": "heads.visual",
    "head_flow": "heads.flow",
}


def load_pretrained(encoder: nn.Module, path: Path) -> None:
    """Load ImageNet weights in torchvision's ResNet format into an encoder with torchvision's names.

    The file's classifier, `fc.*`, is ignored. A stem with c ≠ 3 channels keeps its initial weights, as in the released
    MMPareto code (models/models.py, `RFClassifier`, for optical flow). Batch counters, which old files lack, may be
    missing. Nothing is ever downloaded.

    Arguments:
        encoder: changed in place; unchanged if an error is raised.
        path: a file in torchvision's format, such as resnet18-f37072fd.pth.

    Raises:
        InputError: the file is missing, unreadable, or does not fit; names the tensors concerned.
    """
    given = _tensors(_load(path), path, "weights")
    given = {name: tensor for name, tensor in given.items() if not name.startswith("fc.")}
    expected = encoder.state_dict()
    stem = given.get("conv1.weight")
    if stem is not None and stem.dim() == 4 and stem.shape[1] == 3 and expected["conv1.weight"].shape[1] != 3:
        given["conv1.weight"] = expected["conv1.weight"]
    missing = [name for name in expected if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in expected]
    misshapen = [name for name in expected if name in given and given[name].shape != expected[name].shape]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        details = "; ".join(f"{problem}: {first_few(names)}" for problem, names in problems.items() if names)
        raise InputError(f"{path} does not hold weights for {type(encoder).__name__} ({details}); give another file.")
    counters = {name: tensor for name, tensor in expected.items() if name not in given}
    encoder.load_state_dict({**given, **counters})


def read_released(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Read a checkpoint (`best_model_….pth`) that the released MMPareto code wrote.

    Returns:
        The state dict for `MultimodalNetwork` with concat fusion, and the names (without `module.`) of the tensors
        that are not part of it. The modalities are concatenated in the order in which their encoders first appear in
        the state dict.

    Raises:
        InputError: the file is missing, unreadable, or not such a checkpoint.
    """
    content = _load(path)
    if not isinstance(content, dict) or "model" not in content:
        raise InputError(f"{path} is not a checkpoint of the released MMPareto code: it has no entry 'model'.")
    state: dict[str, Tensor] = {}
    unmatched = []
    for full_name, tensor in _tensors(content["model"], path, "the entry 'model'").items():
        name = full_name.removeprefix("module.")
        first, _, rest = name.partition(".")
        if first in RELEASED_NAMES and rest:
            state[f"{RELEASED_NAMES[first]}.{rest}"] = tensor
        else:
            unmatched.append(name)
    if not state:
        raise InputError(f"{path} is not a checkpoint of the released MMPareto code: it holds {first_few(unmatched)}.")
    return state, unmatched


def _load(path: Path) -> Any:
    """Read a .pth file without running code from it; numbers may be numpy scalars (an accuracy often is)."""
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [np.dtype, *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}]
    allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # numpy 1 and numpy 2
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}; check the path.")
    with torch.serialization.safe_globals(allowed):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged or hostile file may raise anything
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(f"{path} is not a readable file of weights ({reason}); give another file.") from error


def _tensors(content: Any, path: Path, what: str) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} does not map names to tensors ({what}); give another file.")
    return dict(content)
