"""Raw samples → a prepared folder: in parallel, resumable, and with a report on every sample.

Independent of any data set and file format: a data set lists its samples and their split, defines the files of a sample
(`SampleBuilder`), and calls `prepare_samples`. Data sets that are prepared in one piece use `prepared_folder` directly.
"""

import argparse
import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mmpareto.data.preparation.prepared_folder import (
    RECORD_UNFINISHED,
    REMARKS,
    DatasetInfo,
    finished_record,
    locked,
    read_remarks,
    write_lists,
    write_record,
)
from mmpareto.data.preparation.report import RECORD, PreparationReport
from mmpareto.data.preparation.splits import Split
from mmpareto.data.raw.raw_files import names_of_both
from mmpareto.data.workers import available_cores, outcomes
from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.progress import progress


class RawSample(Protocol):
    """A sample as its owners distribute it, with all that its `SampleBuilder` needs; sent to worker processes."""

    @property
    def name(self) -> str:
        """Name of its prepared files."""

    @property
    def label(self) -> str:
        """Name of its class."""


class SampleBuilder(Protocol):
    """Writes the prepared files of a sample; sent to worker processes."""

    @property
    def record(self) -> Mapping[str, Any]:
        """Options that the files depend on; a folder prepared with other values is refused."""

    @property
    def folders(self) -> Sequence[str]:
        """Folders of the files. Names there that begin with a dot are unfinished files, and are removed."""

    def is_done(self, sample: Any, out: Path) -> bool:
        """Return whether all files of a sample exist."""

    def build(self, sample: Any, out: Path) -> None:
        """Write the files of a sample, each atomically; none if it cannot be used.

        Raises:
            InputError: it cannot be used; the attribute `reason`, if present, is the kind of failure.
        """

    def entries(self, out: Path, names: Sequence[str]) -> dict[str, Any]:
        """Return further entries of prepared.json, for the listed samples."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every data set that `prepare_samples` prepares."""
    parser.add_argument("--out", type=Path, metavar="DIR", help="prepared folder (default: data/NAME)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="parallel processes (default: one per core)")


def prepare_samples(
    samples: Sequence[RawSample],
    split: Split,
    info: DatasetInfo,
    builder: SampleBuilder,
    *,
    out: Path,
    seed: int = 0,
    workers: int | None = None,
    found: int | None = None,
    skipped: Mapping[str, Mapping[str, str]] | None = None,
    origin: Mapping[str, Any] | None = None,
    entries: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> PreparationReport:
    """Prepare those of `samples` that `split` contains, and write the lists of them.

    A second call prepares only what is missing. A sample that cannot be prepared is reported and left out of the lists.
    `prepared.json` is written last.

    Arguments:
        samples: the raw samples, with unique names.
        split: the lists to write.
        info: entries of prepared.json about the data set.
        builder: writes the files of a sample.
        out: the prepared folder.
        seed: recorded in prepared.json.
        workers: number of processes, by default one per available core; 1 works in this process.
        found: number of samples found, if it is not that of `samples`.
        skipped: reason → sample → sentence, of samples that were left out before.
        origin: anything else that the prepared files depend on; a folder prepared with another value is refused.
        entries: further entries of prepared.json.
        notes: further lines of the report.

    Raises:
        InputError: two samples have one name, no sample could be prepared, `out` contains something else (another data
            set, or files prepared with other options), another process is preparing it, or it cannot be written.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers must be at least 1, not {workers}.")
    by_name = _by_name(samples)
    listed = [name for names in split.parts.values() for name in names]
    report = PreparationReport(
        title=info.title,
        out=out,
        found=len(samples) if found is None else found,
        split=split,
        skipped={reason: dict(sentences) for reason, sentences in (skipped or {}).items()},
        missing=[],
        outside=len(by_name.keys() - set(listed)),
        notes=notes,
    )
    left_out = {name for sentences in report.skipped.values() for name in sentences}
    report.missing = [name for name in listed if name not in by_name and name not in left_out]
    record = {"dataset": info.name, **builder.record, "origin": dict(origin or {})}
    wanted = [by_name[name] for name in listed if name in by_name]
    if samples and not wanted:
        names = names_of_both(listed, list(by_name))
        raise InputError(f"no clip found is in the lists of the split ({split.sentence}): {names}.")
    with locked(out), _removing_partial_files(out, [*builder.folders, REMARKS]):
        finished_record(out, record, builder.folders)  # raises if `out` contains something else
        if not (out / RECORD).exists():
            write_text(out / RECORD_UNFINISHED, json.dumps(record))
        labels = _prepare_missing(wanted, report, builder, workers or available_cores())
        lists = {part: [(n, labels[n]) for n in names if n in labels] for part, names in split.parts.items()}
        report.counts = write_lists(out, info.classes, lists)
        report.remarks = read_remarks(out, labels)
        recorded = record | builder.entries(out, list(labels)) | dict(entries or {}) | {"seed": seed}
        write_record(report, info, recorded, builder.folders)
    return report


def _by_name(samples: Sequence[RawSample]) -> dict[str, RawSample]:
    """Name → sample. Of two samples with one name, the files of one would be those of the other, and one be lost."""
    by_name: dict[str, RawSample] = {}
    for sample in samples:
        if sample.name in by_name:
            raise InputError(f"two samples have the name {sample.name!r} and would share prepared files; rename one.")
        by_name[sample.name] = sample
    return by_name


class _Job(NamedTuple):
    sample: Any
    out: Path
    builder: Any


class _Outcome(NamedTuple):
    name: str
    reason: str | None
    sentence: str = ""


def _prepare_missing(
    samples: Sequence[RawSample], report: PreparationReport, builder: SampleBuilder, workers: int
) -> dict[str, str]:
    """Prepare what is missing, update `report`, and return name → label of all prepared samples."""
    started = time.monotonic()
    jobs = [_Job(sample, report.out, builder) for sample in samples if not builder.is_done(sample, report.out)]
    report.already = len(samples) - len(jobs)
    failed = set()
    with contextlib.closing(outcomes(_run, jobs, workers, _crashed)) as results:
        for outcome in progress(results, total=len(jobs), unit="sample", desc=report.title, disable=not jobs):
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
    """Prepare one sample. A problem with the sample becomes an outcome; one with the disk is raised."""
    name = job.sample.name
    try:
        job.builder.build(job.sample, job.out)
    except InputError as error:
        return _Outcome(name, getattr(error, "reason", "cannot be used"), f"{name}: {error}")
    except OSError as error:
        if error.filename is None or Path(error.filename).is_relative_to(job.out):  # for example, the disk is full
            raise
        return _Outcome(name, "unreadable file", f"{name}: {error.filename}: {error.strerror}")
    except Exception as error:  # a strange file may cause any exception in a decoder; it must not end the run
        return _Outcome(name, "unreadable file", f"{name}: {type(error).__name__}: {error}")
    return _Outcome(name, None)


def _crashed(job: _Job) -> _Outcome:
    name = job.sample.name
    return _Outcome(name, "unreadable file", f"{name}: it crashes the process that decodes it.")


def _nothing_prepared(report: PreparationReport) -> str:
    reasons = ", ".join(f"{reason}: {len(names)}" for reason, names in report.skipped.items())
    first = next((sentence for names in report.skipped.values() for sentence in names.values()), "")
    details = f" Skipped: {reasons}; the first: {first}" if reasons else ""
    return f"none of the {report.found} clips found could be prepared in {report.out}.{details}"


@contextlib.contextmanager
def _removing_partial_files(out: Path, folders: Sequence[str]) -> Iterator[None]:
    """Remove, on entry and exit, the files that an interrupted run leaves; their names begin with a dot."""
    _remove_partial_files(out, folders)
    try:
        yield
    finally:
        _remove_partial_files(out, folders)


def _remove_partial_files(out: Path, folders: Sequence[str]) -> None:
    for folder in folders:
        for path in (out / folder).glob(".*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
