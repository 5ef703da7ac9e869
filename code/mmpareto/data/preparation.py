"""Raw clips → the prepared layout: in parallel, restartable, and with a report of what became of every clip.

It knows no data set. A data set lists its clips (`RawClip`), says how they are split, and calls `prepare_clips`.
What decoding and the features need is imported where a clip is worked on: the process that only hands out the
work, and `--help`, do without torch.
"""

import argparse
import contextlib
import fcntl
import io
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmpareto.data.feature_files import FEATURE_FILES
from mmpareto.data.splits import Split
from mmpareto.data.workers import cores, outcomes
from mmpareto.errors import InputError
from mmpareto.files import whole_file, write_text
from mmpareto.progress import progress

FRAMES = "visual"
RECORD, RECORD_UNFINISHED = "prepared.json", "preparing.json"
NAMES_SHOWN = 20
AUDIO_CHOICES = {"fbank": ("fbank",), "spectrogram": ("spectrogram",), "both": ("fbank", "spectrogram")}


class RawClip(NamedTuple):
    """A clip as its owners distribute it: the file with its sound and the file with its pictures may be one."""

    name: str
    label: str
    audio_path: Path
    video_path: Path


class About(NamedTuple):
    """What the record of a prepared set says about the data set."""

    name: str
    title: str
    synthetic: bool
    classes: tuple[str, ...]


