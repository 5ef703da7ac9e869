"""Draw a figure: `python code/figures.py integration`, `… accuracy --run FOLDER FOLDER …`; see `--help`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmpareto.analysis.pictures.entries import ENTRIES, FIGURES
from mmpareto.cli import run
from mmpareto.errors import InputError


def parser() -> argparse.ArgumentParser:
    """The command line: a subcommand a figure."""
    made = argparse.ArgumentParser(
        prog="figures.py",
        description="Draw a figure of runs, of the methods, or of the data, as PNG and PDF.",
        epilog="All take --out FILE, those of runs --run FOLDER …; figures.py NAME --help shows all flags of one.",
        allow_abbrev=False,
    )
    figures = made.add_subparsers(dest="name", metavar="NAME", required=True, title="figures")
    for name, entry in ENTRIES.items():
        one = figures.add_parser(name, help=entry.shows, description=entry.shows, allow_abbrev=False)
        one.add_argument("--run", type=Path, nargs="+", action="extend", metavar="FOLDER", help=RUNS[entry.runs])
        one.add_argument("--out", type=Path, metavar="FILE", help=OUT)
        for flag, words in entry.flags:
            one.add_argument(flag, **words)
    return made


RUNS = {
    "none": argparse.SUPPRESS,
    "one": "the folder that train.py wrote",
    "several": "folders that train.py wrote; those that differ in their seeds alone become one line",
}
OUT = (
    "the PNG; the PDF lies beside it. Default: NAME.png in the run's folder, of several runs beside the first one's, "
    "of none in pics/"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figure that the command line names; the exit status."""
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    if words and not words[0].startswith("-"):
        words[0] = FIGURES.name(words[0])  # before argparse, to name the nearest
    given = parser().parse_args(words)
    runs = _runs(given.name, given.run or [])
    from mmpareto.analysis.pictures.files import names

    folder = Path("pics") if not runs else runs[0] if len(runs) == 1 else runs[0].parent
    out = given.out or folder / f"{given.name}.png"
    files = names(out)
    text = FIGURES[given.name](out, runs, given)
    print(*([text] if text else []), *files, sep="\n")
    return 0


def _runs(name: str, folders: list[Path]) -> list[Path]:
    kind = ENTRIES[name].runs
    if kind == "none" and folders:
        raise InputError(f"figure {name!r} is of no run: leave --run out.")
    if kind != "none" and not folders:
        raise InputError(f"figure {name!r} is of runs: give their folders by --run.")
    if kind == "one" and len(folders) > 1:
        raise InputError(f"figure {name!r} is of one run: give one folder by --run, not {len(folders)}.")
    return folders


if __name__ == "__main__":
    run(main)
