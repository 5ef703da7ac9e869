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
def test_the_size_is_that_of_the_device(
    device: str, quick: bool, image_size: int, batch_size: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CREMA-D's own on a GPU, the README's table's on a CPU."""
    asked: list[Any] = []
    monkeypatch.setattr(devices, "choose_devices", lambda gpu_ids: (torch.device(device), []))
    monkeypatch.setattr(cost, "measure", lambda *given: asked.append(given) or {})
    cost_sheet.measured(TABLES["cost"], "0", quick)
    ((names, conditions, taken),) = asked
    assert (conditions.image_size, conditions.batch_size, conditions.gpu_ids, taken) == (
        image_size,
        batch_size,
        "0",
        rounds,
    )
    assert names[0] == "uniform" and {"mmpareto", "dgl"} <= set(names)


def test_what_was_not_switched_on_is_not_told() -> None:
    found = {"seconds": SPREAD, "ratio": SPREAD, "peak_bytes": 2**21, "extra_copies": -0.001}
    conditions = {"batch_size": 8, "amp": None, "tf32": False, "channels_last": True, "gpu_ids": "cpu"}
    figures = {"machine": MACHINE, "conditions": conditions, "rounds": 3, "methods": {"uniform": found}}
    sheet = cost_sheet.make_cost_sheet(TABLES["cost"], figures)
    assert [cell.text for cell in sheet.rows[0].cells] == ["2.000", "2.00 (1.00 – 3.00)", "2", "0.00"]
    notes = " ".join(sheet.notes)
    assert "batch_size 8, channels_last True" in notes
    assert not any(word in notes for word in ("tf32", "amp", "gpu_ids"))