@dataclass
class Report:
    """What became of every clip.

    Attributes:
        title, out: the data set and its prepared folder.
        found: clips found in the raw files, whatever became of them.
        prepared, already: clips of the split that were prepared now, or had been before.
        skipped: kind of reason → clip (or file) → sentence.
        missing: clips of the split that are not among the raw files.
        outside: clips found that the split does not contain; they are not prepared.
        counts: "train", "test" → class → clips prepared.
        split: how the split was made.
        seconds: how long the work took.
    """

    title: str
    out: Path
    found: int
    split: Split
    skipped: dict[str, dict[str, str]]
    missing: list[str]
    outside: int
    prepared: int = 0
    already: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every clip of the raw files and of the split is there."""
        return not self.skipped and not self.missing

    def text(self) -> str:
        """The report for people."""
        rate = f", {self.prepared / self.seconds:.1f} a second" if self.prepared and self.seconds else ""
        lines = [
            f"{self.title} in {self.out}",
            f"clips found      {self.found}",
            f"prepared now     {self.prepared} (in {self.seconds:.0f} s{rate})",
            f"already there    {self.already}",
            f"skipped          {sum(len(names) for names in self.skipped.values())}",
        ]
        for kind, sentences in self.skipped.items():
            lines += [f"  {kind}: {len(sentences)}", *_shortened([f"    {sentences[n]}" for n in sorted(sentences)])]
        if self.outside:
            lines.append(f"not in the split {self.outside} (left out)")
        lines += [f"split            {self.split.sentence}", *(f"  {check}" for check in self.split.checks)]
        if self.missing:
            lines.append(f"clips of the split that are not among the raw files: {len(self.missing)}")
            lines += _shortened([f"    {name}" for name in self.missing])
        return "\n".join([*lines, *self._table()])

    def _table(self) -> list[str]:
        rows = [(label, *(self.counts[part][label] for part in self.counts)) for label in self.counts["train"]]
        rows.append(("all", *(sum(self.counts[part].values()) for part in self.counts)))
        width = max(len("class"), *(len(str(row[0])) for row in rows))
        header = f"{'class':{width}}" + "".join(f"{part:>8}" for part in self.counts)
        return [header, *(f"{row[0]:{width}}" + "".join(f"{count:8}" for count in row[1:]) for row in rows)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every data set of clips has; `prepare_clips` takes them, `workers` and `seed` included."""
    parser.add_argument("--out", type=Path, metavar="DIR", help="prepared folder (default: its own in data/)")
    parser.add_argument("--fps", type=int, default=1, help="frames kept a second (default: %(default)s)")
    parser.add_argument(
        "--audio",
        type=_audio_kinds,
        default="fbank",
        metavar="|".join(AUDIO_CHOICES),
        help="audio feature to prepare (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="parallel processes (default: one a core)")


def _audio_kinds(choice: str) -> tuple[str, ...]:
    if choice not in AUDIO_CHOICES:
        raise argparse.ArgumentTypeError(f"{choice!r} is none of {', '.join(AUDIO_CHOICES)}")
    return AUDIO_CHOICES[choice]


def prepare_clips(
    clips: Sequence[RawClip],
    split: Split,
    about: About,
    *,
    out: Path,
    fps: int = 1,
    audio: Sequence[str] = ("fbank",),
    seed: int = 0,
    workers: int | None = None,
    found: int | None = None,
    skipped: Mapping[str, Mapping[str, str]] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Report:
    """Prepare those of `clips` that `split` contains, and write the files that list them.

    A clip's files appear under their names when they are whole: features through a temporary file, frames in a
    folder that is renamed as the last step. A second call does what is missing. A clip that cannot be prepared
    costs a line in the report; the lists contain prepared clips only. `prepared.json` is written last.

    Arguments:
        clips: what the raw files hold; a name is there once.
        split: the lists to write.
        about: the data set.
        out: the prepared folder.
        fps: frames kept a second.
        audio: names of audio features, see FEATURE_FILES.
        seed: goes into the record.
        workers: processes; by default one for every core that this process may use. 1 works in this process.
        found: clips found, if it is not the number of `clips`.
        skipped: kind of reason → clip → sentence, for what was left out before.
        origin: what else the prepared files depend on; a folder prepared with another value is refused.

    Raises:
        InputError: no clip could be prepared, `out` holds something else (another data set, frames at another
            rate, another `origin`), another process is preparing it, or it cannot be written.
    """
    for option, value in (("fps", fps), ("workers", 1 if workers is None else workers)):
        if value < 1:
            raise InputError(f"--{option} must be at least 1, not {value}.")
    by_name = {clip.name: clip for clip in clips}
    listed = [*split.train, *split.test]
    report = Report(
        title=about.title,
        out=out,
        found=len(clips) if found is None else found,
        split=split,
        skipped={kind: dict(sentences) for kind, sentences in (skipped or {}).items()},
        missing=[],
        outside=len(by_name.keys() - set(listed)),
    )
    left_out = {name for sentences in report.skipped.values() for name in sentences}
    report.missing = [name for name in listed if name not in by_name and name not in left_out]
    record = {"dataset": about.name, "fps": fps, "origin": dict(origin or {})}
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out), _without_partial(out):
            _check_same(out, record)
            if not (out / RECORD).exists():
                write_text(out / RECORD_UNFINISHED, json.dumps(record))
            done = _work([by_name[name] for name in listed if name in by_name], report, fps, audio, workers or cores())
            _write_lists(report, about, done)
            _write_record(report, about, record, list(done), seed)
    except OSError as error:
        raise InputError(f"cannot write to {error.filename or out}: {error.strerror or error}.") from error
    return report


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second preparation of the same folder, which would remove this one's partial files, away.

    Raises:
        InputError: another process is at it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is preparing {folder}; wait for it or stop it.") from None
        yield
    finally:
        os.close(handle)


class _Job(NamedTuple):
    clip: RawClip
    out: Path
    fps: int
    audio: tuple[str, ...]  # features that are missing
    frames: bool  # whether the frames are missing


class _Outcome(NamedTuple):
    name: str
    reason: str | None
    sentence: str = ""


def _work(clips: Sequence[RawClip], report: Report, fps: int, audio: Sequence[str], workers: int) -> dict[str, str]:
    """Do what is missing of `clips`, with a progress bar; count into `report`; return the clips that are there."""
    started = time.monotonic()
    jobs = [job for clip in clips if (job := _job(clip, report.out, fps, audio)) is not None]
    report.already = len(clips) - len(jobs)
    failed = set()
    with contextlib.closing(outcomes(_run, jobs, workers, _crashed)) as done:
        for outcome in progress(done, total=len(jobs), unit="clip", desc=report.title, disable=not jobs):
            if outcome.reason is None:
                report.prepared += 1
            else:
                failed.add(outcome.name)
                report.skipped.setdefault(outcome.reason, {})[outcome.name] = outcome.sentence
    if len(failed) == len(clips):
        raise InputError(_nothing_prepared(report))
    report.seconds = time.monotonic() - started
    return {clip.name: clip.label for clip in clips if clip.name not in failed}


def _job(clip: RawClip, out: Path, fps: int, audio: Sequence[str]) -> _Job | None:
    """What is to be done for `clip`, or None when all of it is there."""
    missing = tuple(kind for kind in audio if not _feature_path(out, kind, clip.name).exists())
    frames = not (out / FRAMES / clip.name / "frame_00001.jpg").exists()
    return _Job(clip, out, fps, missing, frames) if missing or frames else None


def _feature_path(out: Path, kind: str, name: str) -> Path:
    return out / FEATURE_FILES[kind].folder / f"{name}.pt"


def _run(job: _Job) -> _Outcome:
    """Prepare one clip. What is wrong with the clip becomes an outcome; what is wrong with the disk is raised."""
    import torch

    from mmpareto.data.features import FEATURES
    from mmpareto.data.media import encode_jpeg, read_audio, read_frames

    clip = job.clip
    try:
        features = {}
        if job.audio:
            waveform, rate = read_audio(clip.audio_path)
            features = {kind: FEATURES[kind].of(waveform, rate) for kind in job.audio}
        frames = [encode_jpeg(frame) for frame in read_frames(clip.video_path, job.fps)] if job.frames else []
    except InputError as error:
        return _Outcome(clip.name, getattr(error, "reason", "cannot be used"), f"{clip.name}: {error}")
    except Exception as error:  # whatever a strange file sets off in a decoder: one clip must not end the run
        return _Outcome(clip.name, "unreadable file", f"{clip.name}: {type(error).__name__}: {error}")
    # Nothing is written before everything could be read: a skipped clip leaves nothing behind.
    for kind, feature in features.items():
        buffer = io.BytesIO()  # given a path, torch would put the temporary name into the file
        torch.save(feature.contiguous(), buffer)
        with whole_file(_feature_path(job.out, kind, clip.name)) as temporary:
            temporary.write_bytes(buffer.getvalue())
    if frames:
        _write_frames(job.out / FRAMES, clip.name, frames)
    return _Outcome(clip.name, None)


def _write_frames(folder: Path, name: str, frames: Sequence[bytes]) -> None:
    partial = folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        (partial / f"frame_{number:05d}.jpg").write_bytes(frame)
    shutil.rmtree(folder / name, ignore_errors=True)  # a folder without its first frame
    partial.rename(folder / name)


def _crashed(job: _Job) -> _Outcome:
    name = job.clip.name
    return _Outcome(name, "unreadable file", f"{name}: the process that decodes it dies.")


@contextlib.contextmanager
def _without_partial(out: Path) -> Iterator[None]:
    """Remove what an interrupted run left, and what this one leaves if it is; all of it begins with a dot."""
    _remove_partial(out)
    try:
        yield
    finally:
        _remove_partial(out)


def _remove_partial(out: Path) -> None:
    for folder in (FRAMES, *(files.folder for files in FEATURE_FILES.values())):
        for path in (out / folder).glob(".*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _check_same(out: Path, record: Mapping[str, Any]) -> None:
    """Refuse a folder whose files are not what this preparation would make: nothing of the user's is deleted."""
    path = next((out / name for name in (RECORD, RECORD_UNFINISHED) if (out / name).exists()), None)
    remedy = f"Give another --out, or delete {out}"
    if path is None:
        if any((out / FRAMES).glob("[!.]*")):
            raise InputError(f"{out} holds frames that something else prepared, at a rate it does not say. {remedy}.")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = next((key for key in record if before.get(key, {}) != record[key]), None)
    except (ValueError, AttributeError):
        raise InputError(f"{path} is damaged. {remedy}.") from None
    if differing is not None:
        raise InputError(
            f"{out} was prepared with {differing} {before.get(differing)}, not {record[differing]}. {remedy}."
        )


def _write_lists(report: Report, about: About, done: Mapping[str, str]) -> None:
    """stat.csv, train.csv and test.csv. A label is a class's place in the sorted names, so they are sorted here."""
    classes = sorted(about.classes)
    write_text(report.out / "stat.csv", "".join(f"{label}\n" for label in classes))
    for part, names in (("train", report.split.train), ("test", report.split.test)):
        lines = [(name, done[name]) for name in names if name in done]
        write_text(report.out / f"{part}.csv", "".join(f"{name},{label}\n" for name, label in lines))
        counts = Counter(label for _, label in lines)
        report.counts[part] = {label: counts[label] for label in classes}


def _write_record(report: Report, about: About, record: Mapping[str, Any], clips: Sequence[str], seed: int) -> None:
    """prepared.json. A feature counts as prepared when every listed clip has it, now or from an earlier run."""
    kinds = [kind for kind in FEATURE_FILES if all(_feature_path(report.out, kind, name).exists() for name in clips)]
    entries = {
        "dataset": about.name,
        "title": about.title,
        "synthetic": about.synthetic,
        "split": report.split.sentence,
        "official_split": report.split.official,
        "audio": kinds,
        "fps": record["fps"],
        "clips": {part: sum(counts.values()) for part, counts in report.counts.items()},
        "seed": seed,
        "origin": record["origin"],
        "skipped": {kind: sorted(names) for kind, names in report.skipped.items()},
        "missing": report.missing,
    }
    write_text(report.out / RECORD, json.dumps(entries, indent=1) + "\n")
    (report.out / RECORD_UNFINISHED).unlink(missing_ok=True)


def _nothing_prepared(report: Report) -> str:
    kinds = ", ".join(f"{kind}: {len(names)}" for kind, names in report.skipped.items())
    first = next((sentence for names in report.skipped.values() for sentence in names.values()), "")
    details = f" Skipped: {kinds}; the first: {first}" if kinds else ""
    return f"none of the {report.found} clips found could be prepared in {report.out}.{details}"


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - NAMES_SHOWN
    return lines if more <= 0 else [*lines[:NAMES_SHOWN], f"    … and {more} more (all in {RECORD})"]
