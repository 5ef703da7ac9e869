"""What tables.py does: the table as it is asked for, its runs, and its report."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from mmpareto.analysis.tables import choices, stand_in
from mmpareto.analysis.tables.cells import Cell, Outcome, make_cells
from mmpareto.analysis.tables.definitions import QUICK, QUICK_SEEDS, Table
from mmpareto.analysis.tables.grid import available_cores, find_runs, incomplete, run_grid
from mmpareto.analysis.tables.plan import plan_text
from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.training.devices import choose_devices
from mmpareto.training.stop import StopSignals

SEEDS = (0, 1, 2, 3, 4)
MOST_SLOTS = 2  # without --slots: a run wants memory, too


def report_runs(table: Table, given: argparse.Namespace, further: Sequence[str]) -> int:
    """A table of runs: run what is missing, and report; the exit status.

    Raises:
        InputError: anything of the command line is not as it must be; nothing was run.
    """
    table = chosen(table, given)
    cells = cells_of(table, given, further)
    slots = [] if given.report_only else slots_of(given)
    for banner in dict.fromkeys(DATASETS[cell.settings.dataset].banner for cell in cells):
        if banner:
            print(banner, flush=True)
    made_up = [cell.settings.data for cell in cells if cell.settings.dataset == stand_in.NAME]
    to_make = [] if given.report_only else stand_in.missing(made_up)
    if given.dry_run:
        print(plan_text(cells, given.runs, max(len(slots), 1), to_make))
        return 0
    status = 0
    if given.report_only:
        outcomes = find_runs(cells, given.runs)
    else:
        for data in to_make:
            stand_in.make(data)
        with StopSignals() as signals:
            outcomes = run_grid(
                cells, given.runs, slots, given.protocol, signals=signals, say=lambda line: print(line, flush=True)
            )
        status = 128 + signals.signum if signals.signum else int(incomplete(outcomes))

    from mmpareto.analysis.report.sheet import make_sheet
    from mmpareto.analysis.report.writers import write_report

    holes = [outcome for outcome in outcomes if outcome.reason is not None]
    for reason, labels in _by_reason(holes).items():
        more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        print(f"no result: {labels[0]}{more}: {reason}")
    print(*write_report(make_sheet(table, outcomes, given.protocol), out_of(table, given)), sep="\n")
    return status or int(bool(holes))


def report_costs(table: Table, given: argparse.Namespace, further: Sequence[str]) -> int:
    """The table of costs, which has no runs: measure, and report; the exit status.

    Raises:
        InputError: it was asked for something that it does not have.
    """
    names = [DATASETS.name(name) for name in given.dataset or ()]
    if further or given.encoders or given.seeds or set(names) - {"cremad", stand_in.NAME}:
        raise InputError(
            "table 'cost' measures steps on random inputs of CREMA-D's kind: it takes --methods, --quick, --gpu_ids, "
            "--report-only, --runs and --out."
        )
    _check_quick(given)
    table = choices.with_methods(table, given.methods) if given.methods else table
    out = out_of(table, given)
    if given.dry_run:
        print(f"would measure {', '.join(row.label for row in table.rows)} into {out}; minutes on a CPU")
        return 0
    from mmpareto.analysis.report import cost_sheet
    from mmpareto.analysis.report.writers import write_report

    if not given.report_only:
        gpu_ids = given.gpu_ids or ("cpu" if given.slots else "auto")
        cost_sheet.write_figures(out, cost_sheet.measured(table, gpu_ids, given.quick))
    sheet = cost_sheet.make_cost_sheet(table, cost_sheet.read_figures(out))
    print(*write_report(sheet, out), sep="\n")
    return int(bool(sheet.holes))


def chosen(table: Table, given: argparse.Namespace) -> Table:
    """The table with the data sets, methods and encoders of the command line.

    Raises:
        InputError: there is no such one, or --quick is not on the stand-in.
    """
    _check_quick(given)
    table = choices.with_data_sets(table, given.dataset) if given.dataset else table
    table = choices.with_methods(table, given.methods) if given.methods else table
    return choices.with_encoders(table, given.encoders) if given.encoders else table


def cells_of(table: Table, given: argparse.Namespace, further: Sequence[str]) -> list[Cell]:
    """The table's cells, for the seeds and the size that are asked for."""
    if not given.quick:
        return make_cells(table, given.seeds or SEEDS, given.protocol, further)
    seeds, size = given.seeds or QUICK_SEEDS, shlex.split(QUICK)
    return make_cells(table, seeds, given.protocol, further, size=size, data=stand_in.QUICK_FOLDER)


def slots_of(given: argparse.Namespace) -> list[str]:
    """What to give to --gpu_ids, for each run at a time.

    Raises:
        InputError: a GPU is not there.
    """
    if given.slots is None:
        ids = range(_gpus()) if given.gpu_ids is None else choose_devices(given.gpu_ids)[1]
        if ids:
            return [str(number) for number in ids]
    return ["cpu"] * (given.slots or min(MOST_SLOTS, available_cores()))


def out_of(table: Table, given: argparse.Namespace) -> Path:
    """The report's folder."""
    names = [DATASETS.name(name) for name in given.dataset or ()]
    return given.out or given.runs / "tables" / "-".join([table.name, *names, *(["quick"] if given.quick else [])])


def _by_reason(holes: Sequence[Outcome]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for hole in holes:
        found.setdefault(str(hole.reason), []).append(hole.cell.label)
    return found


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _check_quick(given: argparse.Namespace) -> None:
    names = {DATASETS.name(name) for name in given.dataset or ()}
    if given.quick and names != {stand_in.NAME}:
        raise InputError("--quick is a size for trying the software: use it with --dataset synthetic.")
