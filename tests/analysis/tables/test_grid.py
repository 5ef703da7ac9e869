"""The grid, on a train.py and an evaluate.py that do what a test wants and take no time."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from mmpareto.analysis.tables.cells import Cell, Outcome, identity, make_cells, run_name
from mmpareto.analysis.tables.definitions import Column, Row, Table
from mmpareto.analysis.tables.folders import RunsFolder
from mmpareto.analysis.tables.grid import BY_ANOTHER, available_cores, find_runs, incomplete, run_grid
from mmpareto.analysis.tables.jobs import Programs
from mmpareto.analysis.tables.plan import duration, plan_text
from mmpareto.data.loading.layout import fingerprint
from mmpareto.training.settings import to_config

HERE = Path(__file__).parent
TABLE = Table(
    "one", "One", "?", (Column("CREMA-D", "--dataset cremad"),), (Row("Uniform", "--method uniform"),), "Uniform"
)


class Stage:
    """A folder with data, runs, and the stand-ins for the programs."""

    def __init__(self, home: Path) -> None:
        self.home, self.runs, self.data, self.stage = home, home / "runs", home / "data", home / "stage"
        for folder in (self.data, self.stage):
            folder.mkdir(parents=True, exist_ok=True)
        (self.data / "stat.csv").write_text("a\nb\n")
        fake = (sys.executable, "-S", str(HERE / "fake_programs.py"))
        self.programs = Programs((*fake, "train", str(self.stage)), (*fake, "evaluate", str(self.stage)))
        self.said: list[str] = []

    def cells(self, seeds: Sequence[int] = (0, 1, 2), table: Table = TABLE) -> list[Cell]:
        """Cells, with what the stand-in writes as their config.json."""
        cells = make_cells(table, seeds, "validation", ["--data", str(self.data), "--epochs", "3"])
        for cell in cells:
            config = {"arguments": to_config(cell.settings), "data": {"folder": str(self.data)}}
            config["data"]["fingerprint"] = fingerprint(self.data)
            (self.stage / f"{self.name(cell)}.json").write_text(json.dumps(config))
        return cells

    def name(self, cell: Cell) -> str:
        return run_name(identity(cell.settings, fingerprint(self.data)))

    def folder(self, cell: Cell) -> Path:
        return self.runs / self.name(cell)

    def let(self, cell: Cell, *what: str) -> None:
        """What the cell's next attempts do."""
        (self.stage / f"{self.name(cell)}.do").write_text(" ".join(what))

    def run(self, cells: Sequence[Cell], slots: Sequence[str] = ("cpu", "cpu")) -> list[Outcome]:
        return run_grid(cells, self.runs, slots, programs=self.programs, say=self.said.append)

    def calls(self, first: str = "") -> list[str]:
        """The lines that begin with these words."""
        path = self.stage / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(first)]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def test_what_is_missing_is_run_and_evaluated_and_what_is_there_is_not(stage: Stage) -> None:
    cells = stage.cells()
    outcomes = stage.run(cells[:2])
    assert [o.folder for o in outcomes] == [stage.folder(cell) for cell in cells[:2]]
    assert all(o.reason is None and o.log and o.log.is_file() for o in outcomes)
    for cell in cells[:2]:
        assert len(stage.calls(f"train {stage.name(cell)} --ckpt_path")) == 1
        for name in ("best", "last"):
            assert (stage.folder(cell) / f"evaluation-test-{name}" / "per_clip.csv").is_file()
    assert len(stage.calls()) == 2 * (1 + 2 + 1)
    stage.run(cells)
    assert len(stage.calls("train ")) == 3 and len(stage.calls("evaluate ")) == 6
    before = stage.calls()
    assert [o.folder for o in stage.run(cells)] == [stage.folder(cell) for cell in cells]
    assert stage.calls() == before and not incomplete(find_runs(cells, stage.runs))


