"""Writing a prepared folder: its lock, the lists, the checksums, and last of all the record."""

import contextlib
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmpareto.data.preparation.report import RECORD, PreparationReport
from mmpareto.data.workers import available_cores
from mmpareto.errors import InputError, one_line
from mmpareto.files import (
    NO_ROOM,
    file_lock,
    open_regular,
    read_json,
    remove_leftovers,
    write_array,
    write_text,
)
from mmpareto.progress import progress

RECORD_UNFINISHED = "preparing.json"
LISTS = ("stat.csv", "train.csv", "valid.csv", "test.csv", "sources.csv", "uninformative.csv")
CHECKSUMS = "checksums.sha256"
ARRAYS = "arrays"  # folder of the samples of data sets that are prepared as whole arrays
REMARKS = "remarks"  # folder of a file per sample about which there is a remark (`raw.remarks`), one kind per line


class DatasetInfo(NamedTuple):
    """Entries of prepared.json about the data set."""

    name: str
    title: str
    synthetic: bool
    classes: tuple[str, ...]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder and lock it: a second preparation would remove the unfinished files of this one.

    Temporary files that a killed preparation left in the folder itself, and in that of arrays, are removed.

    Raises:
        InputError: another process holds the lock, or a file in the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder, wait=False):
            remove_leftovers(folder, (*LISTS, RECORD, RECORD_UNFINISHED, CHECKSUMS))
            for path in (folder / ARRAYS).glob(".*"):
                path.unlink()
            yield
    except BlockingIOError:
        raise InputError(f"another process is preparing {folder}; wait for it or stop it.") from None
    except OSError as error:
        remedy = f"; {NO_ROOM[error.errno]} and start again, what is prepared is kept" if error.errno in NO_ROOM else ""
        raise InputError(
            f"cannot write to {one_line(error.filename or folder)}: {error.strerror or error}{remedy}."
        ) from error


def finished_record(out: Path, record: Mapping[str, Any], folders: Sequence[str]) -> dict[str, Any] | None:
    """Return prepared.json if this preparation has finished in `out`; None if it has not begun or not finished.

    Arguments:
        record: everything that the prepared files depend on.
        folders: folders of the prepared files.

    Raises:
        InputError: `out` contains anything else; no file of the user's is overwritten or deleted.
    """
    path = next((out / name for name in (RECORD, RECORD_UNFINISHED) if (out / name).exists()), None)
    remedy = f"Choose another --out, or delete {out}"
    if path is None:
        lists = any((out / f"{name}.csv").exists() for name in ("stat", "train", "test"))
        if lists or any(True for folder in folders for _ in (out / folder).glob("[!.]*")):
            raise InputError(f"{out} contains files that other software prepared, without a record. {remedy}.")
        return None
    try:
        before = read_json(path)
        difference = _difference(before, record)
    except (OSError, ValueError, AttributeError):
        raise InputError(f"{path} is damaged. {remedy}.") from None
    if difference is not None:
        raise InputError(f"{out} was prepared with {difference}. {remedy}.")
    return before if path.name == RECORD else None


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first entry of `now` that has another value in `before`, in words."""
    for key, value in now.items():
        old = before.get(key, {})
        if old != value:
            deeper = _difference(old, value) if isinstance(old, dict) and isinstance(value, dict) and old else None
            return f"{key}: {deeper}" if deeper else f"{key} {old}, not {value}"
    return None


def write_remarks(out: Path, name: str, kinds: Iterable[str]) -> None:
    """Add kinds of remark about a sample; call it before the sample's own files are written.

    They are in a file, so that the report of a preparation that was interrupted has those from before, too.
    """
    path, kinds = out / REMARKS / f"{name}.txt", {*kinds}
    if kinds:
        before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        write_text(path, "".join(f"{kind}\n" for kind in sorted({*before, *kinds})))


def read_remarks(out: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """Return kind of remark → samples, of those in `names`."""
    wanted, remarks = {*names}, dict[str, list[str]]()
    for path in sorted((out / REMARKS).glob("[!.]*.txt")):
        for kind in path.read_text(encoding="utf-8").splitlines() if path.stem in wanted else ():
            remarks.setdefault(kind, []).append(path.stem)
    return dict(sorted(remarks.items()))


def write_lists(
    out: Path, classes: Iterable[str], lists: Mapping[Any, Sequence[tuple[str, str]]]
) -> dict[str, dict[str, int]]:
    """Write stat.csv, and one list of (sample, class) per part ("train", "test", …).

    Returns:
        Part → class → number of samples, with the classes sorted: a label is an index into the sorted names.
    """
    classes = sorted(classes)
    write_csvs(out, classes, lists)
    counted = {part: Counter(label for _, label in lines) for part, lines in lists.items()}
    return {part: {label: counts[label] for label in classes} for part, counts in counted.items()}


def write_csvs(out: Path, classes: Iterable[str], lists: Mapping[Any, Sequence[Sequence[str]]]) -> None:
    """Write stat.csv with the classes, in their order, and one list per part."""
    write_text(out / "stat.csv", _csv([label] for label in classes))
    for part, lines in lists.items():
        write_text(out / f"{part}.csv", _csv(lines))


def _csv(rows: Iterable[Sequence[str]]) -> str:
    """Format as CSV; a class with a comma in its name ("vehicle horn, car horn, honking") is quoted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write <name>.npy of each array."""
    for name, values in arrays.items():
        write_array(folder / f"{name}.npy", values.dtype, values.shape, [values])


def write_record(
    report: PreparationReport, info: DatasetInfo, entries: Mapping[str, Any], folders: Sequence[str]
) -> None:
    """Write checksums.sha256 (in the format of sha256sum) of all files in `folders`, and last prepared.json."""
    files = sorted(path for folder in folders for path in (report.out / folder).rglob("*") if path.is_file())
    with ThreadPoolExecutor(available_cores()) as pool:
        sums = list(progress(pool.map(sha256, files), total=len(files), unit="file", desc="checksums", disable=None))
    lines = [f"{digest}  {path.relative_to(report.out)}\n" for digest, path in zip(sums, files, strict=True)]
    write_text(report.out / CHECKSUMS, "".join(lines))
    content = {
        "dataset": info.name,
        "title": info.title,
        "synthetic": info.synthetic,
        "split": report.split.sentence,
        "official_split": report.split.official,
        "clips": report.totals,
        **entries,
        "skipped": {kind: sorted(names) for kind, names in report.skipped.items()},
        "missing": report.missing,
        **({"remarks": report.remarks} if report.remarks else {}),
    }
    write_text(report.out / RECORD, json.dumps(content, indent=1) + "\n")
    (report.out / RECORD_UNFINISHED).unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
