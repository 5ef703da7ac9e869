import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mmpareto.files import acquire_lock, atomic_path, file_lock, remove_leftovers, write_text


def test_an_interrupted_atomic_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.json"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.suffix == ".json" and path.read_text() == "old"
        raise ZeroDivisionError
    assert path.read_text() == "old"
    write_text(path, "neu: ü")
    assert path.read_text(encoding="utf-8") == "neu: ü" and list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_file_whatever_the_library_makes_of_it(tmp_path: Path) -> None:
    def write() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise AttributeError("what could not be written cannot be closed")  # as matplotlib does

    refused = pytest.raises(OSError, match=r"No space left on device: '.*/made/plot\.pdf'")
    with refused, atomic_path(tmp_path / "made" / "plot.pdf"):
        write()
    assert [*(tmp_path / "made").iterdir()] == []


def test_leftovers_are_removed_but_not_files_that_are_being_written(tmp_path: Path) -> None:
    killed, other = tmp_path / ".a.txt.abcd_123.txt", tmp_path / ".b.txt.abcd_123.txt"
    killed.touch()
    other.touch()
    with atomic_path(tmp_path / "a.txt") as temporary:
        remove_leftovers(tmp_path, ["a.txt"])
        assert {*tmp_path.iterdir()} == {temporary, other}
    assert {*tmp_path.iterdir()} == {tmp_path / "a.txt", other}


def test_an_atomic_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "atomic", "")
    (tmp_path / "ordinary").write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_is_exclusive_and_released(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "below" / "lock" if kind == "file" else tmp_path
    with file_lock(path):
        assert acquire_lock(path, wait=False) is None
        with pytest.raises(BlockingIOError), file_lock(path, wait=False):
            pass
    with pytest.raises(ZeroDivisionError), file_lock(path, wait=False):
        raise ZeroDivisionError
    with file_lock(path, wait=False):
        assert path.exists()


def test_a_second_lock_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with file_lock(tmp_path / "lock"):
            order.append("second")

    with file_lock(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_child_that_inherits_the_descriptor_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = acquire_lock(path)
    assert descriptor is not None
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[descriptor]
    )
    os.close(descriptor)  # as when this process is killed
    assert acquire_lock(path, wait=False) is None
    child.communicate()
    with file_lock(path, wait=False):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock.lock_descriptor", refuse)
    for name in ("one", "two"):
        with file_lock(tmp_path / name, wait=False):
            pass
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {tmp_path} ") and warning.count("\n") == 1


def test_other_errors_of_a_lock_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("filelock.lock_descriptor", fail)
    with pytest.raises(OSError, match="broken"):
        acquire_lock(tmp_path / "lock")