def test_a_log_says_when_a_run_begins_and_ends(stage: Stage) -> None:
    cells = stage.cells([4])
    stage.let(cells[0], "nan", "finish")
    stage.run(cells)
    stage.run(cells)
    told = [line.partition(" after ")[0].replace(str(stage.runs), "RUNS") for line in stage.said]
    name, label = stage.name(cells[0]), "[1/1] Uniform, CREMA-D, seed 4"
    assert told == [
        f"{label}: begins in RUNS/{name}",
        f"{label}: failed: epoch 2, step 3: the loss is NaN; the run stops here.",
        f"{label}: resumes RUNS/{name}",
        f"{label}: 50.00%",
    ]
    log = (stage.runs / "tables" / "logs" / f"{name}.txt").read_text()
    assert "the loss is NaN" in log and log.count("\n$ ") == 3  # a resumed run's log goes on


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("refuse", "failed: data/x is not there; prepare it."),
        ("nan", "failed: epoch 2, step 3: the loss is NaN; the run stops here."),
        ("crash", "failed: killed by SIGKILL, as a system does that has no memory left"),
        ("silent", "failed: exit status 1: RuntimeError: out of memory"),
    ],
)
def test_a_failing_cell_is_a_hole_with_its_reason_and_the_rest_goes_on(stage: Stage, what: str, reason: str) -> None:
    cells = stage.cells()
    stage.let(cells[1], what)
    outcomes = stage.run(cells, ["cpu"])
    assert [o.reason for o in outcomes] == [None, reason, None]
    assert outcomes[1].folder is None and outcomes[1].log is not None
    assert find_runs(cells, stage.runs)[1].reason == reason  # it is still known later
    assert [o.reason for o in stage.run(cells)] == [None] * 3  # and tried again
    assert len(stage.calls(f"train {stage.name(cells[1])} --resume")) == (what == "nan")


def test_an_unfinished_run_without_a_checkpoint_is_begun_anew(stage: Stage) -> None:
    (cell,) = stage.cells([0])
    stage.let(cell, "crash")
    stage.run([cell])
    folder = stage.folder(cell)
    for name in ("best.pt", "events.out.tfevents.1", "mine.txt"):
        (folder / name).touch()
    assert stage.run([cell])[0].folder == folder
    assert [call.split()[2] for call in stage.calls("train ")] == ["--ckpt_path"] * 2
    assert (folder / "mine.txt").exists() and not (folder / "events.out.tfevents.1").exists()


def test_a_foreign_folder_is_never_touched(stage: Stage) -> None:
    (cell,) = stage.cells([0])
    config = (stage.stage / f"{stage.name(cell)}.json").read_text()
    unfinished, named = stage.runs / "mine", stage.folder(cell)
    for folder in (unfinished, named):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config)
    (unfinished / "last.pt").touch()
    (stage.stage / f"{stage.name(cell)}-2.json").write_text(config)
    assert stage.run([cell])[0].folder == named.with_name(f"{named.name}-2")
    assert [path.name for path in named.iterdir()] == ["config.json"]
    assert sorted(path.name for path in unfinished.iterdir()) == ["config.json", "last.pt"]


def test_a_finished_run_of_others_is_evaluated_where_it_lies(stage: Stage) -> None:
    (cell,) = stage.cells([0])
    stage.run([cell])
    theirs = stage.folder(cell).rename(stage.runs / "theirs")
    for path in theirs.glob("evaluation*/per_clip.csv"):
        path.unlink()
        path.parent.rmdir()
    assert stage.run([cell])[0].folder == theirs
    assert len(stage.calls("train ")) == 1 and len(list(theirs.glob("evaluation-test-*/per_clip.csv"))) == 2


def test_an_evaluation_that_fails_is_tried_once_and_told(stage: Stage) -> None:
    (cell,) = stage.cells([0])
    (stage.stage / "evaluation fails").touch()
    outcomes = stage.run([cell])
    assert outcomes[0].folder == stage.folder(cell) and incomplete(outcomes)
    assert len(stage.calls("evaluate ")) == 1 and "evaluate.py failed, see" in stage.said[-1]
    (stage.stage / "evaluation fails").unlink()
    assert not incomplete(stage.run([cell])) and len(stage.calls("train ")) == 1


def test_cells_of_one_identity_share_a_run(stage: Stage) -> None:
    rows = (Row("Uniform", "--method uniform"), Row("The same", "--method uniform --frames 2"))
    table = Table("two", "Two", "?", TABLE.columns, rows, "Uniform")
    cells = stage.cells([0], table)
    outcomes = stage.run(cells)
    assert outcomes[0].folder == outcomes[1].folder is not None
    assert len(stage.calls("train ")) == 1


