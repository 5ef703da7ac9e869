"""Checkpoints: tensors, builtins and lists only, so that reading one never runs code."""

import os
from pathlib import Path
from typing import Any

import torch

from mmpareto.errors import InputError
from mmpareto.files import atomic_path
from mmpareto.models.network import MultimodalNetwork, build_network

FORMAT = 1
# What both best.pt and last.pt hold, with its types.
ENTRIES = {
    "network": dict,
    "model": dict,
    "data": dict,
    "dataset": str,
    "data_folder": str,
    "epoch": int,
    "selected_on": str,
    "heads_trained": bool,
}


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint whole: a reader sees the old one or the new one.

    Raises:
        OSError: there is no room for it, say.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save({"format": FORMAT} | content, file)
        except RuntimeError as error:  # raised while PyTorch closes what it could not write
            if isinstance(error.__context__, OSError):
                raise OSError(error.__context__.errno, error.__context__.strerror, str(path)) from error
            raise
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        InputError: there is none, it is damaged, or it is not of this code.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; give a file such as runs/<run>/best.pt.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or a hostile file raises is not limited to any type
        raise InputError(f"{path} is not a readable checkpoint: it is damaged, or holds more than tensors.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint of this code; give a best.pt or last.pt that train.py wrote.")
    odd = [
        name
        for name, kind in (ENTRIES | {"probe": dict}).items()
        if name in content and not isinstance(content[name], kind)
    ]
    if not odd:
        odd = [f"model[{name!r}]" for name, t in content.get("model", {}).items() if not isinstance(t, torch.Tensor)]
    if odd:
        raise InputError(f"{path} is damaged: {', '.join(odd)} cannot be what train.py wrote; give a whole copy.")
    return content


def load_weights(network: MultimodalNetwork, weights: dict[str, torch.Tensor], where: object) -> None:
    """Load a state dict.

    Raises:
        InputError: it is of another architecture; says which tensors differ.
    """
    own = network.state_dict()
    odd = sorted(set(own) ^ set(weights)) + [n for n in own if n in weights and own[n].shape != weights[n].shape]
    if odd:
        few = ", ".join(odd[:3]) + (f" and {len(odd) - 3} more" if len(odd) > 3 else "")
        raise InputError(f"{where} is of another architecture: {few} differ; give a checkpoint of this model.")
    network.load_state_dict(weights)


def network_of(checkpoint: dict[str, Any], where: object) -> MultimodalNetwork:
    """The network of a checkpoint, with its weights."""
    network = build_network(**checkpoint["network"])
    load_weights(network, checkpoint["model"], where)
    return network
