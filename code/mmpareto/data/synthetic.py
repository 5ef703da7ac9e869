"""The synthetic stand-in: a made-up audio-visual emotion set in CREMA-D's raw format, for machines without data.

Clips have CREMA-D's names, folders and file formats, and its own preparation prepares them. By design the voice shows
the class more plainly than the face, and in some clips one of the two does not show it.
"""

import argparse
import contextlib
import json
import wave
from collections.abc import Iterable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from mmpareto.data import cremad
from mmpareto.data.clip_dataset_builder import ClipDatasetBuilder
from mmpareto.data.dataset_builder import DownloadInfo
from mmpareto.data.generated.synthetic_faces import HEIGHT, WIDTH, film
from mmpareto.data.generated.synthetic_voices import RATE, SENTENCES, STEP, speak
from mmpareto.data.preparation import clip_preparation
from mmpareto.data.preparation.prepared_folder import DatasetInfo, locked
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import Split, stratified
from mmpareto.data.workers import available_cores, outcomes
from mmpareto.errors import InputError
from mmpareto.files import atomic_path, read_json, write_text
from mmpareto.progress import progress

CLIPS, ACTORS, MAX_ACTORS = 420, 12, 91  # CREMA-D has 91 actors, and its names have no room for more
TEST_FRACTION = 0.2  # CREMA-D's tenth would leave 7 clips per class, too few to compare two models
FRAME_RATE = Fraction(30_000, 1001)
UNINFORMATIVE = 0.15  # share of all clips whose voice shows NEU, and of as many others whose face does
# Intensity of the emotion in the voice and in the face, for each of CREMA-D's levels.
LEVELS = {"LO": (0.6, 0.65), "MD": (0.75, 0.8), "HI": (0.95, 1.0), "XX": (0.85, 0.85)}
VERSION = 2  # of the drawings and voices: increased whenever a seed gives other clips than before
SETTINGS = "settings.json"


class Clip(NamedTuple):
    """One clip of the plan."""

    actor: int  # from 0
    sentence: str
    emotion: str
    level: str
    uninformative: str | None  # the modality, "audio" or "visual", that shows NEU instead of the emotion

    @property
    def name(self) -> str:
        """CREMA-D's name for it."""
        return f"{1001 + self.actor}_{self.sentence}_{self.emotion}_{self.level}"


