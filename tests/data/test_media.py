import io
import tracemalloc
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import raw_clips
import torch
import torchaudio.functional
from mmpareto.data.raw.containers import MediaError, NoAudioError, NoFrameError
from mmpareto.data.raw.features import FEATURES, filterbank, resample
from mmpareto.data.raw.media import encode_jpeg, read_audio, read_clip, read_frame_pairs
from mmpareto.errors import InputError
from PIL import Image


@pytest.mark.parametrize("channels", [1, 2])
def test_audio_equals_the_wave_module_bit_for_bit(tmp_path, channels):
    path = tmp_path / "a clip: with-colon.wav"
    raw_clips.write_wav(path, raw_clips.noise(0.7, channels=channels))
    samples, rate = raw_clips.read_wav(path)
    waveform, read_rate = read_audio(path)
    assert read_rate == rate == 16_000
    assert waveform.dtype == torch.float32
    np.testing.assert_array_equal(waveform.numpy(), samples.astype(np.float32) / np.float32(32_768))


@pytest.mark.parametrize(("dtype", "zero", "half"), [(np.uint8, 128, 128.0), ("<i4", 0, 2.0**31)])
def test_other_sample_formats_are_scaled_to_the_same_range(tmp_path, dtype, zero, half):
    limits = np.iinfo(dtype)
    samples = np.array([[limits.min, zero, limits.max, limits.max // 3]], dtype)
    raw_clips.write_wav(tmp_path / "a.wav", samples, rate=8_000)
    waveform, rate = read_audio(tmp_path / "a.wav")
    assert rate == 8_000
    np.testing.assert_array_equal(waveform.numpy(), ((samples.astype(np.float64) - zero) / half).astype(np.float32))


def test_resampling_a_tone_gives_the_tone():
    rate, new_rate = 16_000, 22_050
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(rate, dtype=torch.float64) / rate)[None]
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(new_rate, dtype=torch.float64) / new_rate)
    resampled = resample(tone, rate, new_rate)[0]
    assert len(resampled) == new_rate
    torch.testing.assert_close(resampled[500:-500], expected[500:-500], atol=2e-3, rtol=0)
    assert resample(tone, rate, rate) is tone


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_resampling_equals_torchaudio_bit_for_bit(rate):
    waveform = torch.from_numpy(raw_clips.noise(0.5, channels=2, rate=rate) / 32_768).float()
    for new_rate in (16_000, 22_050):
        expected = torchaudio.functional.resample(waveform, rate, new_rate)
        assert torch.equal(resample(waveform, rate, new_rate), expected)


def test_the_sound_of_an_avi_is_read(tmp_path):
    """The header of an AVI file counts samples, not packets, if its sound is uncompressed."""
    sound = raw_clips.noise(1.5, channels=2, rate=22_050)
    raw_clips.write_movie(tmp_path / "a.avi", range(30), sound, 22_050, codec="mpeg4", sound_codec="pcm_s16le")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.avi")[0].numpy() * 32_768, sound)


@pytest.mark.parametrize(
    ("codec", "suffix", "seconds", "channels", "rate", "first_ms"),
    [
        ("aac", "mp4", 4.0078, 1, 16_000, 0),
        ("aac", "mp4", 2.6, 2, 44_100, 0),
        ("aac", "mp4", 1.024, 1, 48_000, 0),  # fills its packets
        ("aac", "mp4", 1.1, 2, 44_100, 720),  # starts late: no silence takes its place
        ("aac", "mp4", 1.1, 1, 44_100, -400),  # an edit list hides what is before 0
        ("libmp3lame", "mp4", 1.1, 1, 44_100, 0),
        ("pcm_s16le", "mov", 1.1, 2, 44_100, 0),
        ("aac", "mkv", 1.1, 1, 44_100, 0),
        ("aac", "flv", 1.1, 1, 44_100, 0),
    ],
)
def test_sound_has_the_samples_that_ffmpeg_writes(tmp_path, codec, suffix, seconds, channels, rate, first_ms):
    path = tmp_path / f"a.{suffix}"
    options = {"avoid_negative_ts": "disabled"} if first_ms < 0 else None
    sound = tones(seconds, channels, rate)
    raw_clips.write_movie(path, range(25), sound, rate, first_ms=first_ms, sound_codec=codec, options=options)
    expected, expected_rate = raw_clips.ffmpeg_wav(path)
    waveform, read_rate = read_audio(path)
    assert read_rate == expected_rate == rate and waveform.shape == expected.shape
    assert np.abs(waveform.numpy() * 32_768 - expected).max() <= 1  # rounded to 16 bits
    if suffix in ("mp4", "mov") and first_ms <= 0:
        assert waveform.shape[1] == sound.shape[1] + first_ms * rate // 1000


def test_opus_in_mp4_has_the_length_of_its_edit_list(tmp_path):
    """FFmpeg 9 keeps its padding, 648 samples."""
    sound = tones(1.1, 1, 48_000)
    raw_clips.write_movie(tmp_path / "a.mp4", range(25), sound, 48_000, sound_codec="libopus")
    assert read_audio(tmp_path / "a.mp4")[0].shape == sound.shape
    assert raw_clips.ffmpeg_wav(tmp_path / "a.mp4")[0].shape == (1, sound.shape[1] + 648)


def test_sound_at_16_khz_has_the_length_of_ffmpegs(tmp_path):
    raw_clips.write_movie(tmp_path / "a.mp4", range(25), tones(10.0078, 2), 44_100)
    expected, _ = raw_clips.ffmpeg_wav(tmp_path / "a.mp4", "-ac", "1", "-ar", "16000")
    waveform, rate = read_audio(tmp_path / "a.mp4")
    resampled = resample(waveform.mean(0, keepdim=True), rate, 16_000)
    assert abs(resampled.shape[1] - expected.shape[1]) <= 1 and expected.shape[1] == 160_125
    inner = slice(100, 160_000)  # the two programs' filters differ at the ends
    difference = resampled[0, inner].numpy() * 32_768 - expected[0, inner]
    assert np.abs(difference).mean() < 0.02 * np.abs(expected).mean()
    rows = FEATURES["fbank"].of(waveform, rate).ne(filterbank(torch.zeros(1, 400), 16_000)[-1]).any(1).sum()
    assert rows == 999


@pytest.mark.parametrize(
    ("first_ms", "edits"),
    [(0, [(700, 1024)]), (0, [(700, 10_740)]), (720, [(720, -1), (700, 1024)]), (720, [(300, 1024), (700, 30_000)])],
)
def test_an_edit_list_that_shows_part_of_the_sound(tmp_path, first_ms, edits):
    raw_clips.write_movie(tmp_path / "a.mp4", range(25), tones(2), first_ms=first_ms)
    raw_clips.set_edit_list(tmp_path / "a.mp4", edits)
    expected, rate = raw_clips.ffmpeg_wav(tmp_path / "a.mp4")
    waveform = read_audio(tmp_path / "a.mp4")[0]
    assert waveform.shape == expected.shape
    assert np.abs(waveform.numpy() * 32_768 - expected).max() <= 1
    assert waveform.shape[1] == pytest.approx(sum(ms for ms, first in edits if first >= 0) * rate / 1000, abs=1024)


def test_files_without_sound_are_refused(tmp_path):
    raw_clips.write_video(tmp_path / "silent.flv", 5)
    with pytest.raises(NoAudioError, match=r"silent\.flv has no audio stream"):
        read_audio(tmp_path / "silent.flv")
    raw_clips.write_wav(tmp_path / "empty.wav", raw_clips.noise(0))
    with pytest.raises(NoAudioError, match=r"empty\.wav"):
        read_audio(tmp_path / "empty.wav")


@pytest.mark.parametrize("kept", [0, 20, 44, 44 + 4096, 10_001])
def test_a_wav_truncated_anywhere_is_refused(tmp_path, kept):
    path = tmp_path / "cut.wav"
    raw_clips.write_wav(path, raw_clips.noise(1.0))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(MediaError, match=r"cut\.wav") as caught:
        read_audio(path)
    assert caught.value.reason == "unreadable file"


def test_a_streamed_wav_of_unknown_size_is_read(tmp_path):
    path = tmp_path / "piped.wav"
    samples = raw_clips.noise(0.5)
    raw_clips.write_wav(path, samples)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_audio(path)[0].numpy() * 32_768, samples)


