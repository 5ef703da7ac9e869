"""Someone's own clips, by a folder per class or by a list, in any container that PyAV reads.

DIR/<class>/<clip>.mp4                one folder per class, with clips at any depth
DIR/{train,valid,test}/<class>/…      the same, with a split
--list FILE.csv                       path,label or path,label,split per line; paths are relative to DIR
"""

import argparse
import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from mmpareto.data.clip_dataset_builder import ClipDatasetBuilder
from mmpareto.data.dataset_builder import DownloadInfo
from mmpareto.data.loading.options import AUDIO_FOLDERS, InputOptions
from mmpareto.data.preparation import clip_preparation
from mmpareto.data.preparation.clip_preparation import RawClip
from mmpareto.data.preparation.prepared_folder import DatasetInfo, finished_record, locked
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import add_test_fraction, own_split, part_named
from mmpareto.data.raw.raw_files import MEDIA_SUFFIXES, visible_files
from mmpareto.data.workers import available_cores, outcomes
from mmpareto.errors import InputError, first_few, one_line
from mmpareto.files import open_text, write_text
from mmpareto.progress import progress

if TYPE_CHECKING:
    from mmpareto.data.loading.sources import ModalitySource

MODALITIES = {"audio": "audio", "visual": "video"}  # modality → kind of stream
REASONS = {"audio": "no audio", "visual": "no frame"}  # as `containers.NoAudioError` and `NoFrameError`
SOURCES = "sources.csv"  # in the prepared folder: clip, raw file, its size in bytes


class FoundClip(NamedTuple):
    """A clip among the raw files.

    Attributes:
        path: of the file.
        label: name of its class.
        part: "train", "valid" or "test"; None if the raw files have no split.
        words: parts of its path, without the folder of all clips; they make its name.
    """

    path: Path
    label: str
    part: str | None
    words: Sequence[str]

    @property
    def name(self) -> str:
        """The parts of its path, joined: clips of one name in several folders stay apart."""
        return "__".join(word.strip() for word in (*self.words[:-1], PurePath(self.words[-1]).stem))


class FoundClips(NamedTuple):
    """The clips of a raw folder or a list.

    Attributes:
        clips: in order.
        split_source: origin of the split, in words; None if there is none.
        skipped: reason → file → sentence.
        notes: lines of the report.
    """

    clips: list[FoundClip]
    split_source: str | None
    skipped: dict[str, dict[str, str]]
    notes: list[str]


