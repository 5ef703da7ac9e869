"""The synthetic stand-in: a made-up audio-visual emotion set in CREMA-D's raw format.

A fresh machine has no data and may have no way to download any. This writes clips under CREMA-D's names, in
CREMA-D's folders and file formats, and hands them to CREMA-D's own preparation. By design the voice carries the
class more plainly than the face, and some clips have one modality that shows nothing.
"""

import argparse
import contextlib
import json
import wave
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from mmpareto.data import cremad
from mmpareto.data.clip_dataset_builder import ClipDatasetBuilder
from mmpareto.data.dataset_builder import DownloadInfo
from mmpareto.data.generated.synthetic_faces import HEIGHT, WIDTH, Look, film
from mmpareto.data.generated.synthetic_voices import RATE, SENTENCES, Speech, Voice, speak
from mmpareto.data.preparation import clip_preparation
from mmpareto.data.preparation.clip_preparation import RawClip
from mmpareto.data.preparation.prepared_folder import DatasetInfo, locked
from mmpareto.data.preparation.report import Report
from mmpareto.data.preparation.splits import Split, stratified
from mmpareto.data.workers import available_cores, outcomes
from mmpareto.errors import InputError
from mmpareto.files import atomic_path, write_text
from mmpareto.progress import progress

BANNER = (
    "SYNTHETIC DATA: drawn faces and computed voices, made up by this program. "
    "A result on it shows that the software works and says nothing about any method."
)
CLIPS, ACTORS = 420, 12
MOST_ACTORS = 91  # CREMA-D's; its names have no room for more
TEST_FRACTION = 0.2  # more than CREMA-D's tenth, which would leave 7 clips a class to tell two models apart by
FRAME_RATE = Fraction(30_000, 1001)
UNINFORMATIVE = 0.15  # of all clips in the voice, and of as many others in the face
# How strongly each of CREMA-D's levels is acted, by the voice and by the face: voices carry the class more plainly.
LEVELS = {"LO": (0.85, 0.55), "MD": (0.95, 0.75), "HI": (1.1, 0.95), "XX": (1.0, 0.8)}
VERSION = 1  # of the drawings and voices; goes up when a seed no longer gives the same clips
_SETTINGS, _SETTINGS_UNFINISHED = "settings.json", "writing.json"


@dataclass(frozen=True)
class Clip:
    """One clip of the plan: what it is called, and what its voice and its face show."""

    actor: int  # from 0
    sentence: str
    emotion: str
    level: str
    voice: str  # the emotion, or NEU where the voice is uninformative
    face: str  # the emotion, or NEU where the face is uninformative

    @property
    def name(self) -> str:
        """CREMA-D's name for it."""
        return f"{1001 + self.actor}_{self.sentence}_{self.emotion}_{self.level}"

    @property
    def uninformative(self) -> list[str]:
        """The modalities, "audio" or "visual", that show NEU where the clip is of another class."""
        shown = {"audio": self.voice, "visual": self.face}
        return [modality for modality, emotion in shown.items() if emotion != self.emotion]


def plan(clips: int = CLIPS, actors: int = ACTORS, seed: int = 0) -> list[Clip]:
    """The clips of a stand-in: classes and actors in balance, no name twice.

    A neutral clip cannot be uninformative, as it shows what an uninformative one shows; the other five classes
    therefore carry 6/5 of the share UNINFORMATIVE each, so that it is the share of all clips.

    Raises:
        InputError: fewer than two clips a class (one to train on, one to test), no actor, or more clips than the
            actors have sentences for.
    """
    fewest, most = 2 * len(cremad.CLASSES), actors * len(SENTENCES) * len(cremad.CLASSES)
    if not 1 <= actors <= MOST_ACTORS:
        raise InputError(f"the number of actors must lie between 1 and {MOST_ACTORS}, but --actors is {actors}.")
    if not fewest <= clips <= most:
        raise InputError(
            f"{actors} actors speak {fewest} to {most} clips, but --clips is {clips}; change one of the two."
        )
    if seed < 0:
        raise InputError(f"the seed must be 0 or more, but --seed is {seed}.")
    rng = np.random.default_rng([seed, clips, actors])
    planned = []
    for place, emotion in enumerate(cremad.CLASSES):
        count = clips // len(cremad.CLASSES) + (place < clips % len(cremad.CLASSES))
        planned += _plan_class(emotion, count, actors, rng)
    return sorted(planned, key=lambda clip: clip.name)


