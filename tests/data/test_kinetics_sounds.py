import hashlib
import json
from pathlib import Path

import prepare
import pytest
import raw_mp4
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpareto.data import kinetics_sounds
from mmpareto.data.kinetics_sounds import DGL_CLASSES, KineticsSounds, class_names, clip_in, find_by_folders, read_lists
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.preparation.clip_preparation import RawClip
from mmpareto.errors import InputError

# As in the published files: one list has starts and ends in six digits, the other one only unpadded starts.
TRAIN = ["--4-0ihtnBU_000058_000068,10,4", "-00nar1nEPc_000033_000043,10,13", "0HQsAGUnQ_0_000007_000017,10,4"]
TEST = ["-3Mwkq-7TV4_2,10,4", "4pWMmccr_54_29,10,13", "0C8FAc_LMfc_45,10,22"]
RAW = [
    "train/playing_drums/--4-0ihtnBU_000058_000068.mp4",
    "train/blowing nose/-00nar1nEPc_000033_000043.mp4",
    "train/playing_drums/0HQsAGUnQ_0_7.mp4",
    "val/playing drums/-3Mwkq-7TV4_000002_000012.mp4",
    "val/blowing_nose/4pWMmccr_54_000029.mp4",
]
YOUTUBE = st.text("ABCXYZabcxyz0189-_", min_size=11, max_size=11)


def write_lists(folder, train=TRAIN, test=TEST, end="\n"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("my_train.txt", train), ("my_test.txt", test)):
        (folder / name).write_bytes("".join(line + end for line in lines).encode())


@pytest.fixture
def raw(tmp_path):
    raw_mp4.write_mp4s([tmp_path / "raw" / name for name in RAW])
    return tmp_path / "raw"


@settings(max_examples=50)
@given(video=YOUTUBE, start=st.integers(0, 999_989))
def test_all_ways_to_write_a_clip_are_one(video, start):
    written = [f"{start:06d}_{start + 10:06d}", f"{start:06d}", str(start), f"{start}_{start + 10:06d}"]
    assert {clip_in(f"{video}_{form}") for form in written} == {(video, start)}


@pytest.mark.parametrize("name", ["-3Mwkq-7TV4", "Mwkq-7TV4_000002_000012", "-3Mwkq-7TV4_2_12", "-3Mwkq-7TV4_0000002"])
def test_names_that_are_no_clip(name):
    assert clip_in(name) is None


def test_from_raw_files_to_samples(raw, tmp_path):
    write_lists(raw)
    raw_mp4.write_mp4(raw / "train" / "abseiling" / "AAAAAAAAAAA_000001_000011.mp4")
    (raw / "val" / "-3Mwkq-7TV4.mp4").write_bytes(b"")
    (raw / "z").mkdir()
    (raw / "z" / "4pWMmccr_54_29.mp4").hardlink_to(raw / RAW[0])
    out = tmp_path / "out"
    report = KineticsSounds.prepare(raw=raw, out=out, fps=2, workers=1)

    assert (out / "stat.csv").read_text().split() == [f"{label:02d}" for label in range(31)]
    assert (out / "train.csv").read_text() == (
        "--4-0ihtnBU_000058_000068,04\n-00nar1nEPc_000033_000043,13\n0HQsAGUnQ_0_000007_000017,04\n"
    )
    assert (out / "test.csv").read_text() == "-3Mwkq-7TV4_2,04\n4pWMmccr_54_29,13\n"
    assert report.prepared == 5 and report.outside == 1 and report.found == 8
    assert report.missing == ["0C8FAc_LMfc_45"] and "not among the raw files: 1" in report.text()
    assert {kind: len(files) for kind, files in report.skipped.items()} == {
        "name not of the form": 1,
        "the same clip again": 1,
    }
    record = json.loads((out / "prepared.json").read_text())
    assert record["names"] == {"04": "playing drums", "13": "blowing nose"} and record["audio"] == ["fbank"]

    samples = KineticsSounds.open(out, "test", training=False, options=InputOptions(frames=2, image_size=32))
    inputs, label, *_ = samples[1]
    assert label == 13 and samples.classes[label] == "13"
    assert inputs["audio"].shape == (1, 1024, 128) and inputs["visual"].shape == (2, 3, 32, 32)
    assert inputs["audio"][0, :100].std() > 0.1  # noise, not silence


