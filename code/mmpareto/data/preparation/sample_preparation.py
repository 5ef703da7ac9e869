"""Raw samples → a prepared folder: in parallel, restartable, and with a report of what became of every sample.

It knows no data set and no kind of file. A data set lists its samples, says how they are split and what is made of each
(`SampleBuilder`), and calls `prepare_samples`. One that is prepared in one piece calls `locked`, `write_lists` and
`write_record` itself.
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
    DatasetInfo,
    earlier,
    locked,
    write_lists,
    write_record,
)
from mmpareto.data.preparation.report import RECORD, Report
from mmpareto.data.preparation.splits import Split
from mmpareto.data.workers import available_cores, outcomes
from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.progress import progress


class RawSample(Protocol):
    """A sample as its owners distribute it, and what its preparation needs to know; sent to worker processes."""

    @property
    def name(self) -> str:
        """What its files are called."""

    @property
    def label(self) -> str:
        """Its class."""


class SampleBuilder(Protocol):
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
    about: DatasetInfo,
    making: SampleBuilder,
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
        done = _work(
            [by_name[name] for name in listed if name in by_name], report, making, workers or available_cores()
        )
        lists = {part: [(n, done[n]) for n in names if n in done] for part, names in split.parts.items()}
        report.counts = write_lists(out, about.classes, lists)
        entries = record | making.entries(out, list(done)) | dict(further or {}) | {"seed": seed}
        write_record(report, about, entries, making.folders)
    return report


# --- the work ---


class _Job(NamedTuple):
    sample: Any
    out: Path
    making: Any


class _Outcome(NamedTuple):
    name: str
    reason: str | None
    sentence: str = ""


def _work(samples: Sequence[RawSample], report: Report, making: SampleBuilder, workers: int) -> dict[str, str]:
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
