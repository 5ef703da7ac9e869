"""Clips prepared a second, side by side with a one-process OpenCV + torchaudio script.

The script does as the source repositories' do: read every frame with OpenCV, write the kept ones with it, read a WAV
file, and compute Kaldi's filterbank of it; one clip after the other. OpenCV decodes with as many threads as it likes;
torch has one, with which so little work is done soonest. The sound of MP4 files is given to the script as WAV files of
16 kHz: the sources run ffmpeg for that, here it costs nothing. Starting up, seconds of imports, counts for neither.
"""

import contextlib
import importlib.util
import multiprocessing
import statistics
import tempfile
import time
import wave
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from mmpareto.data import synthetic
from mmpareto.data.preparation.clip_preparation import ClipSampleBuilder, RawClip
from mmpareto.data.raw.features import resample
from mmpareto.data.raw.media import read_audio
from mmpareto.data.synthetic import RATE
from mmpareto.data.workers import available_cores, outcomes
from mmpareto.errors import InputError

GOAL = 2.5  # times the script's clips a second, on two cores
DISTINCT = 4  # clips that are drawn; the others are links to them
ROUNDS = 3
FRAME_RATE = Fraction(30_000, 1001)
FLASH, MP4 = "FLV 480×360 of 2.5 s, WAV 16 kHz", "MP4 340×256 of 10 s, H.264, AAC 44.1 kHz"


def compare(clips: int) -> dict[str, Any]:
    """Prepare `clips` clips of each of two kinds, in turn by this project and by the script.

    Returns:
        cores: that this process may use.
        clips: of each kind.
        kinds: description → clips a second of the "script" and of "mmpareto", the "ratio" of the two, and
            "script_cpu" and "mmpareto_cpu", CPU seconds a clip; each as median, min and max of the rounds.

    Raises:
        InputError: OpenCV is not installed, or `clips` is too few to be measured.
    """
    if importlib.util.find_spec("cv2") is None:
        raise InputError(
            "OpenCV, which the comparison is with, is not installed: `pip install opencv-python-headless`."
        )
    fewest = 4 * available_cores()
    if clips < fewest:
        raise InputError(f"{available_cores()} cores need {fewest} clips or more to be measured, not {clips}.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = {FLASH: write_flash(folder / "flash", clips), MP4: write_mp4(folder / "mp4", clips)}
        measured = {}
        for place, (kind, samples) in enumerate(kinds.items()):
            rounds = [
                (_by_the_script(samples, folder / f"script {place}"), _by_us(samples, folder / f"{place} {number}"))
                for number in range(ROUNDS)
            ]
            measured[kind] = {
                "script": _spread([script.rate for script, _ in rounds]),
                "mmpareto": _spread([ours.rate for _, ours in rounds]),
                "ratio": _spread([ours.rate / script.rate for script, ours in rounds]),
                "script_cpu": _spread([script.cpu for script, _ in rounds]),
                "mmpareto_cpu": _spread([ours.cpu for _, ours in rounds]),
            }
    return {"cores": available_cores(), "clips": clips, "kinds": measured}


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"{figures['cores']} cores, {figures['clips']} clips a kind, median of {ROUNDS} rounds (smallest – largest)",
        f"{'clips a second':44}{'script':>10}{'mmpareto':>10}{'ratio':>8}{'':20}CPU ms a clip",
    ]
    for kind, found in figures["kinds"].items():
        script, ours, ratio = (found[name] for name in ("script", "mmpareto", "ratio"))
        lines.append(
            f"{kind:44}{script['median']:10.1f}{ours['median']:10.1f}{ratio['median']:8.2f}"
            f"   ({ratio['min']:.2f} – {ratio['max']:.2f})   "
            f"{1000 * found['script_cpu']['median']:6.1f} and {1000 * found['mmpareto_cpu']['median']:.1f}"
        )
    return "\n".join(lines)


# --- the two ways ---


class _Speed(NamedTuple):
    rate: float  # clips a second
    cpu: float  # CPU seconds a clip


def _by_us(samples: Sequence[RawClip], out: Path) -> _Speed:
    """The speed of the preparation's own workers, from when all of them are at work."""
    making = ClipSampleBuilder(1, ("fbank",))
    at_work = 2 * available_cores()
    with contextlib.closing(
        outcomes(partial(_make, making, out), samples, available_cores(), crashed=_crashed)
    ) as done:
        for _ in range(at_work):
            next(done)
        started = time.perf_counter()
        used = list(done)
        return _Speed(len(used) / (time.perf_counter() - started), statistics.mean(used))


def _make(making: ClipSampleBuilder, out: Path, sample: RawClip) -> float:
    started = time.process_time()
    making.build(sample, out)
    return time.process_time() - started


def _crashed(sample: RawClip) -> float:
    raise InputError(f"the process that prepares {sample.name} dies.")


