import errno
import json
import multiprocessing
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import mmpareto.training.loggers as loggers
import mmpareto.training.loop as loop
import pytest
from mmpareto.errors import InputError
from mmpareto.training.run_folder import run_lock
from prepared_clips import write_prepared
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import acting, assert_same_run, metrics, read, resume, run, send_signal

EPOCHS = ("--epochs", "3")
# 18 clips, of which 3 validate: 15 in batches of 4, so steps 4, 8 and 12 end an epoch.
POINTS: dict[str, tuple[object, str, int]] = {
    "after the first step": (loop.Trainer, "step", 1),
    "in the middle of an epoch": (loop.Trainer, "step", 6),
    "after the last step of an epoch": (loop.Trainer, "step", 8),
    "while testing": (loop, "predict", 3),
    "while validating": (loop, "predict", 4),
    "between epochs": (loop.Trainer, "_finish_epoch", 2),
    "after the last epoch": (loop.Trainer, "_finish_epoch", 3),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=18, test=6, prepared={})


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Uninterrupted runs, each made once."""
    made: dict[tuple[str, ...], Path] = {}

    def get(*more: str) -> Path:
        if more not in made:
            made[more] = tmp_path_factory.mktemp("whole") / "run"
            assert run(data, made[more], *more) == 0
        return made[more]

    return get


def interrupted(data: Path, folder: Path, point: str, *more: str) -> None:
    owner, name, call = POINTS[point]
    with acting(owner, name, call, send_signal, before=name == "predict"):
        assert run(data, folder, *more) == 143
    assert (folder / "last.pt").exists() and not (folder / "summary.json").exists()


@pytest.mark.parametrize("point", POINTS)
def test_resume_continues_bit_identically(point: str, data: Path, whole: Callable[..., Path], tmp_path: Path) -> None:
    interrupted(data, tmp_path / "run", point, *EPOCHS)
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", whole(*EPOCHS))


def test_resume_with_adam_after_two_stops(data: Path, whole: Callable[..., Path], tmp_path: Path) -> None:
    """Every method is tested with SGD in test_method_runs.py."""
    more = (*EPOCHS, "--optimizer", "adam", "--learning_rate", "0.01")
    interrupted(data, tmp_path / "run", "in the middle of an epoch", *more)
    with acting(loop.Trainer, "step", 5, send_signal):  # epoch 2 has two steps left, so this is in epoch 3
        assert resume(tmp_path / "run") == 143
    assert read(tmp_path / "run/last.pt")["steps"] == 3
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", whole(*more))


def test_results_do_not_depend_on_the_number_of_loader_processes(
    data: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    assert run(data, tmp_path / "two", *EPOCHS, "--workers", "2") == 0
    assert_same_run(tmp_path / "two", whole(*EPOCHS))


def test_a_run_stopped_with_loader_processes_resumes_without(
    data: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    interrupted(data, tmp_path / "run", "while testing", *EPOCHS, "--workers", "1")
    assert not multiprocessing.active_children()
    assert resume(tmp_path / "run", "--workers", "0") == 0
    assert_same_run(tmp_path / "run", whole(*EPOCHS))


def test_a_run_resumed_for_more_epochs_equals_a_longer_run(
    data: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    # With the joint loss alone, the linear probe is fitted again, too.
    assert run(data, tmp_path / "run", "--epochs", "1", "--method", "joint") == 0
    assert resume(tmp_path / "run", *EPOCHS) == 0
    assert_same_run(tmp_path / "run", whole(*EPOCHS, "--method", "joint"))


def test_resuming_a_finished_run_changes_nothing(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "run", "--epochs", "1") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert resume(tmp_path / "run") == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


class Killed(BaseException):
    """Simulates kill -9: nothing is saved after it."""


def kill() -> None:
    raise Killed


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(loop.Trainer, "step", 6), (loop, "write_metrics", 2), (loop, "save_checkpoint", 3)],
    ids=["in the middle of an epoch", "before metrics.jsonl is written", "between best.pt and last.pt"],
)
def test_a_killed_run_resumes_from_its_last_checkpoint(
    owner: object, name: str, call: int, data: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with acting(owner, name, call, kill, before=True), pytest.raises(Killed):
        run(data, folder, *EPOCHS)
    lines = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(lines + lines)  # surplus lines, as from another writer, are removed
    assert resume(folder) == 0
    assert_same_run(folder, whole(*EPOCHS))


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        pytest.param(loop.Trainer, "step", 6, marks=pytest.mark.slow),
        (loggers.Loggers, "log", 2),
        pytest.param(loop.Trainer, "save", 2, marks=pytest.mark.slow),
    ],
)
def test_tensorboard_shows_every_epoch_once_after_a_kill(
    owner: object, name: str, call: int, data: Path, tmp_path: Path
) -> None:
    with acting(owner, name, call, kill), pytest.raises(Killed):
        run(data, tmp_path, *EPOCHS, "--use_tensorboard", "true")
    time.sleep(1.1)  # TensorBoard reads files in the order of their names, which contain the second and a counter
    assert resume(tmp_path) == 0
    scalars = EventAccumulator(str(tmp_path)).Reload().Scalars("accuracy/test/joint")
    assert [scalar.step for scalar in scalars] == [1, 2, 3]
    assert [scalar.value for scalar in scalars] == pytest.approx([line["acc"] for line in metrics(tmp_path)])


def test_fewer_epochs_than_already_begun_are_refused(data: Path, tmp_path: Path) -> None:
    interrupted(data, tmp_path / "run", "in the middle of an epoch", *EPOCHS)
    with pytest.raises(InputError, match="--epochs"):
        resume(tmp_path / "run", "--epochs", "1")


def test_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    interrupted(data, tmp_path / "run", "in the middle of an epoch", *EPOCHS)
    before = (tmp_path / "run/config.json").read_bytes()
    other = write_prepared(tmp_path / "other", train=12, test=6, prepared={})
    with pytest.raises(InputError, match="--data"):
        resume(tmp_path / "run", "--data", str(other))
    assert (tmp_path / "run/config.json").read_bytes() == before


def test_the_same_data_may_have_another_path(data: Path, whole: Callable[..., Path], tmp_path: Path) -> None:
    interrupted(data, tmp_path / "run", "in the middle of an epoch", *EPOCHS)
    (tmp_path / "moved").symlink_to(data)
    assert resume(tmp_path / "run", "--data", str(tmp_path / "moved")) == 0
    assert metrics(tmp_path / "run")[-1]["acc"] == metrics(whole(*EPOCHS))[-1]["acc"]


def test_a_run_killed_before_it_saved_anything_begins_again(
    data: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    """By `--resume`, and by the same command, as a scheduler repeats it."""
    for again in (lambda: resume(tmp_path / "run"), lambda: run(data, tmp_path / "run", *EPOCHS)):
        with acting(loop.Trainer, "step", 3, kill), pytest.raises(Killed):
            run(data, tmp_path / "run", *EPOCHS)
        assert not (tmp_path / "run/last.pt").exists()
        assert again() == 0
        assert_same_run(tmp_path / "run", whole(*EPOCHS))
        shutil.rmtree(tmp_path / "run")


def test_two_processes_cannot_train_in_one_folder(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    interrupted(data, folder, "after the first step", *EPOCHS)
    holder = f"process {os.getpid()} on {platform.node()}"
    with run_lock(folder), pytest.raises(InputError, match=holder):
        resume(folder)
    (folder / "last.pt").unlink()
    with run_lock(folder), pytest.raises(InputError, match=holder):
        run(data, folder, *EPOCHS)  # would replace it otherwise


def test_what_a_killed_process_leaves_is_no_obstacle_and_is_removed(
    data: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    interrupted(data, folder, "after the first step", *EPOCHS)
    (folder / ".lock").write_text("process 1 on elsewhere\n")  # and nobody holds the lock
    for name in (".last.pt.a1b2c3d4.pt", ".gradients.npz.a1b2c3d4.npz"):
        (folder / name).write_bytes(b"half")
    (folder / ".mine.pt").write_bytes(b"kept")
    assert resume(folder) == 0
    assert_same_run(folder, whole(*EPOCHS))
    assert sorted(path.name for path in folder.glob(".*")) == [".lock", ".mine.pt"]


def test_a_file_system_without_locks_gives_a_warning(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(descriptor: int, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    assert run(data, tmp_path / "run", "--epochs", "1") == 0
    assert "file system without file locks" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["no folder", "no checkpoint", "torn checkpoint", "torn config"])
def test_folders_that_cannot_be_resumed_are_input_errors(damage: str, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if damage != "no folder":
        interrupted(data, folder, "after the first step", *EPOCHS)
    if damage == "no checkpoint":
        (folder / "last.pt").unlink()
        (folder / "metrics.jsonl").write_text("{}\n")
    if damage == "torn checkpoint":
        (folder / "last.pt").write_bytes((folder / "last.pt").read_bytes()[:1000])
    if damage == "torn config":
        (folder / "config.json").write_text((folder / "config.json").read_text()[:100])
    with pytest.raises(InputError, match=r"run"):
        resume(folder)


def test_a_checkpoint_of_another_architecture_is_refused(data: Path, tmp_path: Path) -> None:
    interrupted(data, tmp_path / "run", "after the first step", *EPOCHS)
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["arguments"]["encoder"] = "plain"
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="architecture"):
        resume(tmp_path / "run")


def test_config_keeps_its_original_values_on_resume(data: Path, tmp_path: Path) -> None:
    interrupted(data, tmp_path / "run", "in the middle of an epoch", *EPOCHS)
    before = json.loads((tmp_path / "run/config.json").read_text())
    assert resume(tmp_path / "run", "--epochs", "4") == 0
    after = json.loads((tmp_path / "run/config.json").read_text())
    assert after["arguments"] == before["arguments"] | {"epochs": 4}
    assert [after[key] for key in ("versions", "git_commit", "data")] == [
        before[key] for key in ("versions", "git_commit", "data")
    ]
    assert len(after["resumed"]) == 1 and after["resumed"][0]["versions"] == before["versions"]