def test_missing_and_unreadable_files_are_named(tmp_path):
    (tmp_path / "notes.wav").write_text("not a sound at all\n" * 40)
    (tmp_path / "folder.wav").mkdir()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 80000\n"
    (tmp_path / "pointer.wav").write_text(pointer)
    for name, why in [("notes", ""), ("folder", ""), ("absent", "no such file"), ("pointer", "git lfs pull")]:
        for read in (read_audio, lambda path: raw_clips.read_frames(path, 1)):
            with pytest.raises(MediaError, match=rf"{name}\.wav.*{why}") as caught:
                read(tmp_path / f"{name}.wav")
            assert "\n" not in str(caught.value)


def kept_by_ogm_ge(count: int, rate: Fraction, fps: int) -> list[int]:
    """Frames kept by video_preprocessing.py of OGM-GE, whose counter restarts at every multiple of int(rate)."""
    whole, interval, kept, counter = int(rate), int(int(rate) / fps), [], 0
    for i in range(count):
        if i % whole == 0:
            counter = 0
        if counter < interval * fps and counter % interval == 0:
            kept.append(i)
        counter += 1
    return kept


@pytest.mark.parametrize("suffix", ["flv", "mp4", "avi"])
@pytest.mark.parametrize("rate", [raw_clips.NTSC, Fraction(25), Fraction(30)])
def test_frames_of_constant_rate_video_match_ogm_ge(tmp_path, suffix, rate):
    path = tmp_path / f"a.{suffix}"
    raw_clips.write_video(path, 95, rate, codec={"flv": "flv", "mp4": "libx264", "avi": "mpeg4"}[suffix])
    for fps in (1, 3, 7, int(rate)):
        frames = raw_clips.read_frames(path, fps)
        assert [raw_clips.number_of(frame) for frame in frames] == kept_by_ogm_ge(95, rate, fps)
    assert frames[0].shape == (raw_clips.HEIGHT, raw_clips.WIDTH, 3) and frames[0].dtype == np.uint8


