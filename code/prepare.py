"""Prepare a data set: `prepare.py cremad --raw DIR`, `prepare.py --list`; `prepare.py NAME --help` for options."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mmpareto import cli
from mmpareto.data import DATASETS
from mmpareto.errors import InputError

SHEET = Path("sheet.jpg")


def main(argv: list[str] | None = None) -> int:
    """Prepare, check or draw the data set named by the first argument; return 1 if something is wrong or left out."""
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--list"]:
        print("\n\n".join(DATASETS[name].text() for name in DATASETS))
        return 0
    if not argv or argv[0].startswith("-"):
        names = ", ".join(DATASETS)
        general = cli.ArgumentParser(prog="prepare.py", description=__doc__)
        general.add_argument("dataset", help=f"one of: {names}")
        general.add_argument("--list", action="store_true", help="print each data set's size, terms, page and raw form")
        general.parse_known_args(argv)
        general.error(f"the data set must be the first argument, one of: {names}")
    dataset = DATASETS[argv[0]]
    options = vars(_parser(dataset, argv[1:]).parse_args(argv[1:]))
    allow_missing, check, sheet = (options.pop(name) for name in ("allow_missing", "check", "sheet"))
    out = options["out"] = options["out"] or Path("data") / dataset.name

    complete = True
    if not check and (options.get("raw") or not sheet or not _is_prepared(out)):
        complete = _prepare(dataset, options) or allow_missing
    if check:
        complete = _check(dataset, out)
    if sheet:
        _draw(dataset, out, sheet)
    if dataset.banner:
        print(dataset.banner)
    return 0 if complete else 1


def _parser(dataset: Any, words: list[str]) -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(prog=f"prepare.py {dataset.name}", description=dataset.text())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    dataset.add_arguments(parser)
    parser.add_argument(
        "--allow_missing", action="store_true", help="exit with status 0 even if samples are skipped or absent"
    )
    parser.add_argument("--check", action="store_true", help="verify the prepared folder; change nothing")
    parser.add_argument(
        "--sheet", type=Path, nargs="?", const=SHEET, metavar="FILE",
        help=f"draw a few samples of every class as the network gets them in training (default: {SHEET})",
    )  # fmt: skip
    given = parser.parse_known_args([*words, "--raw", "."])[0]
    for action in parser._actions:
        if action.dest == "raw" and (given.check or given.sheet):
            action.required = False  # not needed if the folder has been prepared before
    return parser


def _is_prepared(out: Path) -> bool:
    return (out / "stat.csv").is_file()


def _prepare(dataset: Any, options: dict[str, Any]) -> bool:
    """Prepare a data set and print the report; return whether it has all samples that its user can get."""
    from mmpareto.data.preparation.archives import SUFFIXES, unpacked

    raw = options.get("raw")
    if raw is not None and not raw.exists():
        raise InputError(f"{raw} does not exist; get {dataset.title} from {dataset.download.page}.")
    if raw is not None and raw.name.lower().endswith(SUFFIXES):
        options["raw"] = unpacked(options["raw"], options["out"] / "raw")
    report = dataset.prepare(**options)
    print(report.text())
    return report.complete or (dataset.loses_samples and not report.skipped)


def _check(dataset: Any, out: Path) -> bool:
    from mmpareto.data.preparation.checking import check

    report = check(dataset, out)
    print(report.text())
    return not report.wrong


def _draw(dataset: Any, out: Path, sheet: Path) -> None:
    from mmpareto.data.preparation.sheet import contact_sheet
    from mmpareto.training.data import recipe_options

    contact_sheet(dataset.open(out, "train", training=True, options=recipe_options(dataset.name)), dataset.title, sheet)
    print(f"contact sheet    {sheet}")


if __name__ == "__main__":
    cli.run(main)
