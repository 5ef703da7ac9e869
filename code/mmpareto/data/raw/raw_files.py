"""Finding raw files, however their folders are arranged, and reading the lists that accompany them."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from mmpareto.errors import InputError, first_few
from mmpareto.files import open_text

Key = TypeVar("Key")
YOUTUBE_ID = r"[\w-]{11}"  # a regular expression, ASCII; "-" and "_" may be anywhere in an id


class YouTubeClip(NamedTuple):
    """Identity of a clip cut from a YouTube video; file names and lists write it in different ways."""

    video: str
    start: int
    """Seconds."""

    def __str__(self) -> str:
        return f"{self.video}_{self.start:06d}"


MEDIA_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".f4v", ".wmv", ".asf", ".mpg", ".mpeg", ".m2v"),
        *(".ts", ".mts", ".m2ts", ".vob", ".3gp", ".3g2", ".ogv", ".mxf", ".dv", ".divx", ".rm", ".rmvb", ".y4m"),
        *(".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".wma", ".amr", ".au"),
        *(".caf", ".mka", ".ac3", ".w64"),
    )
)


def find_files(
    folder: Path, suffix: str, key: Callable[[str], Key | None], *, form: str, title: str, page: str
) -> tuple[dict[Key, Path], dict[str, dict[str, str]]]:
    """Find the files below `folder`, at any depth, that end with `suffix`, and read their names.

    Hidden files are ignored (macOS writes ._x.mp4 on foreign disks). Links are followed, but not in circles.

    Arguments:
        suffix: for example ".mp4"; case is ignored.
        key: maps a name without its suffix to the clip in the file; None if the name is not of the expected form.
        form: the expected form, for messages.
        title, page: of the data set, for messages.

    Returns:
        Key → file, in order of path, the first of several with one key; and what is skipped, reason → file → sentence.
        The reasons are recorded in prepared.json, so their wording is part of that format.

    Raises:
        InputError: the folder does not exist, cannot be read, or has no such file.
    """
    files: dict[Key, Path] = {}
    skipped: dict[str, dict[str, str]] = {}
    for path in _files_below(folder, suffix, title, page):
        clip = key(path.stem)
        if clip is None:
            skipped.setdefault("name not of the form", {})[str(path)] = f"{path} is not {form}"
        elif clip in files:
            skipped.setdefault("the same clip again", {})[str(path)] = f"{path} is the same clip as {files[clip]}"
        else:
            files[clip] = path
    return files, skipped


def _files_below(folder: Path, suffix: str, title: str, page: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"the raw folder {folder} does not exist; get {title} from {page}.")
    paths = [path for path in _files(folder) if path.name.lower().endswith(suffix)]
    if not paths:
        raise InputError(f"{folder} has no {suffix} file; get {title} from {page}.")
    return paths


def visible_files(folder: Path) -> list[Path]:
    """All files below `folder`, in order of path, without hidden ones and those in hidden folders.

    Links are followed, but not in circles.

    Raises:
        InputError: a folder cannot be read.
    """

    def is_visible(path: Path) -> bool:
        return not any(word.startswith(".") or word == "__MACOSX" for word in path.relative_to(folder).parts)

    return [path for path in _files(folder) if is_visible(path)]


def _files(folder: Path) -> list[Path]:
    """All files below a folder whose names do not begin with a dot."""
    paths: list[Path] = []
    visited = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True, onerror=_raise_unreadable):
        status = os.stat(parent)  # noqa: PTH116 (os.walk yields strings)
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        paths += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(paths)


def _raise_unreadable(error: OSError) -> None:
    raise InputError(f"the raw folder {error.filename} cannot be read: {error.strerror}.") from error


def check_listed(files: Collection[object], listed: Collection[object], raw: Path, title: str, page: str) -> None:
    """Raise InputError if none of the clips `files`, found in `raw`, is among those of the data set's lists."""
    if not any(clip in listed for clip in files):
        raise InputError(f"{raw} has no clip that {title}'s lists name: {names_of_both(listed, files)}; see {page}.")


def names_of_both(listed: Collection[object], files: Collection[object]) -> str:
    """Describe the names in a list and those of the clips found, for an error about their having none in common."""
    if not listed:
        return f"they list nothing, and the {len(files)} clips found are {first_few(map(str, files), 2)}"
    return f"they list {first_few(map(str, listed), 2)}, and the clips found are {first_few(map(str, files), 2)}"


def first_folder_with(folders: Iterable[Path], names: Sequence[str]) -> Path | None:
    """The first of `folders` that has files of all these names."""
    return next((folder for folder in folders if all((folder / name).is_file() for name in names)), None)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the stripped text of every line of a UTF-8 file that is not blank.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with open_text(path) as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()
