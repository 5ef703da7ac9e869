"""The commands of tables.py: run a table and report it, or measure the table of costs."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmpareto.analysis.tables import choices, stand_in
from mmpareto.analysis.tables.cells import Cell, Outcome, make_cells, share_of, split_data
from mmpareto.analysis.tables.definitions import QUICK, QUICK_SEEDS, Table
from mmpareto.analysis.tables.grid import find_runs, is_incomplete, run_grid
from mmpareto.analysis.tables.plan import plan_text
from mmpareto.data import DATASETS
from mmpareto.data.workers import available_cores
from mmpareto.errors import InputError
from mmpareto.training.devices import choose_devices, parse_gpu_ids
from mmpareto.training.stop import StopSignals

SEEDS = (0, 1, 2, 3, 4)
MAX_SLOTS = 2  # without --slots, because each run needs memory, too


def report_runs(table: Table, arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Run what a table lacks, or a share of it, and write the report of a whole table; return the exit status.

    Raises:
        InputError: something on the command line is wrong; nothing was run.
    """
    table = chosen_table(table, arguments, split_data(extra)[0])
    cells = cells_of(table, arguments, extra)
    if arguments.share:
        cells = share_of(cells, *arguments.share)
    slots = [] if arguments.report_only else slots_of(arguments)
    for banner in dict.fromkeys(DATASETS[cell.settings.dataset].banner for cell in cells):
        if banner:
            print(banner, flush=True)
    to_prepare = {} if arguments.report_only else _to_prepare(cells)
    if arguments.dry_run:
        print(plan_text(cells, arguments.runs, max(len(slots), 1), [*to_prepare]))
        return 0
    outcomes, status = _run(cells, arguments, slots, to_prepare)
    missing = [outcome for outcome in outcomes if outcome.reason is not None]
    print(*_missing_lines(missing), sep="\n", end="\n" if missing else "")
    if arguments.share:
        number, count = arguments.share
        print(f"share {number} of {count}: {len(cells) - len(missing)} of {len(cells)} cells have a finished run")
        return status or int(bool(missing))

    from mmpareto.analysis.report import step_costs
    from mmpareto.analysis.report.run_sheet import make_run_sheet
    from mmpareto.analysis.report.writers import write_report

    sheet, out = make_run_sheet(table, outcomes, arguments.protocol), out_of(table, arguments)
    if table.step_costs:
        if not arguments.report_only and not status:
            step_costs.measure_steps(table, cells, out, slots[0])
        sheet = step_costs.add_step_costs(sheet, table, outcomes, arguments.protocol, out)
    print(*write_report(sheet, out), sep="\n")
    return status or int(bool(missing))


def _to_prepare(cells: Sequence[Cell]) -> dict[str, str]:
    """Folder that does not exist yet → its data set, for those that this program makes."""
    folders: dict[str, list[str]] = {}
    for cell in cells:
        if DATASETS[cell.settings.dataset].made_here:
            folders.setdefault(cell.settings.dataset, []).append(cell.settings.data)
    return {data: dataset for dataset, named in folders.items() for data in stand_in.missing(named, dataset)}


def _run(
    cells: Sequence[Cell], arguments: argparse.Namespace, slots: Sequence[str], to_prepare: Mapping[str, str]
) -> tuple[list[Outcome], int]:
    """Run what the cells lack, unless they are only reported; return their outcomes and the exit status of the runs."""
    if arguments.report_only:
        return find_runs(cells, arguments.runs), 0
    if arguments.share and to_prepare:
        commands = " and ".join(stand_in.how_to_prepare(dataset, data) for data, dataset in to_prepare.items())
        raise InputError(f"machines that share a table must not prepare its data all at once; first run {commands}.")
    for data, dataset in to_prepare.items():
        stand_in.prepare(data, dataset)
    with StopSignals() as signals:
        outcomes = run_grid(
            cells,
            arguments.runs,
            slots,
            arguments.protocol,
            signals=signals,
            report=lambda line: print(line, flush=True),
        )
    return outcomes, 128 + signals.signum if signals.signum else int(is_incomplete(outcomes))


