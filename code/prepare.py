"""Prepare a data set: `prepare.py cremad --raw DIR`, `prepare.py --list`; `prepare.py NAME --help` for options."""

from pathlib import Path
from typing import Any

from mmpareto import cli, plugins
from mmpareto.data import DATASETS
from mmpareto.data.preparation.command_line import parser
from mmpareto.errors import InputError


def main(argv: list[str] | None = None) -> int:
    """Prepare, check or draw the data set named by the first argument; return 1 if something is wrong or left out."""
    _, argv = plugins.take_plugins(argv)
    if argv == ["--list"]:
        print("\n\n".join(DATASETS[name].text() for name in DATASETS))
        return 0
    if not argv or argv[0].startswith("-"):
        names = ", ".join(DATASETS)
        general = cli.ArgumentParser(prog="prepare.py", description=__doc__)
        general.add_argument("dataset", help=f"one of: {names}")
        general.add_argument("--list", action="store_true", help="print each data set's size, terms, page and raw form")
        general.add_argument("--plugin", action="append", metavar="MODULE", help=plugins.HELP)
        general.parse_known_args(argv)
        general.error(f"the data set must be the first argument, one of: {names}")
    dataset = DATASETS[argv[0]]
    options = vars(parser(dataset, argv[1:]).parse_args(argv[1:]))
    allow_missing, check, sheet, download = map(options.pop, ("allow_missing", "check", "sheet", "download"))
    out = options["out"] = options["out"] or Path("data") / dataset.name
    if download is not None:
        if options.get("raw") is not None:
            raise InputError("--download and --raw name the raw folder twice; give one of them.")
        dataset.download_raw(download)
        options["raw"] = download

    complete = True
    if not check and (options.get("raw") or not sheet or not (out / "stat.csv").is_file()):
        complete = _prepare(dataset, options) or allow_missing
    if check:
        complete = _check(dataset, out)
    if sheet:
        _draw(dataset, out, sheet)
    if dataset.banner:
        print(dataset.banner)
    return 0 if complete else 1


def _prepare(dataset: Any, options: dict[str, Any]) -> bool:
    """Prepare a data set and print the report; return whether it has all samples that its user can get."""
    from mmpareto.data.preparation.archives import SUFFIXES, unpacked

    raw = options.get("raw")
    if raw is not None and not raw.exists():
        origin = f"; get {dataset.title} from {dataset.download.page}" if dataset.download.page else ""
        raise InputError(f"{raw} does not exist{origin}.")
    if raw is not None and raw.name.lower().endswith(SUFFIXES):
        options["raw"] = unpacked(options["raw"], options["out"] / "raw")
    report = dataset.prepare(**options)
    print(report.text())
    data = "" if report.out == Path("data") / dataset.name else f" --data {report.out}"
    print(f"to train on it   python code/train.py --dataset {dataset.name}{data}")
    return report.complete or (dataset.loses_samples and not report.skipped)


def _check(dataset: Any, out: Path) -> bool:
    from mmpareto.data.preparation.checking import check

    report = check(dataset, out)
    print(report.text())
    return not report.wrong


def _draw(dataset: Any, out: Path, sheet: Path) -> None:
    from mmpareto.data.loading.layout import with_prepared_audio
    from mmpareto.data.preparation.sheet import contact_sheet
    from mmpareto.training.data import recipe_options

    options = with_prepared_audio(recipe_options(dataset.name), out)
    samples = dataset.open(out, "train", training=True, options=options)
    contact_sheet(samples, samples.prepared.get("title", dataset.title), sheet)
    print(f"contact sheet    {sheet}")


if __name__ == "__main__":
    cli.run(main)
