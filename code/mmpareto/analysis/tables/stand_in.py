"""Data that a table wants: the synthetic stand-in, which is made where it is missing, and how to prepare any other."""

import argparse
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmpareto.analysis.tables.definitions import DERIVED, QUICK_STAND_IN
from mmpareto.data import DATASETS
from mmpareto.files import file_lock

NAME = "synthetic"
FOLDER, QUICK_FOLDER = f"data/{NAME}", f"data/{NAME}-quick"


def how_to_prepare(dataset: str, data: str) -> str:
    """The command that makes a prepared folder."""
    suffix = _suffix(data)
    words = ["python", "code/prepare.py", dataset, *([] if dataset == NAME else ["--raw", "DIR"])]
    words += shlex.split(DERIVED.get(suffix, ""))
    return shlex.join([*words, *([] if data == f"data/{dataset}" else ["--out", data])])


def missing(folders: Iterable[str]) -> list[str]:
    """Those of the stand-in's folders that are not prepared and can be made, each once.

    One that a person named and that is not there cannot; one derived of it can, if it is there.
    """
    absent = [data for data in dict.fromkeys(folders) if not _is_prepared(data)]
    return [data for data in absent if _base(data) in (FOLDER, QUICK_FOLDER) or _is_prepared(_base(data))]


def make(data: str) -> None:
    """Make a stand-in, or wait until another process has made it.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    base, options = _base(data), _options(data)
    with file_lock(f"{data}.lock"):
        if not _is_prepared(data):
            print(f"making the synthetic stand-in {data}", flush=True)
            if _is_prepared(base):  # the same clips, prepared otherwise
                origin = json.loads((Path(base) / "prepared.json").read_text(encoding="utf-8"))["origin"]
                options |= {name: origin[name] for name in ("clips", "actors", "seed")}
            elif base == QUICK_FOLDER:
                options |= QUICK_STAND_IN
            DATASETS[NAME].prepare(**options)


def _is_prepared(data: str) -> bool:
    return (Path(data) / "prepared.json").is_file()


def _options(data: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    DATASETS[NAME].add_arguments(parser)
    return vars(parser.parse_args([*shlex.split(DERIVED.get(_suffix(data), "")), "--out", data]))


def _suffix(data: str) -> str:
    return next((suffix for suffix in DERIVED if data.endswith(suffix)), "")


def _base(data: str) -> str:
    return data.removesuffix(_suffix(data))
