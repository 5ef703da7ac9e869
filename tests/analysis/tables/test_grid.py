"""The grid, with fake programs that are fast and do what a test specifies."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from grid_process import grid_process
from mmpareto.analysis.tables.cells import Cell, make_cells
from mmpareto.analysis.tables.definitions import Row
from mmpareto.analysis.tables.grid import find_runs, is_incomplete, run_grid
from mmpareto.analysis.tables.job import Programs
from mmpareto.analysis.tables.plan import plan_text
from mmpareto.analysis.tables.runs_folder import BY_ANOTHER, RunsFolder
from mmpareto.data.workers import available_cores
from stage import TABLE, Stage, table_of


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)


def test_the_programs_exist() -> None:
    assert all(Path(words[1]).is_file() for words in (Programs().train, Programs().evaluate))


def test_missing_runs_are_trained_and_evaluated_and_finished_ones_are_not(stage: Stage) -> None:
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
    assert stage.calls() == before and not is_incomplete(find_runs(cells, stage.runs))


def test_a_line_is_reported_when_a_run_starts_and_ends(stage: Stage) -> None:
    cells = stage.cells([4])
    stage.let(cells[0], "nan", "finish")
    stage.run(cells)
    stage.run(cells)
    lines = [line.partition(" after ")[0].replace(str(stage.runs), "RUNS") for line in stage.reported]
    name, label = stage.name(cells[0]), "[1/1] Uniform, CREMA-D, seed 4"
    assert lines == [
        f"{label}: starts in RUNS/{name}",
        f"{label}: failed: epoch 2, step 3: the loss is NaN; the run stops here.",
        f"{label}: resumes RUNS/{name}",
        f"{label}: 50.00%",
    ]
    log = (stage.runs / "tables" / "logs" / f"{name}.txt").read_text()
    assert "the loss is NaN" in log and log.count("\n$ ") == 3  # the log of a resumed run is continued


def test_a_run_without_an_epoch_of_the_protocol_is_still_finished(stage: Stage) -> None:
    (cell,) = stage.cells([0])
    stage.let(cell, "unvalidated")
    assert stage.run([cell])[0].folder and "no accuracy by protocol validation" in " ".join(stage.reported)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("refuse", "failed: data/x is not there; prepare it."),
        ("nan", "failed: epoch 2, step 3: the loss is NaN; the run stops here."),
        ("crash", "failed: killed by SIGKILL, perhaps because memory ran out"),
        ("silent", "failed: exit status 1: RuntimeError: out of memory"),
    ],
)
def test_a_failed_cell_has_its_reason_and_the_others_continue(stage: Stage, action: str, reason: str) -> None:
    cells = stage.cells()
    stage.let(cells[1], action)
    outcomes = stage.run(cells, ["cpu"])
    assert [o.reason for o in outcomes] == [None, reason, None]
    assert outcomes[1].folder is None and outcomes[1].log is not None
    assert find_runs(cells, stage.runs)[1].reason == reason  # from the log
    assert [o.reason for o in stage.run(cells)] == [None] * 3  # and it is tried again
    assert len(stage.calls(f"train {stage.name(cells[1])} --resume")) == (action == "nan")


def test_an_unfinished_run_without_a_checkpoint_is_started_again(stage: Stage) -> None:
    (cell,) = stage.cells([0])
    stage.let(cell, "crash")
    stage.run([cell])
    folder = stage.folder(cell)
    for name in ("best.pt", "events.out.tfevents.1", "mine.txt"):
        (folder / name).touch()
    assert stage.run([cell])[0].folder == folder
    assert [call.split()[2] for call in stage.calls("train ")] == ["--ckpt_path"] * 2
    assert (folder / "mine.txt").exists() and not (folder / "events.out.tfevents.1").exists()


def test_a_foreign_folder_is_never_changed(stage: Stage) -> None:
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


def test_a_finished_foreign_run_is_evaluated_in_its_folder(stage: Stage) -> None:
    (cell,) = stage.cells([0])
    stage.run([cell])
    theirs = stage.folder(cell).rename(stage.runs / "theirs")
    for path in theirs.glob("evaluation*/per_clip.csv"):
        path.unlink()
        path.parent.rmdir()
    assert stage.run([cell])[0].folder == theirs
    assert len(stage.calls("train ")) == 1 and len(list(theirs.glob("evaluation-test-*/per_clip.csv"))) == 2


def test_a_failed_evaluation_is_tried_once_and_reported(stage: Stage) -> None:
    (cell,) = stage.cells([0])
    (stage.stage / "evaluation fails").touch()
    outcomes = stage.run([cell])
    assert outcomes[0].folder == stage.folder(cell) and is_incomplete(outcomes)
    assert len(stage.calls("evaluate ")) == 1 and "evaluate.py failed, see" in stage.reported[-1]
    (stage.stage / "evaluation fails").unlink()
    assert not is_incomplete(stage.run([cell])) and len(stage.calls("train ")) == 1


def test_cells_of_one_identity_share_a_run(stage: Stage) -> None:
    cells = stage.cells([0], table_of(Row("The same", "--method uniform --frames 2")))
    outcomes = stage.run(cells)
    assert outcomes[0].folder == outcomes[1].folder is not None
    assert len(stage.calls("train ")) == 1


def test_each_run_has_a_gpu_and_a_share_of_the_cores(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cells = stage.cells(range(4))
    for cell in cells:
        stage.let(cell, "slow")
    stage.run(cells, ["3", "7"])
    trained = [call.split() for call in stage.calls("train ")]
    assert sorted(words[4] for words in trained[:2]) == ["3", "7"]  # the first two run at the same time, one per GPU
    assert {words[4] for words in trained} == {"3", "7"}
    threads = max(1, available_cores() // 2)
    assert {words[6] for words in trained} == {str(threads)}
    log = (stage.runs / "tables" / "logs" / f"{stage.name(cells[0])}.txt").read_text()
    assert f"--workers {min(16, threads)}" in log
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    stage.run(stage.cells([9]), ["cpu"])
    assert stage.calls("train ")[-1].split()[6] == "5"


def test_without_data_nothing_is_run(stage: Stage) -> None:
    cells = make_cells(TABLE, [0], "validation", ["--data", str(stage.home / "nothing")])
    outcomes = stage.run([*stage.cells([0]), *cells])
    assert outcomes[0].folder and "does not exist; prepare it with" in str(outcomes[1].reason)
    assert len(stage.calls("train ")) == 1


def test_a_run_that_another_process_had_locked_is_tried_again_at_the_end(stage: Stage) -> None:
    cells = stage.cells()
    folder = RunsFolder(stage.runs)
    locks = [folder.lock(stage.name(cell)) for cell in cells[:2]]

    def report(line: str) -> None:
        if "50.00%" in line and locks[0] is not None:  # the third is trained: unlock the first, which is unfinished
            os.close(locks[0])
            locks[0] = None

    outcomes = run_grid(cells, stage.runs, ["cpu"], programs=stage.programs, report=report)
    assert locks[1] is not None
    os.close(locks[1])
    assert [o.reason for o in outcomes] == [None, BY_ANOTHER, None]
    assert [call.split()[1] for call in stage.calls("train ")] == [stage.name(cells[2]), stage.name(cells[0])]


# Several processes


class Grids:
    """Grids in separate processes."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.started = stage, []
        self.context = multiprocessing.get_context("forkserver")  # imports everything once
        self.context.set_forkserver_preload(["torch", "grid_process", "mmpareto.data.loading.layout"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
            patch.setenv("OMP_NUM_THREADS", "1")
            forkserver.ensure_running()

    def start(self, count: int = 1) -> list[BaseProcess]:
        """Start grids at the same moment."""
        self.barrier = self.context.Barrier(count)  # kept, because its semaphore is removed with it
        for number in range(count):
            arguments = (self.stage.home, self.stage.home / f"output{number}", self.barrier)
            self.started.append(self.context.Process(target=grid_process, args=arguments))
            self.started[-1].start()
        return self.started

    def start_waiting(self, waiting: Sequence[Cell]) -> BaseProcess:
        """Start a grid, and return when two of these cells, which wait on their first attempt, are running."""
        for cell in waiting:
            self.stage.let(cell, "wait")
        (grid,) = self.start()
        wait_for(lambda: len(self.stage.calls("waiting ")) == 2)
        return grid

    def end(self, number: int = 0, timeout: float = 60) -> tuple[str, int | None]:
        """Wait for a grid; return its output and its exit status."""
        self.started[number].join(timeout)
        return (self.stage.home / f"output{number}").read_text(), self.started[number].exitcode


@pytest.fixture
def grids(stage: Stage) -> Iterator[Grids]:
    grids = Grids(stage)
    yield grids
    for process in grids.started:
        process.kill()
        process.join()
    for call in stage.calls("train "):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(call.split()[-1]), signal.SIGKILL)


def outcomes_of(output: str) -> list[str]:
    return [line.split(" ", 2)[2] for line in output.splitlines() if line.startswith("outcome ")]


@pytest.mark.slow
def test_two_concurrent_grids_share_one_folder(stage: Stage, grids: Grids) -> None:
    cells = stage.cells()
    for cell in cells:
        stage.let(cell, "slow")
    grids.start(2)
    ends = [grids.end(number) for number in range(2)]
    for cell in cells:
        assert len(stage.calls(f"train {stage.name(cell)}")) == 1
        assert len(stage.calls("evaluate ")) == 2 * len(cells)
    names = [stage.name(cell) for cell in cells]
    for output, status in ends:  # the one that ends first may leave runs that the other is running
        assert "Traceback" not in output
        outcomes = outcomes_of(output)
        assert all(outcome in (name, BY_ANOTHER) for outcome, name in zip(outcomes, names, strict=True))
        assert status == int(BY_ANOTHER in outcomes)
    assert names in [outcomes_of(output) for output, _ in ends]  # the one that ends last tries again and has all runs
    assert [o.folder for o in find_runs(cells, stage.runs)] == [stage.folder(cell) for cell in cells]


@pytest.mark.slow
def test_runs_of_a_killed_grid_are_left_alone_until_they_end(stage: Stage, grids: Grids) -> None:
    cells = stage.cells()
    grid = grids.start_waiting(cells[:2])
    grid.kill()
    grid.join()
    outcomes = stage.run(cells)
    assert [o.reason for o in outcomes] == [BY_ANOTHER, BY_ANOTHER, None]
    assert plan_text(cells, stage.runs, 1).splitlines()[-1] == "1 finished, 2 running"
    assert len(stage.calls("train ")) == 3
    (stage.stage / "go").touch()  # the orphans end, unfinished
    pids = [int(call.split()[-1]) for call in stage.calls("waiting ")]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert [o.reason for o in stage.run(cells)] == [None] * 3
    assert len(stage.calls("train ")) == 5 and sum("--resume" in call for call in stage.calls("train ")) == 2


@pytest.mark.parametrize(
    ("sent", "to_group", "status"), [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)], ids=["Ctrl-C", "kill"]
)
def test_a_signal_is_forwarded_once_and_the_grid_waits(
    stage: Stage, grids: Grids, sent: signal.Signals, to_group: bool, status: int
) -> None:
    cells = stage.cells()
    grid = grids.start_waiting(cells)
    assert grid.pid
    (os.killpg if to_group else os.kill)(grid.pid, sent)  # a terminal signals the group
    output, exit_status = grids.end()
    assert exit_status == status and "Traceback" not in output
    assert sorted(stage.calls("signal ")) == sorted(f"signal {int(sent)} {stage.name(cell)}" for cell in cells[:2])
    assert outcomes_of(output) == ["interrupted in epoch 2", "interrupted in epoch 2", "not run"]
    assert f"{sent.name}: waiting for 2 to save their state" in output
    stage.let(cells[2], "finish")
    assert [o.reason for o in stage.run(cells)] == [None] * 3  # the same command again continues
    assert sum("--resume" in call for call in stage.calls("train ")) == 2


def test_a_second_signal_does_not_interrupt_the_saving(stage: Stage, grids: Grids) -> None:
    cells = stage.cells()
    grid = grids.start_waiting(cells)
    assert grid.pid
    os.kill(grid.pid, signal.SIGINT)
    time.sleep(0.05)
    os.kill(grid.pid, signal.SIGINT)
    assert grids.end()[1] == 130
    assert {call.split()[2] for call in stage.calls("signal ")} == {stage.name(cell) for cell in cells[:2]}
