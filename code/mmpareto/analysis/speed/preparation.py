"""Speed of preparing clips, compared with a one-process script of OpenCV and torchaudio.

The script works like those of the source repositories: it reads every frame with OpenCV, writes some of them with
OpenCV, reads a WAV file, and computes Kaldi's filterbank, one clip after the other. OpenCV decodes with as many threads
as it likes; torch uses one, which is fastest for so little work. The script gets the sound of MP4 files as WAV files of
16 kHz, for which the source repositories run ffmpeg; here this costs nothing. Start-up, seconds of imports, is not
measured for either.
"""

import contextlib
import importlib.util
import multiprocessing
import statistics
import tempfile
import time
import wave
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from mmpareto.analysis.speed.rounds import summarise, summary_text
from mmpareto.data.preparation.clip_preparation import ClipSampleBuilder, RawClip
from mmpareto.data.raw.features import resample
from mmpareto.data.raw.media import read_audio
from mmpareto.data.workers import available_cores, outcomes
from mmpareto.errors import InputError

DISTINCT = 4  # clips that are made; the others are hard links to them
ROUNDS = 3
RATE = 16_000
FRAME_RATE = Fraction(30_000, 1001)
FLASH, MP4 = "FLV 480×360 of 2.5 s, WAV 16 kHz", "MP4 340×256 of 10 s, H.264, AAC 44.1 kHz"


def compare(clips: int) -> dict[str, Any]:
    """Prepare `clips` clips of each of two kinds, in turn with this project and with the script.

    Returns:
        "cores" that this process may use, "clips" of each kind, and "kinds": description → "script" and "mmpareto",
        clips per second; "ratio" of these; "script_cpu" and "mmpareto_cpu", CPU seconds per clip. Each is the median,
        minimum and maximum over the rounds.

    Raises:
        InputError: OpenCV is not installed, or there are too few clips.
    """
    if importlib.util.find_spec("cv2") is None:
        raise InputError(
            "OpenCV, with which preparation is compared, is not installed: `pip install opencv-python-headless`."
        )
    cores = available_cores()
    if clips < 4 * cores:
        raise InputError(f"--clips {clips} is too small: with {cores} cores, {4 * cores} clips are needed.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = {FLASH: write_flash(folder / "flash", clips), MP4: write_mp4(folder / "mp4", clips)}
        measured = {}
        for index, (kind, samples) in enumerate(kinds.items()):
            rounds = [
                (_script_speed(samples, folder / f"script {index}"), _our_speed(samples, folder / f"{index} {number}"))
                for number in range(ROUNDS)
            ]
            measured[kind] = {
                "script": summarise([script.rate for script, _ in rounds]),
                "mmpareto": summarise([ours.rate for _, ours in rounds]),
                "ratio": summarise([ours.rate / script.rate for script, ours in rounds]),
                "script_cpu": summarise([script.cpu for script, _ in rounds]),
                "mmpareto_cpu": summarise([ours.cpu for _, ours in rounds]),
            }
    return {"cores": cores, "clips": clips, "kinds": measured}


def table(measured: dict[str, Any]) -> str:
    """The measurements as text."""
    lines = [
        f"{measured['cores']} cores, {measured['clips']} clips per kind, median of {ROUNDS} rounds (minimum – maximum)",
        f"{'clips per second':44}{'script':>10}{'mmpareto':>10}{'ratio':>24}   CPU ms per clip",
    ]
    for kind, values in measured["kinds"].items():
        script_cpu, our_cpu = (1000 * values[name]["median"] for name in ("script_cpu", "mmpareto_cpu"))
        lines.append(
            f"{kind:44}{values['script']['median']:10.1f}{values['mmpareto']['median']:10.1f}"
            f"{summary_text(values['ratio'], 2):>24}   {script_cpu:.1f} and {our_cpu:.1f}"
        )
    return "\n".join(lines)


# The two programs


class _Speed(NamedTuple):
    rate: float  # clips per second
    cpu: float  # CPU seconds per clip


def _our_speed(samples: Sequence[RawClip], out: Path) -> _Speed:
    """Speed of the preparation's worker processes, once all of them are working."""
    builder = ClipSampleBuilder(1, ("fbank",))
    cores = available_cores()
    with contextlib.closing(outcomes(partial(_build, builder, out), samples, cores, crashed=_crashed)) as results:
        for _ in range(2 * cores):
            next(results)
        start = time.perf_counter()
        cpu_seconds = list(results)
        return _Speed(len(cpu_seconds) / (time.perf_counter() - start), statistics.mean(cpu_seconds))


def _build(builder: ClipSampleBuilder, out: Path, sample: RawClip) -> float:
    start = time.process_time()
    builder.build(sample, out)
    return time.process_time() - start


def _crashed(sample: RawClip) -> float:
    raise InputError(f"the process that prepares {sample.name} crashes.")


def _script_speed(samples: Sequence[RawClip], out: Path) -> _Speed:
    """Speed of the script, in a new process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_script, args=(samples, out, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise InputError("the OpenCV script failed; see its output above.") from None
    finally:
        process.join()


def _script(samples: Sequence[RawClip], out: Path, sender: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    _script_clip(samples[0], out)
    start, cpu_start = time.perf_counter(), time.process_time()
    for sample in samples:
        _script_clip(sample, out)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    sender.send(_Speed(len(samples) / seconds, cpu_seconds / len(samples)))


def _script_clip(sample: RawClip, out: Path) -> None:
    import cv2
    import torch
    import torchaudio.compliance.kaldi

    folder = out / sample.name
    folder.mkdir(exist_ok=True)
    video = cv2.VideoCapture(str(sample.video_path))
    rate, count = int(video.get(cv2.CAP_PROP_FPS)), 0
    while True:
        success, frame = video.read()
        if not success:
            break
        if count % rate == 0:
            cv2.imwrite(str(folder / f"frame_{count // rate + 1:05d}.jpg"), frame)
        count += 1
    video.release()
    with wave.open(str(sample.audio_path.with_suffix(".wav")), "rb") as file:
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


# The clips


def write_flash(folder: Path, clips: int) -> list[RawClip]:
    """Write clips like CREMA-D's: FLV with Sorenson H.263 of 480×360 at about 600 kb/s, and WAV of 16 kHz."""
    folder.mkdir(parents=True)
    for number in range(min(clips, DISTINCT)):
        _write_wav(folder / f"{number}.wav", _sound(number, 2.5))
        with av.open(str(folder / f"{number}.flv"), "w") as container:
            stream: Any = container.add_stream("flv", rate=FRAME_RATE)
            stream.bit_rate = 600_000
            stream.width, stream.height, stream.pix_fmt = 480, 360, "yuv420p"
            _encode(container, stream, _images(number, (480, 360), 75))
    return _linked(folder, clips, "wav", "flv")


def write_mp4(folder: Path, clips: int) -> list[RawClip]:
    """Write clips like those of Kinetics, 340×256 with stereo sound in one file; and their sound for the script."""
    folder.mkdir(parents=True)
    for number in range(min(clips, DISTINCT)):
        sound = _sound(number, 10)
        path = folder / f"{number}.mp4"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=FRAME_RATE)
            voice: Any = container.add_stream("aac", rate=44_100, layout="stereo")
            stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
            _encode(container, stream, _images(number, (340, 256), 300))
            frame = av.AudioFrame.from_ndarray(np.stack([sound, sound], axis=1).reshape(1, -1), "s16", "stereo")
            frame.sample_rate = RATE
            for part in (*av.AudioResampler("fltp", "stereo", 44_100).resample(frame), None):
                container.mux(voice.encode(part))
        waveform = resample(*read_audio(path), RATE)
        _write_wav(path.with_suffix(".wav"), (waveform[0].clamp(-1, 1) * 32_767).numpy())
    return _linked(folder, clips, "mp4", "mp4")


