"""The sound of a media file, decoded in one pass over its packets."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.packet import Packet

from mmpareto.data.raw.containers import MediaError, NoAudioError, Span


class SoundReader:
    """Takes the packets of an audio stream, and hands its samples on as they come.

    Arguments:
        hand_on: called with blocks of the waveform, float32 in [−1, 1], (channels, samples), and the sampling rate in
            hertz. Integer samples are divided by half their range, which float32 holds exactly for 16 bits.
    """

    kind: ClassVar[str] = "audio"
    absent: ClassVar[type[MediaError]] = NoAudioError

    def __init__(self, hand_on: Callable[[np.ndarray, int], None]) -> None:
        self._hand_on = hand_on
        self._next: int | None = None  # the next sample's place in the part that is wanted
        self._form: tuple[int, int] | None = None  # rate and channels
        self._samples = 0  # handed on
        self.done = False

    def open(self, path: Path, container: InputContainer, stream: Any, span: Span) -> None:
        """See `containers.Consumer`."""
        self._path, self._stream, self._span = path, stream, span

    def take(self, packet: Packet) -> None:
        """See `containers.Consumer`."""
        self._take(self._stream.decode(packet))

    def close(self) -> None:
        """See `containers.Consumer`.

        Raises:
            NoAudioError: there was no sample in the file, or in the wanted part.
        """
        if not self.done:
            self._take(self._stream.decode(None))
        if not self._samples:
            part = "" if self._span == (None, None) else " in the part that is wanted"
            raise NoAudioError(f"{self._path} has an audio stream without a sample{part}.")

    def _take(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            block = _to_float(frame)
            form = frame.sample_rate, block.shape[0]
            if self._form not in (None, form):
                raise MediaError(f"{self._path} changes its sampling rate or its channels in the middle.")
            self._form = form
            block = self._within_span(block, frame)
            if block.shape[1]:
                self._samples += block.shape[1]
                self._hand_on(block, frame.sample_rate)

    def _within_span(self, block: np.ndarray, frame: AudioFrame) -> np.ndarray:
        """What of `block` lies in the wanted part; only the first block's time counts, since others are rounded."""
        begin, end = self._span
        if begin is None and end is None:
            return block
        rate, count = frame.sample_rate, block.shape[1]
        if self._next is None:
            time = Fraction(0) if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
            self._next = round((time - (begin or Fraction(0))) * rate)
        first, self._next = self._next, self._next + count
        last = count
        if end is not None:
            length = round((end - (begin or Fraction(0))) * rate)
            last = min(count, max(length - first, 0))
            self.done = self._next >= length
        return block[:, 0 if begin is None else max(-first, 0) : last]


def _to_float(frame: AudioFrame) -> np.ndarray:
    """The samples of `frame`, (channels, samples), float32."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    half_range = np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    zero = half_range if samples.dtype.kind == "u" else np.float32(0)  # 8-bit samples are unsigned
    return (samples.astype(np.float32) - zero) / half_range  # each step exact but the first, for 32 bits
