"""Reading regular files, atomic writes, and file locks."""

import contextlib
import errno
import fcntl
import functools
import io
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Failures to write for want of room, and what gives room.
NO_ROOM = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room within the quota",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
}
MOST_JSON = 1 << 26  # characters
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # NFS without a lock daemon; Lustre mounted without flock


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be opened, or is something else. Opening a pipe would wait for a writer, and a device may
            have no end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def open_text(path: str | os.PathLike[str], newline: str | None = None) -> TextIO:
    """Open a regular file of UTF-8 text, with a byte order mark or without, for reading.

    Arguments:
        newline: as of `open`; "" for the module csv.

    Raises:
        OSError: as `open_regular`.
    """
    return io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline=newline)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        OSError: as `open_regular`.
        ValueError: it is not JSON, is nested more deeply than Python reads, or is larger than `MOST_JSON`.
    """
    with open_text(path) as file:
        return parse_json(file.read(MOST_JSON + 1))


def parse_json(text: str, **options: Any) -> Any:
    """Parse JSON.

    Arguments:
        options: of `json.loads`.

    Raises:
        ValueError: as `read_json`.
    """
    if len(text) > MOST_JSON:
        raise ValueError(f"it is longer than {MOST_JSON} characters")
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on a clean exit rename it to `path`, otherwise remove it.

    Creates the folder of `path`. Readers, and whoever looks after a crash, see the old file or the new one, never half
    of one.

    Raises:
        OSError: it cannot be written. For want of room (`NO_ROOM`), the error names `path`, whatever the block raised
            because of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    temporary = Path(name)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)  # shows `remove_leftovers` that this process lives
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except Exception as error:
        cause: BaseException | None = error  # a library may raise another error while it closes what it could not write
        while cause is not None and not (isinstance(cause, OSError) and cause.errno in NO_ROOM):
            cause = cause.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror or "no room", str(path)) from error
        raise
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def write_array(
    path: str | os.PathLike[str], dtype: "npt.DTypeLike", shape: tuple[int, ...], blocks: "Iterable[np.ndarray]"
) -> None:
    """Write a .npy file from blocks of its rows, atomically.

    A full disk raises an OSError with its number, which `numpy.save` does not, and does not end the process, as a write
    to a memory-mapped file does.
    """
    import numpy as np  # not at the top: --help needs no NumPy

    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype).data.cast("B") if block.size else b"")


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files that `atomic_path` made for these files in `folder`, and that killed processes left.

    Those that a process is writing stay. On a file system without locks that cannot be told, and the caller sees to it
    that there are none.
    """
    for name in names:
        for temporary in folder.glob(f".{name}.????????{Path(name).suffix}"):
            try:
                with open_regular(temporary) as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, FileNotFoundError):
                continue
            except OSError:
                pass
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def file_lock(path: str | os.PathLike[str], *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file or folder; see `acquire_lock`.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
    """
    descriptor = acquire_lock(path, wait=wait)
    if descriptor is None:
        raise BlockingIOError(f"{path} is locked by another process")
    try:
        yield
    finally:
        os.close(descriptor)


def acquire_lock(path: str | os.PathLike[str], *, wait: bool = True) -> int | None:
    """Lock a file or folder exclusively; return an open descriptor that holds the lock.

    Pass the descriptor to `os.close` to release the lock. A child process that inherits it (`pass_fds` of
    `subprocess.Popen`) holds the lock, too, even if this process is killed; a process that dies releases its hold.
    A path that does not exist is created as an empty file, which is not removed afterwards.

    This is flock(2). On a network file system it excludes processes of other machines only if locks are passed on to
    the server, which its mount options decide (docs/tables-and-plots.md). On a file system that refuses locks, the
    descriptor holds none, and a warning is printed.

    Arguments:
        wait: until no other process holds the lock; if false, return None where one does.

    Raises:
        OSError: the file cannot be opened.
    """
    from filelock import lock_descriptor  # a slow import, which --help should not wait for

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Opened for writing: file systems that are shared between machines refuse an exclusive lock otherwise.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        locked = lock_descriptor(descriptor, blocking=wait)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(descriptor)
            raise
        _warn_of_no_locks(path.parent)
        return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    if not locked:
        os.close(descriptor)
        return None
    return descriptor


@functools.cache
def _warn_of_no_locks(folder: Path) -> None:
    """Print the warning once per folder."""
    print(
        f"warning: {folder} is on a file system without file locks, so nothing keeps another process from working on "
        "the same files: run one command at a time on it.",
        file=sys.stderr,
        flush=True,
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
