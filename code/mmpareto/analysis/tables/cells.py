"""A table's cells: each is one run of train.py, with the settings and the folder name by which it is recognised."""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpareto.analysis.finished_run import Identity, identity
from mmpareto.analysis.tables.choices import data_sets_of, flag_of
from mmpareto.analysis.tables.definitions import RECORD, Column, Row, Table, modalities_of, tasks_of
from mmpareto.cli import ArgumentParser, with_underscores
from mmpareto.errors import InputError
from mmpareto.training.recipes import own_recipe, recipe
from mmpareto.training.settings import Settings, parse, parser, to_config

# Flags of train.py that tables.py sets itself → what to use instead.
RESERVED = {
    "dataset": "--dataset before the --",
    "method": "--methods",
    "random_seed": "--seeds",
    "protocol": "--protocol before the --",
    "gpu_ids": "--gpu_ids before the --",
    "ckpt_path": "--runs",
    "resume": "the same command again, which resumes what was interrupted",
    "model": "nothing: runs are recognised by their settings",
    "stand_in": "--dataset synthetic",
    "config": "the flags that differ from the table's",
    "allow_unused": "nothing: a flag needs to have an effect in one cell only",
    "train": "nothing",
}

# Settings that are younger than the names of runs, with the values that change nothing. These are left out of names, so
# that a table continues the runs that an older version has begun.
LATER: dict[str, Any] = {
    "encoder_learning_rate": None,
    "warmup_epochs": 0.0,
    "patience": None,
    "blocks": "none",
    "cross_terms": "excluded",
    "objective": "supervised",
    "temperature": 0.07,
    "train_fraction": 1.0,
    "cosine_scale": 10.0,
}
# The same for options of methods.
_OF_OGM = {"modulated": "convolutions", "score": "contribution", "comparison": "mean"}
LATER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "ogm": _OF_OGM,
    "ogm_ge": _OF_OGM,
    "agm": {"floor": 0.0, "modulation_ends": None, "response": "observed", "clip_above": None},
    "pmr": {"samples": "training", "comparison": "mean", "eta": 0.01},
    "unimodal": {"task": None},
}
# Methods that once had no variants → the one that is what they did.
LATER_VARIANTS = {"ogm": "paper", "ogm_ge": "paper"}
# Feature that a recipe reads → suffix of the folder with it (`definitions.DERIVED`).
FOLDER_OF = {"spectrogram": "-spectrogram", "stft": "-waveform"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row and a column with one seed.

    Attributes:
        words: the command line of train.py, without the flags that say where it runs.
    """

    row: Row
    column: Column
    seed: int
    settings: Settings
    words: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Row, column and seed, for messages."""
        return f"{self.row.label}, {self.column.label}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a cell: either `folder` or `reason` is None.

    Attributes:
        folder: of its finished run.
        reason: why there is no finished run.
        log: output of the training, if the grid started it.
    """

    cell: Cell
    folder: Path | None
    reason: str | None
    log: Path | None = None


def make_cells(
    table: Table,
    seeds: Sequence[int],
    protocol: str,
    extra: Sequence[str] = (),
    *,
    size: Sequence[str] = (),
    data: str | None = None,
) -> list[Cell]:
    """All cells of a table, sorted by seed, so that an interrupted grid has complete comparisons of fewer seeds.

    A row of unimodal training has no cell for a data set without its modality or task.

    Arguments:
        protocol: "last", "validation" or "paper", for rows without a protocol of their own; the first two need the same
            runs.
        extra: flags of train.py for every cell, which override the cell's own. If the table has one data set, they may
            contain --data DIR, its folder.
        size: more such flags, which `extra` overrides.
        data: the data's folder, unless `extra` contains --data; data/<data set> if None.

    Raises:
        InputError: train.py would refuse a cell's command line, or an extra flag is one of `RESERVED`.
    """
    named, extra = _without_data(table, with_underscores(extra))
    data = named or data
    cells: list[Cell] = []
    unused: list[dict[str, str]] = []
    for seed in dict.fromkeys(seeds):
        for column in table.columns:
            dataset = data_sets_of([column])[0]
            folder = data or f"data/{dataset}"
            for row in table.rows:
                if flag_of(row.flags, "--modality") not in (None, *modalities_of(dataset, folder)):
                    continue
                if flag_of(row.flags, "--task") not in (None, *tasks_of(dataset, folder)):
                    continue
                places = {"{data}": folder, "{seed}": str(seed)}
                words = [_filled(word, places) for word in shlex.split(f"{column.flags} {row.flags}")]
                if table.own_recipes and "--recipe" not in words:
                    words += _own_recipe(dataset, row, words, folder, derived=data is None)
                words += [] if "--data" in words else ["--data", folder]
                words += [*shlex.split(RECORD), *size, *extra, "--allow_unused"]
                words += ["--random_seed", str(seed)]
                if "--protocol" not in words:
                    words += ["--protocol", "paper" if (row.protocol or protocol) == "paper" else "validation"]
                try:
                    request = parse(words)
                except InputError as error:
                    raise InputError(f"table {table.name!r}, {row.label}, {column.label}: {error}") from error
                cells.append(Cell(row, column, seed, request.settings, tuple(words)))
                unused.append({warning.split()[0]: warning for warning in request.check_flags()})
    _check_used(extra, unused)
    return cells


def _filled(word: str, places: Mapping[str, str]) -> str:
    """A word of a table's flags with its {data} and {seed} replaced."""
    for place, value in places.items():
        word = word.replace(place, value)
    return word


def _own_recipe(dataset: str, row: Row, words: Sequence[str], folder: str, *, derived: bool) -> list[str]:
    """Flags for the recipe of the row's authors and the data that it reads; none where they state no recipe.

    Arguments:
        derived: whether `folder` is the data set's own, beside which the data prepared with other flags are.
    """
    name = own_recipe(dataset, flag_of(row.flags, "--method") or "")
    if name is None:
        return []
    values = recipe(dataset, name)
    classes = values["n_classes"].value if "n_classes" in values else None
    suffix = f"-{classes}" if classes else FOLDER_OF.get(values["audio"].value, "")
    return ["--recipe", name, *(["--data", folder + suffix] if derived and "--data" not in words else [])]


def share_of(cells: Sequence[Cell], number: int, count: int) -> list[Cell]:
    """The cells of every `count`th run from the `number`th on (from 1), for one of `count` machines.

    Shares have no run in common, and together they have all. They depend only on the cells, not on what is finished, so
    machines that work on different shares of a table need no lock. Cells of the same run are in the same share.
    """
    names = [run_name(identity(to_config(cell.settings), "")) for cell in cells]
    indices = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return [cell for cell, name in zip(cells, names, strict=True) if indices[name] % count == number - 1]


def _check_used(extra: Sequence[str], unused: Sequence[Mapping[str, str]]) -> None:
    """Raise InputError if a flag after the -- has no effect in any cell.

    Arguments:
        unused: flag → sentence about its lack of effect, of every cell.
    """
    for flag in [word.partition("=")[0] for word in extra]:
        if unused and all(flag in cell for cell in unused):
            raise InputError(f"{unused[0][flag]}; nor in any other run of the table. Leave {flag} out.")


def run_name(identity: Identity) -> str:
    """Name of a run's folder: <dataset>-<method>-<8 hex digits of the identity without its seed>-seed<n>."""
    named = {
        key: value for key, value in identity.items() if key != "random_seed" and (key, value) not in LATER.items()
    }
    if identity["variant"] == LATER_VARIANTS.get(identity["method"]):
        named["variant"] = None
    later = LATER_OPTIONS.get(identity["method"], {})
    named["options"] = {
        key: value for key, value in identity["options"].items() if key not in later or value != later[key]
    }
    text = json.dumps(named, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{identity['dataset']}-{identity['method'].replace(':', '-')}-{digest}-seed{identity['random_seed']}"


def _without_data(table: Table, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of --data in `words`, if they have it, and the other words."""
    spellings = {action.dest: action.option_strings for action in parser()._actions}
    flags = {word.partition("=")[0] for word in words}
    for name, instead in RESERVED.items():
        if flags & set(spellings[name]):
            raise InputError(f"--{name} after the -- is set by the table; use {instead}.")
    data, rest = split_data(words)
    if data is not None and len(data_sets_of(table.columns)) > 1:
        raise InputError(
            f"--data {data} is one folder, but the table has several data sets; choose one with --dataset."
        )
    return data, rest


def split_data(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of --data in `words`, None if they lack it, and the other words."""
    reader = ArgumentParser(prog="tables.py", add_help=False)
    reader.add_argument("--data")
    given, rest = reader.parse_known_args(words)
    return given.data, rest