def test_the_example_of_the_specification(tmp_path):
    raw_clips.write_video(tmp_path / "a.flv", 75)
    assert [raw_clips.number_of(frame) for frame in raw_clips.read_frames(tmp_path / "a.flv", 1)] == [0, 29, 58]


def test_a_video_whose_sound_is_longer_than_its_frames(tmp_path):
    """CREMA-D's Flash videos have both streams."""
    raw_clips.write_video(tmp_path / "a.flv", 75, sound=2.7)
    assert [raw_clips.number_of(frame) for frame in raw_clips.read_frames(tmp_path / "a.flv", 1)] == [0, 29, 58]
    waveform, rate = read_audio(tmp_path / "a.flv")
    assert (tuple(waveform.shape), rate) == ((1, 119_070), 44_100)
    np.testing.assert_array_equal(waveform.numpy() * 32_768, raw_clips.noise(2.7, rate=44_100))


def test_rounding_timestamps_to_milliseconds_keeps_the_rate_constant(tmp_path):
    rng = np.random.default_rng(0)
    exact = np.arange(90) / float(raw_clips.NTSC) * 1000
    times = np.floor(exact + rng.random(90)).astype(int).tolist()  # up or down: always less than 1 ms off
    raw_clips.write_video(tmp_path / "a.mp4", 90, times_ms=times, codec="libx264")
    assert [raw_clips.number_of(frame) for frame in raw_clips.read_frames(tmp_path / "a.mp4", 1)] == [0, 29, 58, 87]


@pytest.mark.parametrize("suffix", ["flv", "mp4"])
@pytest.mark.parametrize("fps", [1, 2, 3])
def test_frames_of_variable_rate_video_are_those_shown_at_each_time(tmp_path, suffix, fps):
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.choice([20, 33, 50, 400], 60)).tolist()  # the first one is not shown at 0
    path = tmp_path / f"a.{suffix}"
    raw_clips.write_video(path, 60, times_ms=times, codec="flv" if suffix == "flv" else "libx264")
    since_first = np.array(times) - times[0]
    moments = np.arange(0, since_first[-1] + 1e-9, 1000 / fps)  # up to the start of the last frame
    expected = [int(np.searchsorted(since_first, moment + 1e-9) - 1) for moment in moments]
    numbers = [raw_clips.number_of(frame) for frame in raw_clips.read_frames(path, fps)]
    assert numbers[: len(expected)] == expected
    assert numbers[len(expected) :] in ([], [59])  # if a moment is within the duration of the last frame


