"""Draw a plot: `python code/figures.py integration`, `… accuracy --run FOLDER FOLDER …`; see `--help`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmpareto import plugins
from mmpareto.analysis.plots.entries import ENTRIES, PLOTS
from mmpareto.cli import ArgumentParser, run
from mmpareto.errors import InputError

RUNS = {
    "none": argparse.SUPPRESS,
    "one": "folder of a run, as written by train.py",
    "several": "folders of runs, as written by train.py; runs that differ only in their seeds share a line",
}
OUT = (
    "name of the PNG; the PDF is written beside it. Default: NAME.png, in the run's folder; for several runs, beside "
    "the first one's folder; for none, in pics/"
)


def parser() -> argparse.ArgumentParser:
    """The command line: one subcommand per plot."""
    made = ArgumentParser(
        prog="figures.py",
        description="Draw a plot of runs, of the methods, or of the data, as PNG and PDF.",
        epilog="All plots take --out FILE, those of runs take --run FOLDER …; figures.py NAME --help shows all flags.",
    )
    made.add_argument("--plugin", action="append", metavar="MODULE", help=f"{plugins.HELP}; a run's own are known")
    plots = made.add_subparsers(dest="name", metavar="NAME", required=True, title="plots")
    for name, entry in ENTRIES.items():
        one = plots.add_parser(name, help=entry.shows, description=entry.shows)
        one.add_argument("--run", type=Path, nargs="+", action="extend", metavar="FOLDER", help=RUNS[entry.runs])
        one.add_argument("--out", type=Path, metavar="FILE", help=OUT)
        for flag, words in entry.flags:
            one.add_argument(flag, **words)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the plot that the command line names; the exit status."""
    _, words = plugins.take_plugins(arguments)
    if words and not words[0].startswith("-"):
        words[0] = PLOTS.name(words[0])  # before argparse, whose message would not suggest the nearest name
    given = parser().parse_args(words)
    folders = _folders(given.name, given.run or [])
    from mmpareto.analysis.finished_run import FinishedRun
    from mmpareto.analysis.plots.style import file_names

    beside = Path("pics") if not folders else folders[0] if len(folders) == 1 else folders[0].parent
    out = given.out or beside / f"{given.name}.png"
    files = file_names(out)
    text = PLOTS[given.name](out, [FinishedRun(folder) for folder in folders], given)
    print(*([text] if text else []), *files, sep="\n")
    return 0


def _folders(name: str, folders: list[Path]) -> list[Path]:
    kind = ENTRIES[name].runs
    if kind == "none" and folders:
        raise InputError(f"plot {name!r} needs no run: leave --run out.")
    if kind != "none" and not folders:
        raise InputError(f"plot {name!r} shows runs: give their folders by --run.")
    if kind == "one" and len(folders) > 1:
        raise InputError(f"plot {name!r} shows one run: give one folder by --run, not {len(folders)}.")
    return folders


if __name__ == "__main__":
    run(main)
