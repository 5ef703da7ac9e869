"""The table of costs: what a step by each method takes, as `analysis.speed.cost` measures it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpareto.analysis.report.layout import Sheet, SheetCell, SheetColumn, SheetRow
from mmpareto.analysis.speed import cost
from mmpareto.analysis.tables.choices import flag_of
from mmpareto.analysis.tables.definitions import Table
from mmpareto.errors import InputError
from mmpareto.files import write_text

FIGURES = "cost.json"
ROUNDS, QUICK_ROUNDS = 15, 3
QUICK: dict[str, Any] = {"batch_size": 8, "image_size": 32, "audio_frames": 64, "frames": 1}
CREMAD_ON_A_GPU: dict[str, Any] = {"batch_size": 64, "image_size": 224, "audio_frames": 1024, "frames": 2}


def measured(table: Table, gpu_ids: str, quick: bool) -> dict[str, Any]:
    """The figures of the table's methods: at CREMA-D's size where there is a GPU, else at one for a CPU.

    Raises:
        InputError: the device is not there.
    """
    from mmpareto.training.devices import choose_devices

    on_a_gpu = choose_devices(gpu_ids)[0].type == "cuda"
    sizes = QUICK if quick else CREMAD_ON_A_GPU if on_a_gpu else {}
    conditions = cost.Conditions(gpu_ids=gpu_ids, **sizes)
    return cost.measure(cost.chosen(list(_names(table))), conditions, QUICK_ROUNDS if quick else ROUNDS)


def write_figures(folder: Path, figures: Mapping[str, Any]) -> None:
    """Keep the figures, for `--report-only`."""
    write_text(folder / FIGURES, json.dumps(figures, indent=1) + "\n")


def read_figures(folder: Path) -> dict[str, Any]:
    """Those that are kept.

    Raises:
        InputError: there are none.
    """
    try:
        return json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{folder}/{FIGURES} is not there, or damaged; measure without --report-only.") from None


def make_cost_sheet(table: Table, figures: Mapping[str, Any]) -> Sheet:
    """The figures as a sheet."""
    where, conditions, found = figures["machine"], figures["conditions"], figures["methods"]
    device = where["gpu"] or f"{where['cpu']} ({where['threads']} of {where['cores']} cores)"
    told = ", ".join(
        f"{name} {value}" for name, value in conditions.items() if value not in (None, False) and name != "gpu_ids"
    )
    seconds = "seconds" if where["gpu"] else "CPU seconds"
    names = _names(table)
    return Sheet(
        table.title,
        table.question,
        [
            SheetColumn(f"{seconds} a step", help=f"median of {figures['rounds']} interleaved rounds"),
            SheetColumn(f"× {table.baseline}", help="ratio in the same round: median (smallest – largest)"),
            SheetColumn("peak MiB", help="what a step holds at most beside weights, momentum and batch"),
            SheetColumn("copies", help=f"that is above {table.baseline}'s, in copies of the encoders' gradients"),
        ],
        [
            SheetRow(names[name], _cells(found[name]), baseline=names[name] == table.baseline)
            for name in names
            if name in found
        ],
        name=table.name,
        notes=[
            f"Measured on {device} with torch {where['torch']}: {told}; {figures['rounds']} rounds.",
            table.note,
        ],
        holes=[f"{names[name]}: not among the figures that are kept" for name in names if name not in found],
    )


def _names(table: Table) -> dict[str, str]:
    """What `cost` calls a method → the row's label."""
    names = {}
    for row in table.rows:
        method, variant = flag_of(row.flags, "--method"), flag_of(row.flags, "--variant")
        names[f"{method}:{variant}" if variant else str(method)] = row.label
    return names


def _cells(found: Mapping[str, Any]) -> list[SheetCell]:
    seconds, ratio = found["seconds"], found["ratio"]
    spread = f"{ratio['median']:.2f} ({ratio['min']:.2f} – {ratio['max']:.2f})"
    mebibytes, copies = found["peak_bytes"] / 2**20, found["extra_copies"]
    return [
        SheetCell(f"{seconds['median']:.3f}", seconds["median"], numbers=dict(seconds)),
        SheetCell(spread, ratio["median"], numbers=dict(ratio)),
        SheetCell(f"{mebibytes:.0f}", mebibytes),
        SheetCell(f"{copies:z.2f}".replace("-", "−"), copies),
    ]
