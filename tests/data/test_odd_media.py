"""Media that other readers refuse or misread: sound that is not finite, odd tags, absent codecs, wild headers."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import raw_clips
import torch
from mmpareto.data.cremad import CREMAD
from mmpareto.data.raw import containers
from mmpareto.data.raw.containers import MediaError, NotFiniteError, stream_kinds
from mmpareto.data.raw.features import resample
from mmpareto.data.raw.media import read_audio, read_clip


def write_float_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> None:
    """Write float32 `samples` of one channel."""
    data = samples.astype("<f4").tobytes()
    header = struct.pack("<HHIIHH", 3, 1, rate, 4 * rate % 2**32, 4, 32)
    body = b"WAVEfmt " + struct.pack("<I", 16) + header + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


@pytest.mark.parametrize(("value", "second"), [(np.nan, "0.25"), (-np.inf, "0.25"), (1e38, "so loud")])
def test_sound_that_is_not_finite_is_refused_with_the_first_moment(tmp_path, value, second):
    samples = np.zeros(16_000)
    samples[4_000:4_002] = value
    write_float_wav(tmp_path / "a.wav", samples)
    with pytest.raises(NotFiniteError, match=second):
        read_clip(tmp_path / "a.wav", tmp_path / "a.wav", kinds=["fbank"], fps=None)


def test_preparing_skips_what_is_not_finite_and_remarks_on_what_is_odd(tmp_path):
    names = raw_clips.names(actors=1)
    raw_clips.write_clips(tmp_path / "raw", names)
    sound = {
        "not finite": np.full(16_000, np.nan),
        "silent": np.zeros(16_000),
        "scaled": raw_clips.noise(1.0)[0],
    }
    for name, samples in zip(names, sound.values(), strict=False):
        (tmp_path / f"raw/AudioWAV/{name}.wav").unlink()
        write_float_wav(tmp_path / f"raw/AudioWAV/{name}.wav", samples)
    (tmp_path / f"raw/VideoFlash/{names[3]}.flv").unlink()
    raw_clips.write_video(tmp_path / f"raw/VideoFlash/{names[3]}.flv", [0] * 33)  # all black
    expected = {
        "digital silence": [names[1]],
        "pictures of one colour": [names[3]],
        "sound at integer scale": [names[2]],
    }
    for _ in range(2):  # the second call finds everything prepared
        report = CREMAD.prepare(raw=tmp_path / "raw", out=tmp_path / "out", split="random", workers=1)
        assert [*report.skipped["sound not finite"]] == [names[0]]
        assert report.remarks == expected
        assert "remarks          3" in report.text()
        assert f"    {names[2]}" in report.text()


def test_tags_may_be_in_any_encoding(tmp_path):
    raw_clips.write_wav(tmp_path / "a.wav", raw_clips.noise(0.1))
    content = (tmp_path / "a.wav").read_bytes()
    tag = b"LIST" + struct.pack("<I", 16) + b"INFOINAM" + struct.pack("<I", 4) + b"caf\xe9"
    size = struct.pack("<I", len(content) - 8 + len(tag))
    (tmp_path / "b.wav").write_bytes(content[:4] + size + content[8:] + tag)
    torch.testing.assert_close(read_audio(tmp_path / "b.wav"), read_audio(tmp_path / "a.wav"))
    raw_clips.write_movie(tmp_path / "a.mp4", range(5))
    content = (tmp_path / "a.mp4").read_bytes()
    encoder = content.index(b"Lavf")
    (tmp_path / "b.mp4").write_bytes(content[:encoder] + b"\xe9\xff" + content[encoder + 2 :])
    assert stream_kinds(tmp_path / "b.mp4") == {"video"}


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_an_mp4_without_its_index_is_cut_short(tmp_path, share):
    raw_clips.write_movie(tmp_path / "a.mp4", range(5), raw_clips.noise(0.2, rate=44_100))
    raw_clips.cut(tmp_path / "a.mp4", share)
    with pytest.raises(MediaError, match="cut short"):
        stream_kinds(tmp_path / "a.mp4")


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", b"avc1"), ("mkv", b"V_MPEG4/ISO/AVC")])
def test_a_stream_of_an_unknown_codec_is_named(tmp_path, suffix, codec):
    path = tmp_path / f"a.{suffix}"
    raw_clips.write_movie(path, range(5))
    path.write_bytes(path.read_bytes().replace(codec, codec[:-3] + b"zzz"))
    with pytest.raises(MediaError, match="codec"):
        read_clip(path, path, kinds=[], fps=1)


def test_headers_that_would_take_gigabytes_are_refused(tmp_path, monkeypatch):
    for rate in (3, 2_000_000_000):
        write_float_wav(tmp_path / "a.wav", np.zeros(1_000), rate)
        with pytest.raises(MediaError, match=f"{rate} Hz"):
            read_audio(tmp_path / "a.wav")
    monkeypatch.setattr(containers, "MOST_PIXELS", raw_clips.WIDTH * raw_clips.HEIGHT // 2)
    raw_clips.write_movie(tmp_path / "a.mp4", range(5))
    with pytest.raises(MediaError):
        read_clip(tmp_path / "a.mp4", tmp_path / "a.mp4", kinds=[], fps=1)


def test_rates_without_a_common_divisor_are_resampled_without_a_large_filter():
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(44_101) / 44_101)[None]
    result = resample(tone, 44_101, 16_000)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)[None]
    assert abs(result.shape[1] - 16_000) < 100
    torch.testing.assert_close(result[:, 500:15_000], expected[:, 500:15_000], rtol=0, atol=2e-3)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(MediaError, match="regular"):
        read_audio(tmp_path / "a.wav")
