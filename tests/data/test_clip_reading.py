import io
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import raw_clips
import torch
from mmpareto.data.raw.containers import MediaError, NoAudioError, NoFrameError
from mmpareto.data.raw.features import FEATURES, _ResampledMean, filterbank, resample
from mmpareto.data.raw.media import encode_jpeg, read_audio, read_clip, read_frames
from mmpareto.errors import InputError
from PIL import Image

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


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_and_an_flv_give_what_reading_them_whole_gives(tmp_path, rate, channels):
    raw_clips.write_wav(tmp_path / "a.wav", raw_clips.noise(2.5, channels=channels, rate=rate), rate)
    raw_clips.write_video(tmp_path / "a.flv", 75)
    content = read_clip(tmp_path / "a.wav", tmp_path / "a.flv", kinds=KINDS, fps=1)
    waveform, found_rate = read_audio(tmp_path / "a.wav")
    assert found_rate == rate and waveform.shape == (channels, round(2.5 * rate))
    assert list(content.features) == list(KINDS)
    for kind in KINDS:
        assert torch.equal(content.features[kind], FEATURES[kind].of(waveform, rate))
    assert content.frames == [encode_jpeg(frame) for frame in read_frames(tmp_path / "a.flv", 1)]
    assert numbers(content.frames) == [0, 29, 58]


@pytest.mark.parametrize(
    ("rate", "channels", "frames"), [(44_100, 2, 90), (48_000, 1, 30), (22_050, 1, 75), (8_000, 1, 75)]
)
def test_an_mp4_with_sound_longer_or_shorter_than_the_picture_is_opened_once(tmp_path, opened, rate, channels, frames):
    sound = tones(2.6, channels, rate)
    path = tmp_path / "a: b.mp4"
    raw_clips.write_movie(path, range(frames), sound, rate)
    opened.clear()
    content = read_clip(path, path, kinds=KINDS, fps=2)
    assert opened == [f"file:{path}"]
    assert numbers(content.frames) == [i for i in range(frames) if i % 25 in (0, 12)]
    waveform, found_rate = read_audio(path)
    assert found_rate == rate and len(waveform) == channels
    # AAC is not exact, and fills its last packet up.
    assert 0 <= waveform.shape[1] - sound.shape[1] < 1024
    difference = waveform[:, : sound.shape[1]].numpy() - sound / 32_768
    assert np.abs(difference).mean() < 0.1 * np.abs(sound / 32_768).mean()
    for kind in KINDS:
        assert torch.equal(content.features[kind], FEATURES[kind].of(waveform, rate))


def test_nothing_is_read_that_is_not_wanted(tmp_path, opened):
    raw_clips.write_movie(tmp_path / "a.mp4", range(30), tones(1))
    opened.clear()
    assert read_clip(tmp_path / "a.mp4", tmp_path / "none", kinds=("fbank",), fps=None).frames == []
    assert read_clip(tmp_path / "none", tmp_path / "a.mp4", kinds=(), fps=1).features == {}
    assert len(opened) == 2
    assert read_clip("none", "none", kinds=(), fps=None) == ({}, [])


def test_files_without_the_stream_they_should_have(tmp_path):
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
def test_a_cut_mp4_with_sound_is_refused(tmp_path, faststart, share):
    path = tmp_path / "cut.mp4"
    raw_clips.write_movie(path, range(100), tones(4), options={"movflags": "faststart"} if faststart else None)
    raw_clips.cut(path, share)
    for part in ({}, {"start": 1.0}):
        with pytest.raises(MediaError, match=r"cut\.mp4 (is cut short|cannot be read)"):
            read_clip(path, path, kinds=("fbank",), fps=1, **part)


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


def test_times_that_jump_are_refused(tmp_path):
    raw_clips.write_video(tmp_path / "a.flv", 3, times_ms=[0, 40, 2_000_000_000])
    with pytest.raises(MediaError, match=r"a\.flv is damaged: its times jump"):
        read_clip("", tmp_path / "a.flv", kinds=(), fps=1)