def report_costs(table: Table, arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Measure the table of costs, which has no runs, and write its report; return the exit status.

    Raises:
        InputError: a flag does not apply to this table.
    """
    names = [DATASETS.name(name) for name in arguments.dataset or ()]
    if (
        extra
        or arguments.recipe
        or arguments.encoders
        or arguments.seeds
        or arguments.share
        or set(names) - {"cremad", stand_in.NAME}
    ):
        raise InputError(
            "table 'cost' measures training steps on random inputs of CREMA-D's shape: it accepts --methods, --quick, "
            "--gpu_ids, --report_only, --runs and --out."
        )
    _check_quick(arguments)
    table = choices.with_methods(table, arguments.methods) if arguments.methods else table
    out = out_of(table, arguments)
    if arguments.dry_run:
        print(f"would measure {', '.join(row.label for row in table.rows)} into {out}; minutes on a CPU")
        return 0
    from mmpareto.analysis.report import cost_sheet
    from mmpareto.analysis.report.writers import write_report

    if not arguments.report_only:
        gpu_ids = arguments.gpu_ids or ("cpu" if arguments.slots else "auto")
        cost_sheet.write_costs(out, cost_sheet.measure_costs(table, gpu_ids, arguments.quick))
    sheet = cost_sheet.make_cost_sheet(table, cost_sheet.read_costs(out))
    print(*write_report(sheet, out), sep="\n")
    return int(bool(sheet.missing))


def chosen_table(table: Table, arguments: argparse.Namespace, data: str | None = None) -> Table:
    """The table with the data sets, methods and encoders of the command line.

    Arguments:
        data: the prepared folder; data/<data set> if None.

    Raises:
        InputError: a name is unknown, --quick is used without the stand-in, or --protocol in a table whose rows have
            protocols of their own, or --share with --report_only.
    """
    _check_quick(arguments)
    if arguments.share and arguments.report_only:
        raise InputError("--report_only reports the whole table: leave --share out.")
    if arguments.protocol != "validation" and any(row.protocol for row in table.rows):
        raise InputError(f"table {table.name!r} goes from one protocol to another: leave --protocol out.")
    table = choices.with_data_sets(table, arguments.dataset, data) if arguments.dataset else table
    table = choices.with_methods(table, arguments.methods, data) if arguments.methods else table
    table = choices.with_encoders(table, arguments.encoders) if arguments.encoders else table
    return choices.with_own_recipes(table) if arguments.recipe == "own" else table


def cells_of(table: Table, arguments: argparse.Namespace, extra: Sequence[str]) -> list[Cell]:
    """The table's cells with the seeds and the size of the command line."""
    if not arguments.quick:
        return make_cells(table, arguments.seeds or SEEDS, arguments.protocol, extra)
    seeds, size = arguments.seeds or QUICK_SEEDS, shlex.split(QUICK)
    return make_cells(table, seeds, arguments.protocol, extra, size=size, data=stand_in.QUICK_FOLDER)


def slots_of(arguments: argparse.Namespace) -> list[str]:
    """The values of --gpu_ids of the runs that run at a time.

    Raises:
        InputError: a GPU does not exist; --dry_run plans for the machine that has it.
    """
    ids: Sequence[int] = []
    if arguments.gpu_ids is not None:
        planned = arguments.dry_run and arguments.gpu_ids != "auto"
        ids = parse_gpu_ids(arguments.gpu_ids) if planned else choose_devices(arguments.gpu_ids)[1]
    elif arguments.slots is None:
        ids = range(_gpu_count())
    if ids:
        return [str(ids[slot % len(ids)]) for slot in range(arguments.slots or len(ids))]
    return ["cpu"] * (arguments.slots or min(MAX_SLOTS, available_cores()))


def out_of(table: Table, arguments: argparse.Namespace) -> Path:
    """Folder of the report."""
    names = [DATASETS.name(name) for name in arguments.dataset or ()]
    own = ["own"] if table.own_recipes else []
    name = "-".join([table.name, *names, *own, *(["quick"] if arguments.quick else [])])
    return arguments.out or arguments.runs / "tables" / name


def _missing_lines(missing: Sequence[Outcome]) -> list[str]:
    """One line per reason."""
    labels: dict[str, list[str]] = {}
    for outcome in missing:
        labels.setdefault(str(outcome.reason), []).append(outcome.cell.label)
    return [
        f"no result: {first}{f' and {len(others)} more' if others else ''}: {reason}"
        for reason, (first, *others) in labels.items()
    ]


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _check_quick(arguments: argparse.Namespace) -> None:
    """Choose the stand-in for --quick; raises InputError if another data set is given."""
    if arguments.quick:
        arguments.dataset = arguments.dataset or [stand_in.NAME]
        if {DATASETS.name(name) for name in arguments.dataset} != {stand_in.NAME}:
            raise InputError(
                "--quick is a size for trying the software, on the synthetic stand-in: leave --dataset out."
            )
