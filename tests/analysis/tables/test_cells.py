"""By what a run is recognised, and which folder is a cell's."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mmpareto.analysis.tables import folders
from mmpareto.analysis.tables.cells import APART, Cell, identity, make_cells, run_name
from mmpareto.analysis.tables.definitions import TABLES, Column, Row, Table
from mmpareto.analysis.tables.folders import IMPOSSIBLE, RESUME, RUN, THERE, RunsFolder
from mmpareto.analysis.tables.grid import find_runs
from mmpareto.data.loading.layout import fingerprint
from mmpareto.errors import InputError
from mmpareto.training.settings import Settings, parse, to_config

ONE = Table(
    "one", "One", "?", (Column("CREMA-D", "--dataset cremad"),), (Row("Uniform", "--method uniform"),), "Uniform"
)
# A value that no default is, of every setting.
OTHER: dict[str, Any] = {
    "dataset": "ave",
    "method": "joint",
    "variant": "paper",
    "options": {"gamma": 2.0},
    "recipe": "paper",
    "protocol": "paper",
    "val_fraction": 0.2,
    "model": "mine",
    "data": "elsewhere",
    "ckpt_path": "there",
    "random_seed": 1,
    "n_classes": 6,
    "encoder": "cnn",
    "fusion": "sum",
    "pretrained": "file.pt",
    "optimizer": "adam",
    "learning_rate": 0.5,
    "momentum": 0.8,
    "weight_decay": 0.1,
    "scheduler": "step",
    "lr_decay_step": 31,
    "lr_decay_ratio": 0.2,
    "clip_grad": 1.0,
    "batch_size": 3,
    "epochs": 7,
    "amp": "bf16",
    "accumulate": 2,
    "audio": "spectrogram",
    "frames": 4,
    "image_size": 48,
    "crop_scale": (0.5, 1.0),
    "audio_frames": 99,
    "audio_pool": (2, 2),
    "cache": True,
    "gpu_ids": "1",
    "workers": 3,
    "compile": True,
    "channels_last": True,
    "tf32": True,
    "fused": True,
    "checkpoint_activations": True,
    "use_tensorboard": False,
    "tensorboard_path": "board",
    "record_gradients": 10,
}
FIELDS = [field.name for field in dataclasses.fields(Settings)]
WITHOUT_EFFECT = ["model", "ckpt_path", "data", "gpu_ids", "workers", "use_tensorboard", "tensorboard_path"]
WITHOUT_EFFECT += ["record_gradients"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "cremad"
    folder.mkdir(parents=True)
    (folder / "stat.csv").write_text("a\nb\n")
    return folder


def cell_of(data: Path, *more: str, table: Table = ONE, seed: int = 0) -> Cell:
    return make_cells(table, [seed], "validation", ["--data", str(data), *more])[0]


def write_run(
    folder: Path, settings: Settings, data: Path, *, ended: bool = True, epochs: int = 1, checkpoint: bool = True
) -> Path:
    """A run's files as train.py writes them, so far as the tables look at them."""
    folder.mkdir(parents=True)
    record = {"folder": str(data), "fingerprint": fingerprint(data)}
    config = {"arguments": to_config(settings), "data": record}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text('{"seconds": 2.0}\n' * epochs)
    if checkpoint:
        (folder / "last.pt").touch()
    if ended:
        (folder / "summary.json").write_text(json.dumps({"last": {"epoch": settings.epochs, "acc": 0.5}}))
    return folder


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_counts_or_does_not(name: str) -> None:
    settings = parse(["--dataset", "cremad", "--method", "mmpareto"]).settings
    changed = dataclasses.replace(settings, **{name: OTHER[name]})
    assert getattr(changed, name) != getattr(settings, name)
    assert (identity(changed, "f") == identity(settings, "f")) is (name in WITHOUT_EFFECT)
    same_name = run_name(identity(changed, "f")) == run_name(identity(settings, "f"))
    assert same_name is (name in WITHOUT_EFFECT)
    assert set(WITHOUT_EFFECT) == APART


def test_the_data_count_by_their_fingerprint() -> None:
    settings = parse(["--dataset", "cremad", "--method", "mmpareto"]).settings
    assert identity(settings, "f") != identity(settings, "g")


