"""Weights trained elsewhere: files for one encoder, and checkpoints of the released MMPareto code."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmpareto.errors import InputError, first_few
from mmpareto.tensor_files import read_tensors

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


# Entries of a checkpoint that hold its state dict: of timm, of the released codes, of Lightning and MoCo, of others.
WEIGHTS_ENTRIES = ("state_dict", "model", "model_state_dict", "net", "weights")
# First component of the names of a classifier's tensors, in torchvision, timm and others.
CLASSIFIERS = ("fc", "head", "heads", "head_dist", "classifier", "last_linear", "linear", "projection_head")


def load_pretrained(encoder: nn.Module, path: Path, modality: str = "") -> str:
    """Load weights that were trained elsewhere into an encoder. Nothing is ever downloaded.

    The file is of PyTorch or safetensors: a state dict with the encoder's names, or a checkpoint that has one in an
    entry of `WEIGHTS_ENTRIES`. The names may share a prefix, such as DataParallel's `module.`, or `encoders.audio.` of
    a best.pt. For ResNets these are the files of torchvision, for `timm:` encoders those of timm.

    Every tensor of the encoder comes from the file, except that a stem for another number of channels than the file's
    three keeps its initial weights, as in the released MMPareto code (models/models.py, `RFClassifier`, for optical
    flow), and batch counters, which old files lack, may be missing. The file's classifier is not used, and neither is
    what has another prefix. An encoder may know further names (`library_names`) and change the weights of another input
    size (`fitted`), as MBT does for a ViT's.

    Arguments:
        encoder: changed in place; unchanged if an error is raised.
        modality: name of the encoder, which chooses among prefixes such as those of a best.pt.

    Returns:
        A sentence on what was loaded and what was not.

    Raises:
        InputError: the file is missing, unreadable, or does not fit; names the tensors concerned.
    """
    target = getattr(encoder, "pretrained_part", encoder)
    renamed: Any = getattr(encoder, "library_names", dict)
    fitted: Any = getattr(encoder, "fitted", lambda weights, of_a_run: (weights, []))
    state = renamed(_state_dict(_load(path), path))
    expected = target.state_dict()
    prefix = _prefix(list(state), set(expected), modality, path)
    given = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    classifier = [name for name in given if name not in expected and name.split(".")[0] in CLASSIFIERS]
    given = {name: tensor for name, tensor in given.items() if name not in classifier}
    given, changes = fitted(given, of_a_run="encoders." in prefix)
    stem = next((name for name in expected if name in given and _is_other_stem(expected[name], given[name])), None)
    kept = {name: tensor for name, tensor in given.items() if name != stem}
    owner = f"{type(encoder).__name__} of {modality}" if modality else type(encoder).__name__
    _check_fit(kept, {name: tensor for name, tensor in expected.items() if name != stem}, f"{path}", owner)
    target.load_state_dict(expected | kept)
    unused = [name for name in state if not name.startswith(prefix)] + [prefix + name for name in classifier]
    notes = [f"{modality or owner} starts from {path}: {len(kept)} tensors"]
    notes += changes
    notes += [f"initial weights in {stem}, of other channels than the file's"] if stem else []
    notes += [f"not used: {first_few(unused)}"] if unused else []
    return "; ".join(notes)


def _check_fit(given: dict[str, Tensor], expected: dict[str, Tensor], path: str, owner: str) -> None:
    """Raise InputError, which names the tensors concerned, unless the file has the encoder's tensors and no others."""
    problems = {
        "missing": [name for name in expected if name not in given and not name.endswith("num_batches_tracked")],
        "unexpected": [name for name in given if name not in expected],
        "of another shape": [n for n, tensor in expected.items() if n in given and given[n].shape != tensor.shape],
    }
    if any(problems.values()):
        details = "; ".join(f"{problem}: {first_few(names)}" for problem, names in problems.items() if names)
        raise InputError(f"{path} does not hold weights for {owner} ({details}); give another file.")


def _prefix(names: list[str], expected: set[str], modality: str, path: Path) -> str:
    """The prefix of `names` under which most of the expected ones are.

    Raises:
        InputError: there are several, and none of them ends in the modality's name.
    """
    counts = {"": 0}
    for name in names:
        parts = name.split(".")
        for index in range(len(parts)):
            if ".".join(parts[index:]) in expected:
                prefix = "".join(f"{part}." for part in parts[:index])
                counts[prefix] = counts.get(prefix, 0) + 1
    best = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    own = [prefix for prefix in best if f".{prefix}".endswith(f".{modality}.")]
    if len(best) > 1 and len(own) != 1:
        raise InputError(
            f"{path} holds weights for several encoders ({first_few(best)}); give a file with those of one of them."
        )
    return (own or best)[0]


def _is_other_stem(own: Tensor, given: Tensor) -> bool:
    """Return whether a convolution differs from the file's only in having other input channels than three."""
    same = own.dim() == given.dim() == 4 and own.shape[0] == given.shape[0] and own.shape[2:] == given.shape[2:]
    return same and given.shape[1] == 3 and own.shape[1] != 3


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for entry in WEIGHTS_ENTRIES:
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            return _tensors(content[entry], path, f"the entry {entry!r}")
    return _tensors(content, path, "weights")


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
    """Read a file without running code from it; numbers in a .pth may be numpy scalars (an accuracy often is)."""
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [np.dtype, *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}]
    allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # numpy 1 and numpy 2
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}; check the path.")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    with torch.serialization.safe_globals(allowed):
        try:
            return read_tensors(path)
        except Exception as error:  # a damaged or hostile file may raise anything
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(f"{path} is not a readable file of weights ({reason}); give another file.") from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(f"{path} needs the library safetensors: pip install safetensors.") from None
    try:
        return load_file(path)
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"{path} is not a readable file of weights ({error}); give another file.") from error


def _tensors(content: Any, path: Path, what: str) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} does not map names to tensors ({what}); give another file.")
    return dict(content)
