"""The folder of a cell's run, and the state of that run."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from mmpareto.analysis.finished_run import identity
from mmpareto.analysis.tables.cells import Cell, make_cells, run_name
from mmpareto.analysis.tables.definitions import TABLES
from mmpareto.analysis.tables.grid import find_runs
from mmpareto.analysis.tables.runs_folder import FINISHED, IMPOSSIBLE, RESUME, RUN, RunsFolder, clear
from mmpareto.data.loading.layout import fingerprint
from mmpareto.errors import InputError
from mmpareto.training.settings import Settings, to_config
from stage import TABLE


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "cremad"
    folder.mkdir(parents=True)
    (folder / "stat.csv").write_text("a\nb\n")
    return folder


def cell_of(data: Path, *more: str) -> Cell:
    return make_cells(TABLE, [0], "validation", ["--data", str(data), *more])[0]


def name_of(cell: Cell, data: Path) -> str:
    return run_name(identity(to_config(cell.settings), fingerprint(data)))


def write_run(
    folder: Path, settings: Settings, data: Path, *, ended: bool = True, epochs: int = 1, checkpoint: bool = True
) -> Path:
    """Write the files of a run that tables read."""
    folder.mkdir(parents=True)
    record = {"folder": str(data), "fingerprint": fingerprint(data)}
    config = {"arguments": to_config(settings), "data": record}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(f'{{"epoch": {n + 1}, "seconds": 2.0}}\n' for n in range(epochs)))
    if checkpoint:
        (folder / "last.pt").touch()
    if ended:
        (folder / "summary.json").write_text(json.dumps({"last": {"epoch": settings.epochs, "acc": 0.5}}))
    return folder


def test_a_run_is_found_in_a_folder_of_any_name(data: Path, tmp_path: Path) -> None:
    cell = cell_of(data)
    assert find_runs([cell], tmp_path / "runs")[0].reason == "not run"
    elsewhere = tmp_path / "elsewhere"
    data.rename(elsewhere)  # the same data under another name
    run = dataclasses.replace(cell.settings, data="gone", model="mine", gpu_ids="1", record_gradients=7)
    folder = write_run(tmp_path / "runs" / "any name", run, elsewhere)
    elsewhere.rename(data)
    outcome = find_runs([cell], tmp_path / "runs")[0]
    assert outcome.folder == folder and outcome.reason is None
    write_run(tmp_path / "runs" / "another", cell.settings, data)
    named = write_run(tmp_path / "runs" / name_of(cell, data), cell.settings, data)
    assert find_runs([cell], tmp_path / "runs")[0].folder == named  # of several, the one with the grid's name
    assert find_runs([cell_of(data, "--learning_rate", "0.5")], tmp_path / "runs")[0].reason == "not run"
    (data / "stat.csv").write_text("a\nb\nc\n")
    assert find_runs([cell], tmp_path / "runs")[0].reason == "not run"  # it was trained on other data


def test_runs_with_a_damaged_config_are_ignored(data: Path, tmp_path: Path) -> None:
    cell = cell_of(data)
    for name, text in (
        ("a", "{"),
        ("b", '{"arguments": {}}'),
        ("c", '{"arguments": {}, "data": {"fingerprint": "x"}}'),
    ):
        folder = write_run(tmp_path / "runs" / name, cell.settings, data)
        (folder / "config.json").write_text(text)
    assert find_runs([cell], tmp_path / "runs")[0].reason == "not run"


def test_a_run_older_than_a_setting_is_still_found(data: Path, tmp_path: Path) -> None:
    cell = cell_of(data)
    folder = write_run(tmp_path / "runs" / "x", cell.settings, data)
    config = json.loads((folder / "config.json").read_text())
    assert config["arguments"].pop("fused") is False
    (folder / "config.json").write_text(json.dumps(config))
    assert find_runs([cell], tmp_path / "runs")[0].folder == folder
    assert find_runs([cell_of(data, "--fused")], tmp_path / "runs")[0].reason == "not run"


def test_an_extended_run_is_unfinished_until_its_summary_is_written(data: Path, tmp_path: Path) -> None:
    cell = cell_of(data)
    folder = write_run(tmp_path / "runs" / "x", cell.settings, data)
    (folder / "summary.json").write_text(json.dumps({"last": {"epoch": cell.settings.epochs - 1}}))
    outcome = find_runs([cell], tmp_path / "runs")[0]
    assert outcome.folder is None and f"unfinished in {folder}" in str(outcome.reason)


def test_the_states_of_a_run(data: Path, tmp_path: Path) -> None:
    cell, runs = cell_of(data), tmp_path / "runs"
    folder = runs / name_of(cell, data)

    def status() -> tuple[str, Path | None, str | None]:
        status = RunsFolder(runs).unlocked_status(cell)
        return status.state, status.folder, status.reason

    assert status() == (RUN, folder, "not run")
    write_run(folder, cell.settings, data, ended=False, epochs=2)
    assert status() == (RESUME, folder, "interrupted in epoch 3")
    log = runs / "tables" / "logs" / f"{folder.name}.txt"
    log.parent.mkdir(parents=True)
    log.write_text("$ train\nerror: an old one\n$ train\nWarning\nerror: the loss is NaN; stopped\n")
    assert status() == (RESUME, folder, "failed: the loss is NaN; stopped")
    log.write_text("$ train\nerror: an old one\n$ train\nstopped by SIGINT\n")
    assert status() == (RESUME, folder, "interrupted in epoch 3")
    (folder / "last.pt").unlink()
    assert status()[:2] == (RUN, folder)  # the log shows that a grid started it, so it is started again
    log.unlink()
    assert status()[:2] == (RUN, folder.with_name(f"{folder.name}-2"))  # no grid started it, so it is left alone
    (folder / "summary.json").write_text(json.dumps({"last": {"epoch": cell.settings.epochs}}))
    assert status() == (FINISHED, folder, None)


def test_a_folder_with_another_run_is_left_alone(data: Path, tmp_path: Path) -> None:
    cell, runs = cell_of(data), tmp_path / "runs"
    other = write_run(runs / name_of(cell, data), dataclasses.replace(cell.settings, epochs=99), data, ended=False)
    status = RunsFolder(runs).unlocked_status(cell)
    assert (status.state, status.folder) == (RUN, runs / f"{other.name}-2")


def test_missing_data_name_the_command_that_prepares_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = RunsFolder(Path("runs"))
    statuses = [(cell, runs.status(cell)) for cell in make_cells(TABLES["preprocessing"], [0], "last")]
    assert {status.state for _, status in statuses} == {IMPOSSIBLE}
    reasons = {cell.settings.data: str(status.reason).removeprefix(cell.settings.data) for cell, status in statuses}
    command = " does not exist; prepare it with `python code/prepare.py cremad --raw DIR"
    assert reasons == {
        "data/cremad": f"{command}`",
        "data/cremad-fps3": f"{command} --fps 3 --out data/cremad-fps3`",
        "data/cremad-spectrogram": f"{command} --audio spectrogram --out data/cremad-spectrogram`",
    }


def test_a_report_needs_no_data(data: Path, tmp_path: Path) -> None:
    cells = make_cells(TABLE, [0, 1], "last", ["--data", str(data)])
    folder = write_run(tmp_path / "runs" / "a", cells[0].settings, data)
    (data / "stat.csv").unlink()

    def reasons() -> Sequence[object]:
        return [outcome.folder or str(outcome.reason)[-9:] for outcome in find_runs(cells, tmp_path / "runs")]

    assert reasons() == [folder, f"{data}`"[-9:]]
    (data / "stat.csv").write_text("another\n")
    write_run(tmp_path / "runs" / "b", cells[1].settings, data)
    (data / "stat.csv").unlink()
    assert reasons() == [f"{data}`"[-9:]] * 2  # the runs have different data, so it is unclear which are meant


def test_clear_never_deletes_resumable_runs_or_unknown_files(tmp_path: Path) -> None:
    for name in ("config.json", "events.out.tfevents.1", "best.pt", "notes.txt"):
        (tmp_path / name).touch()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "last.pt").touch()
    with pytest.raises(ValueError, match="can be resumed"):
        clear(tmp_path)


def test_a_lock_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("")
    with pytest.raises(InputError, match="give another --runs"):
        RunsFolder(tmp_path).lock("run")
