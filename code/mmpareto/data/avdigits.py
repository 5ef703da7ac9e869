"""Audio-visual digits: the recordings of the Free Spoken Digit Dataset, each with an MNIST image of the same digit.

A small audio-visual set of real recordings and images that anyone can have in a minute. Prepared:

    stat.csv, train.csv, test.csv    classes 0 … 9; a sample is named <recording>+<index of its image in MNIST's part>
    arrays/{train,test}_audio.npy    float32 (N, 1, 40, 40): `log_mel`
    arrays/{train,test}_visual.npy   uint8 (N, 1, 28, 28)

FSDD's own split is by the number of a recording, so that all six speakers are in both parts (its README: "recordings
numbered 0-4 (inclusive) are in the test and 5-49 are in the training set"). Test recordings are paired with MNIST's
test images and training recordings with its training images; no image is used twice.
"""

import argparse
import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmpareto.data.dataset_builder import DatasetBuilder, DownloadInfo
from mmpareto.data.generated.colouring import Part
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.mnist import (
    CLASSES,
    GRAY_NORMALISATION,
    MNIST_COUNTS,
    MNIST_PAGE,
    SIDE,
    Digits,
    download_mnist,
    find_mnist,
    read_mnist,
)
from mmpareto.data.preparation.archives import unpacked
from mmpareto.data.preparation.downloading import download
from mmpareto.data.preparation.prepared_folder import (
    ARRAYS,
    RECORD_UNFINISHED,
    DatasetInfo,
    finished_record,
    locked,
    sha256,
    write_arrays,
    write_lists,
    write_record,
)
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import Split
from mmpareto.data.raw.raw_files import find_files
from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.progress import progress

if TYPE_CHECKING:
    import torch

    from mmpareto.data.loading.sources import ModalitySource

FSDD_PAGE = "https://github.com/Jakobovski/free-spoken-digit-dataset"
FSDD_VERSION = "v1.0.10"
FSDD_ARCHIVE = f"{FSDD_PAGE}/archive/refs/tags/{FSDD_VERSION}.tar.gz"
# Of the output of `LC_ALL=C sha256sum *.wav` in the release's folder recordings. GitHub does not promise that the bytes
# of an archive stay the same.
FSDD_SHA256 = "1801eae019c063377d98f831d3f93574f259475df7332bb0e3d1b080fb5e6959"
RECORDING = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[A-Za-z][\w-]*)_(?P<number>0|[1-9][0-9]{0,8})", re.ASCII)
TEST_NUMBERS = range(5)
SPLITS = ("official", "speaker")
TEST_SPEAKER = "yweweler"  # the last by name

RATE = 8000  # of the recordings, in hertz
FRAMES, MEL_BINS = 40, 40  # 40 windows of 25 ms every 20 ms cover 0.805 s: all of 98% of the recordings
SHIFT_MS = 20
LOG_MEL_MEAN, LOG_MEL_STD = -6.15, 3.84  # of the training recordings of the official split


class Recording(NamedTuple):
    """A recording of FSDD, <digit>_<speaker>_<number>.wav."""

    digit: str
    speaker: str
    number: int

    @property
    def name(self) -> str:
        """Name of its file, without the suffix."""
        return f"{self.digit}_{self.speaker}_{self.number}"


class Pair(NamedTuple):
    """A recording, and the index of its image in MNIST's part."""

    recording: Recording
    image: int

    @property
    def name(self) -> str:
        """Name of the sample."""
        return f"{self.recording.name}+{self.image}"


