"""Checkpoint files. They hold only tensors and builtins, so that loading one never runs code from it."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmpareto.errors import InputError, first_few
from mmpareto.files import atomic_path
from mmpareto.models.building import build_network
from mmpareto.models.network import MultimodalNetwork
from mmpareto.plugins import import_plugins
from mmpareto.tensor_files import read_tensors
from mmpareto.training.schema import REQUIRED, Checkpoint, TrainingState
from mmpareto.validation import mistakes

FORMAT = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a reader sees the old file or the new one.

    Raises:
        OSError: it cannot be written; for example, the disk is full.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save({"format": FORMAT} | content, file)
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU.

    Raises:
        InputError: the file is missing, damaged, or not a checkpoint of this code.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; give a file such as runs/<run>/best.pt.")
    check_archive(path)
    try:
        content = read_tensors(path)
    except Exception as error:  # a damaged or hostile file may raise anything
        raise InputError(f"{path} is not a readable checkpoint: it is damaged, or holds more than tensors.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint of this code; give a best.pt or last.pt that train.py wrote.")
    check_entries(content, path)
    return content


def check_archive(path: Path) -> None:
    """Compare all parts of a checkpoint with the checksums that PyTorch wrote, which it does not check itself.

    Raises:
        InputError: a part was changed, or cannot be what PyTorch wrote, such as a compressed one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            as_written = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
            whole = as_written and sum(part.file_size for part in parts) <= path.stat().st_size
            if whole and archive.testzip() is None:
                return
    except Exception:
        pass
    raise InputError(f"{path} is not a readable checkpoint: it is damaged, or holds more than tensors.")


def check_entries(content: dict[str, Any], path: Path) -> None:
    """Raise InputError if an entry of a checkpoint is absent, or has another type than train.py gave it."""
    absent = [name for name in REQUIRED if name not in content]
    if absent:
        raise InputError(f"{path} is of another version of this code: it lacks {', '.join(absent)}; train it again.")
    _refuse(mistakes(Checkpoint, content), path)


def check_training_state(content: dict[str, Any], path: Path) -> None:
    """Raise InputError if a checkpoint is not one that a run can continue from."""
    if "optimizer" not in content:
        raise InputError(
            f"{path} has weights but no state of training to continue from, like best.pt; give a whole run folder."
        )
    _refuse(mistakes(TrainingState, content), path)


def _refuse(found: Sequence[str], path: Path) -> None:
    if found:
        raise InputError(f"{path} is damaged, or not what train.py wrote ({first_few(found, 3)}); give a whole copy.")


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
    try:
        network = build_network(**checkpoint["network"])
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{source} describes a network that cannot be built ({error}); give a whole copy.") from error
    load_weights(network, checkpoint["model"], source)
    return network
