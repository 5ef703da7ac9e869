import importlib.util

import pytest
from mmpareto.analysis.speed import preparation
from mmpareto.data.raw.media import read_clip
from mmpareto.errors import InputError


def test_without_opencv_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install opencv-python-headless"):
        preparation.compare(100)


def test_too_few_clips_are_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InputError, match="clips or more to be measured, not 3"):
        preparation.compare(3)


def test_its_clips_are_what_it_says(tmp_path):
    clips = preparation.write_flash(tmp_path / "flash", 5)
    assert len({clip.name for clip in clips}) == 5
    for clip in clips[:1] + clips[4:]:
        assert len(read_clip(clip.audio_path, clip.video_path, kinds=("fbank",), fps=1).frames) == 3
    assert clips[4].video_path.samefile(clips[0].video_path)


def test_the_table_names_the_ratio():
    spread = {"median": 2.0, "min": 1.0, "max": 3.0}
    names = ("script", "mmpareto", "ratio", "script_cpu", "mmpareto_cpu")
    text = preparation.table({"cores": 2, "clips": 7, "kinds": {"a kind": dict.fromkeys(names, spread)}})
    assert "2.00   (1.00 – 3.00)" in text and "2000.0 and 2000.0" in text
