"""Finished runs without training: small folders with the files that train.py and evaluate.py write."""

import csv
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmpareto.analysis.tables.cells import Cell, Outcome
from mmpareto.analysis.tables.definitions import Column, Row, Table
from mmpareto.training.settings import parse, to_config

CLASSES = ("anger", "joy")
CREMAD, SYNTHETIC = Column("CREMA-D", "--dataset cremad"), Column("synthetic stand-in", "--dataset synthetic")
UNIFORM, JOINT = Row("Uniform", "--method uniform"), Row("Joint loss", "--method joint")
PARETO, MMPARETO = Row("Conventional Pareto", "--method pareto"), Row("MMPareto", "--method mmpareto")


def table_of(*rows: Row, columns: Sequence[Column] = (CREMAD,), name: str = "main") -> Table:
    """A table of Uniform, the baseline, followed by these rows."""
    return Table(name, "A title", "A question?", tuple(columns), (UNIFORM, *rows), UNIFORM.label)


def cell_of(row: Row, column: Column, seed: int, protocol: str = "validation") -> Cell:
    words = (*shlex.split(f"{column.flags} {row.flags}"), "--random_seed", str(seed), "--protocol", protocol)
    return Cell(row, column, seed, parse(words).settings, words)


def missing(row: Row, column: Column, seed: int, reason: str = "not run") -> Outcome:
    return Outcome(cell_of(row, column, seed), None, reason)


def finished(
    runs: Path,
    row: Row,
    column: Column,
    seed: int,
    accuracies: Mapping[str, float | None] | float,
    *,
    protocol: str = "validation",
    correct: Sequence[bool] | None = None,
    fingerprint: str = "f" * 64,
    commit: str | None = "c" * 40,
    note: str | None = None,
    history: Sequence[Mapping[str, Any]] | None = None,
) -> Outcome:
    """The outcome of a run with these accuracies in every epoch.

    Arguments:
        accuracies: "acc" and "acc_<modality>", or the accuracy of the joint head alone.
        correct: whether the joint head is correct on each test clip; None for a run that was not evaluated.
        history: additional keys of metrics.jsonl, one mapping per epoch.
    """
    cell = cell_of(row, column, seed, protocol)
    folder = runs / f"{row.label}-{column.label}-seed{seed}".replace(" ", "-").lower()
    values = dict(accuracies) if isinstance(accuracies, Mapping) else {"acc": accuracies}
    lines = [
        {"epoch": number, "loss": 1.0, "val_acc": 0.5, "train_acc": 0.9, **values, **more}
        for number, more in enumerate(history or [{}, {}], 1)
    ]
    summary: dict[str, Any] = {
        "name": cell.settings.name,
        "data": {"fingerprint": fingerprint},
        "protocol": protocol,
        "last": lines[-1],
        "best_val": lines[0] if protocol == "validation" else None,
        "best_test": lines[0],
    }
    if protocol == "paper":
        summary["best_val_reason"] = "no validation set: --protocol paper trains on everything"
    if note:
        summary["unimodal_note"] = note
    config = {"arguments": to_config(cell.settings), "git_commit": commit, "data": {"fingerprint": fingerprint}}
    write_json(folder / "config.json", config)
    write_json(folder / "summary.json", summary)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if correct is not None:
        for kept in ("best", "last"):
            write_clips(folder / f"evaluation-test-{kept}" / "per_clip.csv", correct)
    return Outcome(cell, folder, None)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_clips(path: Path, correct: Sequence[bool], prefix: str = "clip") -> None:
    """Write evaluate.py's table for the joint head and the head of a modality that is always wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        heads = ("joint", "audio")
        writer.writerow(["clip", "class", *(name for h in heads for name in (h, *(f"{h}_{c}" for c in CLASSES)))])
        for number, right in enumerate(correct):
            truth = number % 2
            predicted = truth if right else 1 - truth
            row = [f"{prefix}{number}", CLASSES[truth]]
            for answer in (predicted, 1 - truth):
                row += [CLASSES[answer], *(f"{float(answer == index):.9g}" for index in range(2))]
            writer.writerow(row)


def write_gradients(folder: Path, joint: float, unimodal: float, cosine: float, modality: str = "audio") -> None:
    """Write gradients.npz of one encoder with two layers and three steps, all norms and cosines equal."""
    layers, steps = ["first", "second"], 3
    full = np.full((steps, 2), 1.0, dtype=np.float32)
    np.savez_compressed(
        folder / "gradients.npz",
        step=np.arange(1, steps + 1),
        epoch=np.ones(steps, dtype=np.int64),
        modalities=np.array([modality]),
        objectives=np.array(["joint", "unimodal"]),
        dataset=np.array("cremad"),
        method=np.array("uniform"),
        seed=np.array(0),
        every=np.array(1),
        banner=np.array(""),
        **{
            f"layers_{modality}": np.array(layers),
            f"norm_joint_{modality}": joint * full,
            f"norm_unimodal_{modality}": unimodal * full,
            f"cosine_{modality}": cosine * full,
        },
    )