def test_official_lists_are_recognised_by_their_checksums(raw, tmp_path, monkeypatch):
    write_lists(tmp_path / "lists", end="\r\n")
    _, split = read_lists(tmp_path / "lists")
    assert not split.official and "not the official ones" in split.sentence
    sums = {
        part: hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
        for part, lines in (("train", TRAIN), ("test", TEST))
    }
    monkeypatch.setattr(kinetics_sounds, "SHA256", sums)
    report = KineticsSounds.prepare(raw=raw, out=tmp_path / "out", split_files=tmp_path / "lists", workers=1)
    assert report.split.official and report.split.sentence == "official split"
    write_lists(tmp_path / "lists", test=TEST[:2])
    _, split = read_lists(tmp_path / "lists")
    assert not split.official and "not the official ones" in split.sentence  # one official list of two is not enough


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("-3Mwkq-7TV4_2,10", r"my_test\.txt, line 4: '-3Mwkq-7TV4_2,10' is not"),
        ("Mwkq_2,10,1", r"line 4: 'Mwkq_2,10,1' is not"),
        ("-3Mwkq-7TV4_3,10,31", r"line 4: the label 31 is not one of 0 to 30"),
        ("-3Mwkq-7TV4_2,10,4", r"line 4: the clip -3Mwkq-7TV4_2 is already in .*my_test\.txt, line 1"),
        ("--4-0ihtnBU_58,10,4", r"line 4: the clip --4-0ihtnBU_58 is already in .*my_train\.txt, line 1"),
    ],
)
def test_errors_in_lists_name_the_line(tmp_path, line, complaint):
    write_lists(tmp_path, test=[*TEST, line])
    with pytest.raises(InputError, match=complaint):
        read_lists(tmp_path)


def test_missing_lists_or_clips_are_refused(raw, tmp_path):
    with pytest.raises(InputError, match=r"does not have my_train\.txt and my_test\.txt.*GeWu-Lab/OGM.*--split_files"):
        KineticsSounds.prepare(raw=raw, out=tmp_path / "out", workers=1)
    write_lists(raw, train=["BBBBBBBBBBB_000001_000011,10,0"], test=["CCCCCCCCCCC_1,10,0"])
    with pytest.raises(
        InputError,
        match=r"no clip that Kinetics-Sounds's lists name: they list .* found are .*; see https://",
    ):
        KineticsSounds.prepare(raw=raw, out=tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        ({"04": ["train/drums", "val/drums"], "13": ["val/blowing_nose"]}, {"04": "drums", "13": "blowing nose"}),
        ({"04": ["all"], "13": ["all"]}, {}),
        ({"04": ["all"]}, {}),  # a partial download in a single folder
        ({"04": ["train", "val"], "13": ["train", "val"]}, {}),
        ({"04": ["a", "b"], "13": ["c"], "22": ["d"]}, {}),
        ({"04": ["a"], "13": ["b"], "22": ["b"]}, {}),
    ],
)
def test_labels_have_names_if_each_has_its_own_folders(folders, names):
    paths = [(label, Path(folder, f"{label}.mp4")) for label, its_folders in folders.items() for folder in its_folders]
    assert class_names([RawClip("name", label, path, path) for label, path in paths]) == names


def test_prepared_json_has_no_names_without_class_folders(tmp_path):
    raw_mp4.write_mp4s([tmp_path / "raw" / name.split("/")[-1] for name in RAW])
    write_lists(tmp_path / "raw")
    KineticsSounds.prepare(raw=tmp_path / "raw", out=tmp_path / "out", workers=1)
    assert "names" not in json.loads((tmp_path / "out" / "prepared.json").read_text())


def test_a_clip_without_sound_is_skipped(raw, tmp_path):
    write_lists(raw)
    (raw / RAW[0]).unlink()
    raw_mp4.write_mp4(raw / RAW[0], sound=False)
    report = KineticsSounds.prepare(raw=raw, out=tmp_path / "out", workers=1)
    assert report.skipped == {
        "no audio": {"--4-0ihtnBU_000058_000068": report.skipped["no audio"][TRAIN[0].split(",")[0]]}
    }
    assert report.prepared == 4


