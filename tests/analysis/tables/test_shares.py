"""Tables whose runs are divided among machines, with fake programs."""

import functools
from pathlib import Path

import pytest
import tables
from mmpareto.analysis.tables import command
from mmpareto.analysis.tables.definitions import TABLES
from mmpareto.analysis.tables.grid import run_grid
from stage import Stage


def test_shares_train_all_runs_once_and_leave_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(tmp_path)
    monkeypatch.setattr(command, "run_grid", functools.partial(run_grid, programs=stage.programs))
    words = ["refresh", "--seeds", "0", "--runs", str(stage.runs), "--slots", "1"]
    cells = stage.cells([0], TABLES["refresh"])
    stage.let(cells[0], "crash")
    extra = ["--", "--data", str(stage.data), "--epochs", "3"]
    assert tables.main([*words, "--share", "1/2", *extra]) == 1  # a task dies
    assert tables.main([*words, "--share", "2/2", *extra]) == 0
    assert "share 2 of 2: 1 of 1 cells" in capsys.readouterr().out
    assert tables.main([*words, "--share", "1/2", *extra]) == 0  # and takes its run up again
    trained = [call.split()[1] for call in stage.calls("trained ")]
    assert sorted(trained) == sorted(stage.name(cell) for cell in cells)
    assert not list(stage.runs.glob("tables/refresh"))
