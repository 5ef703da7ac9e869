"""Preparation of clips, with a data set other than CREMA-D."""

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import raw_clips
import torch
from mmpareto.data.loading.options import AUDIO_FOLDERS
from mmpareto.data.preparation.clip_preparation import RawClip, prepare_clips
from mmpareto.data.preparation.prepared_folder import DatasetInfo, locked
from mmpareto.data.preparation.splits import Split
from mmpareto.data.raw.features import FEATURES, filterbank
from mmpareto.data.raw.media import read_audio
from mmpareto.errors import InputError
from PIL import Image

INFO = DatasetInfo("pets", "Pets", False, ("dog", "cat"))
CLIPS = ("-a dog", "b_cat", "c_dog", "d_cat")  # video ids can start with a dash
SPLIT = Split(["d_cat", "-a dog", "b_cat"], ["c_dog"], "the split of this test")


class Bomb:
    """A path that kills the worker process that opens it; the process of the tests survives."""

    def __fspath__(self) -> str:
        if multiprocessing.parent_process() is not None:
            os._exit(9)
        return "bomb"


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw clips"
    for name, numbers in zip(CLIPS, ([1] * 40, [2] * 40, [3] * 40, [4] * 40), strict=True):
        raw_clips.write_wav(folder / f"{name}.wav", raw_clips.noise(0.5, seed=numbers[0]))
        raw_clips.write_video(folder / f"{name}.flv", numbers)
    return folder


def clips(raw: Path) -> list[RawClip]:
    return [RawClip(name, name[-3:], raw / f"{name}.wav", raw / f"{name}.flv") for name in CLIPS]


def prepare(raw: Path, out: Path, split: Split = SPLIT, **options):
    return prepare_clips(options.pop("clips", clips(raw)), split, INFO, out=out, **{"workers": 1} | options)


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_the_prepared_layout(raw, tmp_path, workers):
    out = tmp_path / "out"
    report = prepare(raw, out, audio=("fbank", "spectrogram"), workers=workers, seed=5, origin={"version": 2})
    assert (out / "stat.csv").read_text() == "cat\ndog\n"
    assert (out / "train.csv").read_text() == "d_cat,cat\n-a dog,dog\nb_cat,cat\n"
    assert (out / "test.csv").read_text() == "c_dog,dog\n"
    for clip in clips(raw):
        feature = torch.load(out / "audio" / f"{clip.name}.pt", weights_only=True)
        torch.testing.assert_close(feature, filterbank(*read_audio(clip.audio_path)))
        assert torch.load(out / "audio_spectrogram" / f"{clip.name}.pt", weights_only=True).shape == (257, 188)
        pictures = sorted(path.name for path in (out / "visual" / clip.name).iterdir())
        assert pictures == ["frame_00001.jpg", "frame_00002.jpg"]
    assert {path.name for path in out.iterdir()} == {
        *("stat.csv", "train.csv", "test.csv", "prepared.json", "checksums.sha256"),
        *("audio", "audio_spectrogram", "visual"),
    }
    assert json.loads((out / "prepared.json").read_text()) == {
        "dataset": "pets",
        "title": "Pets",
        "synthetic": False,
        "split": "the split of this test",
        "official_split": False,
        "audio": ["fbank", "spectrogram"],
        "fps": 1,
        "clips": {"train": 3, "test": 1},
        "seed": 5,
        "origin": {"version": 2},
        "skipped": {},
        "missing": [],
    }
    assert report.complete and (report.found, report.prepared, report.already) == (4, 4, 0)


def test_a_frame_on_disk_is_the_frame_of_the_video(raw, tmp_path):
    prepare(raw, tmp_path)
    for number, clip in enumerate(clips(raw), start=1):
        for path in (tmp_path / "visual" / clip.name).iterdir():
            stored = np.asarray(Image.open(path).convert("RGB")).astype(int)
            assert raw_clips.number_of(stored) == number
            assert np.abs(stored - raw_clips.read_frames(clip.video_path, 1)[0]).max() < 40


def test_a_second_run_prepares_nothing_and_a_third_only_missing_clips(raw, tmp_path):
    out = tmp_path / "out"
    prepare(raw, out)
    before = files(out)
    report = prepare(raw, out)
    assert (report.prepared, report.already) == (0, 4)
    assert {name: content for name, (_, content) in files(out).items()} == {n: c for n, (_, c) in before.items()}

    (out / "audio" / "b_cat.pt").unlink()
    for picture in (out / "visual" / "c_dog").iterdir():
        picture.unlink()  # leaves an empty folder
    report = prepare(raw, out)
    assert (report.prepared, report.already) == (2, 2)
    after = files(out)
    assert {name: content for name, (_, content) in after.items()} == {n: c for n, (_, c) in before.items()}
    for name in ("audio/d_cat.pt", "visual/d_cat/frame_00001.jpg", "visual/b_cat/frame_00001.jpg", "audio/c_dog.pt"):
        assert after[name] == before[name]  # not rewritten


