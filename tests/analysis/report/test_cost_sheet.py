"""The sheet of the cost table."""

from typing import Any

import pytest
import torch
from mmpareto.analysis.report import cost_sheet
from mmpareto.analysis.speed import cost
from mmpareto.analysis.tables.definitions import TABLES
from mmpareto.training import devices

SPREAD = {"median": 2.0, "min": 1.0, "max": 3.0}
MACHINE = {"gpu": None, "cpu": "a CPU", "threads": 2, "cores": 4, "torch": "2"}


@pytest.mark.parametrize(
    ("device", "quick", "image_size", "batch_size", "rounds"),
    [("cuda", False, 224, 64, 15), ("cpu", False, 96, 16, 15), ("cpu", True, 32, 8, 3), ("cuda", True, 32, 8, 3)],
)
def test_the_size_depends_on_the_device(
    device: str, quick: bool, image_size: int, batch_size: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of CREMA-D on a GPU, and that in the documentation on a CPU."""
    calls: list[Any] = []
    monkeypatch.setattr(devices, "choose_devices", lambda gpu_ids: (torch.device(device), []))
    monkeypatch.setattr(cost, "measure", lambda *given: calls.append(given) or {})
    cost_sheet.measure_costs(TABLES["cost"], "0", quick)
    ((names, conditions, measured_rounds),) = calls
    assert (conditions.image_size, conditions.batch_size, conditions.gpu_ids, measured_rounds) == (
        image_size,
        batch_size,
        "0",
        rounds,
    )
    assert names[0] == "uniform" and {"mmpareto", "dgl"} <= set(names)


def test_only_conditions_that_are_set_are_mentioned() -> None:
    measured = {"seconds": SPREAD, "ratio": SPREAD, "peak_bytes": 2**21, "extra_copies": -0.001}
    conditions = {"batch_size": 8, "amp": None, "tf32": False, "channels_last": True, "gpu_ids": "cpu"}
    costs = {"machine": MACHINE, "conditions": conditions, "rounds": 3, "methods": {"uniform": measured}}
    sheet = cost_sheet.make_cost_sheet(TABLES["cost"], costs)
    assert [cell.text for cell in sheet.rows[0].cells] == ["2.000", "2.00 (1.00 – 3.00)", "2", "0.00"]
    notes = " ".join(sheet.notes)
    assert "batch_size 8, channels_last True" in notes
    assert not any(word in notes for word in ("tf32", "amp", "gpu_ids"))
