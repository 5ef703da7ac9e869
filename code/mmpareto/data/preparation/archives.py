"""Archives given as raw data: unpacked once, whole or not at all, and nowhere but into the folder meant for them."""

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
from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.progress import progress

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
GZIP = b"\x1f\x8b"
MARKER = ".unpacked.json"


def unpacked(raw: Path, into: Path) -> Path:
    """The folder that holds the raw files: `raw` itself, or `into` where `raw` is an archive.

    An archive is unpacked beside `into` and renamed when all of it is there. A second call with the same archive finds
    it done, by a file that says what was unpacked.

    Arguments:
        raw: a folder, or an archive: .zip, .tar, .tar.gz or .tgz.
        into: where an archive is unpacked; made.

    Raises:
        InputError: `raw` is absent, something else, damaged, or holds what leads out of the folder or is no file;
            `into` holds something else, another process is unpacking into it, or it cannot be written. `into` is then
            as it was.
    """
    raw, into = Path(raw), Path(into)
    if raw.is_dir():
        return raw
    if not raw.exists():
        raise InputError(f"there is no {raw}.")
    if not raw.is_file() or not raw.name.lower().endswith(SUFFIXES):
        raise InputError(f"{raw} is neither a folder nor an archive ({', '.join(SUFFIXES)}).")
    facts = _facts(raw)
    if _is_there(raw, facts, into):
        return into
    partial = into.with_name(f".{into.name}.unpacking")
    with locked(partial):
        try:
            _empty(partial)
            unpack = _unpack_zip if raw.name.lower().endswith(".zip") else _unpack_tar
            unpack(raw, partial)
            write_text(partial / MARKER, json.dumps(facts | {"sha256": sha256(raw)}) + "\n")
            partial.rename(into)  # an empty folder may lie there
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return into


def _facts(raw: Path) -> dict[str, Any]:
    try:
        with raw.open("rb") as file:
            status = os.fstat(file.fileno())
    except OSError as error:
        raise InputError(f"{raw} cannot be read: {error.strerror}.") from error
    return {"archive": raw.name, "bytes": status.st_size, "modified": status.st_mtime_ns}


def _is_there(raw: Path, facts: Mapping[str, Any], into: Path) -> bool:
    """Whether `raw` is what was unpacked to `into`.

    Raises:
        InputError: something else lies there.
    """
    if not into.exists() or (into.is_dir() and not any(into.iterdir())):
        return False
    remedy = f"delete {into} to unpack {raw}"
    try:
        before = json.loads((into / MARKER).read_text(encoding="utf-8"))
        name, size, modified, digest = (before[key] for key in ("archive", "bytes", "modified", "sha256"))
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{into} holds files that did not come from an archive; {remedy}.") from None
    # A date tells a file from its successor without reading it; a copy has another date, and the same content.
    if size == facts["bytes"] and (modified == facts["modified"] or digest == sha256(raw)):
        return True
    raise InputError(f"{into} holds what was unpacked from another archive ({name}); {remedy}.")


def _empty(folder: Path) -> None:
    """Remove what a run that was killed left."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _check_name(raw: Path, name: str) -> None:
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise InputError(f"{raw} holds {name!r}, which leads out of the folder; it was not unpacked, do not use it.")


@contextlib.contextmanager
def _damage_told(raw: Path) -> Iterator[None]:
    """Raise InputError for what a damaged archive sets off, which is of no particular type; the disk's faults pass."""
    try:
        yield
    except InputError:
        raise
    except tarfile.FilterError as error:
        raise InputError(f"{raw} was not unpacked, do not use it: {error}.") from None
    except Exception as error:
        # What gzip finds wrong is an OSError without a number; a place before the beginning of a file is invalid.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise InputError(f"{raw} cannot be unpacked ({type(error).__name__}: {error}); get it again.") from None


def _unpack_zip(raw: Path, folder: Path) -> None:
    with _damage_told(raw), zipfile.ZipFile(raw) as archive:
        members = archive.infolist()
        for member in members:
            _check_name(raw, member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise InputError(f"{raw} holds the link {member.filename!r}; unpack it, and give the folder.")
        _check_space(raw, folder, sum(member.file_size for member in members))
        for member in progress(members, unit="file", desc=f"unpacking {raw.name}"):
            archive.extract(member, folder)


def _check_space(raw: Path, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(f"{raw} unpacks to {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free at {folder.parent}.")


class _Member(tarfile.TarInfo):
    """A member of an archive that must have an end: tarfile takes a damaged or missing header for one."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """The next member; as it says, ReadError where there is neither a member nor the end."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(f"its contents end without an end mark: {error}") from None


def _unpack_tar(raw: Path, folder: Path) -> None:
    with raw.open("rb") as file:
        mode: Literal["r:gz", "r:"] = "r:gz" if file.read(2) == GZIP else "r:"
    with _damage_told(raw), tarfile.open(raw, mode, tarinfo=_Member) as archive:
        links: set[PurePosixPath] = set()
        for member in progress(archive, unit="file", desc=f"unpacking {raw.name}"):
            _check_member(raw, member, links)
            archive.extract(member, folder, filter="data")  # which refuses devices, and drops set-user-id
        rest: Any = archive.fileobj
        while rest.read(1 << 20):  # gzip compares its checksum at the end
            pass


def _check_member(raw: Path, member: tarfile.TarInfo, links: set[PurePosixPath]) -> None:
    """Refuse names and links that lead out, and whatever would be written or read through a link.

    As no member lies behind a link, the folders above a link are real, and its target is where the names say. So this
    needs no look at the disk, which links to links could mislead.
    """
    _check_name(raw, member.name)
    path = PurePosixPath(member.name)
    named = [path, PurePosixPath(member.linkname)] if member.islnk() else [path]
    if any(not links.isdisjoint((place, *place.parents)) for place in named):
        raise InputError(f"{raw} holds {member.name!r}, which lies behind a link; it was not unpacked, do not use it.")
    if member.issym():
        parts = PurePosixPath(member.linkname).parts
        up = next((place for place, part in enumerate(parts) if part != ".."), len(parts))
        if member.linkname.startswith("/") or up >= len(path.parts) or ".." in parts[up:]:
            raise InputError(
                f"{raw} holds the link {member.name!r} to {member.linkname!r}, which may lead out of the"
                " folder; it was not unpacked, do not use it."
            )
        links.add(path)
    elif member.islnk():
        _check_name(raw, member.linkname)