def _plan_class(emotion: str, count: int, actors: int, rng: np.random.Generator) -> list[Clip]:
    sentences = [rng.permutation(list(SENTENCES)) for _ in range(actors)]
    first = int(rng.integers(actors))  # who speaks once more where the clips do not divide among the actors
    silent = round(count * UNINFORMATIVE * len(cremad.CLASSES) / (len(cremad.CLASSES) - 1))
    lots = rng.permutation(count)
    clips = []
    for place in range(count):
        actor = (first + place) % actors
        level = "XX" if emotion == "NEU" else str(rng.choice(list(LEVELS)))
        voice = "NEU" if lots[place] < silent else emotion
        face = "NEU" if silent <= lots[place] < 2 * silent else emotion
        clips.append(Clip(actor, str(sentences[actor][place // actors]), emotion, level, voice, face))
    return clips


def make(clip: Clip, seed: int) -> tuple[Speech, Iterable[Image.Image]]:
    """The speech and the frames of a clip: a function of the clip and the seed alone."""
    voice = Voice.of(clip.actor, _chance(seed, f"voice {clip.actor}"))
    look = Look.of(clip.actor, _chance(seed, f"look {clip.actor}"))
    by_voice, by_face = LEVELS[clip.level]
    speech = speak(voice, clip.sentence, clip.voice, by_voice, _chance(seed, f"speech {clip.name}"))
    frames = int(len(speech.samples) / RATE * FRAME_RATE)
    opening = speech.opening(np.arange(frames) / float(FRAME_RATE))
    return speech, film(look, clip.face, by_face, opening, _chance(seed, f"film {clip.name}"))


def write_raw(
    folder: Path, *, clips: int = CLIPS, actors: int = ACTORS, seed: int = 0, workers: int | None = None
) -> list[Clip]:
    """Write a stand-in in CREMA-D's raw format: AudioWAV/<clip>.wav and VideoFlash/<clip>.flv.

    Sound is 16-bit mono at 16 kHz; pictures are Sorenson H.263 at 29.97 frames a second, 160×120 (CREMA-D's are
    480×360), and every clip lasts at least 3.25 s. Each file is a function of the settings and the clip's name,
    whatever the number of workers. A second call writes what is missing; `settings.json` is written last.

    Arguments:
        folder: made if it is not there.
        clips, actors, seed: see `plan`.
        workers: parallel processes; by default one for every core that this process may use.

    Returns:
        The plan, which says what each clip's voice and face show.

    Raises:
        InputError: as `plan`, the folder holds something else, or it cannot be written.
    """
    planned = plan(clips, actors, seed)
    if workers is not None and workers < 1:
        raise InputError(f"the number of workers must be 1 or more, but --workers is {workers}.")
    settings = settings_of(clips, actors, seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _check_settings(folder, settings)
            _remove_partial(folder)
            missing = [clip for clip in planned if not all(path.exists() for path in _paths(folder, clip))]
            if missing and not (folder / _SETTINGS).exists():
                write_text(folder / _SETTINGS_UNFINISHED, json.dumps(settings) + "\n")
            _write_clips(folder, missing, seed, workers)
            write_text(folder / _SETTINGS, json.dumps(settings) + "\n")
            (folder / _SETTINGS_UNFINISHED).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {error.filename or folder}: {error.strerror or error}.") from error
    return planned


def settings_of(clips: int, actors: int, seed: int) -> dict[str, int]:
    """All that the files of a stand-in depend on."""
    return {"version": VERSION, "clips": clips, "actors": actors, "seed": seed}


class Synthetic(ClipDatasetBuilder):
    """420 made-up clips of 12 made-up actors; for trying the software, not the methods."""

    name = "synthetic"
    title = "synthetic stand-in"
    synthetic = True
    banner = BANNER
    download = DownloadInfo(
        size="420 clips of at least 3.2 s (--clips), 12 actors, six emotions; four fifths for training",
        terms="made here, by this program",
        page="made by `python code/prepare.py synthetic`",
        raw="none",
    )
    classes = cremad.CLASSES

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """The options of `prepare.py synthetic`; their values are the arguments of `prepare`."""
        parser.add_argument("--clips", type=int, default=CLIPS, help="number of clips (default: %(default)s)")
        parser.add_argument("--actors", type=int, default=ACTORS, help="number of actors (default: %(default)s)")
        clip_preparation.add_arguments(parser)

    @classmethod
    def prepare(
        cls,
        *,
        out: Path,
        clips: int = CLIPS,
        actors: int = ACTORS,
        fps: int = 1,
        audio: Sequence[str] = ("fbank",),
        seed: int = 0,
        workers: int | None = None,
    ) -> Report:
        """Write a stand-in to `out`/raw and prepare it in `out` as CREMA-D is prepared.

        Four fifths of the clips are for training, by a stratified random split; the actors are in both parts.
        `uninformative.csv` lists, `clip,modality` a line, what was made to show nothing of the class.

        Arguments:
            out: the prepared folder.
            clips, actors: size of the set, see `plan`.
            fps, audio: see `clip_preparation.prepare_clips`.
            seed: of the clips and of the split.
            workers: parallel processes.

        Raises:
            InputError: as `write_raw` and `clip_preparation.prepare_clips`.
        """
        planned = write_raw(out / "raw", clips=clips, actors=actors, seed=seed, workers=workers)
        lines = [f"{clip.name},{modality}\n" for clip in planned for modality in clip.uninformative]
        write_text(out / "uninformative.csv", "".join(lines))
        found, skipped, count = cremad.scan(out / "raw")
        return clip_preparation.prepare_clips(
            found,
            _split(found, seed),
            DatasetInfo(cls.name, cls.title, cls.synthetic, cls.classes),
            out=out,
            fps=fps,
            audio=audio,
            seed=seed,
            workers=workers,
            found=count,
            skipped=skipped,
            origin=settings_of(clips, actors, seed),
        )


def _chance(seed: int, what: str) -> np.random.Generator:
    return np.random.default_rng([seed, *what.encode()])


def _split(clips: Sequence[RawClip], seed: int) -> Split:
    test = set(stratified([clip.label for clip in clips], TEST_FRACTION, seed).tolist())
    return Split(
        [clip.name for i, clip in enumerate(clips) if i not in test],
        [clip.name for i, clip in enumerate(clips) if i in test],
        f"a random stratified 80/20 split with seed {seed}",
    )


def _paths(folder: Path, clip: Clip) -> tuple[Path, Path]:
    return folder / cremad.AUDIO_FOLDER / f"{clip.name}.wav", folder / cremad.VIDEO_FOLDER / f"{clip.name}.flv"


def _check_settings(folder: Path, settings: dict[str, int]) -> None:
    """Refuse a folder with other clips in it: nothing of the user's is overwritten or deleted."""
    remedy = f"Give another --out, or delete {folder}"
    path = next((folder / name for name in (_SETTINGS, _SETTINGS_UNFINISHED) if (folder / name).exists()), None)
    if path is None:
        if any((folder / cremad.AUDIO_FOLDER).glob("[!.]*")) or any((folder / cremad.VIDEO_FOLDER).glob("[!.]*")):
            raise InputError(f"{folder} holds clips that this program did not write. {remedy}.")
        return
    try:
        before: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{path} is damaged. {remedy}.") from None
    if before != settings:
        raise InputError(f"{folder} holds a synthetic set made with {before}, not {settings}. {remedy}.")


def _remove_partial(folder: Path) -> None:
    """Remove what an interrupted run left; `atomic_path` begins every unfinished file's name with a dot."""
    for name in (cremad.AUDIO_FOLDER, cremad.VIDEO_FOLDER):
        for path in (folder / name).glob(".*"):
            path.unlink()


def _write_clips(folder: Path, clips: Sequence[Clip], seed: int, workers: int | None) -> None:
    results = outcomes(
        partial(_write_clip, folder, seed), clips, workers or available_cores(), crashed=lambda clip: clip
    )
    with contextlib.closing(results) as done:
        for crashed in progress(done, total=len(clips), unit="clip", desc="drawing and speaking", disable=not clips):
            if crashed is not None:
                raise InputError(f"the process that writes {crashed.name} dies, twice; try --workers 1.")


def _write_clip(folder: Path, seed: int, clip: Clip) -> None:
    speech, frames = make(clip, seed)
    wav, flv = _paths(folder, clip)
    with atomic_path(wav) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(speech.samples.astype("<i2").tobytes())
    with atomic_path(flv) as temporary:
        _write_flv(temporary, frames)


def _write_flv(path: Path, frames: Iterable[Image.Image]) -> None:
    with av.open(str(path), "w", format="flv") as container:
        stream = container.add_stream("flv", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 3  # constant quality: hardly a visible loss
        stream.codec_context.thread_count = 1  # clips are written in parallel, not frames
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, 1 / FRAME_RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
