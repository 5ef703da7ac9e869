"""Inputs of the audio encoder: the two features of a waveform that the literature uses."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torchaudio.compliance.kaldi
import torchaudio.transforms

from mmpareto.errors import InputError

FILTERBANK_FRAMES = 1024
FILTERBANK_MEAN, FILTERBANK_STD = -4.503877, 5.141276  # of AudioSet, from the sources' process_audio.py
WINDOW_SECONDS = 0.025  # Kaldi's default frame length

SPECTROGRAM_RATE = 22_050
SPECTROGRAM_SECONDS = 3
SPECTROGRAM_FFT, SPECTROGRAM_HOP = 512, 353

# Seconds that the features depend on: 1024 windows span 10.255 s, and the resampling filter a few ms more.
HEAD_SECONDS = 12
BLOCK_SECONDS, MARGIN_SECONDS = 10, 1  # resampled at a time for the mean, and the margin on either side


def resample(waveform: torch.Tensor, rate: int, new_rate: int) -> torch.Tensor:
    """Resample `waveform` (channels, samples) from `rate` to `new_rate` hertz by windowed-sinc interpolation."""
    if rate == new_rate:
        return waveform
    return _resampling(rate, new_rate, waveform.dtype)(waveform)


@functools.lru_cache(maxsize=16)
def _resampling(rate: int, new_rate: int, dtype: torch.dtype) -> torchaudio.transforms.Resample:
    """`torchaudio.functional.resample`, bit for bit, with its filter computed once."""
    return torchaudio.transforms.Resample(rate, new_rate, dtype=dtype)


def filterbank(waveform: torch.Tensor, rate: int, mean: torch.Tensor | None = None) -> torch.Tensor:
    """Kaldi log-mel filterbank (MMPareto; process_audio.py of OGM-GE).

    Subtracts the mean over all channels and samples, and applies `torchaudio.compliance.kaldi.fbank` to the first
    channel (Hann window of 25 ms every 10 ms, 128 mel bins, HTK-compatible, no energy, no dither). The result is cut or
    zero-padded to 1024 frames; then every value x, the padding included, becomes (x + 4.503877) / (2 · 5.141276).

    Arguments:
        waveform: (channels, samples), float32 in [−1, 1].
        rate: its sampling rate in hertz; 16 kHz in the sources.
        mean: the mean to subtract, (), if `waveform` is only the beginning of a longer one.

    Returns:
        (1024, 128), float32: frames, mel bins.

    Raises:
        InputError: the waveform is shorter than one window.
    """
    if waveform.shape[1] < int(rate * WINDOW_SECONDS):
        raise InputError(f"the audio is too short: {waveform.shape[1]} samples at {rate} Hz fill no window of 25 ms.")
    frames = torchaudio.compliance.kaldi.fbank(
        (waveform - (waveform.mean() if mean is None else mean))[:1],
        htk_compat=True,
        sample_frequency=rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )[:FILTERBANK_FRAMES]
    padded = torch.nn.functional.pad(frames, (0, 0, 0, FILTERBANK_FRAMES - len(frames)))
    return (padded - FILTERBANK_MEAN) / (2 * FILTERBANK_STD)


def spectrogram(waveform: torch.Tensor, rate: int) -> torch.Tensor:
    """Log-magnitude spectrogram of three seconds (OGM-GE and DGL on CREMA-D).

    The mean of the channels at 22,050 Hz, repeated and cut to three seconds and clipped to [−1, 1]; its short-time
    Fourier transform with 512 points every 353 samples and a periodic Hann window, centred with reflect padding;
    log(|S| + 1e-7). The sources repeat three times, which fills three seconds if a clip lasts at least one; a shorter
    clip is repeated until it fills them.

    Arguments:
        waveform: (channels, samples), float32 in [−1, 1].
        rate: its sampling rate in hertz.

    Returns:
        (257, 188), float32: frequencies, frames.

    Raises:
        InputError: the waveform is shorter than one window at 22,050 Hz.
    """
    mono = resample(waveform.mean(dim=0, keepdim=True), rate, SPECTROGRAM_RATE)[0]
    if len(mono) < SPECTROGRAM_FFT:
        raise InputError(f"the audio is too short: {waveform.shape[1]} samples at {rate} Hz fill no window of 23 ms.")
    length = SPECTROGRAM_SECONDS * SPECTROGRAM_RATE
    tiled = mono.repeat(-(-length // len(mono)))[:length].clamp(-1.0, 1.0)
    transform = torch.stft(
        tiled,
        n_fft=SPECTROGRAM_FFT,
        hop_length=SPECTROGRAM_HOP,
        window=torch.hann_window(SPECTROGRAM_FFT),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    return torch.log(transform.abs() + 1e-7)


class Feature(NamedTuple):
    """A feature, and the sampling rate at which it is computed."""

    function: Callable[[torch.Tensor, int], torch.Tensor]
    rate: int

    def of(self, waveform: torch.Tensor, rate: int) -> torch.Tensor:
        """The feature of `waveform` (channels, samples) at `rate` hertz."""
        return self.function(resample(waveform, rate, self.rate), self.rate)


FEATURES = {
    "fbank": Feature(filterbank, 16_000),
    "spectrogram": Feature(spectrogram, SPECTROGRAM_RATE),
}


class StreamedFeatures:
    """Computes features of a waveform that arrives in blocks, in memory that does not grow with its length.

    Both features depend on the first seconds only, but for the mean over the whole waveform that the filterbank
    subtracts. Up to 12 s the result is exactly `Feature.of`. Beyond, that mean is computed in double precision where
    `Feature.of` uses single precision: the filterbanks differ by 1e-6 where there is sound, and by at most 1e-4 in
    bands without any.

    Arguments:
        kinds: names of FEATURES.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self._kinds = kinds
        self._head: list[np.ndarray] = []
        self._head_samples = 0
        self._rate = 0
        self._mean: _ResampledMean | None = None  # of all samples, once there are more than the head holds

    def add(self, block: np.ndarray, rate: int) -> None:
        """Add the next samples, float32 in [−1, 1], (channels, samples), at `rate` hertz."""
        self._rate = rate
        if self._mean is not None:
            self._mean.add(torch.from_numpy(block))
            return
        self._head.append(block)
        self._head_samples += block.shape[1]
        if self._head_samples > HEAD_SECONDS * rate:
            everything = np.concatenate(self._head, axis=1)
            self._mean = _ResampledMean(rate, FEATURES["fbank"].rate)
            self._mean.add(torch.from_numpy(everything))
            self._head = [everything[:, : HEAD_SECONDS * rate].copy()]

    def features(self) -> dict[str, torch.Tensor]:
        """Name → feature of the whole waveform.

        Raises:
            InputError: the waveform is shorter than one window.
        """
        head = torch.from_numpy(np.concatenate(self._head, axis=1))
        features = {}
        for kind in self._kinds:
            if kind == "fbank" and self._mean is not None:
                rate = FEATURES[kind].rate
                features[kind] = filterbank(resample(head, self._rate, rate), rate, self._mean.finish())
            else:
                features[kind] = FEATURES[kind].of(head, self._rate)
        return features


