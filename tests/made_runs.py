"""Run folders as train.py writes them, with known metrics and gradients."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PAPER = {"weights": "encoder", "rescale": "encoder", "boost": "conflict", "zero_is_conflict": False}
PER_TENSOR = PAPER | {"weights": "parameter", "rescale": "parameter"}
SETTINGS: dict[str, Any] = {
    "dataset": "cremad",
    "method": "uniform",
    "variant": None,
    "options": {},
    "recipe": "released",
    "protocol": "validation",
    "val_fraction": 0.1,
    "data": "data/cremad",
    "ckpt_path": None,
    "random_seed": 0,
    "fusion": "concat",
    "learning_rate": 0.002,
    "crop_scale": [0.6, 1.0],
    "epochs": 4,
    "record_gradients": None,
}
LAYERS = {"conv": 7, "bias": 3, "fc": 12}


def options_of(variant: str = "per_tensor", **more: Any) -> dict[str, Any]:
    """All options of a variant of MMPareto, some of them replaced by `more`."""
    return {"gamma": 1.5, "refresh": 1} | {"per_tensor": PER_TENSOR, "paper": PAPER}[variant] | more


def line(epoch: int, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"epoch": epoch, "seconds": 1.0, "loss": 1.0, **values}


def write_run(
    folder: Path, history: Sequence[Mapping[str, Any]], fingerprint: str = "0123456789abcdef", **arguments: Any
) -> Path:
    """Write a run folder with one line of metrics.jsonl per element of `history`; return its path."""
    folder.mkdir(parents=True)
    given = SETTINGS | {"ckpt_path": str(folder), "random_seed": 0} | arguments
    (folder / "config.json").write_text(json.dumps({"arguments": given, "data": {"fingerprint": fingerprint}}))
    lines = [line(number, values) for number, values in enumerate(history, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


def accuracies(
    seed: int, epochs: int = 4, modalities: Sequence[str] = ("audio", "visual"), heads: bool = True
) -> list[dict[str, Any]]:
    """Random accuracies for every epoch; None for the unimodal heads unless `heads` is true."""
    random = np.random.default_rng(seed)
    history = []
    for _ in range(epochs):
        values = {}
        for head in ("", *(f"_{name}" for name in modalities)):
            for part in ("acc", "train_acc"):
                accuracy = float(random.uniform(0.1, 0.9))
                values[f"{part}{head}"] = accuracy if heads or not head else None
        history.append(values)
    return history


def write_gradients(
    folder: Path,
    seed: int,
    *,
    steps: int = 6,
    every: int = 10,
    alone: bool = False,
    groups: int | None = 3,
    **arrays: Any,
) -> dict[str, np.ndarray]:
    """Write records of random gradients to a run folder; return modality → gradients (steps, 2, elements).

    Arguments:
        alone: record the joint loss only.
        groups: number of parameter groups with weights; None if the method has no weights.
        arrays: replace arrays of the same name in gradients.npz.
    """
    random = np.random.default_rng(seed)
    content: dict[str, Any] = {
        "step": np.arange(steps) * every + 1,
        "epoch": np.arange(steps) // 2 + 1,
        "modalities": np.array(["audio", "visual"]),
        "objectives": np.array(["joint"] if alone else ["joint", "unimodal"]),
        **{"dataset": "cremad", "method": "made", "seed": seed, "every": every, "banner": ""},
    }
    truth = {}
    for modality in ("audio", "visual"):
        gradients = truth[modality] = random.standard_normal((steps, 2, sum(LAYERS.values())))
        pieces = np.split(gradients, np.cumsum([*LAYERS.values()])[:-1], axis=2)
        norms = np.stack([np.linalg.norm(piece, axis=2) for piece in pieces], axis=2)
        content |= {f"layers_{modality}": np.array([*LAYERS]), f"norm_joint_{modality}": norms[:, 0]}
        if not alone:
            inner = np.stack([(piece[:, 0] * piece[:, 1]).sum(1) for piece in pieces], axis=1)
            content |= {f"norm_unimodal_{modality}": norms[:, 1], f"cosine_{modality}": inner / norms.prod(1)}
        if groups is not None:
            content[f"weights_{modality}"] = random.uniform(0, 1, (steps, groups, 2))
            content[f"rescale_{modality}"] = random.uniform(1, 3, (steps, groups))
    np.savez(folder / "gradients.npz", **(content | arrays))
    return truth
