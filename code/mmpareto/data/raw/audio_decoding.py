"""Decoding the audio of a media file: the samples that `ffmpeg -i FILE FILE.wav` writes.

FFmpeg's decoder drops the samples before the first one that an MP4's edit list shows, among them those that an encoder
puts first; the padding at the end is cut here. Nothing fills a pause before the first sample. See "Sound as ffmpeg
reads it" in docs/data.md.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.packet import Packet

from mmpareto.data.raw.containers import MediaError, NoAudioError, NotFiniteError

RATES = (1_000, 1_000_000)  # hertz; resampling from others would take memory out of proportion to the file


class AudioReader:
    """Decodes an audio stream (a `containers.StreamReader`)."""

    kind: ClassVar[str] = "audio"
    missing_stream: ClassVar[type[MediaError]] = NoAudioError

    def open(self, path: Path, container: InputContainer, stream: Any) -> None:
        """Remember the stream, and where its header says that it ends."""
        self._path, self._stream = path, stream
        self._end = stream.duration if "mp4" in container.format.name else None  # like all times, in stream.time_base
        self._packet_end: int | None = None  # of the last packet
        self._block_start: Fraction | None = None  # of the last block
        self._blocks: list[np.ndarray] = []
        self._format: tuple[int, int] | None = None  # rate and channels

    def feed(self, packet: Packet) -> None:
        """Decode a packet."""
        self._packet_end = None if packet.pts is None or packet.duration is None else packet.pts + packet.duration
        self._append(self._stream.decode(packet))

    def close(self) -> None:
        """Decode the samples that the decoder still holds.

        Raises:
            NoAudioError: the stream has no sample.
            NotFiniteError: a sample is NaN or infinite.
        """
        self._append(self._stream.decode(None))
        if not any(block.shape[1] for block in self._blocks):
            raise NoAudioError(f"{self._path} has an audio stream without a sample.")
        self._cut_padding()
        self._check_finite()

    def waveform(self) -> tuple[torch.Tensor, int]:
        """The waveform, float32 in [−1, 1], (channels, samples), and its sampling rate in hertz.

        Integer samples are divided by half their range, which float32 represents exactly for 16 bits.
        """
        assert self._format is not None
        return torch.from_numpy(np.concatenate(self._blocks, axis=1)), self._format[0]

    def _append(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            try:
                block = _to_float(frame)
            except ValueError:
                name = frame.format.name
                raise MediaError(f"{self._path} has samples of the format {name}, which is not read.") from None
            if not RATES[0] <= frame.sample_rate <= RATES[1]:
                raise MediaError(
                    f"{self._path} states a sampling rate of {frame.sample_rate} Hz; it is read from {RATES[0]} to "
                    f"{RATES[1]} Hz."
                )
            if self._format not in (None, (frame.sample_rate, block.shape[0])):
                raise MediaError(f"{self._path} changes its sampling rate or its number of channels in the middle.")
            self._format = frame.sample_rate, block.shape[0]
            unit = frame.time_base / self._stream.time_base
            self._block_start = None if frame.pts is None else frame.pts * unit
            self._blocks.append(block)

    def _check_finite(self) -> None:
        wrong = [np.flatnonzero(~np.isfinite(block).all(axis=0)) for block in self._blocks]
        count = sum(map(len, wrong))
        if count and self._format is not None:
            before = np.cumsum([0, *(block.shape[1] for block in self._blocks)])
            first = next(start + indices[0] for start, indices in zip(before, wrong, strict=False) if len(indices))
            raise NotFiniteError(
                f"{self._path} has {count} of {before[-1]} samples that are NaN or infinite, the first after "
                f"{first / self._format[0]:.2f} s; write it again from its source."
            )

    def _cut_padding(self) -> None:
        """Cut the last block where the last packet or the stream ends: an encoder fills its last packet.

        The program ffmpeg 9.0 does the same; version 7.0 and the library of PyAV 18.1 keep the padding.
        """
        if self._end is None or self._packet_end is None or self._block_start is None or self._format is None:
            return
        ticks = min(self._packet_end, self._end) - self._block_start
        if ticks > 0:  # a stream's duration does not include its start, so one that starts late may begin after its end
            self._blocks[-1] = self._blocks[-1][:, : round(ticks * self._stream.time_base * self._format[0])]


def _to_float(frame: AudioFrame) -> np.ndarray:
    """The samples of `frame`, (channels, samples), float32."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # becomes infinity, which is refused
            return samples.astype(np.float32, copy=False)
    half_range = np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    zero = half_range if samples.dtype.kind == "u" else np.float32(0)  # 8-bit samples are unsigned
    return (samples.astype(np.float32) - zero) / half_range  # each step exact but the first, for 32 bits