# Kinetics-400's folders, and DGL's 33 classes


def write_kinetics(raw, test_folder="val", underscores=True):
    """One clip of 3 s per class and part, and a class that is not among the 33."""
    paths = []
    for part in ("train", test_folder):
        for number, label in enumerate([*DGL_CLASSES, "abseiling"]):
            folder = label.replace(" ", "_") if underscores else label
            paths.append(raw / part / folder / f"-{part[0]}23456789{number % 10}_{number:06d}_{number + 10:06d}.mp4")
    first, *others = paths
    raw_mp4.write_mp4(first, seconds=2.2, rate=5)
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(first)


def test_33_classes_are_split_as_kinetics_is(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_kinetics(raw)
    few = raw / "val" / "tying_tie" / "AAAAAAAAAAA_000001_000011.mp4"  # 2 s: two frames at 1 fps
    raw_mp4.write_mp4(few, seconds=1.6, rate=5)
    again = raw / "val" / "singing" / "again" / "-t234567890_000000_000010.mp4"  # that of the first training clip
    again.parent.mkdir()
    again.hardlink_to(few)
    words = ["kinetics_sounds", "--raw", str(raw), "--out", str(out), "--classes", "33", "--workers", "1"]
    assert prepare.main([*words, "--audio", "waveform"]) == 1
    text = capsys.readouterr().out
    assert text.startswith("Kinetics-Sounds, 33 classes in ") and "validation clips of the 33 classes of DGL" in text
    assert "fewer than 3 frames: 1\n    AAAAAAAAAAA_000001_000011: " in text
    assert "the same clip again: 1" in text and "prepared now     66" in text

    classes = (out / "stat.csv").read_text().splitlines()
    assert classes == sorted(DGL_CLASSES) and len(classes) == 33
    rows = [line.split(",") for line in (out / "test.csv").read_text().splitlines()]
    assert rows[0] == ["-v234567890_000000_000010", "blowing nose"] and sorted(row[1] for row in rows) == classes
    assert all(row.startswith("-t") for row in (out / "train.csv").read_text().splitlines())
    record = json.loads((out / "prepared.json").read_text())
    assert (record["origin"], record["min_frames"], record["title"]) == (
        {"classes": 33},
        3,
        "Kinetics-Sounds, 33 classes",
    )
    assert record["skipped"]["fewer than 3 frames"] == ["AAAAAAAAAAA_000001_000011"]

    samples = KineticsSounds.open(out, "test", training=False, options=InputOptions(audio="stft", frames=3))
    assert samples[0].inputs["audio"].shape == (1, 129, 626) and samples[0].inputs["visual"].shape[0] == 3
    assert prepare.main(["kinetics_sounds", "--out", str(out), "--check"]) == 0
    write_lists(raw, train=["-t234567890_000000_000010,10,0"], test=["-v234567890_0,10,0"])
    with pytest.raises(InputError, match=r"was prepared with origin .*33.*another --out"):
        prepare.main([*words[:5], "--workers", "1"])


def test_33_classes_in_other_layouts(tmp_path):
    write_kinetics(tmp_path / "kinetics" / "k400", "validation", underscores=False)
    contents = find_by_folders(tmp_path / "kinetics", "Kinetics-Sounds")
    assert len(contents.split.train) == len(contents.split.test) == 33 and not contents.skipped
    assert {clip.label for clip in contents.clips} == set(DGL_CLASSES) and contents.min_frames == 3


def test_absent_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"has no folder train with"):
        KineticsSounds.find(tmp_path, seed=0, classes=33)
    for label in DGL_CLASSES[2:]:
        (tmp_path / "train" / label).mkdir(parents=True)
    with pytest.raises(InputError, match=r"train lacks .* 2 of the 33 classes: blowing nose, blowing out candles\."):
        KineticsSounds.find(tmp_path, seed=0, classes=33)
    for label in DGL_CLASSES:
        (tmp_path / "train" / label).mkdir(exist_ok=True)
    with pytest.raises(InputError, match=r"has no folder val or validation"):
        find_by_folders(tmp_path, "Kinetics-Sounds")
    with pytest.raises(InputError, match="--split_files is for --classes 31"):
        KineticsSounds.find(tmp_path, seed=0, classes=33, split_files=tmp_path)