def test_a_run_a_gpu_and_a_share_of_the_cores_each(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cells = stage.cells(range(4))
    for cell in cells:
        stage.let(cell, "slow")
    stage.run(cells, ["3", "7"])
    trained = [call.split() for call in stage.calls("train ")]
    assert sorted(words[4] for words in trained[:2]) == ["3", "7"]  # the first two at a time, one on each
    assert {words[4] for words in trained} == {"3", "7"}
    assert {words[6] for words in trained} == {str(max(1, available_cores() // 2))}
    log = (stage.runs / "tables" / "logs" / f"{stage.name(cells[0])}.txt").read_text()
    assert f"--workers {min(16, max(1, available_cores() // 2))}" in log
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    stage.run(stage.cells([9]), ["cpu"])
    assert stage.calls("train ")[-1].split()[6] == "5"


def test_absent_data_are_a_hole_and_nothing_is_run(stage: Stage) -> None:
    cells = make_cells(TABLE, [0], "validation", ["--data", str(stage.home / "nothing")])
    outcomes = stage.run([*stage.cells([0]), *cells])
    assert outcomes[0].folder and "is not there; prepare it with" in str(outcomes[1].reason)
    assert len(stage.calls("train ")) == 1


def test_what_another_process_held_is_looked_at_again_at_the_end(stage: Stage) -> None:
    cells = stage.cells()
    there = RunsFolder(stage.runs)
    held = [there.lock(stage.name(cell)) for cell in cells[:2]]

    def say(line: str) -> None:
        if "50.00%" in line and held[0] is not None:  # the third has been trained: the first is let go, unfinished
            os.close(held[0])
            held[0] = None

    outcomes = run_grid(cells, stage.runs, ["cpu"], programs=stage.programs, say=say)
    assert held[1] is not None
    os.close(held[1])
    assert [o.reason for o in outcomes] == [None, BY_ANOTHER, None]
    assert [call.split()[1] for call in stage.calls("train ")] == [stage.name(cells[2]), stage.name(cells[0])]


# --dry-run


def test_the_plan(stage: Stage) -> None:
    cells = stage.cells(range(5))
    stage.let(cells[1], "nan")
    stage.run(cells[:2])
    absent = make_cells(TABLE, [0], "validation", ["--data", str(stage.home / "nothing")])
    rows = (Row("Uniform", "--method uniform"), Row("MMPareto", "--method mmpareto"))
    other = stage.cells([0], Table("two", "Two", "?", TABLE.columns, rows, "Uniform"))[1]
    lines = plan_text([*cells[:3], *absent, other], stage.runs, 2).splitlines()
    assert lines[0].startswith("there already  Uniform, CREMA-D, seed 0: ")
    # A second an epoch; of three, one is over.
    assert lines[1].startswith("to resume      Uniform, CREMA-D, seed 1 (2 s): failed: epoch 2")
    assert lines[2] == "to run         Uniform, CREMA-D, seed 2 (3 s)"
    assert lines[3].startswith("impossible     Uniform, CREMA-D, seed 0: ") and "prepare.py cremad" in lines[3]
    assert lines[4] == "to run         MMPareto, CREMA-D, seed 0 (5 s)"  # 3 × 1.74
    assert lines[5] == "1 there already, 1 to resume, 2 to run, 1 impossible; about 5 s of training epochs in 2 slots"
    assert len(stage.calls("train ")) == 2  # nothing was run for it


def test_the_same_method_s_runs_tell_its_time(stage: Stage) -> None:
    """Where there are any; another's, with the ratio of their steps, where there are none."""
    rows = (Row("Uniform", "--method uniform"), Row("Joint loss", "--method joint"))
    cells = stage.cells([0, 1], Table("two", "Two", "?", TABLE.columns, rows, "Uniform"))
    first = stage.run(cells[:2])
    assert first[1].folder is not None
    (first[1].folder / "metrics.jsonl").write_text('{"seconds": 7.0}\n' * 3)
    lines = plan_text(cells, stage.runs, 1).splitlines()
    assert lines[2].endswith("Uniform, CREMA-D, seed 1 (3 s)") and lines[3].endswith(
        "Joint loss, CREMA-D, seed 1 (21 s)"
    )


def test_a_plan_without_anything_to_go_by(stage: Stage) -> None:
    cells = [*stage.cells([0]), *stage.cells([0])]
    lines = plan_text(cells, stage.runs, 1).splitlines()
    assert lines[0].endswith("(time unknown)") and lines[1].startswith("shared ")
    assert lines[2] == "1 to run; time unknown: no run here is like these"
    assert not stage.runs.exists()
    lines = plan_text(cells, stage.runs, 1, [str(stage.data)]).splitlines()
    assert "its data are made first" in lines[0]


def test_durations_for_people() -> None:
    found = [duration(seconds) for seconds in (0, 89, 90, 5399, 5400, 172_799, 172_800)]
    assert found == ["0 s", "89 s", "2 min", "90 min", "1.5 h", "48.0 h", "2.0 days"]


# Several processes


@pytest.fixture
def start(stage: Stage) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Starts grids as processes, which begin when they are sent a line; at the end, nothing of them is left."""
    started: list[subprocess.Popen[str]] = []

    def begin() -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(HERE / "grid_process.py"), str(stage.home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
    for call in stage.calls("train "):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(call.split()[-1]), signal.SIGKILL)


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def start_and_wait(
    stage: Stage, start: Callable[[], "subprocess.Popen[str]"], waiting: Sequence[Cell]
) -> "subprocess.Popen[str]":
    """A grid of which two runs wait, as each of `waiting` does on its first attempt."""
    for cell in waiting:
        stage.let(cell, "wait")
    grid = start()
    go(grid)
    wait_for(lambda: len(stage.calls("waiting ")) == 2)
    return grid


def outcomes_of(output: str) -> list[str]:
    return [line.split(" ", 2)[2] for line in output.splitlines() if line.startswith("outcome ")]


def test_two_grids_at_once_on_one_folder(stage: Stage, start: Callable[[], "subprocess.Popen[str]"]) -> None:
    cells = stage.cells()
    for cell in cells:
        stage.let(cell, "slow")
    grids = [start(), start()]
    for grid in grids:
        go(grid)
    outputs = [grid.communicate(timeout=60) for grid in grids]
    for cell in cells:
        assert len(stage.calls(f"train {stage.name(cell)}")) == 1
        assert len(stage.calls("evaluate ")) == 2 * len(cells)
    names = [stage.name(cell) for cell in cells]
    found = [outcomes_of(output) for output, _ in outputs]
    assert not [errors for _, errors in outputs if errors]
    for grid, outcomes in zip(grids, found, strict=True):  # who is done first may leave what the other is at
        assert all(outcome in (name, BY_ANOTHER) for outcome, name in zip(outcomes, names, strict=True))
        assert grid.returncode == int(BY_ANOTHER in outcomes)
    assert names in found  # who is done last looks again, and misses nothing
    assert [o.folder for o in find_runs(cells, stage.runs)] == [stage.folder(cell) for cell in cells]


def test_what_a_killed_grid_had_begun_is_left_alone_until_it_ends(
    stage: Stage, start: Callable[[], "subprocess.Popen[str]"]
) -> None:
    cells = stage.cells()
    grid = start_and_wait(stage, start, cells[:2])
    grid.kill()
    grid.wait()
    outcomes = stage.run(cells)
    assert [o.reason for o in outcomes] == [BY_ANOTHER, BY_ANOTHER, None]
    assert "2 held, " in plan_text(cells, stage.runs, 1) + ", "
    assert len(stage.calls("train ")) == 3
    (stage.stage / "go").touch()  # the orphans end, unfinished
    pids = [int(call.split()[-1]) for call in stage.calls("waiting ")]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert [o.reason for o in stage.run(cells)] == [None] * 3
    assert len(stage.calls("train ")) == 5 and sum("--resume" in call for call in stage.calls("train ")) == 2


@pytest.mark.parametrize(
    ("sent", "to_group", "status"), [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)], ids=["Ctrl-C", "kill"]
)
def test_a_signal_is_passed_on_once_and_waited_for(
    stage: Stage, start: Callable[[], "subprocess.Popen[str]"], sent: signal.Signals, to_group: bool, status: int
) -> None:
    cells = stage.cells()
    grid = start_and_wait(stage, start, cells)
    if to_group:
        os.killpg(grid.pid, sent)  # as a terminal does
    else:
        grid.send_signal(sent)
    output, errors = grid.communicate(timeout=30)
    assert grid.returncode == status and errors == ""
    assert sorted(stage.calls("signal ")) == sorted(f"signal {int(sent)} {stage.name(cell)}" for cell in cells[:2])
    assert outcomes_of(output) == ["interrupted in epoch 2", "interrupted in epoch 2", "not run"]
    assert f"{sent.name}: waiting for 2 to save themselves" in output
    stage.let(cells[2], "finish")
    assert [o.reason for o in stage.run(cells)] == [None] * 3  # the same again goes on
    assert sum("--resume" in call for call in stage.calls("train ")) == 2


def test_a_second_signal_does_not_cut_short_what_saves_itself(
    stage: Stage, start: Callable[[], "subprocess.Popen[str]"]
) -> None:
    cells = stage.cells()
    grid = start_and_wait(stage, start, cells)
    grid.send_signal(signal.SIGINT)
    time.sleep(0.05)
    grid.send_signal(signal.SIGINT)
    grid.communicate(timeout=30)
    assert grid.returncode == 130
    noted = {call.split()[2] for call in stage.calls("signal ")}
    assert noted == {stage.name(cell) for cell in cells[:2]}
