"""Preparation of a table's data: sets that this program makes by the table itself, other data sets by a command."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmpareto.analysis.tables.definitions import DERIVED, QUICK_STAND_IN
from mmpareto.cli import ArgumentParser
from mmpareto.data import DATASETS
from mmpareto.files import file_lock, read_json

NAME = "synthetic"
FOLDER, QUICK_FOLDER = f"data/{NAME}", f"data/{NAME}-quick"


def how_to_prepare(dataset: str, data: str) -> str:
    """The command that creates a prepared folder."""
    words = ["python", "code/prepare.py", dataset, *([] if DATASETS[dataset].made_here else ["--raw", "DIR"])]
    words += shlex.split(DERIVED.get(_suffix(data), ""))
    if _base(data) == QUICK_FOLDER:
        words += [word for name, value in QUICK_STAND_IN.items() for word in (f"--{name}", str(value))]
    return shlex.join([*words, *([] if data == f"data/{dataset}" else ["--out", data])])


def missing(folders: Iterable[str], dataset: str = NAME) -> list[str]:
    """Which folders of a data set that this program makes `prepare` has to create, each once.

    They are its default folder, that of the quick stand-in, and folders derived from one that exists; a folder that the
    user named is not created.
    """
    absent = [data for data in dict.fromkeys(folders) if not _is_prepared(data)]
    return [data for data in absent if _base(data) in (f"data/{dataset}", QUICK_FOLDER) or _is_prepared(_base(data))]


def prepare(data: str, dataset: str = NAME) -> None:
    """Prepare a folder of a data set that this program makes, or wait until another process has prepared it.

    Raises:
        InputError: the folder has other content, or cannot be written.
    """
    with file_lock(f"{data}.lock"):
        if not _is_prepared(data):
            print(f"preparing {DATASETS[dataset].title} in {data}", flush=True)
            DATASETS[dataset].prepare(**_options(data, dataset))


def _options(data: str, dataset: str) -> dict[str, Any]:
    parser = ArgumentParser()
    DATASETS[dataset].add_arguments(parser)
    flags = shlex.split(DERIVED.get(_suffix(data), ""))
    options = vars(parser.parse_args([*flags, "--out", data]))
    base = _base(data)
    if _is_prepared(base):  # the same samples, prepared with other flags
        origin = read_json(Path(base) / "prepared.json")["origin"]
        return options | {name: origin[name] for name in origin if name in options and f"--{name}" not in flags}
    return options | (QUICK_STAND_IN if base == QUICK_FOLDER else {})


def _is_prepared(data: str) -> bool:
    return (Path(data) / "prepared.json").is_file()


def _suffix(data: str) -> str:
    return next((suffix for suffix in DERIVED if data.endswith(suffix)), "")


def _base(data: str) -> str:
    return data.removesuffix(_suffix(data))
