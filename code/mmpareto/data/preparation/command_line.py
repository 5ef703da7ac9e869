"""Options of prepare.py that all data sets share."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmpareto import cli
from mmpareto.data.dataset_builder import DatasetBuilder

RAW, SHEET = Path("data/raw"), Path("sheet.jpg")


def parser(dataset: type[DatasetBuilder], words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of `prepare.py NAME`, for the words that follow the name: --raw is not always required."""
    made = cli.ArgumentParser(prog=f"prepare.py {dataset.name}", description=dataset.text())
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    dataset.add_arguments(made)
    made.add_argument(
        "--download", type=Path, nargs="?", const=RAW, metavar="DIR",
        help=f"download the raw files to DIR (default: {RAW}) and prepare them; where no access must be asked for",
    )  # fmt: skip
    made.add_argument(
        "--allow_missing", action="store_true", help="exit with status 0 even if samples are skipped or absent"
    )
    made.add_argument("--check", action="store_true", help="verify the prepared folder; change nothing")
    made.add_argument(
        "--sheet", type=Path, nargs="?", const=SHEET, metavar="FILE",
        help=f"draw a few samples of every class as the network gets them in training (default: {SHEET})",
    )  # fmt: skip
    given = made.parse_known_args([*words, "--raw", "."])[0]
    for action in made._actions:
        if action.dest == "raw" and (given.download or given.check or given.sheet):
            action.required = False  # downloaded now, or not needed since the folder has been prepared before
    return made