def plan(clips: int = CLIPS, actors: int = ACTORS, seed: int = 0) -> list[Clip]:
    """Return the clips of a stand-in, in order of name: classes and actors balanced, every name unique.

    A neutral clip shows what an uninformative one shows; each of the other five classes has 6/5 of UNINFORMATIVE.

    Raises:
        InputError: there are fewer than two clips per class, or more than the actors have sentences for.
    """
    classes = cremad.CLASSES
    fewest, most = 2 * len(classes), actors * len(SENTENCES) * len(classes)
    if not 1 <= actors <= MAX_ACTORS:
        raise InputError(f"--actors must be between 1 and {MAX_ACTORS}, not {actors}.")
    if not fewest <= clips <= most:
        raise InputError(f"--clips must be between {fewest} and {most} for {actors} actors, not {clips}.")
    if seed < 0:
        raise InputError(f"--seed must be at least 0, not {seed}.")
    rng, planned = np.random.default_rng([seed, clips, actors]), []
    for index, emotion in enumerate(classes):
        count = clips // len(classes) + (index < clips % len(classes))
        share = 0 if emotion == "NEU" else round(count * UNINFORMATIVE * len(classes) / (len(classes) - 1))
        uninformative = rng.permutation(["audio"] * share + ["visual"] * share + [""] * (count - 2 * share))
        sentences, first_actor = [rng.permutation(list(SENTENCES)) for _ in range(actors)], int(rng.integers(actors))
        for number in range(count):
            actor = (first_actor + number) % actors
            level = "XX" if emotion == "NEU" else rng.choice(list(LEVELS))
            sentence = sentences[actor][number // actors]
            planned.append(Clip(actor, str(sentence), emotion, str(level), str(uninformative[number]) or None))
    return sorted(planned, key=lambda clip: clip.name)


def make(clip: Clip, seed: int) -> tuple[np.ndarray, Iterable[Image.Image]]:
    """Return the sound (int16, at RATE) and the frames of a clip: a function of the clip and the seed alone."""
    in_voice, in_face = LEVELS[clip.level]
    voice, face = ("NEU" if clip.uninformative == modality else clip.emotion for modality in ("audio", "visual"))
    of_voice, of_look = (np.random.default_rng([seed, clip.actor, which]) for which in (0, 1))
    of_clip = np.random.default_rng([seed, *clip.name.encode()])
    samples, mouth = speak(clip.sentence, voice, in_voice, of_voice, of_clip)
    times = np.arange(int(len(samples) / RATE * FRAME_RATE)) / float(FRAME_RATE)
    opening = np.interp(times, np.arange(len(mouth)) * STEP / RATE, mouth)
    return samples, film(face, in_face, opening, of_look, of_clip)


def write_raw(
    folder: Path, *, clips: int = CLIPS, actors: int = ACTORS, seed: int = 0, workers: int | None = None
) -> list[Clip]:
    """Write a stand-in in CREMA-D's raw format, AudioWAV/<clip>.wav and VideoFlash/<clip>.flv, and return its plan.

    Sound is 16-bit mono at 16 kHz, pictures are Sorenson H.263 of 160×120 (CREMA-D's are 480×360) at 29.97 frames per
    second; a clip lasts at least 3.25 s. Each file is a function of the settings and the clip's name, whatever the
    number of workers (one per available core by default). A second call writes what is missing.

    Raises:
        InputError: as `plan`, the folder holds something else, or it cannot be written.
    """
    planned = plan(clips, actors, seed)
    if workers is not None and workers < 1:
        raise InputError(f"--workers must be at least 1, not {workers}.")
    with locked(folder):
        _claim(folder, {"version": VERSION, "clips": clips, "actors": actors, "seed": seed})
        missing = [clip for clip in planned if not all(path.exists() for path in _paths(folder, clip))]
        write = partial(_write_clip, folder, seed)
        results = outcomes(write, missing, workers or available_cores(), crashed=lambda clip: clip)
        with contextlib.closing(results) as done:
            for crashed in progress(done, total=len(missing), unit="clip", desc="making clips", disable=not missing):
                if crashed is not None:
                    raise InputError(f"the process that writes {crashed.name} crashed twice; try --workers 1.")
    return planned


def _paths(folder: Path, clip: Clip) -> tuple[Path, Path]:
    return folder / cremad.AUDIO_FOLDER / f"{clip.name}.wav", folder / cremad.VIDEO_FOLDER / f"{clip.name}.flv"


def _claim(folder: Path, settings: dict[str, int]) -> None:
    """Refuse a folder that holds other clips; in any other, record the settings and remove unfinished files."""
    path, content = folder / SETTINGS, json.dumps(settings) + "\n"
    files = [file for name in (cremad.AUDIO_FOLDER, cremad.VIDEO_FOLDER) for file in (folder / name).glob("*")]
    unfinished = [file for file in files if file.name.startswith(".")]  # `atomic_path` names them so
    before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
    if before != content and (before is not None or len(unfinished) < len(files)):
        other = "clips that this program did not write" if before is None else f"a set made with {before.strip()[:99]}"
        raise InputError(f"{folder} holds {other}, not {content.strip()}. Choose another --out, or delete {folder}.")
    write_text(path, content)
    for file in unfinished:
        file.unlink()


def _write_clip(folder: Path, seed: int, clip: Clip) -> None:
    samples, frames = make(clip, seed)
    wav, flv = _paths(folder, clip)
    with atomic_path(wav) as temporary, wave.open(str(temporary), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))  # mono, 2 bytes per sample
        file.writeframes(samples.astype("<i2").tobytes())
    with atomic_path(flv) as temporary, av.open(str(temporary), "w", format="flv") as container:
        stream = container.add_stream("flv", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 3  # constant quality: hardly a visible loss
        stream.codec_context.thread_count = 1  # clips are written in parallel, not frames
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, 1 / FRAME_RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


class Synthetic(ClipDatasetBuilder):
    """420 made-up clips of 12 made-up actors; for trying the software, not the methods."""

    name = "synthetic"
    title = "synthetic stand-in"
    made_here = True
    banner = (
        "SYNTHETIC DATA: drawn faces and computed voices, made up by this program. "
        "A result on it shows that the software works and says nothing about any method."
    )
    download = DownloadInfo(
        size="420 clips of at least 3.2 s (--clips), 12 actors, six emotions; four fifths for training",
        terms="made here, by this program",
        page="made by `python code/prepare.py synthetic`",
        raw="none",
    )

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py synthetic`; their values are the arguments of `prepare`."""
        parser.add_argument("--clips", type=int, default=CLIPS, help="number of clips (default: %(default)s)")
        parser.add_argument("--actors", type=int, default=ACTORS, help="number of actors (default: %(default)s)")
        clip_preparation.add_arguments(parser)

    @classmethod
    def prepare(
        cls, *, out: Path, clips: int = CLIPS, actors: int = ACTORS, seed: int = 0, **options: Any
    ) -> PreparationReport:
        """Write a stand-in to `out`/raw and prepare it in `out` as CREMA-D is prepared.

        A stratified random split puts four fifths of the clips into training; both parts have the same actors.
        `uninformative.csv` has a line `clip,modality` for each clip of which one modality does not show the class.

        Arguments:
            out: the prepared folder.
            clips, actors, seed: see `plan`; the split depends on the seed, too.
            options: workers, fps, audio; see `clip_preparation.prepare_clips`.

        Raises:
            InputError: as `write_raw` and `clip_preparation.prepare_clips`.
        """
        raw = out / "raw"
        planned = write_raw(raw, clips=clips, actors=actors, seed=seed, workers=options.get("workers"))
        lines = [f"{clip.name},{clip.uninformative}\n" for clip in planned if clip.uninformative]
        write_text(out / "uninformative.csv", "".join(lines))
        raw_clips, skipped, found = cremad.scan(raw)
        names = np.array([clip.name for clip in raw_clips])
        test = stratified([clip.label for clip in raw_clips], TEST_FRACTION, seed)
        how = f"a random stratified 80/20 split with seed {seed}"
        split = Split(np.delete(names, test).tolist(), names[test].tolist(), how)
        origin = read_json(raw / SETTINGS)
        options |= {"seed": seed, "found": found, "skipped": skipped, "origin": origin}
        info = DatasetInfo(cls.name, cls.title, True, cremad.CLASSES)
        return clip_preparation.prepare_clips(raw_clips, split, info, out=out, **options)
