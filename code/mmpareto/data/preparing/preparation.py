"""Raw samples → a prepared folder: in parallel, restartable, and with a report of what became of every sample.

It knows no data set and no kind of file. A data set lists its samples, says how they are split and what is made of each
(`Making`), and calls `prepare_samples`. One that is prepared in one piece calls `locked`, `write_lists` and
`write_record` itself.
"""

import argparse
import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mmpareto.data.preparing.report import RECORD, Report
from mmpareto.data.preparing.splits import Split
from mmpareto.data.workers import cores, outcomes
from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.progress import progress

RECORD_UNFINISHED = "preparing.json"
CHECKSUMS = "checksums.sha256"


class About(NamedTuple):
    """What the record of a prepared set says about the data set."""

    name: str
    title: str
    synthetic: bool
    classes: tuple[str, ...]


class RawSample(Protocol):
    """A sample as its owners distribute it, and what its preparation needs to know; sent to worker processes."""

    @property
    def name(self) -> str:
        """What its files are called."""

    @property
    def label(self) -> str:
        """Its class."""


class Making(Protocol):
    """What is made of a sample; sent to worker processes."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What the files depend on; a folder made with another value is refused."""

    @property
    def folders(self) -> Sequence[str]:
        """The folders that hold them; a name that begins with a dot is an unfinished file there, and is removed."""

    def is_done(self, sample: Any, out: Path) -> bool:
        """Whether all its files are there."""

    def make(self, sample: Any, out: Path) -> None:
        """Write its files, each whole; nothing where it cannot be used.

        Raises:
            InputError: it cannot be used; the attribute `reason`, if there is one, is the kind of failure.
        """

    def entries(self, out: Path, names: Sequence[str]) -> dict[str, Any]:
        """Further entries of prepared.json, for the samples that are listed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every data set has; `prepare_samples` takes them."""
    parser.add_argument("--out", type=Path, metavar="DIR", help="prepared folder (default: its own in data/)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="parallel processes (default: one a core)")


def prepare_samples(
    samples: Sequence[RawSample],
    split: Split,
    about: About,
    making: Making,
    *,
    out: Path,
    seed: int = 0,
    workers: int | None = None,
    found: int | None = None,
    skipped: Mapping[str, Mapping[str, str]] | None = None,
    origin: Mapping[str, Any] | None = None,
    further: Mapping[str, Any] | None = None,
) -> Report:
    """Prepare those of `samples` that `split` contains, and write the files that list them.

    A second call does what is missing. A sample that cannot be prepared costs a line in the report; the lists contain
    prepared samples only. `prepared.json` is written last.

    Arguments:
        samples: what the raw files hold; a name is there once.
        split: the lists to write.
        about: the data set.
        making: what is made of a sample.
        out: the prepared folder.
        seed: goes into the record.
        workers: processes; by default one for every core that this process may use. 1 works in this process.
        found: samples found, if it is not the number of `samples`.
        skipped: kind of reason → sample → sentence, for what was left out before.
        origin: what else the prepared files depend on; a folder prepared with another value is refused.
        further: entries of prepared.json.

    Raises:
        InputError: no sample could be prepared, `out` holds something else (another data set, or files made
            otherwise), another process is preparing it, or it cannot be written.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers must be at least 1, not {workers}.")
    by_name = {sample.name: sample for sample in samples}
    listed = [name for names in split.parts.values() for name in names]
    report = Report(
        title=about.title,
        out=out,
        found=len(samples) if found is None else found,
        split=split,
        skipped={kind: dict(sentences) for kind, sentences in (skipped or {}).items()},
        missing=[],
        outside=len(by_name.keys() - set(listed)),
    )
    left_out = {name for sentences in report.skipped.values() for name in sentences}
    report.missing = [name for name in listed if name not in by_name and name not in left_out]
    record = {"dataset": about.name, **making.record, "origin": dict(origin or {})}
    with locked(out), _without_partial(out, making.folders):
        earlier(out, record, making.folders)
        if not (out / RECORD).exists():
            write_text(out / RECORD_UNFINISHED, json.dumps(record))
        done = _work([by_name[name] for name in listed if name in by_name], report, making, workers or cores())
        lists = {part: [(n, done[n]) for n in names if n in done] for part, names in split.parts.items()}
        report.counts = write_lists(out, about.classes, lists)
        entries = record | making.entries(out, list(done)) | dict(further or {}) | {"seed": seed}
        write_record(report, about, entries, making.folders)
    return report


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


def write_record(report: Report, about: About, entries: Mapping[str, Any], folders: Sequence[str]) -> None:
    """Write checksums.sha256 (as sha256sum does) of all files in `folders`, and last prepared.json."""
    files = sorted(path for folder in folders for path in (report.out / folder).rglob("*") if path.is_file())
    with ThreadPoolExecutor(cores()) as pool:
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


# --- the work ---


class _Job(NamedTuple):
    sample: Any
    out: Path
    making: Any


class _Outcome(NamedTuple):
    name: str
    reason: str | None
    sentence: str = ""


def _work(samples: Sequence[RawSample], report: Report, making: Making, workers: int) -> dict[str, str]:
    """Do what is missing, with a progress bar; count into `report`; return the samples that are there."""
    started = time.monotonic()
    jobs = [_Job(sample, report.out, making) for sample in samples if not making.is_done(sample, report.out)]
    report.already = len(samples) - len(jobs)
    failed = set()
    with contextlib.closing(outcomes(_run, jobs, workers, _crashed)) as done:
        for outcome in progress(done, total=len(jobs), unit="sample", desc=report.title, disable=not jobs):
            if outcome.reason is None:
                report.prepared += 1
            else:
                failed.add(outcome.name)
                report.skipped.setdefault(outcome.reason, {})[outcome.name] = outcome.sentence
    if len(failed) == len(samples):
        raise InputError(_nothing_prepared(report))
    report.seconds = time.monotonic() - started
    return {sample.name: sample.label for sample in samples if sample.name not in failed}


def _run(job: _Job) -> _Outcome:
    """Prepare one sample. What is wrong with it becomes an outcome; what is wrong with the disk is raised."""
    name = job.sample.name
    try:
        job.making.make(job.sample, job.out)
    except InputError as error:
        return _Outcome(name, getattr(error, "reason", "cannot be used"), f"{name}: {error}")
    except OSError as error:
        if error.filename is None or Path(error.filename).is_relative_to(job.out):  # the disk is full, say
            raise
        return _Outcome(name, "unreadable file", f"{name}: {error.filename}: {error.strerror}")
    except Exception as error:  # whatever a strange file sets off in a decoder: one sample must not end the run
        return _Outcome(name, "unreadable file", f"{name}: {type(error).__name__}: {error}")
    return _Outcome(name, None)


def _crashed(job: _Job) -> _Outcome:
    name = job.sample.name
    return _Outcome(name, "unreadable file", f"{name}: the process that decodes it dies.")


def _nothing_prepared(report: Report) -> str:
    kinds = ", ".join(f"{kind}: {len(names)}" for kind, names in report.skipped.items())
    first = next((sentence for names in report.skipped.values() for sentence in names.values()), "")
    details = f" Skipped: {kinds}; the first: {first}" if kinds else ""
    return f"none of the {report.found} clips found could be prepared in {report.out}.{details}"


# --- the folder ---


@contextlib.contextmanager
def _without_partial(out: Path, folders: Sequence[str]) -> Iterator[None]:
    """Remove what an interrupted run left, and what this one leaves if it is; all of it begins with a dot."""
    _remove_partial(out, folders)
    try:
        yield
    finally:
        _remove_partial(out, folders)


def _remove_partial(out: Path, folders: Sequence[str]) -> None:
    for folder in folders:
        for path in (out / folder).glob(".*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
