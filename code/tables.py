"""Run a table of experiments and report it: `python code/tables.py main`; see `--help` and `--list`."""

import argparse
import sys
from pathlib import Path

from mmpareto.cli import at_least, run

PROTOCOLS = ("validation", "last", "paper")
EPILOG = """Flags of train.py after -- go to every run: -- --image_size 48 --audio_pool 4 4 --record-gradients 10
A run is recognised by its settings, in any folder under --runs; the same command again goes on where it was stopped.
Exit status: 0; 1 where the report has a hole; 2 bad input; 130 and 143 when stopped, with what runs saved."""


def parser() -> argparse.ArgumentParser:
    """The command line, up to --."""
    made = argparse.ArgumentParser(
        prog="tables.py",
        description="Run what a table lacks, and write Markdown, CSV, LaTeX and a page of HTML.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("name", nargs="?", metavar="NAME", help="of the table; without it, the tables are listed")
    made.add_argument("--list", action="store_true", help="the tables, and the question that each answers")

    what = made.add_argument_group("what is compared")
    what.add_argument("--dataset", nargs="+", metavar="D", help="in place of the table's data sets")
    what.add_argument(
        "--methods", nargs="+", metavar="M", help="these, NAME or NAME:VARIANT, and the baseline; also further ones"
    )
    what.add_argument("--encoders", nargs="+", metavar="E", help="every column once for each of these")
    what.add_argument("--seeds", nargs="+", type=at_least(0), metavar="N", help="default: 0 1 2 3 4; with --quick 0 1")
    what.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="validation",
        help="the epoch that is reported: best on validation (default), the last, or, as the papers do and optimistic, "
        "best on the test set (paper: trains on everything)",
    )
    what.add_argument(
        "--quick",
        action="store_true",
        help="with --dataset synthetic: tiny images, 2 epochs, 2 seeds: minutes on 2 cores, to try the software",
    )

    how = made.add_argument_group("how it is run")
    where = how.add_mutually_exclusive_group()
    where.add_argument("--slots", type=at_least(1), metavar="N", help="runs at a time, on the CPU (default: up to 2)")
    where.add_argument("--gpu_ids", metavar="IDS", help="such as 0,1,2,3: a run at a time on each (default: all GPUs)")
    how.add_argument("--dry-run", action="store_true", help="list the runs, with an estimate of their time, and end")
    how.add_argument("--report-only", action="store_true", help="run nothing: report what there is")
    how.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="the runs' folder (default: runs)")
    how.add_argument(
        "--out", type=Path, metavar="DIR", help="of the report (default: tables/<name>[-<dataset>][-quick] in --runs)"
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run, report, print where; the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    own, further = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    given = parser().parse_args(own)
    if given.list or given.name is None:
        from mmpareto.analysis.tables.definitions import list_text

        print(list_text())
        return 0
    from mmpareto.analysis.tables.choices import table_named

    table = table_named(given.name)  # a wrong name is told before torch is imported
    from mmpareto.analysis.report.command import report_costs, report_runs

    return report_runs(table, given, further) if table.columns else report_costs(table, given, further)


if __name__ == "__main__":
    run(main)
