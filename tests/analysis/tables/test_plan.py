"""The plan of --dry_run, and its estimates of time."""

from pathlib import Path

import pytest
from mmpareto.analysis.tables.cells import make_cells
from mmpareto.analysis.tables.definitions import Row
from mmpareto.analysis.tables.plan import duration, plan_text
from stage import TABLE, Stage, table_of

MMPARETO = Row("MMPareto", "--method mmpareto")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_the_plan_has_the_state_and_time_of_every_run(stage: Stage) -> None:
    cells = stage.cells(range(3))
    stage.let(cells[1], "nan")
    stage.run(cells[:2])
    absent = make_cells(TABLE, [0], "validation", ["--data", str(stage.home / "nothing")])
    lines = plan_text([*cells, *absent, stage.cells([0], table_of(MMPARETO))[1]], stage.runs, 2).splitlines()
    assert lines[0].startswith("finished       Uniform, CREMA-D, seed 0: ")
    # One second per epoch; one of three epochs is finished.
    assert lines[1].startswith("to resume      Uniform, CREMA-D, seed 1 (2 s): failed: epoch 2")
    assert lines[2] == "to run         Uniform, CREMA-D, seed 2 (3 s)"
    assert lines[3].startswith("impossible     Uniform, CREMA-D, seed 0: ") and "prepare.py cremad" in lines[3]
    assert lines[4] == "to run         MMPareto, CREMA-D, seed 0 (time unknown)"
    assert lines[5] == (
        "1 finished, 1 to resume, 2 to run, 1 impossible; about 2 s of training epochs in 2 slots, and 1 of unknown "
        "duration"
    )
    assert len(stage.calls("train ")) == 2  # planning runs nothing


def test_time_is_estimated_from_finished_runs_of_the_same_method_and_size(stage: Stage) -> None:
    table = table_of(
        MMPARETO, Row("Boosted", "--method mmpareto --gamma 2"), Row("Faster", "--method uniform --frames 1")
    )
    cells = stage.cells([0, 1], table)
    first = stage.run(cells[:2])
    assert first[1].folder is not None
    (first[1].folder / "metrics.jsonl").write_text("".join(f'{{"epoch": {n}, "seconds": 7.0}}\n' for n in (1, 2, 3)))
    lines = plan_text(cells[2:], stage.runs, 1).splitlines()
    assert [line.partition("(")[2] for line in lines[:-1]] == [
        "time unknown)",
        "time unknown)",
        *("3 s)", "21 s)", "time unknown)", "time unknown)"),
    ]


@pytest.mark.parametrize("flags", ["--learning_rate 0.1", "--scheduler step", "--val_fraction 0.2", "--weight_decay 0"])
def test_some_settings_do_not_change_the_time(stage: Stage, flags: str) -> None:
    cells = stage.cells([0], table_of(Row("Other", f"--method uniform {flags}")))
    stage.run(cells[:1])
    assert plan_text(cells[1:], stage.runs, 1).splitlines()[0].endswith("(3 s)")


def test_an_unfinished_or_damaged_run_gives_no_estimate(stage: Stage) -> None:
    cells = stage.cells()
    stage.let(cells[0], "nan")
    folder = stage.run(cells[:2])[1].folder
    assert folder is not None
    (folder / "metrics.jsonl").write_text("{ torn")
    assert plan_text(cells[2:], stage.runs, 1).splitlines()[0].endswith("(time unknown)")


def test_a_plan_without_any_run(stage: Stage) -> None:
    cells = [*stage.cells([0]), *stage.cells([0])]
    lines = plan_text(cells, stage.runs, 1).splitlines()
    assert lines[0].endswith("(time unknown)") and lines[1].startswith("shared ")
    assert lines[2] == "1 to run; time unknown until a first run is finished"
    assert not stage.runs.exists()
    lines = plan_text(cells, stage.runs, 1, [str(stage.data)]).splitlines()
    assert "its data is prepared first" in lines[0]


def test_durations() -> None:
    texts = [duration(seconds) for seconds in (0, 89, 90, 5399, 5400, 172_799, 172_800)]
    assert texts == ["0 s", "89 s", "2 min", "90 min", "1.5 h", "48.0 h", "2.0 days"]
