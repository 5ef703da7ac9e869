"""Finding raw files, however their folders are arranged, and reading the lists that come with them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from mmpareto.errors import InputError

Key = TypeVar("Key")


def files_below(folder: Path, suffix: str, title: str, page: str) -> list[Path]:
    """The files of `folder` that end with `suffix` (".mp4"), at any depth, in order of their paths.

    Hidden files are left out (._x.mp4 is what macOS leaves on other disks). Links are followed, but not in circles.

    Raises:
        InputError: the folder is not there, cannot be read, or holds no such file; it names the data set's page.
    """
    if not folder.is_dir():
        raise InputError(f"the raw folder {folder} is not there; {title} can be had from {page}.")
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        status = os.stat(place)  # noqa: PTH116 (os.walk gives strings)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        found += [Path(place, name) for name in names if name.lower().endswith(suffix) and not name.startswith(".")]
    if not found:
        raise InputError(f"{folder} holds no {suffix} file; {title} can be had from {page}.")
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise InputError(f"the raw folder {error.filename} cannot be read: {error.strerror}.") from error


def by_key(
    paths: Iterable[Path], key: Callable[[str], Key | None], form: str
) -> tuple[dict[Key, Path], dict[str, dict[str, str]]]:
    """Files by what their names say.

    Arguments:
        paths: of the files.
        key: what a name without its suffix says; None where it is not of the form.
        form: for people.

    Returns:
        Key → file, the first where there are several; and what is left out: kind of reason → file → sentence.
    """
    files: dict[Key, Path] = {}
    left_out: dict[str, dict[str, str]] = {}
    for path in paths:
        found = key(path.stem)
        if found is None:
            left_out.setdefault("name not of the form", {})[str(path)] = f"{path} is not {form}"
        elif found in files:
            left_out.setdefault("the same clip again", {})[str(path)] = f"{path} is the clip of {files[found]}"
        else:
            files[found] = path
    return files, left_out


def holding(places: Iterable[Path], names: Sequence[str]) -> Path | None:
    """The first of `places` that holds files of all these names."""
    return next((place for place in places if all((place / name).is_file() for name in names)), None)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file (UTF-8) that are not blank, without the blanks around them, and their numbers.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()
