"""Checkpoint files. They hold only tensors and builtins, so that loading one never runs code from it."""

import os
from pathlib import Path
from typing import Any

import torch

from mmpareto.errors import InputError, first_few
from mmpareto.files import atomic_path
from mmpareto.models.network import MultimodalNetwork, build_network
from mmpareto.plugins import import_plugins

FORMAT = 1
# Entries of both best.pt and last.pt, with their types.
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
# Entries that older checkpoints, or those of some methods, lack.
OPTIONAL = {
    "objective": str,
    "probe": dict,
    "probe_result": dict,
    "settings": dict,
    "input_shapes": dict,
    "plugins": list,
}


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a reader sees the old file or the new one.

    Raises:
        OSError: it cannot be written; for example, the disk is full.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save({"format": FORMAT} | content, file)
        except RuntimeError as error:  # raised while PyTorch closes the file that it could not write
            if isinstance(error.__context__, OSError):
                raise OSError(error.__context__.errno, error.__context__.strerror, str(path)) from error
            raise
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU.

    Raises:
        InputError: the file is missing, damaged, or not a checkpoint of this code.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; give a file such as runs/<run>/best.pt.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may raise anything
        raise InputError(f"{path} is not a readable checkpoint: it is damaged, or holds more than tensors.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint of this code; give a best.pt or last.pt that train.py wrote.")
    check_entries(content, path)
    return content


def check_complete(content: dict[str, Any], path: Path) -> None:
    """Raise InputError if an entry of `ENTRIES` is missing."""
    missing = [name for name in ENTRIES if name not in content]
    if missing:
        raise InputError(f"{path} is of another version of this code: it lacks {', '.join(missing)}; train it again.")


def check_entries(content: dict[str, Any], path: Path) -> None:
    """Raise InputError if an entry of a checkpoint has another type than train.py gave it."""
    wrong = [
        name for name, kind in (ENTRIES | OPTIONAL).items() if name in content and not isinstance(content[name], kind)
    ]
    if not wrong:
        wrong = [f"model[{name!r}]" for name, t in content.get("model", {}).items() if not isinstance(t, torch.Tensor)]
    if wrong:
        raise InputError(f"{path} is damaged: {', '.join(wrong)} cannot be what train.py wrote; give a whole copy.")


def load_weights(network: MultimodalNetwork, weights: dict[str, torch.Tensor], source: object) -> None:
    """Load a state dict.

    Arguments:
        source: the file or run that it is from, for the message.

    Raises:
        InputError: the state dict is of another architecture; names tensors that differ.
    """
    expected = network.state_dict()
    different = sorted(set(expected) ^ set(weights))
    different += [n for n in expected if n in weights and expected[n].shape != weights[n].shape]
    if different:
        names = first_few(different, 3)
        raise InputError(f"{source} is of another architecture: {names} differ; give a checkpoint of this model.")
    network.load_state_dict(weights)


def network_of(checkpoint: dict[str, Any], source: object) -> MultimodalNetwork:
    """The network of a checkpoint, with its weights; imports the plug-ins of its run.

    Arguments:
        source: as in `load_weights`.

    Raises:
        InputError: the checkpoint is of another architecture, or a plug-in is missing.
    """
    import_plugins(map(str, checkpoint.get("plugins", ())), source)
    network = build_network(**checkpoint["network"])
    load_weights(network, checkpoint["model"], source)
    return network