def test_a_long_pause_makes_the_rate_variable(tmp_path):
    times = [i * 40 for i in range(30)] + [i * 40 + 2000 for i in range(30, 60)]
    raw_clips.write_video(tmp_path / "a.flv", 60, rate=25, times_ms=times)
    assert [raw_clips.number_of(frame) for frame in raw_clips.read_frames(tmp_path / "a.flv", 1)] == [0, 25, 29, 29, 50]


def odd_times(kind: str) -> list[int]:
    """Times of 850 frames at 25 frames per second, in milliseconds, but for one oddity."""
    times = [40 * i for i in range(850)]
    if kind == "late last frame":
        times[-1] += 300
    elif kind == "gap":
        times[400:] = [time + 300 for time in times[400:]]
    elif kind == "late frame":
        times[400] += 30
    return times


@pytest.mark.parametrize("kind", ["late last frame", "gap", "late frame"])
def test_an_odd_time_keeps_the_rate_constant(tmp_path, kind):
    """OpenCV, with which the sources choose frames, counts them and ignores their times."""
    path = tmp_path / "a.flv"
    raw_clips.write_video(path, [i % 256 for i in range(850)], rate=25, times_ms=odd_times(kind))
    video = cv2.VideoCapture(str(path))
    images = []
    while (read := video.read())[0]:
        images.append(read[1])
    expected = kept_by_ogm_ge(len(images), Fraction(video.get(cv2.CAP_PROP_FPS)), 1)
    kept = raw_clips.read_frames(path, 1)
    assert len(kept) == len(expected) == 34
    assert [raw_clips.number_of(frame) for frame in kept] == [raw_clips.number_of(images[i]) for i in expected]


@pytest.mark.parametrize("late", [60, 1000])
def test_an_odd_time_in_a_short_clip(tmp_path, late):
    """FFmpeg's guess of the frame rate is 59.94 or 30 for some of these."""
    even = [round(i * 1001 / 30) for i in range(75)]
    for times in ([*even[:-1], even[-1] + late], even[:30] + [time + late for time in even[30:]]):
        raw_clips.write_video(tmp_path / "a.flv", 75, times_ms=times)
        assert [raw_clips.number_of(frame) for frame in raw_clips.read_frames(tmp_path / "a.flv", 1)] == [0, 29, 58]


@pytest.mark.parametrize("time", [0, 500])
def test_frames_that_all_have_one_time_are_refused(tmp_path, time):
    raw_clips.write_video(tmp_path / "a.flv", 60)
    raw_clips.set_flv_times(tmp_path / "a.flv", time)
    with pytest.raises(MediaError, match=r"a\.flv is damaged: all of its 60 frames have the same time stamp"):
        raw_clips.read_frames(tmp_path / "a.flv", 1)


def test_one_frame_is_enough(tmp_path):
    raw_clips.write_video(tmp_path / "a.flv", [77])
    assert [raw_clips.number_of(frame) for frame in raw_clips.read_frames(tmp_path / "a.flv", 1)] == [77]


def test_pairs_of_kept_and_next_frames(tmp_path):
    """Pairs start with the frames that `read_clip` keeps, except the last frame of the video, which has no next one."""
    raw_clips.write_video(tmp_path / "a.avi", 51, rate=25, codec="mpeg4")
    raw_clips.write_video(tmp_path / "variable.mp4", 5, times_ms=[0, 900, 1_100, 1_900, 2_100], codec="libx264")
    raw_clips.write_video(tmp_path / "one.avi", 1, rate=25, codec="mpeg4")
    for name, fps, kept in (("a.avi", 1, [0, 25]), ("a.avi", 2, [0, 12, 25, 37]), ("variable.mp4", 1, [0, 1, 3])):
        pairs = [*read_frame_pairs(tmp_path / name, fps)]
        assert [pair.number for pair in pairs] == kept
        assert [raw_clips.number_of(pair.first) for pair in pairs] == kept
        assert [raw_clips.number_of(pair.second) for pair in pairs] == [number + 1 for number in kept]
    assert [raw_clips.number_of(frame) for frame in raw_clips.read_frames(tmp_path / "a.avi", 1)] == [0, 25, 50]
    assert not [*read_frame_pairs(tmp_path / "one.avi", 1)]
    with pytest.raises(InputError, match="26 cannot be kept"):
        [*read_frame_pairs(tmp_path / "a.avi", 26)]


