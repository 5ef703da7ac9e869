"""The runs that a figure is of: what they are, what they recorded of every epoch, and which are one line."""

import dataclasses
import inspect
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.integration import METHODS
from mmpareto.training.run_folder import METRICS, read_config

Array = NDArray[np.float64]
# Settings in which runs of one line may differ: the seed, where a run was made and lies, what it wrote beside, and how
# long it went on. The data's fingerprint is looked at in place of its folder.
OF_ONE_LINE = (
    *("dataset", "method", "variant", "options", "data", "model", "ckpt_path", "random_seed", "epochs"),
    *("gpu_ids", "workers", "use_tensorboard", "tensorboard_path", "record_gradients"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of train.py.

    Attributes:
        label: the method, its variant unless it is the first, options that differ from the variant's, and settings in
            which given runs of the same method differ; runs of one label and data set differ in their seeds alone.
        protocol: "validation" or "paper".
        banner: what must be said wherever results on its data set are shown, if anything.
        history: the lines of metrics.jsonl, from epoch 1.
        settings: config.json's "arguments".
        fingerprint: of its data.
    """

    folder: Path
    label: str
    dataset: str
    method: str
    variant: str | None
    seed: int
    protocol: str
    banner: str | None
    history: list[dict[str, Any]]
    settings: dict[str, Any]
    fingerprint: str

    @property
    def title(self) -> str:
        """The data set as papers write it."""
        return DATASETS[self.dataset].title if self.dataset in DATASETS else self.dataset

    @property
    def modalities(self) -> list[str]:
        """What it had an encoder for."""
        return [key.removeprefix("acc_") for key in self.history[-1] if key.startswith("acc_")]

    def series(self, key: str) -> Array:
        """(E,) a figure of every epoch; NaN where it is null, absent, or not finite.

        Raises:
            InputError: it is no number somewhere.
        """
        values = [line.get(key) for line in self.history]
        for number, value in enumerate(values, 1):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise _damaged(self.folder / METRICS, number, f"{key} is no number")
        found = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        return np.where(np.isfinite(found), found, np.nan)


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Read the runs in these folders, in their order.

    Raises:
        InputError: a folder holds no run or no whole epoch yet, a file is damaged, or two runs have the same label and
            seed.
    """
    runs = [_read(Path(folder)) for folder in folders]
    alike: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        alike.setdefault((run.dataset, run.label), []).append(run)
    labels = {run.folder: label for group in alike.values() for run, label in _told_apart(group)}
    runs = [dataclasses.replace(run, label=labels[run.folder]) for run in runs]
    seen: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        other = seen.setdefault((run.dataset, run.label, run.seed), run)
        if other is not run:
            raise InputError(
                f"{other.folder} and {run.folder} are both {run.label} on {run.dataset} with seed {run.seed}: "
                "give one of them."
            )
    return runs


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, from epoch 1.

    Raises:
        InputError: there are none yet, or one is damaged.
    """
    path = folder / METRICS
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if not text.strip():
        raise InputError(f"{folder} has finished no epoch (no {METRICS}): let the run go on (--resume {folder}).")
    history = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found = json.loads(line)
        except ValueError as error:
            raise _damaged(path, number, "it is no JSON") from error
        if not isinstance(found, dict) or found.get("epoch") != number:
            raise _damaged(path, number, f"it is not epoch {number}")
        history.append(found)
    return history


def _damaged(path: Path, number: int, reason: str) -> InputError:
    return InputError(f"{path}, line {number}, is damaged ({reason}): put back a whole copy, or train the run anew.")


def _read(folder: Path) -> Run:
    config = read_config(folder)
    settings = config["arguments"]
    needed = ("dataset", "method", "variant", "options", "random_seed", "protocol")
    if missing := [name for name in needed if name not in settings]:
        raise InputError(f"{folder} is of another version of this code: its config.json lacks {', '.join(missing)}.")
    dataset = settings["dataset"]
    return Run(
        folder=folder,
        label=label_of(settings["method"], settings["variant"], settings["options"]),
        dataset=dataset,
        method=settings["method"],
        variant=settings["variant"],
        seed=settings["random_seed"],
        protocol=settings["protocol"],
        banner=DATASETS[dataset].banner if dataset in DATASETS else None,
        history=read_history(folder),
        settings=settings,
        fingerprint=str(config.get("data", {}).get("fingerprint", "")),
    )


def label_of(method: str, variant: str | None, options: dict[str, Any], further: Sequence[str] = ()) -> str:
    """Such as "mmpareto", "mmpareto (paper)", "mmpareto (paper, refresh 10)".

    Arguments:
        further: what else tells it from other runs, such as "fusion film".
    """
    kind = class_of(method)
    variants = dict(kind.variants) if kind else {}
    usual = {name: argument.default for name, argument in inspect.signature(kind).parameters.items()} if kind else {}
    parts = [variant] if variant is not None and variant != next(iter(variants), None) else []
    usual |= variants.get(variant, {})
    parts += [f"{name} {_shown(value)}" for name, value in options.items() if value != usual.get(name)]
    parts += further
    return f"{method} ({', '.join(parts)})" if parts else method


def class_of(method: str) -> Any:
    """The method's class; None of one that is not here: another version's, or of a library that is not installed."""
    try:
        return METHODS[method]
    except (KeyError, ValueError):
        return None


def _told_apart(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """Runs of the same method and options, each with its label: with the settings by which they fall into lines."""
    about = [{**run.settings, "data": run.fingerprint} for run in runs]
    common = [name for name in about[0] if all(name in one for one in about)]
    chosen: list[str] = []
    for name in common:
        if name == "data" or name not in OF_ONE_LINE:
            before, after = (
                {tuple(str(one[name]) for name in names) for one in about} for names in (chosen, [*chosen, name])
            )
            chosen += [name] if len(after) > len(before) else []
    return [
        (run, label_of(run.method, run.variant, run.settings["options"], [_setting(run, name) for name in chosen]))
        for run in runs
    ]


def _setting(run: Run, name: str) -> str:
    if name == "data":
        return f"data {Path(run.settings['data']).name} {run.fingerprint[:6]}".strip()
    return f"{name} {_shown(run.settings[name])}"


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
