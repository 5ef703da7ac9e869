"""A table as the command line wants it: other data sets, methods and encoders."""

import dataclasses
import shlex
from collections.abc import Iterable, Sequence

from mmpareto.analysis.tables.definitions import TABLES, Column, Row, Table, method_row
from mmpareto.data import DATASETS
from mmpareto.integration import TORCHJD
from mmpareto.models import ENCODERS
from mmpareto.registry import Registry
from mmpareto.training.method_options import method_name


def table_named(spelling: str) -> Table:
    """The table of this name.

    Raises:
        InputError: there is none; the message gives the nearest name.
    """
    return TABLES[Registry("table", dict.fromkeys(TABLES, "")).name(spelling)]


def with_data_sets(table: Table, spellings: Sequence[str]) -> Table:
    """On these data sets in place of the table's; columns that are more than a data set are kept for each of them.

    Raises:
        InputError: an unknown data set.
    """
    names = [DATASETS.name(spelling) for spelling in dict.fromkeys(spellings)]
    if table.data_sets:
        columns = [Column(DATASETS[name].title, f"--dataset {name}") for name in names]
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
    return dataclasses.replace(table, title=title, columns=tuple(columns))


def with_methods(table: Table, spellings: Sequence[str]) -> Table:
    """With these methods, "name" or "name:variant", and the baseline: those the table has, and others at its end.

    A name without a variant picks every row (or column, where these are the methods) of that method.

    Raises:
        InputError: an unknown method.
    """
    names = list(dict.fromkeys(_method_and_variant(spelling) for spelling in spellings))
    in_columns = any(flag_of(column.flags, "--method") for column in table.columns)
    lines: Sequence[Row | Column] = table.columns if in_columns else table.rows
    added = [method_row(f"{m}:{v}" if v else m) for m, v in names if not any(_is(line.flags, m, v) for line in lines)]
    picked = [line for line in lines if any(_is(line.flags, m, v) for m, v in names)]
    if not in_columns:
        rows = [row for row in table.rows if row in picked or row.label == table.baseline]
        return dataclasses.replace(table, rows=(*rows, *added))
    data_sets = dict.fromkeys(flag_of(column.flags, "--dataset") for column in table.columns)
    further = [Column(row.label, f"--dataset {name} {row.flags}") for name in data_sets for row in added]
    return dataclasses.replace(table, columns=(*(c for c in table.columns if c in picked), *further))


def with_encoders(table: Table, spellings: Sequence[str]) -> Table:
    """With every column once for each of these encoders.

    Raises:
        InputError: an unknown encoder.
    """
    names = [ENCODERS.name(spelling) for spelling in dict.fromkeys(spellings)]
    columns = [
        Column(f"{column.label}, {name}", with_flag(column.flags, "--encoder", name))
        for column in table.columns
        for name in names
    ]
    return dataclasses.replace(table, columns=tuple(columns))


def data_sets_of(columns: Iterable[Column]) -> list[str]:
    """The registered names of the columns' data sets, each once."""
    given = (flag_of(column.flags, "--dataset") for column in columns)
    return list(dict.fromkeys(DATASETS.name(name) for name in given if name))


def flag_of(flags: str, name: str) -> str | None:
    """The value of a flag among `flags`, the last if it is there twice; None if it is not."""
    words = shlex.split(flags)
    places = [place for place, word in enumerate(words[:-1]) if word == name]
    return words[places[-1] + 1] if places else None


def with_flag(flags: str, name: str, value: str) -> str:
    """The flags with this one changed, or added."""
    words = shlex.split(flags)
    if name in words:
        words[words.index(name) + 1] = value
    else:
        words += [name, value]
    return shlex.join(words)


def _method_and_variant(spelling: str) -> tuple[str, str | None]:
    if spelling.lower().startswith(TORCHJD):
        return method_name(spelling), None
    method, _, variant = spelling.partition(":")
    return method_name(method), variant or None


def _is(flags: str, method: str, variant: str | None) -> bool:
    return flag_of(flags, "--method") == method and variant in (None, flag_of(flags, "--variant"))
