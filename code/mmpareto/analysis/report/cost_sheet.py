"""The sheet of the table of costs, from measurements of `analysis.speed.cost`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpareto.analysis.report.sheet import Sheet, SheetCell, SheetColumn, SheetRow
from mmpareto.analysis.speed import cost
from mmpareto.analysis.speed.rounds import summary_text
from mmpareto.analysis.tables.choices import flag_of
from mmpareto.analysis.tables.definitions import Table
from mmpareto.files import write_text
from mmpareto.validation import read_checked

FILE = "cost.json"
ROUNDS, QUICK_ROUNDS = 15, 3
QUICK: dict[str, Any] = {"batch_size": 8, "image_size": 32, "audio_frames": 64, "frames": 1}
CREMAD_ON_GPU: dict[str, Any] = {"batch_size": 64, "image_size": 224, "audio_frames": 1024, "frames": 2}


def measure_costs(table: Table, gpu_ids: str, quick: bool) -> dict[str, Any]:
    """Measure the table's methods: with inputs of CREMA-D's size on a GPU, smaller ones on a CPU.

    Raises:
        InputError: the device does not exist.
    """
    from mmpareto.training.devices import choose_devices

    on_gpu = choose_devices(gpu_ids)[0].type == "cuda"
    sizes = QUICK if quick else CREMAD_ON_GPU if on_gpu else {}
    conditions = cost.Conditions(gpu_ids=gpu_ids, **sizes)
    return cost.measure(cost.contender_names([*contenders_of(table)]), conditions, QUICK_ROUNDS if quick else ROUNDS)


def write_costs(folder: Path, costs: Mapping[str, Any]) -> None:
    """Save the measurements for `--report_only`."""
    write_text(folder / FILE, json.dumps(costs, indent=1) + "\n")


def read_costs(folder: Path) -> dict[str, Any]:
    """Read saved measurements.

    Raises:
        InputError: there are none, or the file is damaged.
    """
    return read_checked(folder / FILE, cost.Costs, "measure without --report_only")


def make_cost_sheet(table: Table, costs: Mapping[str, Any]) -> Sheet:
    """The sheet of these measurements."""
    names, measured = contenders_of(table), costs["methods"]
    return Sheet(
        table.title,
        table.question,
        [
            SheetColumn(f"{cost.unit_of(costs)} per step", help=f"median of {costs['rounds']} interleaved rounds"),
            SheetColumn(f"× {table.baseline}", help="ratio in the same round: median (minimum – maximum)"),
            SheetColumn("peak MiB", help="peak memory of a step, without weights, momentum and batch"),
            SheetColumn("copies", help=f"peak memory above {table.baseline}'s, in copies of the encoders' gradients"),
        ],
        [
            SheetRow(label, _cells(measured[name]), baseline=label == table.baseline)
            for name, label in names.items()
            if name in measured
        ],
        name=table.name,
        notes=[f"Measured on {cost.conditions_text(costs)}.", table.note],
        missing=[f"{label}: not in the saved measurements" for name, label in names.items() if name not in measured],
    )


def contenders_of(table: Table) -> dict[str, str]:
    """Name of a method in `cost` → label of its row."""
    names = {}
    for row in table.rows:
        method, variant = flag_of(row.flags, "--method"), flag_of(row.flags, "--variant")
        names[f"{method}:{variant}" if variant else str(method)] = row.label
    return names


def _cells(measured: Mapping[str, Any]) -> list[SheetCell]:
    seconds, ratio = measured["seconds"], measured["ratio"]
    mebibytes, copies = measured["peak_bytes"] / 2**20, measured["extra_copies"]
    return [
        SheetCell(f"{seconds['median']:.3f}", seconds["median"], numbers=dict(seconds)),
        SheetCell(summary_text(ratio, 2), ratio["median"], numbers=dict(ratio)),
        SheetCell(f"{mebibytes:.0f}", mebibytes),
        SheetCell(f"{copies:z.2f}".replace("-", "−"), copies),
    ]