@pytest.mark.parametrize("suffix", ["mp4", "flv"])
def test_a_video_shorter_than_the_distance_of_kept_frames_has_one(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    raw_clips.write_video(path, [9, 8, 7], 25, codec="flv" if suffix == "flv" else "libx264")
    assert numbers(read_clip("", path, kinds=(), fps=1).frames) == [9]
    assert numbers(read_clip("", path, kinds=(), fps=1, start=0.05, seconds=0.01).frames) == [8]


@pytest.mark.parametrize(
    ("suffix", "codec", "sound_codec", "group"),
    [
        ("mp4", "libx264", "aac", "250"),
        ("mp4", "libx264", "aac", "25"),  # a key frame where the part begins: the sound before it is needed too
        ("mkv", "libx264", "pcm_s16le", "25"),
        ("flv", "flv", "pcm_s16le", "12"),
        ("avi", "mpeg4", "pcm_s16le", "12"),
    ],
)
@pytest.mark.parametrize("first_ms", [0, 720])
def test_a_part_of_a_longer_video(tmp_path, suffix, codec, sound_codec, group, first_ms):
    if suffix == "avi":
        first_ms = 0  # has no times
    path, rate = tmp_path / f"a.{suffix}", 44_100
    raw_clips.write_movie(
        *(path, range(200), tones(8, rate=rate), rate),
        codec=codec,
        sound_codec=sound_codec,
        first_ms=first_ms,
        codec_options={"g": group, "sc_threshold": "0", "bf": "3" if group == "250" else "0"},
    )
    with av.open(str(path)) as container:  # the encoder of AAC begins early
        origin = container.start_time / av.time_base
        first = container.streams.video[0].start_time * container.streams.video[0].time_base
    times = [float(first) - origin + i / 25 for i in range(200)]
    for start, seconds in ((0.4, 3.0), (2.0, 2.0), (2.04, 0.9), (5.0, None), (0.0, 1.5)):
        inside = [i for i, time in enumerate(times) if start - 1e-3 <= time < start + (seconds or 9) - 1e-6]
        frames = read_clip("", path, kinds=(), fps=5, start=start, seconds=seconds).frames
        assert numbers(frames) == inside[::5], start
    both = read_clip(path, path, kinds=("fbank",), fps=5, start=2, seconds=2)
    assert both.frames == read_clip("", path, kinds=(), fps=5, start=2, seconds=2).frames
    waveform, _ = read_audio(path)
    # The containers round their times to as much as a millisecond.
    parts = (waveform[:, shift : shift + 2 * rate] for shift in range(2 * rate - 45, 2 * rate + 46))
    differences = [(both.features["fbank"] - FEATURES["fbank"].of(part, rate)).abs().max() for part in parts]
    assert min(differences) < 1e-5 and np.argmin(differences) in ([45] if suffix in ("mp4", "avi") else range(91))


def test_a_part_may_end_between_frames_that_are_stored_out_of_order(tmp_path):
    raw_clips.write_movie(tmp_path / "a.mp4", range(75), codec_options={"bf": "8", "x264-params": "b-adapt=0"})
    for last in range(30, 50):  # the rule of constant rates begins at 11, that of variable ones at 10
        frames = read_clip("", tmp_path / "a.mp4", kinds=(), fps=5, start=0.43, seconds=last / 25 - 0.43).frames
        assert numbers(frames) == list(range(11, last, 5))


def test_a_part_of_an_mp4_that_is_cut_between_two_packets_is_refused(tmp_path):
    path = tmp_path / "cut.mp4"
    raw_clips.write_movie(path, range(200), options={"movflags": "faststart"}, codec_options={"g": "25", "bf": "0"})
    with av.open(str(path)) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.size][150]
    path.write_bytes(path.read_bytes()[:place])
    with pytest.raises(MediaError, match=r"cut\.mp4 is cut short: [0-9]+ of the 1[0-9]+ frames"):
        read_clip("", path, kinds=(), fps=1, start=3.6)
    assert numbers(read_clip("", path, kinds=(), fps=1, start=3.6, seconds=1).frames) == [90]


def test_a_part_of_a_wav_is_exact_to_the_sample(tmp_path):
    samples = raw_clips.noise(9)
    raw_clips.write_wav(tmp_path / "a.wav", samples)
    for start, seconds in ((1.2345, 2.0), (0, 3.3), (7.5, None), (0.2, 0.1)):
        first = round(start * 16_000)
        part = torch.from_numpy(
            samples[:, first : None if seconds is None else first + round(seconds * 16_000)] / 32_768
        )
        found = read_clip(tmp_path / "a.wav", "", kinds=KINDS, fps=None, start=start, seconds=seconds).features
        for kind in KINDS:
            assert torch.equal(found[kind], FEATURES[kind].of(part.float(), 16_000))