class AVDigits(DatasetBuilder):
    """3,000 spoken digits of six speakers, each with a handwritten one; two modalities, "audio" and "visual"."""

    name = "avdigits"
    title = "Audio-visual digits"
    modalities = ("audio", "visual")
    download = DownloadInfo(
        size="3,000 recordings of six speakers, each with an image, ten classes; 2,700 for training, 300 for testing;\n"
        "28 MB (FSDD 16, MNIST 12), 22 MB prepared",
        terms="FSDD: Creative Commons BY-SA 4.0; MNIST: Creative Commons BY-SA 3.0",
        page=f"{FSDD_PAGE} (FSDD, {FSDD_VERSION}), {MNIST_PAGE} (MNIST); --download gets both",
        raw="FSDD's <digit>_<speaker>_<number>.wav and MNIST's four IDX files (.gz or not), in any subfolders",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py avdigits`; their values are the arguments of `prepare`."""
        parser.add_argument(
            "--raw",
            type=Path,
            required=True,
            metavar="DIR",
            help=f"folder that contains FSDD's recordings ({FSDD_PAGE}) and MNIST's IDX files ({MNIST_PAGE})",
        )
        parser.add_argument("--out", type=Path, metavar="DIR", help="prepared folder (default: data/NAME)")
        parser.add_argument(
            "--split",
            choices=SPLITS,
            default="official",
            help="test recordings: 0 to 4 of every speaker and digit, or all of one speaker (default: %(default)s)",
        )
        parser.add_argument(
            "--test_speaker", metavar="NAME", help=f"the speaker of --split speaker (default: {TEST_SPEAKER})"
        )
        parser.add_argument("--seed", type=int, default=0, help="seed of the pairing (default: %(default)s)")

    @classmethod
    def download_raw(cls, folder: Path) -> None:
        """Download FSDD to `folder`/fsdd and MNIST to `folder`/mnist."""
        download_fsdd(folder / "fsdd")
        download_mnist(folder / "mnist")

    @classmethod
    def prepare(
        cls, *, raw: Path, out: Path, split: str = "official", test_speaker: str | None = None, seed: int = 0
    ) -> PreparationReport:
        """Pair every recording with an image of its digit, and compute the audio features.

        The pairs are a function of the recordings' names, of MNIST, of the split and of `seed` alone.

        Arguments:
            raw: folder that contains the recordings and MNIST's files.
            out: the prepared folder.
            split: "official" or "speaker".
            test_speaker: whose recordings are for testing if `split` is "speaker"; default: `TEST_SPEAKER`.
            seed: of the pairing, ≥ 0.

        Raises:
            InputError: `raw` lacks something, MNIST is damaged or has too few images of a digit, a part has no
                recording, `out` holds something else, another process is preparing it, or it cannot be written.
        """
        started = time.monotonic()
        if seed < 0:
            raise InputError(f"--seed must be at least 0, not {seed}.")
        if test_speaker is not None and split != "speaker":
            raise InputError("--test_speaker is the test speaker of --split speaker; add that, or leave it out.")
        files, skipped = _find_recordings(raw, cls.title)
        mnist = find_mnist(raw)
        if mnist is None:
            raise InputError(f"{raw} has no MNIST files beside the recordings; get them from {MNIST_PAGE}.")
        digits = read_mnist(mnist)
        parts, sentence = split_recordings(files, None if split == "official" else test_speaker or TEST_SPEAKER)
        pairs = {part: pair(parts[part], digits[part].labels, part, seed) for part in parts}

        digest = recordings_digest(files.values())
        origin = {"recordings": digest, "mnist": _digits_digest(digits)}
        record = {"dataset": cls.name, "split": sentence, "seed": seed, "origin": origin}
        report = PreparationReport(
            title=cls.title,
            out=out,
            found=len(files) + sum(map(len, skipped.values())),
            split=_checked_split(pairs, sentence, split == "official", digest, digits),
            skipped=skipped,
            missing=[],
            outside=0,
        )
        with locked(out):
            before = finished_record(out, record, [ARRAYS])
            if before is not None and not before["skipped"]:
                report.counts, report.already = before["samples"], len(files)
                report.remarks = before.get("remarks", {})
                return report
            write_text(out / RECORD_UNFINISHED, json.dumps(record))
            pairs = _write_samples(out, files, pairs, digits, report)
            lists = {part: [(sample.name, sample.recording.digit) for sample in pairs[part]] for part in pairs}
            report.counts = write_lists(out, CLASSES, lists)
            report.prepared, report.seconds = sum(map(len, pairs.values())), time.monotonic() - started
            info, entries = DatasetInfo(cls.name, cls.title, False, CLASSES), {**record, "samples": report.counts}
            write_record(report, info, entries, [ARRAYS])
        return report

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, ModalitySource]":
        """Return the sources of the audio features and of the images, both without augmentation."""
        from mmpareto.data.loading.sources import ArraySource, Normalisation

        audio, visual = (folder / ARRAYS / f"{split}_{name}.npy" for name in ("audio", "visual"))
        gray, size = Normalisation(*GRAY_NORMALISATION), len(names)
        return {
            "audio": ArraySource(audio, 1, None, expected=(np.float32, (size, 1, FRAMES, MEL_BINS))),
            "visual": ArraySource(visual, 1, gray, expected=(np.uint8, (size, 1, SIDE, SIDE))),
        }


# --- the recordings ---


def download_fsdd(folder: Path) -> None:
    """Download the release to `folder`.tar.gz and unpack it to `folder`, unless that holds all its recordings already.

    Raises:
        InputError: it cannot be downloaded or unpacked, the archive or `folder` holds other recordings, or another
            process is downloading it.
    """
    archive = folder.with_name(f"{folder.name}.tar.gz")
    with locked(folder.parent):
        if _is_release(folder):
            return
        download([FSDD_ARCHIVE], archive)
        try:
            unpacked(archive, folder)
            if not _is_release(folder):
                shutil.rmtree(folder)
                raise InputError(f"{FSDD_ARCHIVE} does not hold the recordings of {FSDD_VERSION} (by their checksum).")
        except InputError:
            archive.unlink()  # so that the next call does not find it again
            raise


def _is_release(folder: Path) -> bool:
    return folder.is_dir() and recordings_digest(folder.rglob("*.wav")) == FSDD_SHA256


def _find_recordings(raw: Path, title: str) -> tuple[dict[Recording, Path], dict[str, dict[str, str]]]:
    """Find the recordings, in order, and what is skipped (see `find_files`)."""
    form = "<digit>_<speaker>_<number>.wav"
    files, skipped = find_files(raw, ".wav", _recording, form=form, title=title, page=FSDD_PAGE)
    if not files:
        raise InputError(f"{raw} has no recording of FSDD ({form}); get them from {FSDD_PAGE}.")
    return dict(sorted(files.items())), skipped


def _recording(stem: str) -> Recording | None:
    match = RECORDING.fullmatch(stem)
    return Recording(match["digit"], match["speaker"], int(match["number"])) if match else None


def recordings_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of what `LC_ALL=C sha256sum *.wav` prints in a folder of these files.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(paths, key=lambda path: path.name)]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}.") from error
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# --- the samples ---


def _digits_digest(digits: Mapping[Part, Digits]) -> str:
    """SHA-256 of the images and labels, however their files are compressed."""
    digest = hashlib.sha256()
    for images, labels in digits.values():
        digest.update(images.tobytes() + labels.tobytes())
    return digest.hexdigest()


def split_recordings(
    recordings: Iterable[Recording], test_speaker: str | None
) -> tuple[dict[Part, list[Recording]], str]:
    """Split recordings by their number, or by the speaker if one is given.

    Returns:
        Part → recordings, in their order; and the split in words.

    Raises:
        InputError: nobody is called `test_speaker`, or a part has no recording.
    """
    recordings = list(recordings)
    speakers = sorted({recording.speaker for recording in recordings})
    if test_speaker is None:
        sentence = "FSDD's own: recordings 0 to 4 of every speaker and digit for testing"
        test = {recording for recording in recordings if recording.number in TEST_NUMBERS}
    else:
        if test_speaker not in speakers:
            raise InputError(f"no recording is of --test_speaker {test_speaker}; they are of {', '.join(speakers)}.")
        sentence = f"speaker-disjoint, not FSDD's own: {test_speaker} for testing, the others for training"
        test = {recording for recording in recordings if recording.speaker == test_speaker}
    parts: dict[Part, list[Recording]] = {
        "train": [recording for recording in recordings if recording not in test],
        "test": [recording for recording in recordings if recording in test],
    }
    for part, members in parts.items():
        if not members:
            raise InputError(f"no recording is left for the {part} part of the split ({sentence}).")
    return parts, sentence


def pair(recordings: Sequence[Recording], labels: np.ndarray, part: Part, seed: int) -> list[Pair]:
    """Draw an image of the same digit for every recording, and none twice.

    Arguments:
        recordings: of one part of the split.
        labels: (N,) int64, of MNIST's images of that part.
        part: "train" or "test".
        seed: ≥ 0.

    Raises:
        InputError: there are fewer images of a digit than recordings.
    """
    # NumPy promises the raw output of PCG64, but not what `permutation` makes of it.
    order = np.argsort(np.random.PCG64([seed, int(part == "test")]).random_raw(len(labels)), kind="stable")
    images = {digit: iter(order[labels[order] == int(digit)].tolist()) for digit in CLASSES}
    pairs = [Pair(recording, next(images[recording.digit], -1)) for recording in recordings]
    for sample in pairs:
        if sample.image < 0:
            raise InputError(f"MNIST's {part} files have fewer images of a {sample.recording.digit} than recordings.")
    return pairs


def _checked_split(
    pairs: Mapping[Part, Sequence[Pair]], sentence: str, own: bool, digest: str, digits: Mapping[Part, Digits]
) -> Split:
    """Return the split, official if it is FSDD's own, of all its recordings and of MNIST's images."""
    complete = digest == FSDD_SHA256
    counts = {part: np.bincount(digits[part].labels, minlength=len(CLASSES)) for part in digits}
    is_mnist = all(tuple(counts[part].tolist()) == MNIST_COUNTS[part] for part in counts)
    return Split(
        **{part: [sample.name for sample in samples] for part, samples in pairs.items()},
        sentence=sentence,
        official=own and complete and is_mnist,
        checks=[
            f"recordings: {'' if complete else 'not '}those of FSDD {FSDD_VERSION} (SHA-256 {digest})",
            "images: MNIST's" if is_mnist else "images: other numbers of digits than MNIST",
        ],
    )


def _write_samples(
    out: Path,
    files: Mapping[Recording, Path],
    pairs: Mapping[Part, Sequence[Pair]],
    digits: Mapping[Part, Digits],
    report: PreparationReport,
) -> dict[Part, list[Pair]]:
    """Write the arrays; return the pairs in them, without recordings that cannot be used, which `report` then lists."""
    from mmpareto.data.raw.media import read_audio
    from mmpareto.data.raw.remarks import sound_remarks

    kept: dict[Part, list[Pair]] = {part: [] for part in pairs}
    features: dict[Part, list[np.ndarray]] = {part: [] for part in pairs}
    samples = [(part, sample) for part in pairs for sample in pairs[part]]
    for part, sample in progress(samples, unit="sample", desc=report.title):
        try:
            waveform, rate = read_audio(files[sample.recording])
            feature = log_mel(waveform, rate)
            if not bool(feature.isfinite().all()):
                raise InputError(f"{files[sample.recording]} is so loud that its filterbank is not finite.")
        except InputError as error:
            reason = getattr(error, "reason", "cannot be used")
            report.skipped.setdefault(reason, {})[sample.recording.name] = f"{sample.recording.name}: {error}"
            continue
        for kind in sound_remarks(waveform):
            report.remarks.setdefault(kind, []).append(sample.name)
        kept[part].append(sample)
        features[part].append(feature.numpy())
    if not all(kept.values()):
        raise InputError(f"no recording of a part of the split can be used; the first: {_first_sentence(report)}")
    arrays = {f"{part}_audio": np.stack(features[part])[:, None] for part in kept}
    for part, members in kept.items():
        arrays[f"{part}_visual"] = digits[part].images[[sample.image for sample in members], None]
    write_arrays(out / ARRAYS, arrays)
    return kept


def _first_sentence(report: PreparationReport) -> str:
    return next(sentence for sentences in report.skipped.values() for sentence in sentences.values())


def log_mel(waveform: "torch.Tensor", rate: int) -> "torch.Tensor":
    """Log-mel filterbank of a short recording.

    As `features.filterbank` (Kaldi's, of the first channel, without its mean), but at the recordings' own 8 kHz, with
    40 mel bins and a window every 20 ms. It is standardised by the mean and standard deviation of the training
    recordings, and then cut or zero-padded: the padding has the mean's value.

    Arguments:
        waveform: (channels, samples), float32 in [−1, 1].
        rate: its sampling rate in hertz.

    Returns:
        (40, 40), float32: frames, mel bins.

    Raises:
        InputError: the waveform is shorter than one window.
    """
    import torch

    from mmpareto.data.raw.features import kaldi_filterbank, resample

    frames = kaldi_filterbank(resample(waveform, rate, RATE), RATE, mel_bins=MEL_BINS, shift_ms=SHIFT_MS)[:FRAMES]
    return torch.nn.functional.pad((frames - LOG_MEL_MEAN) / LOG_MEL_STD, (0, 0, 0, FRAMES - len(frames)))
