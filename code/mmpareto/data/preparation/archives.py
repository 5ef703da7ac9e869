"""Unpacking archives of raw data: once, completely or not at all, and only into the intended folder."""

import contextlib
import errno
import json
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from mmpareto.data.preparation.prepared_folder import locked, sha256
from mmpareto.errors import InputError, one_line
from mmpareto.files import read_json, write_text
from mmpareto.progress import progress

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
GZIP = b"\x1f\x8b"
MARKER = ".unpacked.json"
NOT_UNPACKED = "it was not unpacked, do not use it"
HEADERS = (b"x", b"g", b"X", b"L", b"K")  # types of the members that are headers of others: pax, and GNU's long names
MOST_IN_HEADER = 1 << 20  # bytes of the headers of one member: names are at most 4096 long


def unpacked(raw: Path, into: Path) -> Path:
    """Return the folder of the raw files: `raw` itself, or `into` if `raw` is an archive, which is then unpacked there.

    An archive is unpacked beside `into`, and the folder is renamed when it is complete. A marker file records what was
    unpacked, so that a second call with the same archive does nothing.

    Arguments:
        raw: a folder, or an archive: .zip, .tar, .tar.gz or .tgz.
        into: the folder to create.

    Raises:
        InputError: `raw` is missing, neither a folder nor an archive, damaged, or has members that lead out of the
            folder or are not files; `into` contains something else, another process is unpacking into it, or it cannot
            be written. `into` is unchanged then.
    """
    raw, into = Path(raw), Path(into)
    if raw.is_dir():
        return raw
    if not raw.exists():
        raise InputError(f"{raw} does not exist.")
    if not raw.is_file() or not raw.name.lower().endswith(SUFFIXES):
        raise InputError(f"{raw} is neither a folder nor an archive ({', '.join(SUFFIXES)}).")
    identity = _identity(raw)
    if _is_unpacked(raw, identity, into):
        return into
    partial = into.with_name(f".{into.name}.unpacking")
    with locked(partial):
        try:
            _empty(partial)
            unpack = _unpack_zip if raw.name.lower().endswith(".zip") else _unpack_tar
            unpack(raw, partial)
            write_text(partial / MARKER, json.dumps(identity | {"sha256": sha256(raw)}) + "\n")
            partial.rename(into)  # replaces an empty folder
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return into


def _identity(raw: Path) -> dict[str, Any]:
    try:
        with raw.open("rb") as file:
            status = os.fstat(file.fileno())
    except OSError as error:
        raise InputError(f"{raw} cannot be read: {error.strerror}.") from error
    return {"archive": raw.name, "bytes": status.st_size, "modified": status.st_mtime_ns}


def _is_unpacked(raw: Path, identity: Mapping[str, Any], into: Path) -> bool:
    """Return whether `raw` was unpacked to `into`.

    Raises:
        InputError: `into` contains something else.
    """
    if not into.exists() or (into.is_dir() and not any(into.iterdir())):
        return False
    remedy = f"delete {into} to unpack {raw}"
    try:
        before = read_json(into / MARKER)
        name, size, modified, digest = (before[key] for key in ("archive", "bytes", "modified", "sha256"))
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{into} contains files that were not unpacked from an archive; {remedy}.") from None
    # The date identifies a file without reading it; a copy has another date, but the same content.
    if size == identity["bytes"] and (modified == identity["modified"] or digest == sha256(raw)):
        return True
    raise InputError(f"{into} contains the files of another archive ({name}); {remedy}.")


