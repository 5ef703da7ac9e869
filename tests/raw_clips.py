"""Write tiny real WAV, FLV and MP4 files for tests, and read the number that a frame shows."""

import subprocess
import wave
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from mmpareto.data.raw.containers import read_streams
from mmpareto.data.raw.video_decoding import ToRGB, VideoReader

NTSC = Fraction(30_000, 1001)  # 29.97 frames per second
WIDTH, HEIGHT = 96, 64
ROWS, COLUMNS = 2, 4  # eight black or white blocks: an eight-bit number that survives compression


def noise(seconds: float, seed: int = 0, channels: int = 1, rate: int = 16_000) -> np.ndarray:
    """16-bit noise with an offset, (channels, samples)."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(700, 6_000, (channels, round(seconds * rate)))
    return np.clip(np.rint(samples), -32_768, 32_767).astype("<i2")


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> None:
    """Write integer `samples`, (channels, samples), with the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(samples.dtype.itemsize)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(samples.T).tobytes())


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """16-bit samples, (channels, samples), and their rate, with the standard library."""
    with wave.open(str(path), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples.reshape(-1, file.getnchannels()).T, file.getframerate()


def picture(number: int) -> np.ndarray:
    """A frame (height, width, 3) that shows `number` (below 256) as black and white blocks."""
    bits = np.array([(number >> bit) & 1 for bit in range(ROWS * COLUMNS)], np.uint8).reshape(ROWS, COLUMNS)
    blocks = np.kron(16 + 219 * bits, np.ones((HEIGHT // ROWS, WIDTH // COLUMNS), np.uint8)).astype(np.uint8)
    return np.repeat(blocks[:, :, None], 3, axis=2)


def number_of(frame: np.ndarray) -> int:
    """Return the number that a frame shows."""
    means = frame.mean(axis=2).reshape(ROWS, HEIGHT // ROWS, COLUMNS, WIDTH // COLUMNS).mean(axis=(1, 3))
    return int(sum(1 << bit for bit, mean in enumerate(means.ravel()) if mean > 127))


def read_frames(path: Path, fps: int) -> list[np.ndarray]:
    """Frames kept at `fps` frames per second, uint8 RGB (height, width, 3)."""
    reader = VideoReader(fps, ToRGB())
    read_streams(path, [reader])
    return reader.frames


def write_video(
    path: Path,
    frames: int | Sequence[int],
    rate: Fraction | int = NTSC,
    times_ms: Iterable[int] | None = None,
    codec: str = "flv",
    options: dict[str, str] | None = None,
    sound: float = 0.0,
) -> None:
    """Write a video whose frames show 0, 1, 2, … or the numbers `frames`, at a constant rate or at `times_ms`.

    Its audio stream is `sound` seconds of noise; with 0 it has none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(frames) if isinstance(frames, int) else frames
    with av.open(str(path), "w", options=options or {}) as container:
        if sound:
            container.add_stream("pcm_s16le", rate=44_100, layout="mono")
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        unit = Fraction(1, 1000) if times_ms is not None else 1 / Fraction(rate)
        stream.codec_context.time_base = unit
        for number, time in zip(numbers, times_ms if times_ms is not None else range(len(numbers)), strict=True):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = time, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            _add_noise(container, sound)


def write_sound_as_flv(path: Path) -> None:
    """Write an FLV file with sound and without video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="flv") as container:
        container.add_stream("pcm_s16le", rate=44_100, layout="mono")
        _add_noise(container, 0.2)


def _add_noise(container: av.container.OutputContainer, seconds: float) -> None:
    stream = container.streams.audio[0]
    frame = av.AudioFrame.from_ndarray(noise(seconds, rate=44_100), format="s16", layout="mono")
    frame.sample_rate, frame.pts = 44_100, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_clip(raw: Path, name: str, seconds: float = 1.1, seed: int = 0) -> None:
    """Write one clip in CREMA-D's folder layout."""
    write_wav(raw / "AudioWAV" / f"{name}.wav", noise(seconds, seed))
    write_video(raw / "VideoFlash" / f"{name}.flv", round(seconds * NTSC))


def write_clips(raw: Path, names: Iterable[str]) -> None:
    """Write many clips at the cost of one: the others are hard links to the first."""
    first, *others = names
    write_clip(raw, first)
    for name in others:
        for folder, suffix in (("AudioWAV", "wav"), ("VideoFlash", "flv")):
            (raw / folder / f"{name}.{suffix}").hardlink_to(raw / folder / f"{first}.{suffix}")


def names(actors: int, sentences: Sequence[str] = ("IEO", "TIE"), first: int = 1001) -> list[str]:
    """Clip names in CREMA-D's format: every actor speaks every sentence with every emotion."""
    return [
        f"{actor}_{sentence}_{emotion}_XX"
        for actor in range(first, first + actors)
        for sentence in sentences
        for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    ]


def cut(path: Path, share: float) -> None:
    """Truncate a file to the first `share` of its bytes."""
    content = path.read_bytes()
    path.unlink()  # the other hard links keep the whole content
    path.write_bytes(content[: int(len(content) * share)])


def write_movie(
    path: Path,
    numbers: Sequence[int],
    sound: np.ndarray | None = None,
    sound_rate: int = 44_100,
    *,
    rate: Fraction | int = 25,
    first_ms: int = 0,
    codec: str = "libx264",
    sound_codec: str = "aac",
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> None:
    """Write frames that show `numbers`, by default in H.264, and `sound` (channels, samples), by default in AAC.

    `first_ms` is the time of the first frame and sample.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=codec_options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        voice = None
        if sound is not None:
            layout = "mono" if len(sound) == 1 else "stereo"
            voice = container.add_stream(sound_codec, rate=sound_rate, layout=layout)
            if sound_codec == "aac":
                voice.options = {"aac_pns": "0"}  # otherwise the decoder generates noise that differs on every run
        packets = []
        for index, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = index + round(first_ms / 1000 * rate), 1 / Fraction(rate)
            packets += stream.encode(frame)
        packets += stream.encode()
        if voice is not None:
            resampler = av.AudioResampler(voice.codec_context.format.name, voice.layout.name, sound_rate)
            for first in range(0, sound.shape[1], 1024):
                samples = np.ascontiguousarray(sound[:, first : first + 1024].T).reshape(1, -1)
                block = av.AudioFrame.from_ndarray(samples, "s16", voice.layout.name)
                block.sample_rate, block.time_base = sound_rate, Fraction(1, sound_rate)
                block.pts = round(first_ms * sound_rate / 1000) + first
                for part in resampler.resample(block):
                    packets += voice.encode(part)
            packets += voice.encode()
        container.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Set the matrix of an MP4 file's first track header: (p, q) is shown at (a·p + c·q, b·p + d·q), q downwards."""
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd")
    matrix = header + 4 + 4 + 20 + 16  # name; version and flags; times, id, duration; layer to volume
    for index, value in ((0, a), (1, b), (3, c), (4, d)):
        content[matrix + 4 * index : matrix + 4 * index + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(content)


def set_edit_list(path: Path, edits: Sequence[tuple[int, int]]) -> None:
    """Replace the edits of an MP4 file's last track: (milliseconds, first tick of the media or −1 for a pause)."""
    content = bytearray(path.read_bytes())
    list_ = content.rindex(b"elst") + 8  # name; version and flags
    assert int.from_bytes(content[list_ : list_ + 4], "big") == len(edits)
    for index, (length, first) in enumerate(edits):
        entry = list_ + 4 + 12 * index  # two numbers and a speed
        content[entry : entry + 8] = length.to_bytes(4, "big") + first.to_bytes(4, "big", signed=True)
    path.write_bytes(content)


def set_flv_times(path: Path, milliseconds: int) -> None:
    """Set the times of all frames of an FLV file, and the duration in its header to 0."""
    content = bytearray(path.read_bytes())
    duration = content.index(b"duration") + 9  # the name and the type of a number
    content[duration : duration + 8] = bytes(8)
    tag = 13  # after the file's header
    while tag < len(content):
        if content[tag] == 9:  # video
            content[tag + 4 : tag + 7] = milliseconds.to_bytes(3, "big")
        tag += 11 + int.from_bytes(content[tag + 1 : tag + 4], "big") + 4
    path.write_bytes(content)


def ffmpeg_wav(path: Path, *options: str) -> tuple[np.ndarray, int]:
    """16-bit samples, (channels, samples), and their rate, as the program ffmpeg converts a file to WAV."""
    wav = path.with_name(f"{path.name}.by-ffmpeg.wav")
    program = pytest.importorskip("imageio_ffmpeg", reason="brings the program ffmpeg").get_ffmpeg_exe()
    subprocess.run([program, "-v", "error", "-y", "-i", path, "-vn", *options, wav], check=True)
    return read_wav(wav)


def same_clip_later(source: Path, target: Path, begin: float) -> None:
    """Copy the packets of `source` from the key frame at or before `begin`, as `ffmpeg -ss … -c copy` trims videos."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        given.seek(int(begin * av.time_base))
        for packet in given.demux():
            if packet.size:
                unit = packet.time_base
                packet.pts, packet.dts = packet.pts - round(begin / unit), packet.dts - round(begin / unit)
                packet.stream = streams[packet.stream.index]
                made.mux(packet)
