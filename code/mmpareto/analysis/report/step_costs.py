"""Cost of a training step of each row of a table, with as many modalities as each of its columns has."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots.modalities import modalities_plot, read_costs
from mmpareto.analysis.report.cost_sheet import contenders_of
from mmpareto.analysis.report.embedded_plots import svg_of
from mmpareto.analysis.report.sheet import Plot, Sheet, SheetCell, SheetColumn, SheetPart, SheetRow
from mmpareto.analysis.speed import cost
from mmpareto.analysis.speed.rounds import summary_text
from mmpareto.analysis.tables.cells import Cell, Outcome
from mmpareto.analysis.tables.definitions import Table, modalities_of
from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.models.per_modality import split

FILE = "steps.json"
ROUNDS = 50
TEXT = (
    "Median (minimum – maximum) of {rounds} interleaved rounds on random vectors, for MLPs; ratios are to {baseline}'s "
    "step of the same round. Passes are forward + backward passes of a step through each encoder, as counted. Measured "
    "on {conditions}."
)
PLOT = "Accuracy and cost against the number of modalities"


def add_step_costs(sheet: Sheet, table: Table, outcomes: Sequence[Outcome], protocol: str, folder: Path) -> Sheet:
    """Return the sheet with the measured costs as a further part, and with a plot of accuracy and cost.

    Arguments:
        folder: of the report, where `measure_steps` has saved the costs.

    Raises:
        InputError: the file of costs is damaged.
    """
    counts = counts_of([outcome.cell for outcome in outcomes])
    if not counts:
        return sheet
    runs = [FinishedRun(outcome.folder) for outcome in outcomes if outcome.folder is not None]
    saved = read_costs(folder / FILE) if (folder / FILE).is_file() else {}
    costs = {str(count): saved[str(count)] for count in counts.values() if str(count) in saved} or None
    missing = [] if costs else [f"cost of a step: not measured, or not saved in {folder / FILE}"]
    try:
        plots = [Plot(PLOT, "", svg_of(modalities_plot(runs, costs, protocol)))] if runs else []
    except InputError as error:  # such as runs of several preparations
        plots = [Plot(PLOT, f"Not drawn: {error}", "")]
    return dataclasses.replace(
        sheet,
        parts=[*sheet.parts, *([_part(table, counts, costs)] if costs else [])],
        missing=[*sheet.missing, *missing],
        plots=[*plots, *sheet.plots],
    )


def counts_of(cells: Sequence[Cell]) -> dict[str, int]:
    """Label of each column whose encoders are MLPs → its number of modalities."""
    vectors = [cell for cell in cells if split(cell.settings.encoder)[0] == "mlp"]
    counts = {cell.column.label: len(modalities_of(cell.settings.dataset, cell.settings.data)) for cell in vectors}
    return {label: count for label, count in counts.items() if count}  # 0 where the data are not prepared


def measure_steps(table: Table, cells: Sequence[Cell], folder: Path, gpu_ids: str) -> None:
    """Measure the steps of all rows for each number of modalities, unless the folder has these measurements already.

    Raises:
        InputError: the device does not exist.
    """
    counts, names = counts_of(cells), cost.contender_names([*contenders_of(table)])
    path, costs = folder / FILE, {}
    if path.is_file():
        costs = read_costs(path)
    lacking = [count for count in counts.values() if {*names} - {*costs.get(str(count), {}).get("methods", {})}]
    for count in lacking:
        batch_size = next(cell.settings.batch_size for cell in cells if counts.get(cell.column.label) == count)
        conditions = cost.Conditions(batch_size=batch_size, modalities=count, gpu_ids=gpu_ids)
        measured = cost.measure(names, conditions, ROUNDS)
        for name in names:
            measured["methods"][name]["passes"] = cost.passes_per_encoder(name, conditions)
        costs[str(count)] = measured
    if lacking:
        write_text(path, json.dumps(costs, indent=1) + "\n")


def _part(table: Table, counts: Mapping[str, int], costs: Mapping[str, Any]) -> SheetPart:
    columns: list[SheetColumn] = []
    rows: dict[str, list[SheetCell]] = {label: [] for label in contenders_of(table).values()}
    measured = {label: costs[str(count)] for label, count in counts.items() if str(count) in costs}
    for label, of_count in measured.items():
        unit = cost.unit_of(of_count)
        columns += [
            SheetColumn("passes", label, "forward + backward passes through each encoder"),
            SheetColumn(f"milli-{unit} per step", label),
            SheetColumn(f"× {table.baseline}", label, "ratio in the same round"),
        ]
        for name, row in contenders_of(table).items():
            rows[row] += _cells(of_count["methods"].get(name))
    first = next(iter(measured.values()))
    text = TEXT.format(rounds=first["rounds"], baseline=table.baseline, conditions=cost.conditions_text(first))
    return SheetPart(
        "Cost of a step",
        text,
        columns,
        [SheetRow(label, cells, label == table.baseline) for label, cells in rows.items()],
    )


def _cells(measured: Mapping[str, Any] | None) -> list[SheetCell]:
    if measured is None:
        return [SheetCell("–", note="not measured", incomplete=True), SheetCell("–"), SheetCell("–")]
    passes, seconds, ratio = measured["passes"], measured["seconds"], measured["ratio"]
    return [
        SheetCell(f"{passes['forward']:g} + {passes['backward']:g}", numbers=dict(passes)),
        SheetCell(f"{1000 * seconds['median']:.1f}", seconds["median"], numbers=dict(seconds)),
        SheetCell(summary_text(ratio, 2), ratio["median"], numbers=dict(ratio)),
    ]