def test_the_name_of_a_run() -> None:
    names = {}
    for method in ("uniform", "torchjd:MGDA"):
        settings = dataclasses.replace(parse(["--dataset", "cremad"]).settings, method=method)
        for seed in (0, 17):
            names[method, seed] = run_name(identity(dataclasses.replace(settings, random_seed=seed), "f"))
    first, second = names["uniform", 0], names["uniform", 17]
    assert first.startswith("cremad-uniform-") and first.endswith("-seed0")
    assert second == first.removesuffix("0") + "17"  # the hex is of all but the seed
    assert len(first.split("-")[2]) == 8 and int(first.split("-")[2], 16) >= 0
    assert names["torchjd:MGDA", 0].startswith("cremad-torchjd-MGDA-")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--random_seed", "3"], "--random_seed after the -- is the table's own; use --seeds"),
        (["--method=joint"], "use --methods"),
        (["--ckpt_path", "x"], "use --runs"),
        (["--gpu_ids", "0"], "use --gpu_ids before the --"),
        (["--no_such", "3"], "unknown flag --no_such"),
    ],
)
def test_flags_that_are_the_tables_own(words: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        make_cells(ONE, [0], "last", words)


def test_further_flags_go_to_every_cell_and_override() -> None:
    cells = make_cells(TABLES["preprocessing"], [0], "last", ["--epochs", "3", "--data", "my data"])
    assert {cell.settings.epochs for cell in cells} == {3}
    assert {cell.settings.data for cell in cells} == {"my data", "my data-fps3", "my data-spectrogram"}
    with pytest.raises(InputError, match="the table is on several data sets"):
        make_cells(TABLES["main"], [0], "last", ["--data=x"])


def test_a_run_is_found_whatever_its_folder_is_called(data: Path, tmp_path: Path) -> None:
    cell = cell_of(data)
    assert find_runs([cell], tmp_path / "runs")[0].reason == "not run"
    elsewhere = tmp_path / "elsewhere"
    data.rename(elsewhere)  # the same data by another name
    run = dataclasses.replace(cell.settings, data="gone", model="mine", gpu_ids="1", record_gradients=7)
    folder = write_run(tmp_path / "runs" / "any name", run, elsewhere)
    elsewhere.rename(data)
    outcome = find_runs([cell], tmp_path / "runs")[0]
    assert outcome.folder == folder and outcome.reason is None
    write_run(tmp_path / "runs" / "another", cell.settings, data)
    own = write_run(tmp_path / "runs" / own_name(cell, data), cell.settings, data)
    assert find_runs([cell], tmp_path / "runs")[0].folder == own  # of several, the grid's own
    assert find_runs([cell_of(data, "--learning_rate", "0.5")], tmp_path / "runs")[0].reason == "not run"
    (data / "stat.csv").write_text("a\nb\nc\n")
    assert find_runs([cell], tmp_path / "runs")[0].reason == "not run"  # of other data


def test_a_damaged_or_older_run_is_no_run(data: Path, tmp_path: Path) -> None:
    cell = cell_of(data)
    for name, text in (
        ("a", "{"),
        ("b", '{"arguments": {}}'),
        ("c", '{"arguments": {}, "data": {"fingerprint": "x"}}'),
    ):
        folder = write_run(tmp_path / "runs" / name, cell.settings, data)
        (folder / "config.json").write_text(text)
    assert find_runs([cell], tmp_path / "runs")[0].reason == "not run"


def test_a_run_from_before_a_setting_was_there_is_still_a_run(data: Path, tmp_path: Path) -> None:
    cell = cell_of(data)
    folder = write_run(tmp_path / "runs" / "x", cell.settings, data)
    config = json.loads((folder / "config.json").read_text())
    assert config["arguments"].pop("fused") is False
    (folder / "config.json").write_text(json.dumps(config))
    assert find_runs([cell], tmp_path / "runs")[0].folder == folder
    assert find_runs([cell_of(data, "--fused")], tmp_path / "runs")[0].reason == "not run"


def test_a_run_that_was_prolonged_is_finished_when_its_summary_is(data: Path, tmp_path: Path) -> None:
    cell = cell_of(data)
    folder = write_run(tmp_path / "runs" / "x", cell.settings, data)
    (folder / "summary.json").write_text(json.dumps({"last": {"epoch": cell.settings.epochs - 1}}))
    outcome = find_runs([cell], tmp_path / "runs")[0]
    assert outcome.folder is None and f"unfinished in {folder}" in str(outcome.reason)


def own_name(cell: Cell, data: Path) -> str:
    return run_name(identity(cell.settings, fingerprint(data)))


def test_the_states_of_a_run(data: Path, tmp_path: Path) -> None:
    cell, runs = cell_of(data), tmp_path / "runs"
    own = runs / own_name(cell, data)

    def place() -> tuple[str, Path | None, str | None]:
        found = RunsFolder(runs).place(cell)
        return found.state, found.folder, found.reason

    assert place() == (RUN, own, "not run")
    write_run(own, cell.settings, data, ended=False, epochs=2)
    assert place() == (RESUME, own, "interrupted in epoch 3")
    log = runs / "tables" / "logs" / f"{own.name}.txt"
    log.parent.mkdir(parents=True)
    log.write_text("$ train\nerror: an old one\n$ train\nWarning\nerror: the loss is NaN; stopped\n")
    assert place() == (RESUME, own, "failed: the loss is NaN; stopped")
    log.write_text("$ train\nerror: an old one\n$ train\nstopped by SIGINT\n")
    assert place() == (RESUME, own, "interrupted in epoch 3")
    (own / "last.pt").unlink()
    assert place()[:2] == (RUN, own)  # begun here: it is made anew
    log.unlink()
    assert place()[:2] == (RUN, own.with_name(f"{own.name}-2"))  # not begun here: it is left alone
    (own / "summary.json").write_text(json.dumps({"last": {"epoch": cell.settings.epochs}}))
    assert place() == (THERE, own, None)


def test_a_folder_of_that_name_with_another_run_is_left_alone(data: Path, tmp_path: Path) -> None:
    cell, runs = cell_of(data), tmp_path / "runs"
    own = write_run(runs / own_name(cell, data), dataclasses.replace(cell.settings, epochs=99), data, ended=False)
    found = RunsFolder(runs).place(cell)
    assert (found.state, found.folder) == (RUN, runs / f"{own.name}-2")


def test_absent_data_say_how_they_are_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = [(cell, RunsFolder(Path("runs")).place(cell)) for cell in make_cells(TABLES["preprocessing"], [0], "last")]
    assert {place.state for _, place in found} == {IMPOSSIBLE}
    reasons = {cell.settings.data: str(place.reason).removeprefix(cell.settings.data) for cell, place in found}
    command = " is not there; prepare it with `python code/prepare.py cremad --raw DIR"
    assert reasons == {
        "data/cremad": f"{command}`",
        "data/cremad-fps3": f"{command} --fps 3 --out data/cremad-fps3`",
        "data/cremad-spectrogram": f"{command} --audio spectrogram --out data/cremad-spectrogram`",
    }


def test_a_report_needs_no_data(data: Path, tmp_path: Path) -> None:
    cells = make_cells(ONE, [0, 1], "last", ["--data", str(data)])
    folder = write_run(tmp_path / "runs" / "a", cells[0].settings, data)
    (data / "stat.csv").unlink()

    def reasons() -> Sequence[object]:
        return [outcome.folder or str(outcome.reason)[-9:] for outcome in find_runs(cells, tmp_path / "runs")]

    assert reasons() == [folder, f"{data}`"[-9:]]
    (data / "stat.csv").write_text("another\n")
    write_run(tmp_path / "runs" / "b", cells[1].settings, data)
    (data / "stat.csv").unlink()
    assert reasons() == [f"{data}`"[-9:]] * 2  # of different data: no telling which were meant


def test_clearing_never_touches_a_checkpoint_or_a_file_of_others(tmp_path: Path) -> None:
    for name in ("config.json", "events.out.tfevents.1", "best.pt", "notes.txt"):
        (tmp_path / name).touch()
    folders.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "last.pt").touch()
    with pytest.raises(ValueError, match="can be resumed"):
        folders.clear(tmp_path)
