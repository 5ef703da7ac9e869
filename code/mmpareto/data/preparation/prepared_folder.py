"""Writing a prepared folder: the lock, the lists, the checksums, and the record that is written last."""

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mmpareto.data.preparation.report import RECORD, Report
from mmpareto.data.workers import available_cores
from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.progress import progress

RECORD_UNFINISHED = "preparing.json"
CHECKSUMS = "checksums.sha256"


class DatasetInfo(NamedTuple):
    """What the record of a prepared set says about the data set."""

    name: str
    title: str
    synthetic: bool
    classes: tuple[str, ...]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and keep a second preparation, which would remove this one's unfinished files, away from it.

    Raises:
        InputError: another process is at it, or something in it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"another process is preparing {folder}; wait for it or stop it.") from None
            yield
        finally:
            os.close(handle)
    except OSError as error:
        raise InputError(f"cannot write to {error.filename or folder}: {error.strerror or error}.") from error


def earlier(out: Path, record: Mapping[str, Any], folders: Sequence[str]) -> dict[str, Any] | None:
    """prepared.json where this very preparation has ended in `out`; None where it has not begun, or not ended.

    Arguments:
        record: what the prepared files depend on.
        folders: that hold them.

    Raises:
        InputError: something else is there: nothing of the user's is overwritten or deleted.
    """
    path = next((out / name for name in (RECORD, RECORD_UNFINISHED) if (out / name).exists()), None)
    remedy = f"Give another --out, or delete {out}"
    if path is None:
        lists = any((out / f"{name}.csv").exists() for name in ("stat", "train", "test"))
        if lists or any(True for folder in folders for _ in (out / folder).glob("[!.]*")):
            raise InputError(f"{out} holds files that something else prepared, and does not say how. {remedy}.")
        return None
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        difference = _difference(before, record)
    except (ValueError, AttributeError):
        raise InputError(f"{path} is damaged. {remedy}.") from None
    if difference is not None:
        raise InputError(f"{out} was prepared with {difference}. {remedy}.")
    return before if path.name == RECORD else None


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first entry of `now` that was another one before, in words."""
    for key, value in now.items():
        old = before.get(key, {})
        if old != value:
            deeper = _difference(old, value) if isinstance(old, dict) and isinstance(value, dict) and old else None
            return f"{key}: {deeper}" if deeper else f"{key} {old}, not {value}"
    return None


def write_lists(
    out: Path, classes: Iterable[str], lists: Mapping[str, Sequence[tuple[str, str]]]
) -> dict[str, dict[str, int]]:
    """Write stat.csv and a list a part ("train", "test", …) of (sample, class).

    Returns:
        Part → class → number of samples. A label is a class's place in the sorted names, so they are sorted here.
    """
    classes = sorted(classes)
    write_text(out / "stat.csv", _csv([label] for label in classes))
    for part, lines in lists.items():
        write_text(out / f"{part}.csv", _csv(lines))
    counted = {part: Counter(label for _, label in lines) for part, lines in lists.items()}
    return {part: {label: counts[label] for label in classes} for part, counts in counted.items()}


def _csv(rows: Iterable[Sequence[str]]) -> str:
    """As CSV; a class with a comma in its name ("vehicle horn, car horn, honking") is put into quotation marks."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_record(report: Report, about: DatasetInfo, entries: Mapping[str, Any], folders: Sequence[str]) -> None:
    """Write checksums.sha256 (as sha256sum does) of all files in `folders`, and last prepared.json."""
    files = sorted(path for folder in folders for path in (report.out / folder).rglob("*") if path.is_file())
    with ThreadPoolExecutor(available_cores()) as pool:
        sums = list(progress(pool.map(sha256, files), total=len(files), unit="file", desc="checksums", disable=None))
    lines = [f"{digest}  {path.relative_to(report.out)}\n" for digest, path in zip(sums, files, strict=True)]
    write_text(report.out / CHECKSUMS, "".join(lines))
    content = {
        "dataset": about.name,
        "title": about.title,
        "synthetic": about.synthetic,
        "split": report.split.sentence,
        "official_split": report.split.official,
        "clips": {part: sum(counts.values()) for part, counts in report.counts.items()},
        **entries,
        "skipped": {kind: sorted(names) for kind, names in report.skipped.items()},
        "missing": report.missing,
    }
    write_text(report.out / RECORD, json.dumps(content, indent=1) + "\n")
    (report.out / RECORD_UNFINISHED).unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
