"""Run a table of experiments and report it: `python code/tables.py main`; see `--help` and `--list`."""

import argparse
from pathlib import Path

from mmpareto import plugins
from mmpareto.cli import ArgumentParser, at_least, run, share

PROTOCOLS = ("validation", "last", "paper")
EPILOG = """Flags of train.py after -- apply to every run: -- --image_size 48 --audio_pool 4 4 --record_gradients 10
A run is recognised by its settings, whatever its folder in --runs is called. The same command again continues an
interrupted table.
Exit status: 0; 1 if a cell has no result; 2 for bad input; 130 or 143 when stopped, with all runs saved."""


def parser() -> ArgumentParser:
    """The command line up to --."""
    parser = ArgumentParser(
        prog="tables.py",
        description="Train the runs that a table lacks, and report it as Markdown, CSV, LaTeX and HTML.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the table; without it, all tables are listed")
    parser.add_argument("--list", action="store_true", help="list the tables, each with the question that it answers")

    parser.add_argument("--plugin", action="append", metavar="MODULE", help=plugins.HELP)

    compared = parser.add_argument_group("what is compared")
    compared.add_argument("--dataset", nargs="+", metavar="D", help="instead of the table's data sets")
    compared.add_argument(
        "--methods",
        nargs="+",
        metavar="M",
        help="the baseline and these, NAME or NAME:VARIANT; they need not be in the table",
    )
    compared.add_argument("--encoders", nargs="+", metavar="E", help="repeat each column with each of these")
    compared.add_argument("--recipe", choices=["own"], help="own: each row with its authors' recipe, if they state one")
    compared.add_argument("--seeds", nargs="+", type=at_least(0), metavar="N", help="default: 0 1 2 3 4; --quick: 0 1")
    compared.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="validation",
        help="epoch that is reported: best on the validation set (default), last, or best on the test set (paper: "
        "optimistic, as in the papers; trains on the whole training set); not for bridge and bridge_dgl, whose rows "
        "have their own",
    )
    compared.add_argument(
        "--quick",
        action="store_true",
        help="on the synthetic stand-in: tiny images, 2 epochs, 2 seeds; minutes on 2 cores, to try the software",
    )

    runs = parser.add_argument_group("how it is run")
    runs.add_argument(
        "--slots",
        type=at_least(1),
        metavar="N",
        help="runs at a time: on the GPUs of --gpu_ids if given, which several runs can share; otherwise on the CPU, "
        "where the default is at most 2",
    )
    runs.add_argument(
        "--gpu_ids", metavar="IDS", help="for example 0,1,2,3 (default: all); one run at a time on each without --slots"
    )
    runs.add_argument("--share", type=share, metavar="I/N", help="every Nth run from the Ith on, without a report")
    runs.add_argument("--dry_run", action="store_true", help="only list the runs, with an estimate of their time")
    runs.add_argument("--report_only", action="store_true", help="run nothing; report the runs that are finished")
    runs.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of the runs (default: runs)"
    )
    out = "the report's folder (default: RUNS/tables/<name>[-<dataset>][-own][-quick])"
    runs.add_argument("--out", type=Path, metavar="DIR", help=out)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run and report a table, and print the paths of the report; return the exit status."""
    names, words = plugins.take_plugins(arguments)
    split = words.index("--") if "--" in words else len(words)
    own, extra = words[:split], words[split + 1 :]
    given = parser().parse_args(own)
    if given.list or given.name is None:
        from mmpareto.analysis.tables.definitions import list_text

        print(list_text())
        return 0
    from mmpareto.analysis.tables.choices import table_named

    table = table_named(given.name)  # so that a wrong name is reported before torch is imported
    from mmpareto.analysis.tables.command import report_costs, report_runs

    if not table.columns:
        return report_costs(table, given, extra)
    return report_runs(table, given, [*(f"--plugin={name}" for name in names), *extra])


if __name__ == "__main__":
    run(main)
