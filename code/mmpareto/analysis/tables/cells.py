"""A cell of a table for a seed: its settings, and by what a run is recognised as its run."""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpareto.analysis.tables.choices import data_sets_of, flag_of
from mmpareto.analysis.tables.definitions import RECORDS, Column, Row, Table
from mmpareto.errors import InputError
from mmpareto.training.settings import Settings, parse, parser, to_config, whole_arguments

Identity = dict[str, Any]

PROTOCOLS = {"last": "last", "validation": "best_val", "paper": "best_test"}  # → entry of summary.json
# Settings that say where a run computes or what it writes, not what it computes. Of `data`, the fingerprint counts.
APART = frozenset(
    ("model", "ckpt_path", "data", "gpu_ids", "workers", "use_tensorboard", "tensorboard_path", "record_gradients")
)
# What the tables say themselves, flag of train.py → what to use instead.
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
    "train": "nothing",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row on a column by a seed.

    Attributes:
        words: the command line of train.py, without what says where it runs.
    """

    row: Row
    column: Column
    seed: int
    settings: Settings
    words: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.row.label}, {self.column.label}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a cell: exactly one of `folder` and `reason` is there.

    Attributes:
        folder: of its finished run.
        reason: why there is none, as a person says it.
        log: what its training printed, where the grid ran it.
    """

    cell: Cell
    folder: Path | None
    reason: str | None
    log: Path | None = None


def make_cells(
    table: Table,
    seeds: Sequence[int],
    protocol: str,
    further: Sequence[str] = (),
    *,
    size: Sequence[str] = (),
    data: str | None = None,
) -> list[Cell]:
    """All cells of a table, seed by seed, so that an early end leaves whole comparisons of fewer seeds.

    Arguments:
        protocol: one of `PROTOCOLS`: "last" and "validation" are read from the same runs.
        further: flags of train.py that go to every cell and override its own; with one data set, --data DIR among
            them is its folder.
        size: such flags, which `further` overrides.
        data: the data's folder, unless `further` says it; data/<data set> where None.

    Raises:
        InputError: train.py would refuse a cell's command line, or a further flag is the tables' own.
    """
    named, further = _further(table, further)
    data = named or data
    kind = "paper" if protocol == "paper" else "validation"
    cells = []
    for seed in dict.fromkeys(seeds):
        for column in table.columns:
            for row in table.rows:
                flags = f"{column.flags} {row.flags}"
                folder = data or f"data/{data_sets_of([column])[0]}"
                words = [word.replace("{data}", folder) for word in shlex.split(flags)]
                words += [] if "--data" in words else ["--data", folder]
                words += [*shlex.split(RECORDS), *size, *further, "--random_seed", str(seed), "--protocol", kind]
                try:
                    settings = parse(words).settings
                except InputError as error:
                    raise InputError(f"table {table.name!r}, {row.label}, {column.label}: {error}") from error
                cells.append(Cell(row, column, seed, settings, tuple(words)))
    return cells


def _further(table: Table, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The data's folder, if `words` say it, and the rest of them."""
    known = {action.dest: action.option_strings for action in parser()._actions}
    given = {word.partition("=")[0] for word in words}
    for name, instead in RESERVED.items():
        if given & set(known[name]):
            raise InputError(f"--{name} after the -- is the table's own; use {instead}.")
    text = shlex.join(words).replace("--data=", "--data ")
    data = flag_of(text, "--data")
    if data is None:
        return None, list(words)
    if len(data_sets_of(table.columns)) > 1:
        raise InputError(f"--data {data} is one folder, and the table is on several data sets; choose by --dataset.")
    rest = shlex.split(text)
    place = rest.index("--data")
    return data, rest[:place] + rest[place + 2 :]


def identity(settings: Settings, fingerprint: str) -> Identity:
    """All that a run's result depends on, as JSON holds it.

    Arguments:
        fingerprint: of the prepared data.
    """
    return _identity(to_config(settings), fingerprint)


def recorded_identity(config: dict[str, Any]) -> Identity:
    """That of a run, by its config.json.

    Raises:
        KeyError: a part of it is not there.
    """
    return _identity(whole_arguments(config), config["data"]["fingerprint"])


def run_name(found: Identity) -> str:
    """The folder's name of a run: <dataset>-<method>-<8 hex of the identity without its seed>-seed<n>."""
    text = json.dumps({key: value for key, value in found.items() if key != "random_seed"}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{found['dataset']}-{found['method'].replace(':', '-')}-{digest}-seed{found['random_seed']}"


def _identity(arguments: dict[str, Any], fingerprint: str) -> Identity:
    return {key: value for key, value in arguments.items() if key not in APART} | {"fingerprint": fingerprint}
