"""Files in a run's folder: config.json, metrics.jsonl, summary.json, checkpoints."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmpareto.errors import InputError
from mmpareto.files import acquire_lock, remove_leftovers, write_text

CONFIG, METRICS, SUMMARY, LAST, BEST = "config.json", "metrics.jsonl", "summary.json", "last.pt", "best.pt"
GRADIENTS, MODEL_CARD = "gradients.npz", "model_card.md"
LOCK = ".lock"


def new_folder(name: str, ckpt_path: str | None, runs: Path = Path("runs")) -> Path:
    """Create the folder of a new run: `ckpt_path`, else runs/<name>, or runs/<name>-2, -3 … if that exists.

    A run that was killed before it saved anything is replaced in `ckpt_path`, so that a scheduler may repeat a command.

    Raises:
        InputError: `--ckpt_path` already holds a run, or cannot be a folder.
    """
    if ckpt_path is not None:
        folder = Path(ckpt_path)
        if (folder / CONFIG).exists():
            if has_progress(folder):
                raise InputError(f"{folder} already holds a run: give another --ckpt_path, or --resume {folder}.")
            with run_lock(folder):
                (folder / CONFIG).unlink()
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--ckpt_path {folder} is a file; give a folder.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--ckpt_path {folder} cannot be created ({error.strerror}); give another folder."
            ) from error
        return folder
    number = 1
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def has_progress(folder: Path) -> bool:
    """True if the run in `folder` has saved something that it could continue from, or that would be lost."""
    return any((folder / name).exists() for name in (LAST, METRICS, SUMMARY))


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from training in `folder`, and remove what killed ones have left half-written in it.

    The lock (`files.acquire_lock`) ends with the process, however that ends. The file beside the run says who holds it.

    Raises:
        InputError: another process trains there; the message names it.
    """
    path = folder / LOCK
    try:
        descriptor = acquire_lock(path, wait=False)
    except OSError as error:
        raise InputError(f"cannot lock {path} ({error.strerror}); is the folder writable?") from error
    if descriptor is None:
        holder = path.read_text(encoding="utf-8", errors="replace")[:200].strip() or "another process"
        raise InputError(f"{folder} is being trained by {holder}: wait until that ends, or stop it.")
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        remove_leftovers(folder, (CONFIG, METRICS, SUMMARY, LAST, BEST, GRADIENTS, MODEL_CARD))
        yield
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def discard(folder: Path) -> None:
    """Remove the config.json of a run that could not start, and its folder if that is empty then."""
    for name in (CONFIG, LOCK):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def write_config(folder: Path, arguments: dict[str, Any], data: dict[str, Any]) -> None:
    """Write config.json, which holds all that reproduces the run: arguments, versions, git commit, data fingerprint.

    A resumed run keeps the versions, commit and data that it began with, and appends the new ones to "resumed".
    """
    packages = ("torch", "torchvision", "torchaudio", "numpy", "av")
    versions = {"python": platform.python_version()} | {name: _version(name) for name in packages}
    config: dict[str, Any] = {"arguments": arguments, "versions": versions, "git_commit": git_commit(), "data": data}
    if (folder / CONFIG).exists():
        before = read_config(folder)
        config = before | {"arguments": arguments, "resumed": [*before.get("resumed", []), config]}
    write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of config.json, of which `training.schema.Config` has the types.

    Arguments:
        folder: of the run, or a copy of its config.json under any name.

    Raises:
        InputError: the folder holds no run, or the file is damaged.
    """
    path = folder if folder.is_file() else folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} holds no run (no {CONFIG}); give the folder that train.py named.")
    from mmpareto.training.schema import Config  # slow imports
    from mmpareto.validation import read_checked

    return read_checked(path, Config, "start the run again from the beginning")


def write_metrics(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write metrics.jsonl, one line per epoch."""
    write_text(folder / METRICS, "".join(json.dumps(line) + "\n" for line in history))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the code, with "+" appended if the working tree differs from it; None outside git."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
