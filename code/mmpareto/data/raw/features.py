"""Inputs of the audio encoder: the features of a waveform that the literature uses."""

import functools
import math
from collections.abc import Callable
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

STFT_RATE = 16_000
STFT_SECONDS = 5
STFT_FFT, STFT_HOP = 256, 128

LARGEST_FILTER = 1 << 23  # coefficients of the filter for resampling: 64 MB in float64


def resample(waveform: torch.Tensor, rate: int, new_rate: int) -> torch.Tensor:
    """Resample `waveform` (channels, samples) from `rate` to `new_rate` hertz by windowed-sinc interpolation.

    The filter has a row per phase: of rates without a large common divisor, such as 44,101 and 16,000 Hz, it would take
    gigabytes. These are resampled by FFmpeg's libswresample, which interpolates between fewer phases.
    """
    if rate == new_rate:
        return waveform
    divisor = math.gcd(rate, new_rate)
    if (rate // divisor) * (new_rate // divisor) > LARGEST_FILTER:
        return torch.from_numpy(np.stack([_by_ffmpeg(c, rate, new_rate, "fltp") for c in waveform.numpy()]))
    return _resampling(rate, new_rate, waveform.dtype)(waveform)


@functools.lru_cache(maxsize=16)
def _resampling(rate: int, new_rate: int, dtype: torch.dtype) -> torchaudio.transforms.Resample:
    """`torchaudio.functional.resample`, bit for bit, with its filter computed once."""
    return torchaudio.transforms.Resample(rate, new_rate, dtype=dtype)


def filterbank(waveform: torch.Tensor, rate: int) -> torch.Tensor:
    """Kaldi log-mel filterbank (MMPareto; process_audio.py of OGM-GE).

    Subtracts the mean over all channels and samples, and applies `torchaudio.compliance.kaldi.fbank` to the first
    channel (Hann window of 25 ms every 10 ms, 128 mel bins, HTK-compatible, no energy, no dither). The result is cut or
    zero-padded to 1024 frames; then every value x, the padding included, becomes (x + 4.503877) / (2 · 5.141276).

    Arguments:
        waveform: (channels, samples), float32 in [−1, 1].
        rate: its sampling rate in hertz; 16 kHz in the sources.

    Returns:
        (1024, 128), float32: frames, mel bins.

    Raises:
        InputError: the waveform is shorter than one window.
    """
    frames = kaldi_filterbank(waveform, rate, mel_bins=128, shift_ms=10)[:FILTERBANK_FRAMES]
    padded = torch.nn.functional.pad(frames, (0, 0, 0, FILTERBANK_FRAMES - len(frames)))
    return (padded - FILTERBANK_MEAN) / (2 * FILTERBANK_STD)


def kaldi_filterbank(waveform: torch.Tensor, rate: int, *, mel_bins: int, shift_ms: int) -> torch.Tensor:
    """Kaldi log-mel filterbank of the first channel, less the mean over all channels and samples; see `filterbank`.

    Arguments:
        waveform: (channels, samples), float32 in [−1, 1].
        rate: its sampling rate in hertz.
        mel_bins: number of frequencies.
        shift_ms: milliseconds from one window of 25 ms to the next.

    Returns:
        (frames, mel_bins), float32, as many frames as there are whole windows.

    Raises:
        InputError: the waveform is shorter than one window.
    """
    if waveform.shape[1] < int(rate * WINDOW_SECONDS):
        raise InputError(f"the audio is too short: {waveform.shape[1]} samples at {rate} Hz fill no window of 25 ms.")
    return torchaudio.compliance.kaldi.fbank(
        (waveform - waveform.mean())[:1],
        htk_compat=True,
        sample_frequency=rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=mel_bins,
        dither=0.0,
        frame_shift=shift_ms,
    )


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
    return _log_magnitude(tiled, SPECTROGRAM_FFT, SPECTROGRAM_HOP)


def stft(samples: torch.Tensor) -> torch.Tensor:
    """Log-magnitude spectrogram of five seconds at 16 kHz (OGM-GE and DGL on VGGSound, DGL on Kinetics-Sounds).

    Short-time Fourier transform with 256 points every 128 samples and a periodic Hann window, centred with reflect
    padding; log(|S| + 1e-7).

    Arguments:
        samples: (80,000,), float32 in [−1, 1].

    Returns:
        (129, 626), float32: frequencies, frames.
    """
    return _log_magnitude(samples, STFT_FFT, STFT_HOP)


def _log_magnitude(samples: torch.Tensor, n_fft: int, hop: int) -> torch.Tensor:
    transform = torch.stft(
        samples,
        n_fft=n_fft,
        hop_length=hop,
        window=torch.hann_window(n_fft),
        center=True,
        pad_mode="reflect",  # librosa's default before 0.9.0
        return_complex=True,
    )
    return torch.log(transform.abs() + 1e-7)


def mono_samples(waveform: torch.Tensor, rate: int) -> torch.Tensor:
    """The waveform from which `stft` is computed: 16-bit samples at 16 kHz, averaged over the channels.

    Resampled and rounded by FFmpeg's libswresample, as by the sources' `ffmpeg -acodec pcm_s16le -ar 16000`. They
    average the channels when they load the file, without rounding again.

    Arguments:
        waveform: (channels, samples), float32 in [−1, 1].
        rate: its sampling rate in hertz.

    Returns:
        (samples at 16 kHz,), int16.
    """
    channels = [_by_ffmpeg(channel, rate, STFT_RATE, "s16") for channel in waveform.numpy()]
    return torch.from_numpy(np.mean(channels, axis=0, dtype=np.float64).round().astype(np.int16))


def _by_ffmpeg(channel: np.ndarray, rate: int, new_rate: int, sample_format: str) -> np.ndarray:
    """Resample float32 (samples,) by libswresample, to samples of one of FFmpeg's formats."""
    import av  # not at the top: the loader, which imports this module, does not need it

    resampler = av.AudioResampler(format=sample_format, layout="mono", rate=new_rate)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channel[None]), format="fltp", layout="mono")
    frame.sample_rate = rate
    return np.concatenate([block.to_ndarray()[0] for block in (*resampler.resample(frame), *resampler.resample(None))])


class Feature(NamedTuple):
    """Content of a prepared audio file, and the sampling rate at which it is computed; None for any rate."""

    function: Callable[[torch.Tensor, int], torch.Tensor]
    rate: int | None

    def of(self, waveform: torch.Tensor, rate: int) -> torch.Tensor:
        """The feature of `waveform` (channels, samples) at `rate` hertz."""
        if self.rate is None:
            return self.function(waveform, rate)
        return self.function(resample(waveform, rate, self.rate), self.rate)


FEATURES = {
    "fbank": Feature(filterbank, 16_000),
    "spectrogram": Feature(spectrogram, SPECTROGRAM_RATE),
    "waveform": Feature(mono_samples, None),
}