def _sound(number: int, seconds: float) -> np.ndarray:
    """Samples of noise that swells and fades a few times per second."""
    time_axis = np.arange(int(seconds * RATE)) / RATE
    envelope = np.sin(np.pi * (2 + number) * time_axis) ** 2
    return (
        (4000 * envelope * np.random.default_rng(number).normal(size=len(time_axis))).clip(-32_767, 32_767).astype("i2")
    )


def _images(number: int, size: tuple[int, int], count: int) -> Iterator[np.ndarray]:
    """Images of a camera that pans over a smooth scene, with the noise of a camera."""
    width, height = size
    rng = np.random.default_rng(number)
    scene = Image.fromarray(rng.integers(0, 256, (9, 24, 3), dtype=np.uint8)).resize((width + count, height))
    pixels = np.asarray(scene).astype(np.int16)
    for offset in range(count):
        noise = rng.integers(-6, 7, (height, width, 3), dtype=np.int16)
        yield np.clip(pixels[:, offset : offset + width] + noise, 0, 255).astype(np.uint8)


def _encode(container: Any, stream: Any, images: Iterator[np.ndarray]) -> None:
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
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
    for number in range(DISTINCT, clips):
        for suffix in {audio, video, "wav"}:
            (folder / f"{number}.{suffix}").hardlink_to(folder / f"{number % DISTINCT}.{suffix}")
    return [RawClip(str(n), "class", folder / f"{n}.{audio}", folder / f"{n}.{video}") for n in range(clips)]
