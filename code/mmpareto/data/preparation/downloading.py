"""Downloading the raw files of data sets that anyone can have without asking for access."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmpareto.errors import InputError
from mmpareto.files import atomic_path
from mmpareto.progress import progress

TIMEOUT = 30  # seconds without an answer
CHUNK = 1 << 16


class _TransferError(Exception):
    """A file could not be received whole; the message is the reason."""


def download(urls: Sequence[str], path: Path, md5: str | None = None) -> None:
    """Download a file to `path` from the first address that provides it, unless `path` holds it already.

    The file appears under its name only when it is complete, so an interrupted download is simply started again. Calls
    with the same `path` must not overlap.

    Arguments:
        urls: addresses of the same file, tried in order.
        path: the file to write; its folder is created.
        md5: expected checksum, if one is known; otherwise any file at `path` counts as the wanted one.

    Raises:
        InputError: no address provides the file, whole and with this checksum; `path` is unchanged then.
    """
    if path.is_file() and (md5 is None or _md5(path) == md5):
        return
    for leftover in path.parent.glob(f".{path.name}.*"):  # of a killed process
        leftover.unlink()
    problems = []
    for url in urls:
        try:
            with atomic_path(path) as temporary:
                with temporary.open("wb") as file:
                    for chunk in _received(url):
                        file.write(chunk)
                if md5 is not None and _md5(temporary) != md5:
                    raise _TransferError("its checksum is not the published one")
            return
        except _TransferError as error:
            problems.append(f"{url}: {error}")
    raise InputError(
        f"{path.name} cannot be downloaded ({'; '.join(problems)}); check the connection, or download it on another"
        f" machine and save it as {path}."
    )


def _received(url: str) -> Iterator[bytes]:
    """Yield the content of `url`; raise _TransferError if it cannot be received whole."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "mmpareto"})  # some servers refuse urllib's own
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            expected, count = response.length, 0  # None if the server does not state it
            with progress(total=expected, unit="B", unit_scale=True, desc=url.rpartition("/")[2]) as bar:
                while chunk := response.read(CHUNK):
                    count += len(chunk)
                    bar.update(len(chunk))
                    yield chunk
        if expected not in (None, count):  # `read` does not complain
            raise _TransferError(f"the connection was closed after {count} of {expected} bytes")
    except (OSError, http.client.HTTPException) as error:
        raise _TransferError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """The reason in a few words, without Python's decoration of it."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
