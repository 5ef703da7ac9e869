"""A table with the data sets, methods and encoders that the command line names."""

import dataclasses
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from mmpareto.analysis.tables.definitions import (
    ONE_RECIPE,
    OWN_RECIPES,
    TABLES,
    Column,
    Row,
    Table,
    method_row,
    tasks_of,
    unimodal_rows,
)
from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.integration import TORCHJD
from mmpareto.models.per_modality import encoder_name
from mmpareto.registry import Registry
from mmpareto.training.method_labels import method_class
from mmpareto.training.method_options import method_name, variant_name
from mmpareto.training.recipes import own_recipe


def table_named(spelling: str) -> Table:
    """The table of this name; needs no torch.

    Raises:
        InputError: there is none; the message gives the nearest name.
    """
    return TABLES[Registry("table", dict.fromkeys(TABLES, "")).name(spelling)]


def with_data_sets(table: Table, spellings: Sequence[str], data: str | None = None) -> Table:
    """The table on these data sets instead of its own. Columns that are more than a data set are repeated for each.

    A data set that the table has keeps its columns. Rows of unimodal training become those of the modalities of these
    data sets.

    Arguments:
        data: the prepared folder; data/<data set> if None.

    Raises:
        InputError: an unknown data set, or one with a single task in a table about several.
    """
    names = list(dict.fromkeys(DATASETS.name(spelling) for spelling in spellings))
    single = [name for name in names if not tasks_of(name, data)]
    if single and any(tasks_of(name) for name in data_sets_of(table.columns)):
        raise InputError(
            f"table {table.name!r} compares methods for several tasks on one encoder, and {single[0]} has a single "
            "task; leave it out of --dataset."
        )
    if table.data_sets:
        columns = [
            column
            for name in names
            for column in [column for column in table.columns if data_sets_of([column]) == [name]]
            or [Column(DATASETS[name].title, f"--dataset {name}")]
        ]
    else:
        columns = [
            Column(
                column.label if len(names) == 1 else f"{DATASETS[name].title}: {column.label}",
                with_flag(column.flags, "--dataset", name),
            )
            for name in names
            for column in table.columns
        ]
    title = f"{table.title}; here on {' and '.join(DATASETS[name].title for name in names)}"
    return dataclasses.replace(
        table, title=title, columns=tuple(columns), rows=_with_modalities(table.rows, names, data)
    )


def _with_modalities(rows: Sequence[Row], names: Sequence[str], data: str | None) -> tuple[Row, ...]:
    """The rows with those of unimodal training, which are adjacent, replaced by those of these data sets."""
    replaced = [row for row in rows if flag_of(row.flags, "--method") == "unimodal"]
    if not replaced:
        return tuple(rows)
    start = rows.index(replaced[0])
    new = unimodal_rows(names, flag_of(replaced[0].flags, "--recipe"), data)
    return (*rows[:start], *new, *rows[start + len(replaced) :])


def with_methods(table: Table, spellings: Sequence[str], data: str | None = None) -> Table:
    """The table with the baseline and these methods, "name" or "name:variant"; those that it lacks are appended.

    A name without a variant selects all rows of that method (or columns, if the columns are the methods). Appended rows
    have the recipe and the blocks of the baseline.

    Arguments:
        data: the prepared folder; data/<data set> if None.

    Raises:
        InputError: an unknown method or variant.
    """
    methods = list(dict.fromkeys(_method_and_variant(spelling) for spelling in spellings))
    in_columns = any(flag_of(column.flags, "--method") for column in table.columns)
    present: Sequence[Row | Column] = table.columns if in_columns else table.rows
    selected = [entry for entry in present if any(_matches(entry.flags, *method) for method in methods)]
    absent = [method for method in methods if not any(_matches(entry.flags, *method) for entry in present)]
    flags = next(row.flags for row in table.rows if row.label == table.baseline)
    common = {name: flag_of(flags, f"--{name}") for name in ("recipe", "blocks")}
    added = [row for method in absent for row in _rows(*method, data_sets_of(table.columns), common, data)]
    if not in_columns:
        rows = [row for row in table.rows if row in selected or row.label == table.baseline]
        return dataclasses.replace(table, rows=(*rows, *added))
    data_sets = dict.fromkeys(flag_of(column.flags, "--dataset") for column in table.columns)
    columns = [Column(row.label, f"--dataset {name} {row.flags}") for name in data_sets for row in added]
    return dataclasses.replace(table, columns=(*(c for c in table.columns if c in selected), *columns))