def test_a_part_that_is_not_there(tmp_path):
    path = tmp_path / "a.mp4"
    raw_clips.write_movie(path, range(50), tones(2))
    with pytest.raises(NoAudioError, match=r"a\.mp4 has an audio stream without a sample in the part"):
        read_clip(path, path, kinds=("fbank",), fps=1, start=60)
    with pytest.raises(NoFrameError, match=r"a\.mp4 has a video stream without a frame in the part"):
        read_clip(path, path, kinds=(), fps=1, start=60)
    for part in ({"start": -1}, {"seconds": 0}):
        with pytest.raises(InputError, match=r"a part of .*a\.mp4 cannot begin at"):
            read_clip(path, path, kinds=("fbank",), fps=1, **part)


def test_a_copy_that_begins_between_key_frames_shows_what_a_player_shows(tmp_path):
    raw_clips.write_movie(tmp_path / "long.mp4", range(200), tones(8), codec_options={"g": "50", "bf": "2"})
    raw_clips.same_clip_later(tmp_path / "long.mp4", tmp_path / "trimmed.mp4", begin=3.0)
    with av.open(str(tmp_path / "trimmed.mp4")) as container:
        shown = [raw_clips.number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    frames = read_clip("", tmp_path / "trimmed.mp4", kinds=(), fps=1).frames
    assert numbers(frames) == shown[::25] and shown[0] in (50, 75)


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8_000, 1)])
def test_features_of_long_sound_are_those_of_the_whole_waveform(tmp_path, rate, channels):
    raw_clips.write_wav(tmp_path / "a.wav", raw_clips.noise(47.3, channels=channels, rate=rate), rate)
    found = read_clip(tmp_path / "a.wav", "", kinds=KINDS, fps=None).features
    waveform, _ = read_audio(tmp_path / "a.wav")
    resampled = resample(waveform, rate, 16_000)
    exact = filterbank(resampled, 16_000, resampled.mean(dtype=torch.float64).float())
    torch.testing.assert_close(found["fbank"], exact, atol=1e-6, rtol=0)
    torch.testing.assert_close(found["fbank"], filterbank(resampled, 16_000), atol=1e-4, rtol=0)
    torch.testing.assert_close(found["spectrogram"], FEATURES["spectrogram"].of(waveform, rate), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("seconds", [12.0, 22.0, 31.7])
def test_the_mean_of_a_resampled_waveform_is_summed_up_in_blocks(rate, seconds):
    """Kaldi takes every window's mean off, so that the filterbank hardly shows what was subtracted before."""
    waveform = torch.from_numpy(raw_clips.noise(seconds, channels=2, rate=rate) / 32_768).float()
    waveform[:, 11 * rate :] += 0.3
    mean = _ResampledMean(rate, 16_000)
    for block in waveform.split(1024, dim=1):
        mean.add(block)
    expected = resample(waveform, rate, 16_000).mean(dtype=torch.float64)
    assert mean.finish().item() == pytest.approx(expected.item(), abs=1e-8)


def test_memory_does_not_grow_with_the_video(tmp_path):
    """Of twelve times the length only the kept JPEG files, 1 KB each, come on top."""
    peaks = []
    for seconds in (15, 180):
        path = tmp_path / f"{seconds}.mkv"
        raw_clips.write_movie(
            path,
            [i % 256 for i in range(10 * seconds)],
            raw_clips.noise(seconds, rate=8_000),
            8_000,
            rate=10,
            sound_codec="pcm_s16le",
        )
        read_clip(path, path, kinds=("fbank",), fps=1)
        tracemalloc.start()
        content = read_clip(path, path, kinds=("fbank",), fps=1)
        peaks.append(tracemalloc.get_traced_memory()[1] - sum(map(len, content.frames)))
        tracemalloc.stop()
        assert len(content.frames) == seconds
    assert peaks[1] < peaks[0] + 500_000  # the waveform alone is 5.8 MB


def test_variable_rates_and_sound_in_one_pass(tmp_path):
    times = [i * 40 for i in range(30)] + [i * 40 + 2000 for i in range(30, 60)]
    raw_clips.write_video(tmp_path / "a.flv", 60, rate=25, times_ms=times, sound=4.4)
    content = read_clip(tmp_path / "a.flv", tmp_path / "a.flv", kinds=("fbank",), fps=1)
    assert numbers(content.frames) == [0, 25, 29, 29, 50]
    assert torch.equal(content.features["fbank"], FEATURES["fbank"].of(*read_audio(tmp_path / "a.flv")))
    with pytest.raises(InputError, match="at least 1, not 0"):
        read_clip(tmp_path / "a.flv", tmp_path / "a.flv", kinds=(), fps=0)