class _ResampledMean:
    """The mean of a resampled waveform over channels and samples, computed block by block."""

    def __init__(self, rate: int, new_rate: int) -> None:
        self._rate, self._new_rate = rate, new_rate
        self._blocks: list[torch.Tensor] = []
        self._samples = 0  # in the blocks
        self._counted_seconds = 0  # at the beginning of the blocks, which the sum includes already
        self._sum, self._count = 0.0, 0

    def add(self, waveform: torch.Tensor) -> None:
        """Add the next samples, (channels, samples)."""
        self._blocks.append(waveform)
        self._samples += waveform.shape[1]
        seconds = self._counted_seconds + BLOCK_SECONDS + MARGIN_SECONDS
        while self._samples >= seconds * self._rate:
            samples = torch.cat(self._blocks, dim=1)
            # Whole seconds, so that a sample at the one rate coincides with one at the other.
            resampled = resample(samples[:, : seconds * self._rate], self._rate, self._new_rate)
            self._count_in(resampled[:, self._counted_seconds * self._new_rate : -MARGIN_SECONDS * self._new_rate])
            rest = samples[:, (seconds - 2 * MARGIN_SECONDS) * self._rate :].clone()
            self._blocks, self._samples, self._counted_seconds = [rest], rest.shape[1], MARGIN_SECONDS
            seconds = self._counted_seconds + BLOCK_SECONDS + MARGIN_SECONDS

    def finish(self) -> torch.Tensor:
        """The mean of all samples, (), float32."""
        resampled = resample(torch.cat(self._blocks, dim=1), self._rate, self._new_rate)
        self._count_in(resampled[:, self._counted_seconds * self._new_rate :])
        return torch.tensor(self._sum / self._count, dtype=torch.float32)

    def _count_in(self, resampled: torch.Tensor) -> None:
        self._sum += resampled.sum(dtype=torch.float64).item()
        self._count += resampled.numel()