def _by_the_script(samples: Sequence[RawClip], out: Path) -> _Speed:
    """The speed of the script, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_script, args=(samples, out, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise InputError("the OpenCV script failed; what it says is above.") from None
    finally:
        process.join()


def _script(samples: Sequence[RawClip], out: Path, answer: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    _script_clip(samples[0], out)
    started, used = time.perf_counter(), time.process_time()
    for sample in samples:
        _script_clip(sample, out)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    answer.send(_Speed(len(samples) / seconds, used / len(samples)))


def _script_clip(sample: RawClip, out: Path) -> None:
    import cv2
    import torch
    import torchaudio.compliance.kaldi

    folder = out / sample.name
    folder.mkdir(exist_ok=True)
    video = cv2.VideoCapture(str(sample.video_path))
    rate, count = int(video.get(cv2.CAP_PROP_FPS)), 0
    while True:
        there, frame = video.read()
        if not there:
            break
        if count % rate == 0:
            cv2.imwrite(str(folder / f"frame_{count // rate + 1:05d}.jpg"), frame)
        count += 1
    video.release()
    with wave.open(str(_extracted(sample)), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32_768
        waveform, hertz = torch.from_numpy(samples)[None], file.getframerate()
    frames = torchaudio.compliance.kaldi.fbank(
        waveform - waveform.mean(),
        htk_compat=True,
        sample_frequency=hertz,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    padded = torch.nn.functional.pad(frames, (0, 0, 0, max(1024 - len(frames), 0)))[:1024]
    torch.save((padded + 4.503877) / (2 * 5.141276), out / f"{sample.name}.pt")


def _extracted(sample: RawClip) -> Path:
    return sample.audio_path.with_suffix(".wav")


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


# --- the clips ---


def write_flash(folder: Path, clips: int) -> list[RawClip]:
    """Write clips as CREMA-D has them: Sorenson H.263 of 480×360 at about 600 kb/s in FLV, and WAV of 16 kHz."""
    folder.mkdir(parents=True)
    for place in range(min(clips, DISTINCT)):
        speech, pictures = _drawn(place, (480, 360), 75)
        _write_wav(folder / f"{place}.wav", speech[: 5 * RATE // 2])
        with av.open(str(folder / f"{place}.flv"), "w") as container:
            stream: Any = container.add_stream("flv", rate=FRAME_RATE)
            stream.bit_rate = 600_000
            _encode(container, stream, pictures)
    return _linked(folder, clips, "wav", "flv")


def write_mp4(folder: Path, clips: int) -> list[RawClip]:
    """Write clips as Kinetics is distributed: 340×256 and stereo in one file; and their sound for the script."""
    folder.mkdir(parents=True)
    for place in range(min(clips, DISTINCT)):
        speech, pictures = _drawn(place, (340, 256), 300)
        sound = np.resize(speech, 10 * RATE)
        path = folder / f"{place}.mp4"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=FRAME_RATE)
            voice: Any = container.add_stream("aac", rate=44_100, layout="stereo")
            _encode(container, stream, pictures)
            frame = av.AudioFrame.from_ndarray(np.stack([sound, sound], axis=1).reshape(1, -1), "s16", "stereo")
            frame.sample_rate = RATE
            for part in (*av.AudioResampler("fltp", "stereo", 44_100).resample(frame), None):
                container.mux(voice.encode(part))
        waveform = resample(*read_audio(path), RATE)
        _write_wav(path.with_suffix(".wav"), (waveform[0].clamp(-1, 1) * 32_767).numpy())
    return _linked(folder, clips, "mp4", "mp4")


def _drawn(place: int, size: tuple[int, int], count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A stand-in's voice, and its pictures with the noise of a camera, repeated to `count`."""
    speech, film = synthetic.make(synthetic.plan(DISTINCT * 6, DISTINCT)[place], seed=0)
    rng = np.random.default_rng(place)
    drawn = [np.asarray(picture.resize(size)).astype(np.int16) for picture in film]
    noisy = (
        drawn[number % len(drawn)] + rng.integers(-6, 7, (*size[::-1], 3), dtype=np.int16) for number in range(count)
    )
    return speech, [np.clip(picture, 0, 255).astype(np.uint8) for picture in noisy]


def _encode(container: Any, stream: Any, pictures: Sequence[np.ndarray]) -> None:
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt = "yuv420p"
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number, 1 / FRAME_RATE
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())


def _linked(folder: Path, clips: int, audio: str, video: str) -> list[RawClip]:
    for place in range(DISTINCT, clips):
        for suffix in {audio, video, "wav"}:
            (folder / f"{place}.{suffix}").hardlink_to(folder / f"{place % DISTINCT}.{suffix}")
    return [RawClip(str(n), "class", folder / f"{n}.{audio}", folder / f"{n}.{video}") for n in range(clips)]