def test_a_frame_rate_above_that_of_the_video_is_refused(tmp_path):
    raw_clips.write_video(tmp_path / "a.flv", 40)
    with pytest.raises(InputError, match=r"a\.flv has 29\.97 .*30 cannot be kept"):
        raw_clips.read_frames(tmp_path / "a.flv", 30)
    with pytest.raises(InputError, match="at least 1, not 0"):
        raw_clips.read_frames(tmp_path / "a.flv", 0)


def test_files_without_frames_are_refused(tmp_path):
    raw_clips.write_sound_as_flv(tmp_path / "sound.flv")
    (tmp_path / "header.flv").write_bytes(b"FLV\x01\x01\x00\x00\x00\x09\x00\x00\x00\x00")
    for name in ("sound", "header"):
        with pytest.raises(MediaError, match=rf"{name}\.flv"):
            raw_clips.read_frames(tmp_path / f"{name}.flv", 1)
    with pytest.raises(NoFrameError, match=r"no video stream"):
        raw_clips.read_frames(tmp_path / "sound.flv", 1)


@pytest.mark.parametrize("share", [0.0, 0.002, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("kind", ["flv", "mp4", "faststart"])
def test_a_video_truncated_anywhere_is_refused(tmp_path, kind, share):
    path = tmp_path / ("cut.flv" if kind == "flv" else "cut.mp4")
    options = {"movflags": "faststart"} if kind == "faststart" else {}
    raw_clips.write_video(path, 75, codec="flv" if kind == "flv" else "libx264", options=options)
    raw_clips.cut(path, share)
    with pytest.raises(MediaError, match=r"cut\.(flv|mp4)"):
        raw_clips.read_frames(path, 1)


def test_a_flash_video_cut_between_two_frames_is_refused(tmp_path):
    """Such a cut damages no frame; it is likely because FLV's frames of a still picture are tiny."""
    raw_clips.write_video(tmp_path / "whole.flv", [5] * 75)
    content = (tmp_path / "whole.flv").read_bytes()
    for kept in range(len(content) // 2, len(content) // 2 + 60):
        (tmp_path / "cut.flv").write_bytes(content[:kept])
        with pytest.raises(MediaError, match=r"cut\.flv is cut short"):
            raw_clips.read_frames(tmp_path / "cut.flv", 1)


def test_jpeg_has_quality_95_and_halved_chroma():
    noisy = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    image = Image.open(io.BytesIO(encode_jpeg(noisy)))
    assert image.format == "JPEG" and image.size == (56, 40)
    # The first eight entries of the luminance table in annex K of the JPEG standard, scaled by the rule of the
    # Independent JPEG Group for quality 95: (entry · (200 − 2 · 95) + 50) // 100.
    standard = [16, 11, 10, 16, 24, 40, 51, 61]
    assert list(image.quantization[0][:8]) == [(entry * 10 + 50) // 100 for entry in standard]
    assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]
    grey = Image.open(io.BytesIO(encode_jpeg(noisy[:, :, 0])))
    assert grey.mode == "L" and list(grey.quantization[0]) == list(image.quantization[0])
    smooth = np.stack([*np.meshgrid(np.arange(56), np.arange(40)), np.full((40, 56), 90)], axis=2).astype(np.uint8)
    decoded = np.asarray(Image.open(io.BytesIO(encode_jpeg(smooth)))).astype(int)
    assert np.abs(decoded - smooth).mean() < 2


# --- audio features and frames of a clip ---


KINDS = ("fbank", "spectrogram")


def numbers(frames: list[bytes]) -> list[int]:
    return [raw_clips.number_of(np.asarray(Image.open(io.BytesIO(frame)))) for frame in frames]


def tones(seconds: float, channels: int = 1, rate: int = 44_100) -> np.ndarray:
    """A chirp and a little noise: compresses well, and differs from second to second."""
    time = np.arange(round(seconds * rate)) / rate
    chirp = 9_000 * np.sin(2 * np.pi * (200 + 60 * time) * time)
    return np.rint(chirp + raw_clips.noise(seconds, channels=channels, rate=rate) / 20).astype("<i2")


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that FFmpeg opens."""
    names = []
    original = av.open
    monkeypatch.setattr(
        av, "open", lambda name, *given, **options: names.append(name) or original(name, *given, **options)
    )
    return names


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 1), (44_100, 2)])
def test_features_and_frames_of_a_wav_and_an_flv(tmp_path, rate, channels):
    raw_clips.write_wav(tmp_path / "a.wav", raw_clips.noise(2.5, channels=channels, rate=rate), rate)
    raw_clips.write_video(tmp_path / "a.flv", 75)
    content = read_clip(tmp_path / "a.wav", tmp_path / "a.flv", kinds=KINDS, fps=1)
    waveform, read_rate = read_audio(tmp_path / "a.wav")
    assert read_rate == rate and waveform.shape == (channels, round(2.5 * rate))
    assert list(content.features) == list(KINDS)
    for kind in KINDS:
        assert torch.equal(content.features[kind], FEATURES[kind].of(waveform, rate))
    assert content.frames == [encode_jpeg(frame) for frame in raw_clips.read_frames(tmp_path / "a.flv", 1)]
    assert numbers(content.frames) == [0, 29, 58]


@pytest.mark.parametrize(
    ("rate", "channels", "frames"), [(44_100, 2, 90), (48_000, 1, 30), (22_050, 1, 75), (8_000, 1, 75)]
)
def test_an_mp4_is_opened_once_for_sound_and_frames(tmp_path, opened, rate, channels, frames):
    sound = tones(2.6, channels, rate)
    path = tmp_path / "a: b.mp4"
    raw_clips.write_movie(path, range(frames), sound, rate)
    opened.clear()
    content = read_clip(path, path, kinds=KINDS, fps=2)
    assert opened == [f"file:{path}"]
    assert numbers(content.frames) == [i for i in range(frames) if i % 25 in (0, 12)]
    waveform, read_rate = read_audio(path)
    assert read_rate == rate and len(waveform) == channels
    assert waveform.shape == sound.shape
    difference = waveform.numpy() - sound / 32_768
    assert np.abs(difference).mean() < 0.1 * np.abs(sound / 32_768).mean()
    for kind in KINDS:
        assert torch.equal(content.features[kind], FEATURES[kind].of(waveform, rate))


def test_only_requested_streams_are_read(tmp_path, opened):
    raw_clips.write_movie(tmp_path / "a.mp4", range(30), tones(1))
    opened.clear()
    assert read_clip(tmp_path / "a.mp4", tmp_path / "none", kinds=("fbank",), fps=None).frames == []
    assert read_clip(tmp_path / "none", tmp_path / "a.mp4", kinds=(), fps=1).features == {}
    assert len(opened) == 2
    assert read_clip("none", "none", kinds=(), fps=None) == ({}, [], [])


def test_files_without_a_requested_stream_are_refused(tmp_path):
    raw_clips.write_movie(tmp_path / "silent.mp4", range(30))
    raw_clips.write_sound_as_flv(tmp_path / "sound.flv")
    with pytest.raises(NoAudioError, match=r"silent\.mp4 has no audio stream"):
        read_clip(tmp_path / "silent.mp4", tmp_path / "silent.mp4", kinds=("fbank",), fps=1)
    with pytest.raises(NoFrameError, match=r"sound\.flv has no video stream"):
        read_clip(tmp_path / "sound.flv", tmp_path / "sound.flv", kinds=("fbank",), fps=1)
    assert numbers(read_clip("", tmp_path / "silent.mp4", kinds=(), fps=1).frames) == [0, 25]
    with pytest.raises(MediaError, match=r"absent\.mp4 cannot be read: no such file"):
        read_clip(tmp_path / "absent.mp4", tmp_path / "absent.mp4", kinds=("fbank",), fps=1)


@pytest.mark.parametrize("faststart", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.8])
def test_a_truncated_mp4_with_sound_is_refused(tmp_path, faststart, share):
    path = tmp_path / "cut.mp4"
    raw_clips.write_movie(path, range(100), tones(4), options={"movflags": "faststart"} if faststart else None)
    raw_clips.cut(path, share)
    with pytest.raises(MediaError, match=r"cut\.mp4 (is cut short|cannot be read)"):
        read_clip(path, path, kinds=("fbank",), fps=1)


@pytest.mark.parametrize(
    ("suffix", "codec", "sound", "first_ms"),
    [
        ("mp4", "libx264", "aac", 720),
        ("mp4", "libx264", "aac", -400),
        ("mkv", "libx264", "pcm_s16le", 720),
        ("flv", "flv", "pcm_s16le", 720),
        ("avi", "mpeg4", "pcm_s16le", 0),
    ],
)
def test_the_first_time_need_not_be_0(tmp_path, suffix, codec, sound, first_ms):
    path = tmp_path / f"a.{suffix}"
    options = {"avoid_negative_ts": "disabled"}
    raw_clips.write_movie(
        path, range(60), tones(2.4), first_ms=first_ms, codec=codec, sound_codec=sound, options=options
    )
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert min(packet.pts or 0 for packet in packets) * packets[0].time_base == Fraction(first_ms, 1000)
    shown = range(60) if first_ms >= 0 else range(10, 60)  # an MP4's edit list hides what is before 0
    content = read_clip(path, path, kinds=("fbank",), fps=1)
    assert numbers(content.frames) == list(shown[::25])
    assert torch.equal(content.features["fbank"], FEATURES["fbank"].of(*read_audio(path)))


def test_timestamps_that_jump_are_refused(tmp_path):
    raw_clips.write_video(tmp_path / "a.flv", 3, times_ms=[0, 40, 2_000_000_000])
    with pytest.raises(MediaError, match=r"a\.flv is damaged: its time stamps jump"):
        read_clip("", tmp_path / "a.flv", kinds=(), fps=1)


@pytest.mark.parametrize("suffix", ["mp4", "flv"])
def test_a_video_shorter_than_the_sampling_interval_keeps_one_frame(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    raw_clips.write_video(path, [9, 8, 7], 25, codec="flv" if suffix == "flv" else "libx264")
    assert numbers(read_clip("", path, kinds=(), fps=1).frames) == [9]


def test_a_copy_trimmed_between_key_frames_gives_the_frames_of_a_player(tmp_path):
    raw_clips.write_movie(tmp_path / "long.mp4", range(200), tones(8), codec_options={"g": "50", "bf": "2"})
    raw_clips.same_clip_later(tmp_path / "long.mp4", tmp_path / "trimmed.mp4", begin=3.0)
    with av.open(str(tmp_path / "trimmed.mp4")) as container:
        shown = [raw_clips.number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    frames = read_clip("", tmp_path / "trimmed.mp4", kinds=(), fps=1).frames
    assert numbers(frames) == shown[::25] and shown[0] in (50, 75)


def test_memory_does_not_grow_with_the_video(tmp_path):
    """A longer video only adds JPEG files of 1 KB each."""
    peaks = []
    for seconds in (10, 60):
        path = tmp_path / f"{seconds}.mkv"
        raw_clips.write_movie(path, [i % 256 for i in range(10 * seconds)], rate=10)
        read_clip("", path, kinds=(), fps=1)
        tracemalloc.start()
        frames = read_clip("", path, kinds=(), fps=1).frames
        peaks.append(tracemalloc.get_traced_memory()[1] - sum(map(len, frames)))
        tracemalloc.stop()
        assert len(frames) == seconds
    assert peaks[1] < peaks[0] + 100_000  # the kept frames alone are 1.1 MB, all of them 11 MB


def test_variable_rates_and_sound_in_one_pass(tmp_path):
    times = [i * 40 for i in range(30)] + [i * 40 + 2000 for i in range(30, 60)]
    raw_clips.write_video(tmp_path / "a.flv", 60, rate=25, times_ms=times, sound=4.4)
    content = read_clip(tmp_path / "a.flv", tmp_path / "a.flv", kinds=("fbank",), fps=1)
    assert numbers(content.frames) == [0, 25, 29, 29, 50]
    assert torch.equal(content.features["fbank"], FEATURES["fbank"].of(*read_audio(tmp_path / "a.flv")))
    with pytest.raises(InputError, match="at least 1, not 0"):
        read_clip(tmp_path / "a.flv", tmp_path / "a.flv", kinds=(), fps=0)