def _empty(folder: Path) -> None:
    """Remove what a killed run left."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _check_name(raw: Path, name: str) -> None:
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise InputError(
            f"{raw} contains {name[:80]!r}, which leads out of the folder; it was not unpacked, do not use it."
        )


@contextlib.contextmanager
def _reporting_damage(raw: Path) -> Iterator[None]:
    """Raise InputError for the exceptions of a damaged archive, which may be of any type; let disk errors pass."""
    try:
        yield
    except InputError:
        raise
    except tarfile.FilterError as error:
        raise InputError(f"{raw} was not unpacked, do not use it: {one_line(error)}.") from None
    except Exception as error:
        # gzip raises OSError without a number; seeking to before the beginning of a file is EINVAL.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise InputError(
            f"{raw} cannot be unpacked ({type(error).__name__}: {one_line(error)}); download it again."
        ) from None


def _unpack_zip(raw: Path, folder: Path) -> None:
    with _reporting_damage(raw), zipfile.ZipFile(raw) as archive:
        members = archive.infolist()
        for member in members:
            _check_name(raw, member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise InputError(
                    f"{raw} contains the link {member.filename[:80]!r}; unpack it and pass the folder instead."
                )
        _check_space(raw, folder, sum(member.file_size for member in members))
        for member in progress(members, unit="file", desc=f"unpacking {raw.name}"):
            archive.extract(member, folder)


def _check_space(raw: Path, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"{raw} unpacks to {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free in {folder.parent}."
        )


class _Member(tarfile.TarInfo):
    """A member of an archive that must have an end mark: tarfile treats a damaged or missing header as the end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """Return the next member; raise ReadError if there is neither a member nor the end mark."""
        try:
            member = super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(f"its contents end without an end mark: {error}") from None
        if member.size < 0:  # of which tarfile would find the next member before this one, without end
            raise tarfile.ReadError("a member has a negative size")
        return member

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        """Read a member's further headers, which tarfile reads into memory whatever size they state."""
        if self.type in HEADERS and self.size > MOST_IN_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes is larger than any name")
        return super()._proc_member(archive)  # type: ignore[misc]


def _unpack_tar(raw: Path, folder: Path) -> None:
    with raw.open("rb") as file:
        mode: Literal["r:gz", "r:"] = "r:gz" if file.read(2) == GZIP else "r:"
    with _reporting_damage(raw), tarfile.open(raw, mode, tarinfo=_Member) as archive:
        if mode == "r:gz":
            _check_space(raw, folder, _least_unpacked(raw))
        links: set[PurePosixPath] = set()
        for member in progress(archive, unit="file", desc=f"unpacking {raw.name}"):
            _check_member(raw, member, links)
            _check_space(raw, folder, member.size if member.isfile() else 0)
            archive.extract(member, folder, filter="data")  # refuses devices, and drops set-user-id
        rest: Any = archive.fileobj
        while rest.read(1 << 20):  # gzip verifies its checksum at the end
            pass


def _least_unpacked(raw: Path) -> int:
    """A lower bound of the size of a gzip file's contents, which it states modulo 4 GiB, at its end."""
    with raw.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 4, 0))
        stated = int.from_bytes(file.read(), "little")
    return max(stated, size - size // 1000)  # data that cannot be compressed grow by less than a thousandth


def _check_member(raw: Path, member: tarfile.TarInfo, links: set[PurePosixPath]) -> None:
    """Refuse names and links that lead out of the folder, and members that would be written or read through a link.

    Since no member is behind a link, the folders above a link are real, and its target can be derived from the names
    alone. Looking at the disk instead could be misled by links to links.
    """
    _check_name(raw, member.name)
    path = PurePosixPath(member.name)
    named = [path, PurePosixPath(member.linkname)] if member.islnk() else [path]
    if any(not links.isdisjoint((name, *name.parents)) for name in named):
        raise InputError(
            f"{raw} contains {member.name[:80]!r}, which is behind a link; it was not unpacked, do not use it."
        )
    if member.issym():
        parts = PurePosixPath(member.linkname).parts
        levels_up = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
        if member.linkname.startswith("/") or levels_up >= len(path.parts) or ".." in parts[levels_up:]:
            raise InputError(
                f"{raw} contains the link {member.name[:80]!r} to {member.linkname[:80]!r}, which may lead out of the "
                f"folder; {NOT_UNPACKED}."
            )
        links.add(path)
    elif member.islnk():
        _check_name(raw, member.linkname)