class ClipFolder(ClipDatasetBuilder):
    """Someone's own clips, with the modalities "audio" and "visual", or one of them if all clips lack the other."""

    name = "folder"
    title = "own clips"
    download = DownloadInfo(
        size="as many clips as you have",
        terms="yours",
        page="",
        raw="DIR/<class>/<clip>.mp4, or DIR/train/<class>/<clip>.mp4 and DIR/test/<class>/<clip>.mp4;\n"
        "or any files, listed by --list FILE.csv as path,label or path,label,split;\n"
        "video and audio files in any format that PyAV (FFmpeg) reads",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py folder`; their values are passed to `prepare`."""
        parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help="folder of the clips")
        parser.add_argument(
            "--list",
            type=Path,
            dest="list_file",
            metavar="FILE",
            help="CSV file of path,label or path,label,split (train, valid or test); paths are relative to --raw",
        )
        parser.add_argument(
            "--modalities",
            nargs="+",
            choices=[*MODALITIES],
            help="modalities to prepare, without clips that lack one (default: those that any clip has)",
        )
        add_test_fraction(parser)
        clip_preparation.add_arguments(parser)

    @classmethod
    def prepare(
        cls,
        *,
        raw: Path,
        out: Path,
        list_file: Path | None = None,
        modalities: Sequence[str] | None = None,
        test_fraction: float | None = None,
        fps: int = 1,
        audio: Sequence[str] = ("fbank",),
        min_frames: int = 1,
        seed: int = 0,
        workers: int | None = None,
    ) -> PreparationReport:
        """Prepare the clips.

        Arguments:
            raw: folder of the clips.
            out: the prepared folder.
            list_file: CSV file of path,label or path,label,split; None if the folders are the classes.
            modalities: to prepare; None for those that any clip has. Clips that lack one are skipped.
            test_fraction: see `splits.own_split`.
            fps, audio, min_frames: see `clip_preparation.prepare_clips`.
            seed: of a random split.
            workers: parallel processes; one per core by default.

        Raises:
            InputError: there are no clips or fewer than two classes, two clips have one name, the list or an option is
                wrong, `out` was prepared from other files, or as `prepare_clips`.
        """
        if workers is not None and workers < 1:
            raise InputError(f"--workers must be at least 1, not {workers}.")
        found = find_listed(list_file, raw) if list_file is not None else find_in_folders(raw)
        clips = _by_name(found.clips)
        classes = sorted({clip.label for clip in clips.values()})
        if len(classes) < 2:
            raise InputError(
                f"{list_file or raw} has {first_few(classes) or 'no class'} as its only class; put the clips of each "
                "class into a folder of their own, DIR/<class>/<clip>.mp4, or list them with --list."
            )
        streams, unreadable = _read_streams(clips, workers or available_cores())
        wanted, lacking, notes = choose_modalities(streams, modalities)
        usable = {name: clips[name] for name in streams if not any(name in names for names in lacking.values())}
        labels = {name: clip.label for name, clip in usable.items()}
        parts = {name: clip.part or "" for name, clip in usable.items()} if found.split_source else None
        split = own_split(labels, parts, found.split_source or "", test_fraction, seed)
        _record_sources(out, clips.values())
        return clip_preparation.prepare_clips(
            [RawClip(name, clip.label, clip.path, clip.path) for name, clip in usable.items()],
            split,
            DatasetInfo(cls.name, _title(list_file or raw, out), False, tuple(classes)),
            out=out,
            fps=fps,
            audio=audio if "audio" in wanted else (),
            frames="visual" in wanted,
            min_frames=min_frames,
            seed=seed,
            workers=workers,
            found=len(clips) + sum(map(len, found.skipped.values())),
            skipped=found.skipped | unreadable | lacking,
            entries={"modalities": wanted},
            notes=[*found.notes, *notes],
        )

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, ModalitySource]":
        """Return the sources of the audio feature and of the frames, or of the one that the clips have."""
        from mmpareto.data.loading import layout
        from mmpareto.data.loading.sources import AudioSource, FramesSource

        present = prepared.get("modalities", [*MODALITIES])
        audio = options.audio if "audio" in present else None
        layout.check_files(folder, split, names, audio, prepared.get("audio"), frames="visual" in present)
        sources: dict[str, ModalitySource] = {}
        if audio is not None:
            sources["audio"] = AudioSource(folder, names, options)
        if "visual" in present:
            sources["visual"] = FramesSource(folder, split, names, options)
        return sources


# --- finding the clips ---


def find_in_folders(raw: Path) -> FoundClips:
    """Find the clips of a folder per class, or of folders train, valid and test with a folder per class.

    A single folder around all others is ignored, as archives have it.

    Raises:
        InputError: `raw` has no clip, or it has class folders beside those of a split.
    """
    if not raw.is_dir():
        raise InputError(f"{raw} is not a folder; give the folder of the clips.")
    files = visible_files(raw)
    paths = {path: path.relative_to(raw).parts for path in files if path.suffix.lower() in MEDIA_SUFFIXES}
    others = Counter(path.suffix.lower() or "no suffix" for path in files if path not in paths)
    if not paths:
        kinds = f", but files of the kinds {first_few(sorted(others))}" if others else ""
        raise InputError(f"{raw} has no video or audio file{kinds}; name them all with --list if these are the clips.")
    while len({words[0] for words in paths.values()}) == 1 and all(len(words) > 2 for words in paths.values()):
        paths = {path: words[1:] for path, words in paths.items()}
    skipped = {str(path): f"{path} is not in the folder of a class" for path, words in paths.items() if len(words) == 1}
    paths = {path: words for path, words in paths.items() if len(words) > 1}
    notes = [f"other files      {sum(others.values())} ignored ({first_few(sorted(others))})"] if others else []
    reasons = {"not in a class folder": skipped} if skipped else {}
    folders = {words[0] for words in paths.values() if len(words) > 2 and part_named(words[0])}
    if not {part_named(folder) for folder in folders} > {"train"}:
        return FoundClips(
            [FoundClip(path, words[0], None, words) for path, words in paths.items()], None, reasons, notes
        )
    beside = sorted({words[0] for words in paths.values() if words[0] not in folders or len(words) == 2})
    if beside:
        raise InputError(
            f"{raw} has the folders {' and '.join(sorted(folders))} of a split, and beside them clips in "
            f"{first_few(beside)}; move these, or list all clips with --list."
        )
    clips = [FoundClip(path, words[1], part_named(words[0]), words) for path, words in paths.items()]
    return FoundClips(clips, f"{raw.name} ({', '.join(sorted(folders))})", reasons, notes)


def find_listed(list_file: Path, raw: Path) -> FoundClips:
    """Read a CSV file of path,label or path,label,split; its first line may name the columns, in any order.

    Raises:
        InputError: the file cannot be read, a line is not of the form, or a path is listed twice.
    """
    clips: list[FoundClip] = []
    lines: dict[Path, int] = {}
    missing: dict[str, str] = {}
    columns: dict[str, int] = {}
    for number, row in _rows(list_file):
        position = f"{list_file}, line {number}"
        if not columns:
            columns, is_header = _columns(row, position)
            if is_header:
                continue
        if len(row) != len(columns) or not all(row):
            raise InputError(f"{position}: {','.join(row)[:80]!r} is not {','.join(columns)}.")
        path, label = raw / row[columns["path"]], row[columns["label"]]
        part = part_named(row[columns["split"]]) if "split" in columns else None
        if "split" in columns and part is None:
            raise InputError(f"{position}: the split {row[columns['split']][:40]!r} is not train, valid or test.")
        if path in lines:
            raise InputError(f"{position}: {one_line(path)} is already in line {lines[path]}.")
        lines[path] = number
        words = [word for word in PurePath(row[columns["path"]]).parts if word not in ("..", path.anchor)]
        if _is_file(path):
            clips.append(FoundClip(path, label, part, words))
        else:
            missing[str(path)] = f"{position}: {one_line(path)} does not exist"
    if not clips:
        first = f" ({next(iter(missing.values()))})" if missing else ""
        raise InputError(f"{list_file} lists no file that exists{first}; paths are relative to --raw, {raw}.")
    source = list_file.name if "split" in columns else None
    return FoundClips(clips, source, {"file does not exist": missing} if missing else {}, [])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is longer than the file system allows
        return False


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and cells of every row that is not blank."""
    try:
        with open_text(path, newline="") as file:
            reader = csv.reader(file)
            return [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the list {path} cannot be read as CSV in UTF-8: {reason}.") from None


def _columns(row: Sequence[str], position: str) -> tuple[dict[str, int], bool]:
    """Column → index, and whether the row names them."""
    names = [cell.lower() for cell in row]
    is_header = {"path", "label"} <= {*names}
    if not is_header:
        names = ["path", "label", "split"][: max(len(row), 2)]
    if len(names) != len(row) or len(row) > 3 or (len(row) == 3 and "split" not in names):
        raise InputError(f"{position}: {','.join(row)[:80]!r} is not path,label or path,label,split.")
    return {name: index for index, name in enumerate(names)}, is_header


def _by_name(clips: Iterable[FoundClip]) -> dict[str, FoundClip]:
    """Name → clip, in order of name: independent of the file system's order."""
    by_name: dict[str, FoundClip] = {}
    for clip in clips:
        if not (clip.name + clip.label).isprintable():
            raise InputError(f"{str(clip.path)!a} has characters in its name that cannot be printed; rename it.")
        other = by_name.setdefault(clip.name, clip)
        if other is not clip:
            raise InputError(
                f"{other.path} and {clip.path} would both be the clip {clip.name!r}; rename one, or list one of them."
            )
    return dict(sorted(by_name.items()))


# --- their streams ---


class _Streams(NamedTuple):
    name: str
    kinds: frozenset[str]
    problem: str | None = None


def _read_streams(
    clips: Mapping[str, FoundClip], workers: int
) -> tuple[dict[str, frozenset[str]], dict[str, dict[str, str]]]:
    """Clip → kinds of its streams; and reason → clip → sentence, of those that cannot be opened.

    Raises:
        InputError: none can be opened.
    """
    results = outcomes(_streams_of, [*clips.items()], workers, _crashed)
    bar = progress(results, total=len(clips), unit="clip", desc="opening", disable=None)
    read = {streams.name: streams for streams in bar}
    unreadable = {name: streams.problem for name, streams in sorted(read.items()) if streams.problem is not None}
    if len(unreadable) == len(clips):
        raise InputError(f"none of the {len(clips)} clips can be opened; the first: {next(iter(unreadable.values()))}")
    kinds = {name: read[name].kinds for name in clips if name not in unreadable}
    return kinds, {"unreadable file": unreadable} if unreadable else {}


def _streams_of(job: tuple[str, FoundClip]) -> _Streams:
    from mmpareto.data.raw.containers import MediaError, stream_kinds

    name, clip = job
    try:
        kinds = stream_kinds(clip.path)
    except MediaError as error:
        return _Streams(name, frozenset(), f"{name}: {error}")
    return _Streams(name, kinds, None if kinds else f"{name}: {clip.path} has neither video nor audio.")


def _crashed(job: tuple[str, FoundClip]) -> _Streams:
    return _Streams(job[0], frozenset(), f"{job[0]}: it crashes the process that opens it.")


def choose_modalities(
    streams: Mapping[str, frozenset[str]], given: Sequence[str] | None
) -> tuple[list[str], dict[str, dict[str, str]], list[str]]:
    """Choose the modalities to prepare: those that are given, or that any clip has.

    Arguments:
        streams: clip → kinds of its streams.
        given: names of modalities, or None.

    Returns:
        The modalities; reason → clip → sentence, of clips that lack one; and lines of the report.

    Raises:
        InputError: no clip has a given modality, or none has all.
    """
    having = {modality: [n for n, kinds in streams.items() if kind in kinds] for modality, kind in MODALITIES.items()}
    wanted = [modality for modality in MODALITIES if (modality in given if given else having[modality])]
    notes = [f"modalities       {', '.join(wanted)}"]
    lacking: dict[str, dict[str, str]] = {}
    taken: set[str] = set()
    for modality in wanted:
        without = [name for name in streams if MODALITIES[modality] not in streams[name] and name not in taken]
        if len(having[modality]) == 0:
            raise InputError(f"no clip has {MODALITIES[modality]}; leave {modality} out of --modalities.")
        if without:
            lacking[REASONS[modality]] = {name: f"{name}: it has no {MODALITIES[modality]}" for name in without}
            taken.update(without)
            rest = " ".join(other for other in wanted if other != modality)
            hint = f"; --modalities {rest} would use them" if rest else ""
            notes.append(f"  clips without {MODALITIES[modality]} are left out ({len(without)}){hint}")
    if streams and len(taken) == len(streams):
        raise InputError(f"no clip has {' and '.join(wanted)}; choose one with --modalities.")
    return wanted, lacking, notes


def _title(raw: Path, out: Path) -> str:
    """The name of the raw folder or the list; of an archive, which is unpacked to `out`/raw, that of `out`."""
    raw, out = raw.resolve(), out.resolve()
    return out.name if raw.is_relative_to(out) else raw.stem


def _record_sources(out: Path, clips: Iterable[FoundClip]) -> None:
    """Write the raw file of every clip, and its size, to `SOURCES` in the prepared folder.

    Raises:
        InputError: a clip was prepared from a file of another size, or `out` contains something else.
    """
    folders = [clip_preparation.FRAMES, *AUDIO_FOLDERS.values()]
    finished_record(out, {"dataset": ClipFolder.name}, folders)  # raises before anything is written
    rows = {clip.name: [clip.name, str(clip.path), str(clip.path.stat().st_size)] for clip in clips}
    path = out / SOURCES
    before = {row[0]: row for _, row in _rows(path)} if path.is_file() else {}
    changed = [name for name, row in before.items() if name in rows and row[2:] != rows[name][2:]]
    if changed:
        raise InputError(
            f"{out} has clips that were prepared from other files of the same names ({first_few(changed)}); choose "
            f"another --out, or delete {out}."
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*(before | rows).values()])
    with locked(out):
        write_text(path, text.getvalue())
