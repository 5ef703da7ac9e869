import librosa
import numpy as np
import pytest
import raw_clips
import torch
import torchaudio.compliance.kaldi
from mmpareto.data.raw.features import FEATURES, filterbank, mono_samples, resample, spectrogram
from mmpareto.data.raw.media import read_audio
from mmpareto.errors import InputError


@pytest.mark.parametrize(("seconds", "channels"), [(2.5, 1), (11.0, 1), (0.6, 2), (0.025, 1)])
def test_filterbank_matches_kaldi_on_samples_read_by_wave(tmp_path, seconds, channels):
    path = tmp_path / "a.wav"
    raw_clips.write_wav(path, raw_clips.noise(seconds, channels=channels))
    samples, rate = raw_clips.read_wav(path)
    centred = torch.from_numpy(samples / 32_768 - (samples / 32_768).mean()).float()
    frames = torchaudio.compliance.kaldi.fbank(
        centred[:1],
        htk_compat=True,
        sample_frequency=rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    expected = torch.zeros(1024, 128)
    count = min(1024, 1 + (samples.shape[1] - 400) // 160)
    expected[:count] = frames[:1024]
    expected = (expected + 4.503877) / (2 * 5.141276)

    result = filterbank(*read_audio(path))
    assert result.shape == (1024, 128) and result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result[count:], torch.full_like(result[count:], 4.503877 / (2 * 5.141276)))


@pytest.mark.parametrize(("seconds", "rate", "channels"), [(2.5, 16_000, 1), (1.0, 22_050, 1), (4.0, 44_100, 2)])
def test_spectrogram_matches_librosa(seconds, rate, channels):
    waveform = torch.from_numpy(raw_clips.noise(seconds, channels=channels, rate=rate) / 32_768).float() * 4
    mono = resample(waveform.mean(0, keepdim=True), rate, 22_050)[0].numpy()
    assert np.abs(mono).max() > 1  # so that clipping takes effect
    tiled = np.clip(np.tile(mono, 3)[: 22_050 * 3], -1.0, 1.0)
    expected = np.log(np.abs(librosa.stft(tiled, n_fft=512, hop_length=353, pad_mode="reflect")) + 1e-7)
    result = spectrogram(waveform, rate)
    assert result.shape == (257, 188) and result.dtype == torch.float32
    np.testing.assert_allclose(result.exp().numpy(), np.exp(expected), rtol=1e-4, atol=1e-4)


def test_a_short_clip_is_repeated_to_three_seconds():
    short = torch.from_numpy(raw_clips.noise(0.3, rate=22_050) / 32_768).float()
    torch.testing.assert_close(spectrogram(short, 22_050), spectrogram(short.repeat(1, 5), 22_050))


def test_a_clip_shorter_than_one_window_is_refused():
    with pytest.raises(InputError, match="too short: 399 samples at 16000 Hz"):
        filterbank(torch.zeros(1, 399), 16_000)
    with pytest.raises(InputError, match="too short"):
        spectrogram(torch.zeros(1, 300), 16_000)


def test_features_of_silence_are_finite():
    for feature in FEATURES.values():
        assert torch.isfinite(feature.of(torch.zeros(1, 20_000), 16_000)).all()


def test_the_filterbank_resamples_to_16_khz():
    waveform = torch.from_numpy(raw_clips.noise(1.0, channels=2, rate=44_100) / 32_768).float()
    assert torch.equal(FEATURES["fbank"].of(waveform, 44_100), filterbank(resample(waveform, 44_100, 16_000), 16_000))


def test_the_waveform_of_a_wav_at_16_khz_is_its_samples(tmp_path):
    """Their mean, where there are two channels: the sources write the channels and average them when they load."""
    for channels in (1, 2):
        raw_clips.write_wav(tmp_path / "a.wav", raw_clips.noise(0.7, channels=channels))
        samples, _ = raw_clips.read_wav(tmp_path / "a.wav")
        result = mono_samples(*read_audio(tmp_path / "a.wav"))
        assert result.dtype == torch.int16
        assert np.abs(result.numpy() - samples.astype(float).mean(0)).max() <= (0 if channels == 1 else 0.5)


@pytest.mark.parametrize("rate", [44_100, 48_000, 11_025])
def test_the_waveform_is_resampled_to_16_khz_and_rounded(rate):
    def tones(at, seconds=2):
        time = np.arange(seconds * at) / at
        return 0.3 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 3000 * time)

    result = mono_samples(torch.from_numpy(tones(rate)).float().expand(2, -1), rate).numpy()
    assert len(result) == 32_000
    assert np.abs(result - 32_768 * tones(16_000))[200:-200].max() < 2
    loud = mono_samples(1.5 * torch.ones(1, rate), rate)
    assert loud.max() == 32_767  # clipped, not wrapped around
