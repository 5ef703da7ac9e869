"""Prepare a data set: `prepare.py cremad --raw DIR`, `prepare.py synthetic`; `prepare.py NAME --help` for options."""

import argparse
import sys
from pathlib import Path

from mmpareto import cli
from mmpareto.data import DATASETS


def main(argv: list[str] | None = None) -> int:
    """Prepare the data set that the first argument names; 0, or 1 when something was skipped."""
    argv = sys.argv[1:] if argv is None else argv
    names = ", ".join(DATASETS)
    if not argv or argv[0].startswith("-"):
        general = argparse.ArgumentParser(prog="prepare.py", description=__doc__)
        general.add_argument("dataset", help=f"one of: {names}")
        general.parse_known_args(argv)
        general.error(f"the data set comes first, one of: {names}")
    dataset = DATASETS[argv[0]]
    parser = argparse.ArgumentParser(prog=f"prepare.py {dataset.name}", description=f"Prepare {dataset.title}.")
    dataset.add_arguments(parser)
    parser.add_argument("--allow-missing", action="store_true", help="exit with 0 though clips were skipped")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="also draw a contact sheet of the prepared clips")
    options = vars(parser.parse_args(argv[1:]))
    allow_missing, sheet = options.pop("allow_missing"), options.pop("sheet")
    options["out"] = options["out"] or Path("data") / dataset.name

    report = dataset.prepare(**options)
    print(report.text())
    if sheet is not None:
        from mmpareto.data.sheet import contact_sheet

        contact_sheet(options["out"], sheet)
        print(f"contact sheet    {sheet}")
    if dataset.banner:
        print(dataset.banner)
    return 0 if report.complete or allow_missing else 1


if __name__ == "__main__":
    cli.run(main)
