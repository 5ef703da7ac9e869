"""What was measured of runs at a checkpoint, read from <run>/<name>.json for figures, label by label."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpareto.analysis.measurements.runs import Subject, measure_runs
from mmpareto.analysis.pictures.groups import Group, grouped
from mmpareto.analysis.pictures.notes import about
from mmpareto.analysis.pictures.runs import Array, Run
from mmpareto.errors import InputError
from mmpareto.training.devices import choose_devices
from mmpareto.training.settings import Settings

HEADS = {
    "a linear probe": "Unimodal losses by a linear probe on the encoder",
    "untrained: left out": "No unimodal loss",
}


class Measured:
    """The groups of a figure and what was measured of their runs.

    Arguments:
        name: of the measurement: <run>/<name>.json.
        runs: of one data set.
        same: keys that must be the same of all runs to be compared, with the flags that set them.

    Raises:
        InputError: a run has not been measured, or not as the others were; or runs are of different data sets.
    """

    def __init__(self, name: str, runs: Sequence[Run], same: dict[str, str]) -> None:
        self.name = name
        self.groups = grouped(runs)
        self._found = {run.folder: _read(run.folder, name) for run in runs}
        (first, content), *others = self._found.items()
        self.first = content
        for folder, other in others:
            for key, flag in same.items():
                if other.get(key) != content.get(key):
                    raise InputError(
                        f"{first} and {folder} were measured with {flag} {content.get(key)} and {other.get(key)}: run "
                        f"`python code/figures.py {name}` on both with one {flag}."
                    )

    def of(self, run: Run) -> dict[str, Any]:
        """The content of the run's file."""
        return self._found[run.folder]

    def values(self, group: Group, *keys: str) -> Array:
        """(S, …) what lies at these keys, a row a seed; (0,) where one seed lacks it."""
        found = []
        for run in group.runs:
            value: Any = self.of(run)
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if value is None:
                return np.empty(0)
            found.append(value)
        return np.array(found, dtype=np.float64)

    def notes(self, what: str, *, heads: bool = True) -> list[str]:
        """The paragraphs below a figure: what it shows, checkpoint, data set, seeds and protocol.

        Arguments:
            heads: whether it shows unimodal losses; then also of which runs these are a linear probe's, or missing.
        """
        epochs = {self.of(run)["epoch"] for group in self.groups for run in group.runs}
        shown = f"epoch {next(iter(epochs))}" if len(epochs) == 1 else f"epochs {min(epochs)} to {max(epochs)}"
        texts = [f"{what} Weights: {self.first['checkpoint']}, after {shown}.", *about(self.groups)]
        for kind, text in HEADS.items() if heads else ():
            if labels := [
                g.label for g in self.groups if any(self.of(run)["unimodal_heads"] == kind for run in g.runs)
            ]:
                texts.append(f"{text}, as the heads are untrained: {', '.join(labels)}.")
        return texts


def measure(
    name: str,
    folders: Sequence[Path],
    given: argparse.Namespace,
    options: Callable[[Settings], dict[str, Any]],
    work: Callable[[Subject], dict[str, Any]],
) -> None:
    """Measure what has not been measured; see `measurements.runs.measure_runs`.

    Arguments:
        given: the flags of `flags.COMMON`.
    """
    device, _ = choose_devices(given.gpu_ids)
    measure_runs(
        name,
        folders,
        options,
        work,
        checkpoint=given.checkpoint,
        device=device,
        data=given.data,
        anew=given.anew,
    )


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    advice = f"run `python code/figures.py {name} --run {folder}`"
    if not path.is_file():
        raise InputError(f"{folder} holds no {name}.json: {advice}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in ("checkpoint", "epoch", "unimodal_heads") if key not in content]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): {advice} --anew.") from error
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}: {advice} --anew.")
    return content