def with_encoders(table: Table, spellings: Sequence[str]) -> Table:
    """The table with each column repeated for each of these encoders.

    Raises:
        InputError: an unknown encoder.
    """
    names = [encoder_name(spelling) for spelling in dict.fromkeys(spellings)]
    columns = [
        Column(f"{column.label}, {name}", with_flag(column.flags, "--encoder", name))
        for column in table.columns
        for name in names
    ]
    return dataclasses.replace(table, columns=tuple(columns))


def with_own_recipes(table: Table) -> Table:
    """The table with each row trained by the recipe of its method's authors, on data sets for which they state one.

    Rows and columns that name a recipe keep it.

    Raises:
        InputError: none of the rows has such a recipe.
    """
    pairs = [(dataset, flag_of(row.flags, "--method")) for dataset in data_sets_of(table.columns) for row in table.rows]
    if not any(method and own_recipe(dataset, method) for dataset, method in pairs):
        raise InputError(f"--recipe own: the authors of no method in table {table.name!r} state one for its data.")
    note = table.note.replace(ONE_RECIPE, OWN_RECIPES) if ONE_RECIPE in table.note else f"{OWN_RECIPES}. {table.note}"
    title = f"{table.title}; each with its authors' recipe"
    return dataclasses.replace(table, title=title, note=note.strip(), own_recipes=True)


def data_sets_of(columns: Iterable[Column]) -> list[str]:
    """Registered names of the columns' data sets, each once."""
    names = (flag_of(column.flags, "--dataset") for column in columns)
    return list(dict.fromkeys(DATASETS.name(name) for name in names if name))


def flag_of(flags: str, name: str) -> str | None:
    """The value of a flag in `flags`: the last if there are several, None if there is none."""
    words = shlex.split(flags)
    return next((words[n + 1] for n in reversed(range(len(words) - 1)) if words[n] == name), None)


def with_flag(flags: str, name: str, value: str) -> str:
    """`flags` with this flag replaced or appended."""
    words = shlex.split(flags)
    if name in words:
        start = words.index(name)
        end = next((n for n in range(start + 1, len(words)) if words[n].startswith("--")), len(words))
        words[start:end] = [name, value]
    else:
        words += [name, value]
    return shlex.join(words)


def _method_and_variant(spelling: str) -> tuple[str, str | None]:
    """Registered name of the method, and present name of the variant, if one is given."""
    if spelling.lower().startswith(TORCHJD):
        return method_name(spelling), None
    name, _, variant = spelling.partition(":")
    method = method_name(name)
    return method, variant_name(method, variant) if variant else None


def _default_variant(method: str) -> Any:
    return next(iter(method_class(method).variants), None)


def _rows(
    method: str, variant: str | None, datasets: Sequence[str], common: dict[str, str | None], data: str | None
) -> tuple[Row, ...]:
    if method == "unimodal":
        return unimodal_rows(datasets, common["recipe"], data)
    return (method_row(method, None if variant == _default_variant(method) else variant, **common),)


def _matches(flags: str, method: str, variant: str | None) -> bool:
    """Return whether flags of train.py are for this method and, if one is given, for this variant."""
    if flag_of(flags, "--method") != method:
        return False
    return variant is None or variant == (flag_of(flags, "--variant") or _default_variant(method))
