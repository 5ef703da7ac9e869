"""Write tiny real MP4 files with sound, like those of the YouTube data sets, and AVI files."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import raw_clips


def write_mp4(path: Path, seconds: float = 1.2, rate: int = 25, sound: bool = True) -> None:
    """Write MPEG-4 frames that show 0, 1, 2, …, and stereo AAC noise of the same length at 44.1 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=rate)
        video.width, video.height, video.pix_fmt = raw_clips.WIDTH, raw_clips.HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=44_100, layout="stereo") if sound else None
        for number in range(round(seconds * rate)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(raw_clips.picture(number), format="rgb24")))
        container.mux(video.encode())
        if audio is not None:
            samples = raw_clips.noise(seconds, channels=2, rate=44_100).astype(np.float32) / 32_768
            for start in range(0, samples.shape[1], 1024):  # one AAC frame
                block = np.ascontiguousarray(samples[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts, frame.time_base = 44_100, start, Fraction(1, 44_100)
                container.mux(audio.encode(frame))
            container.mux(audio.encode())


def write_mp4s(paths: Iterable[Path]) -> None:
    """Write many files at the cost of one: the others are hard links to the first."""
    first, *others = paths
    write_mp4(first)
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(first)


def write_avi(path: Path, frames: Sequence[np.ndarray], rate: int = 25) -> None:
    """Write RGB `frames` as MPEG-4 in AVI, like UCF-101's videos, in high quality and without sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"qmin": "1", "qmax": "2"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.bit_rate = 20_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random grey picture as RGB (height, width, 3): a sum of waves of 8 to 40 pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [
        np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / length + phase)
        for angle, length, phase in zip(
            rng.uniform(0, np.pi, 24), rng.uniform(8, 40, 24), rng.uniform(0, 6.3, 24), strict=True
        )
    ]
    total = np.sum(waves, axis=0)
    grey = np.clip(128 + total * (100 / np.abs(total).max()), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
