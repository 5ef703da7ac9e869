"""The cost of a step in the report of table modalities, and its plot."""

import json
from pathlib import Path

import pytest
from fake_runs import finished, missing
from mmpareto.analysis.report import step_costs
from mmpareto.analysis.report.run_sheet import make_run_sheet
from mmpareto.analysis.tables.cells import Outcome
from mmpareto.analysis.tables.definitions import TABLES, Column, Table, method_rows

COLUMNS = tuple(Column(f"{n} modalities", f"--dataset modalities --data data/modalities-n{n}") for n in (2, 4))
TABLE = Table(
    "modalities", "T", "Q?", COLUMNS, method_rows("uniform", "mmpareto", "dgl"), "Uniform", "A note.", step_costs=True
)


@pytest.fixture
def outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """Two seeds of each cell; DGL has no runs."""
    monkeypatch.chdir(tmp_path)
    made = []
    for column, count in zip(COLUMNS, (2, 4), strict=True):
        heads = [f"m{k}" for k in range(1, count + 1)]
        path = Path(f"data/modalities-n{count}/prepared.json")
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"modalities": dict.fromkeys(heads)}))
        for row in TABLE.rows:
            for seed in (0, 1):
                accuracies = {"acc": 0.1 * count + 0.01 * seed} | {f"acc_{head}": 0.3 for head in heads}
                if row.label == "DGL":
                    made.append(missing(row, column, seed))
                else:
                    made.append(finished(tmp_path / "runs", row, column, seed, accuracies, fingerprint=f"{count}" * 64))
    return made


def test_costs_are_measured_once_and_reported(
    outcomes: list[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_costs, "ROUNDS", 1)
    cells = [outcome.cell for outcome in outcomes]
    step_costs.measure_steps(TABLE, cells, tmp_path, "cpu")
    path = tmp_path / "steps.json"
    costs, before = json.loads(path.read_text()), path.read_bytes()
    assert [*costs] == ["2", "4"] and costs["4"]["conditions"]["modalities"] == 4
    step_costs.measure_steps(TABLE, cells, tmp_path, "cpu")
    assert path.read_bytes() == before

    sheet = make_run_sheet(TABLE, outcomes, "validation", plots=False)
    sheet = step_costs.add_step_costs(sheet, TABLE, outcomes, "validation", tmp_path)
    part = sheet.parts[-1]
    assert [column.group for column in part.columns] == ["2 modalities"] * 3 + ["4 modalities"] * 3
    texts = {row.label: [cell.text for cell in row.cells] for row in part.rows}
    assert {label: (cells[0], cells[3]) for label, cells in texts.items()} == {
        "Uniform": ("1 + 1", "1 + 1"),
        "MMPareto": ("1 + 2", "1 + 2"),
        "DGL": ("1 + 1", "1 + 1"),
    }
    seconds = costs["4"]["methods"]["mmpareto"]["seconds"]["median"]
    assert texts["MMPareto"][4] == f"{1000 * seconds:.1f}" and texts["Uniform"][5].startswith("1.00 ")
    assert sheet.plots[0].svg.startswith("<?xml")


def test_without_costs_the_report_says_so(outcomes: list[Outcome], tmp_path: Path) -> None:
    sheet = make_run_sheet(TABLE, outcomes, "validation", plots=False)
    with_costs = step_costs.add_step_costs(sheet, TABLE, outcomes, "validation", tmp_path)
    assert with_costs.parts == sheet.parts and with_costs.missing[-1].startswith("cost of a step: not measured")
    assert with_costs.banner is not None and "SYNTHETIC" in with_costs.banner


def test_columns_of_other_encoders_have_no_costs(outcomes: list[Outcome]) -> None:
    others = [missing(row, Column("stand-in", "--dataset synthetic"), 0) for row in TABLE.rows]
    assert step_costs.counts_of([outcome.cell for outcome in [*outcomes, *others]]) == {
        "2 modalities": 2,
        "4 modalities": 4,
    }
    assert TABLES["modalities"].step_costs
