"""The benchmark of data preparation: its clips, errors and table."""

import importlib.util
from pathlib import Path

import pytest
from mmpareto.analysis.speed import preparation
from mmpareto.data.raw.media import read_clip
from mmpareto.errors import InputError


def test_without_opencv_the_message_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install opencv-python-headless"):
        preparation.compare(100)


def test_too_few_clips_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InputError, match="--clips 3 "):
        preparation.compare(3)


def test_clips_like_those_of_cremad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "DISTINCT", 2)
    clips = preparation.write_flash(tmp_path / "flash", 3)
    assert len({clip.name for clip in clips}) == 3
    clip = read_clip(clips[0].audio_path, clips[0].video_path, kinds=("fbank",), fps=1)
    assert len(clip.frames) == 3 and clips[2].video_path.samefile(clips[0].video_path)
    assert clips[1].video_path.read_bytes() != clips[0].video_path.read_bytes()


def test_clips_like_those_of_kinetics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "DISTINCT", 1)
    (clip,) = preparation.write_mp4(tmp_path / "mp4", 1)
    assert clip.audio_path == clip.video_path and clip.audio_path.with_suffix(".wav").stat().st_size > 300_000
    assert len(read_clip(clip.audio_path, clip.video_path, kinds=("fbank",), fps=1).frames) == 11  # 10.01 s


def test_the_table_has_the_ratio() -> None:
    summary = {"median": 2.0, "min": 1.0, "max": 3.0}
    names = ("script", "mmpareto", "ratio", "script_cpu", "mmpareto_cpu")
    text = preparation.table({"cores": 2, "clips": 7, "kinds": {"a kind": dict.fromkeys(names, summary)}})
    assert "2.00 (1.00 – 3.00)" in text and "2000.0 and 2000.0" in text