def test_another_feature_is_added_to_a_prepared_folder(raw, tmp_path):
    prepare(raw, tmp_path / "out")
    before = files(tmp_path / "out")
    report = prepare(raw, tmp_path / "out", audio=("spectrogram",))
    assert report.prepared == 4
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["audio"] == ["fbank", "spectrogram"]
    after = files(tmp_path / "out")
    assert all(after[name] == before[name] for name in before if name.startswith(("audio/", "visual/")))


def test_partial_files_of_an_interrupted_run_are_replaced(raw, tmp_path):
    out = tmp_path / "out"
    prepare(raw, out)
    partial = out / "visual" / ".b_cat.partial"
    (out / "visual" / "b_cat").rename(partial)
    (partial / "frame_00002.jpg").unlink()
    (out / "audio" / "b_cat.pt").rename(out / "audio" / ".b_cat.pt.x7.pt")
    report = prepare(raw, out)
    assert (report.prepared, report.already) == (1, 3)
    assert len(list((out / "visual" / "b_cat").iterdir())) == 2
    assert not list(out.rglob(".*"))


def test_bad_clips_are_skipped_and_reported(raw, tmp_path):
    raw_clips.cut(raw / "b_cat.flv", 0.5)
    (raw / "c_dog.wav").write_bytes((raw / "d_cat.flv").read_bytes())  # a video instead of sound
    (raw / "-a dog.flv").write_bytes(b"")
    short = RawClip("e_cat", "cat", raw / "e_cat.wav", raw / "d_cat.flv")
    raw_clips.write_wav(short.audio_path, raw_clips.noise(0.01))
    split = Split([*SPLIT.train, "e_cat", "gone"], ["c_dog"], "a split")
    out = tmp_path / "out"
    report = prepare(raw, out, split, clips=[*clips(raw), short], skipped={"no video file": {"f_cat": "f_cat: none"}})

    assert {kind: sorted(names) for kind, names in report.skipped.items()} == {
        "no video file": ["f_cat"],
        "unreadable file": ["-a dog", "b_cat"],
        "no audio": ["c_dog"],
        "cannot be used": ["e_cat"],
    }
    assert report.missing == ["gone"] and not report.complete
    assert report.counts == {"train": {"cat": 1, "dog": 0}, "test": {"cat": 0, "dog": 0}}
    assert (out / "train.csv").read_text() == "d_cat,cat\n" and (out / "test.csv").read_text() == ""
    assert [path.name for path in (out / "audio").iterdir()] == ["d_cat.pt"]  # a skipped clip leaves nothing
    assert [path.name for path in (out / "visual").iterdir()] == ["d_cat"]
    text = report.text()
    for part in ("skipped          5", "unreadable file: 2", "b_cat.flv is cut short", "too short", "gone", "a split"):
        assert part in text
    record = json.loads((out / "prepared.json").read_text())
    assert record["skipped"]["unreadable file"] == ["-a dog", "b_cat"] and record["missing"] == ["gone"]

    raw_clips.write_video(raw / "b_cat.flv", 40)  # repaired: the next run prepares it
    report = prepare(raw, out, split, clips=[*clips(raw), short])
    assert (report.prepared, report.already) == (1, 1)


def test_clips_outside_the_split_are_left_out(raw, tmp_path):
    report = prepare(raw, tmp_path / "out", Split(["b_cat"], ["c_dog"], "a split"))
    assert (report.found, report.outside, report.prepared) == (4, 2, 2)
    assert report.complete and "not in the split 2" in report.text()


def test_a_clip_that_kills_its_worker_is_skipped(raw, tmp_path):
    bomb = RawClip("e_cat", "cat", Bomb(), raw / "b_cat.flv")
    split = Split([*SPLIT.train, "e_cat"], SPLIT.test, "a split")
    report = prepare(raw, tmp_path / "out", split, clips=[bomb, *clips(raw)], workers=2)
    assert list(report.skipped) == ["unreadable file"]
    assert list(report.skipped["unreadable file"]) == ["e_cat"]
    assert report.prepared == 4


def test_no_usable_clip_raises_an_input_error(raw, tmp_path):
    for name in CLIPS:
        (raw / f"{name}.flv").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the 4 clips .* unreadable file: 4; the first: .*flv cannot be read"):
        prepare(raw, tmp_path / "out")
    assert not (tmp_path / "out" / "prepared.json").exists()


def test_a_folder_of_other_data_is_refused(raw, tmp_path):
    out = tmp_path / "out"
    prepare(raw, out, origin={"clips": 4})
    before = files(out)
    for options, complaint in [
        ({"fps": 3}, "with fps 1, not 3"),
        ({"origin": {"clips": 5}}, "origin"),
        ({}, "origin"),
    ]:
        with pytest.raises(InputError, match=rf"{complaint}.*another --out, or delete"):
            prepare(raw, out, **options)
    with pytest.raises(InputError, match="with dataset pets, not cars"):
        prepare_clips(clips(raw), SPLIT, INFO._replace(name="cars"), out=out, workers=1)
    (out / "prepared.json").write_text("[")
    with pytest.raises(InputError, match=r"prepared\.json is damaged"):
        prepare(raw, out)
    (out / "prepared.json").unlink()
    with pytest.raises(InputError, match="contains files that other software prepared"):
        prepare(raw, out)
    after = files(out)
    assert all(after[name] == before[name] for name in after)


def test_an_unfinished_folder_keeps_its_frame_rate(raw, tmp_path):
    for name in CLIPS:
        (raw / f"{name}.wav").rename(raw / f"{name}.wa_")
    with pytest.raises(InputError, match="none of the 4"):
        prepare(raw, tmp_path / "out", fps=2)
    for name in CLIPS:
        (raw / f"{name}.wa_").rename(raw / f"{name}.wav")
    with pytest.raises(InputError, match="with fps 2, not 1"):
        prepare(raw, tmp_path / "out", fps=1)
    assert prepare(raw, tmp_path / "out", fps=2).complete
    assert not (tmp_path / "out" / "preparing.json").exists()


def test_concurrent_preparation_is_refused(raw, tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="another process is preparing"):
        prepare(raw, tmp_path)
    assert prepare(raw, tmp_path, SPLIT).found == 4


def test_an_unwritable_destination_is_refused(raw, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*file"):
        prepare(raw, tmp_path / "file" / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "audio").write_text("")
    for workers in (1, 2):
        with pytest.raises(InputError, match=r"cannot write to .*audio"):
            prepare(raw, tmp_path / "out", workers=workers)


@pytest.mark.parametrize("option", ["fps", "workers"])
def test_numbers_below_one_are_refused(raw, tmp_path, option):
    with pytest.raises(InputError, match=f"--{option} must be at least 1, not 0"):
        prepare(raw, tmp_path, **{option: 0})


def test_clips_of_few_frames_are_left_out(raw, tmp_path):
    """Whether their frames are decoded now or were before; with fewer frames asked for, they are back."""
    raw_clips.write_video(raw / "b_cat.flv", 100)  # four frames, where the others have two
    out = tmp_path / "out"
    for least, kept in ((3, ["b_cat"]), (1, ["d_cat", "-a dog", "b_cat", "c_dog"]), (3, ["b_cat"])):
        report = prepare(raw, out, min_frames=least)
        lines = (out / "train.csv").read_text() + (out / "test.csv").read_text()
        assert [line.split(",")[0] for line in lines.splitlines()] == kept
        left_out = report.skipped.get(f"fewer than {least} frames", {})
        assert len(left_out) == 4 - len(kept) and report.complete == (least == 1)
        assert json.loads((out / "prepared.json").read_text()).get("min_frames", 1) == least
    assert left_out["c_dog"].endswith("c_dog.flv gives 2 frames.")


def test_unknown_audio_is_refused(raw, tmp_path):
    with pytest.raises(InputError, match=r"fbank, spectrogram, waveform and both, not mfcc"):
        prepare(raw, tmp_path, audio=("mfcc",))


def test_every_feature_has_a_folder():
    assert AUDIO_FOLDERS.keys() == FEATURES.keys()


def test_long_lists_are_shortened(raw, tmp_path):
    names = [f"x{i}" for i in range(100)]
    text = prepare(raw, tmp_path / "out", Split([*SPLIT.train, *names], SPLIT.test, "a split")).text()
    assert "not among the raw files: 100" in text and "80 more (all in prepared.json)" in text
    assert "x19" in text and "x20" not in text


def test_two_clips_of_one_name_are_refused(raw, tmp_path):
    """Otherwise, the second would take the files of the first, and nothing would be reported as skipped."""
    twice = [*clips(raw), RawClip("c_dog", "dog", raw / "d_cat.wav", raw / "d_cat.flv")]
    with pytest.raises(InputError, match="two samples have the name 'c_dog'"):
        prepare(raw, tmp_path / "out", clips=twice)
    assert not (tmp_path / "out").exists()
