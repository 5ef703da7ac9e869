import hashlib
from collections import Counter

import pytest
import raw_clips
import torch
from mmpareto.data import cremad
from mmpareto.data.preparation.splits import PublishedFile
from mmpareto.errors import InputError
from PIL import Image

NAMES = raw_clips.names(actors=4)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("CREMA D")
    raw_clips.write_clips(folder, NAMES)
    return folder


@pytest.fixture
def small_raw(tmp_path):
    raw_clips.write_clips(tmp_path / "raw", NAMES[:12])
    return tmp_path / "raw"


def test_class_counts_of_the_official_split():
    """The data set has 7,442 clips: 1,271 per class, except 1,087 neutral ones."""
    train, test = (cremad.OFFICIAL_SPLIT[part].counts for part in ("train", "test"))
    assert sum(train.values()) == 6698 and sum(test.values()) == 744
    assert {label: train[label] + test[label] for label in train} == dict.fromkeys(cremad.CLASSES, 1271) | {"NEU": 1087}


@pytest.mark.parametrize("name", ["1001_IEO_ANG_HI", "1091_WSI_NEU_XX", "1040_ITH_SAD_X", "1050_DFA_DIS_MD"])
def test_names_of_the_real_data_set_match(name):
    assert cremad.NAME.fullmatch(name)
    assert cremad.speaker(name) == name[:4]


@pytest.mark.parametrize(
    "name", ["1000_IEO_ANG_HI", "1092_IEO_ANG_HI", "1001_IEO_BAD_HI", "1001_IEO_ANG", "1001_IEOO_ANG_XX", "notes"]
)
def test_other_names_do_not_match(name):
    assert not cremad.NAME.fullmatch(name)


def test_scan_returns_the_clips_and_the_skipped_files(small_raw):
    (small_raw / "AudioWAV" / f"{NAMES[0]}.wav").unlink()
    (small_raw / "VideoFlash" / f"{NAMES[1]}.flv").unlink()
    (small_raw / "AudioWAV" / "holiday.wav").write_bytes(b"")
    for other in ("README.md", f"._{NAMES[2]}.wav"):
        (small_raw / "AudioWAV" / other).write_bytes(b"")
    clips, skipped, count = cremad.scan(small_raw)
    assert [clip.name for clip in clips] == sorted(NAMES[2:12])
    assert all(clip.label == clip.name.split("_")[2] for clip in clips)
    assert {kind: list(names) for kind, names in skipped.items()} == {
        "no audio file": [NAMES[0]],
        "no video file": [NAMES[1]],
        "name not of the form": ["holiday"],
    }
    assert count == 13


def test_the_raw_folder_may_be_its_parent_or_a_subfolder(small_raw, tmp_path):
    for number, folder in enumerate((small_raw, small_raw.parent, small_raw / "AudioWAV")):
        assert cremad.CREMAD.prepare(raw=folder, out=tmp_path / str(number), workers=1).prepared == 12


def test_a_wrong_or_empty_folder_is_refused_with_the_download_page(tmp_path):
    with pytest.raises(InputError, match=r"absent does not exist.*github\.com/CheyneyComputerScience"):
        cremad.CREMAD.prepare(raw=tmp_path / "absent", out=tmp_path / "out")
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match=r"raw does not contain AudioWAV and VideoFlash.*github"):
        cremad.CREMAD.prepare(raw=tmp_path / "raw", out=tmp_path / "out")
    for name in ("AudioWAV", "VideoFlash"):
        (tmp_path / "raw" / name).mkdir()
    with pytest.raises(InputError, match=r"have no clip of CREMA-D; see https://github"):
        cremad.CREMAD.prepare(raw=tmp_path / "raw", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def split_files(folder, train, test):
    folder.mkdir(exist_ok=True)
    for part, names in (("train", train), ("test", test)):
        (folder / f"{part}.csv").write_text("".join(f"{name},{name.split('_')[2]}\n" for name in names))


def test_the_official_split_from_its_files(raw, tmp_path, monkeypatch):
    train, test = NAMES[:40], NAMES[40:]
    split_files(tmp_path / "csv", train, [*test, "1077_IEO_ANG_LO"])
    published = {
        part: PublishedFile(
            hashlib.sha256((tmp_path / "csv" / f"{part}.csv").read_bytes()).hexdigest(),
            Counter(name.split("_")[2] for name in names),
        )
        for part, names in (("train", train), ("test", [*test, "1077_IEO_ANG_LO"]))
    }
    out = tmp_path / "out"
    report = cremad.CREMAD.prepare(raw=raw, out=out, split_files=tmp_path / "csv", workers=1)
    assert "checksum is not the official one" in report.split.sentence and not report.split.official

    monkeypatch.setattr(cremad, "OFFICIAL_SPLIT", published)
    report = cremad.CREMAD.prepare(raw=raw, out=out, split_files=tmp_path / "csv", workers=1)
    assert report.split.sentence == "official split" and report.split.official
    assert report.already == len(NAMES) and report.missing == ["1077_IEO_ANG_LO"] and not report.complete
    assert [line.split(",")[0] for line in (out / "train.csv").read_text().split()] == train  # in the order of the file
    assert "1077_IEO_ANG_LO" in report.text() and "the official one" in report.text()


def test_split_files_in_the_raw_folder_are_found(small_raw, tmp_path):
    split_files(small_raw, NAMES[:11], NAMES[11:12])
    report = cremad.CREMAD.prepare(raw=small_raw, out=tmp_path / "out", workers=1)
    assert list(report.split.test) == NAMES[11:12]


def test_splits_without_split_files(raw, tmp_path):
    out = tmp_path / "out"
    report = cremad.CREMAD.prepare(raw=raw, out=out, workers=1)
    assert "random stratified 90/10 split with seed 0" in report.split.sentence
    assert "--split_files" in report.text() and cremad.SPLIT_PAGE in report.text()
    assert all(count == 1 for count in report.counts["test"].values())
    other = cremad.CREMAD.prepare(raw=raw, out=out, split="random", seed=1, workers=1)
    assert other.already == len(NAMES) and list(other.split.test) != list(report.split.test)
    speakers = cremad.CREMAD.prepare(raw=raw, out=out, split="speaker", workers=1)
    assert len({name[:4] for name in speakers.split.test}) == 1
    assert not {name[:4] for name in speakers.split.test} & {name[:4] for name in speakers.split.train}
    with pytest.raises(InputError, match=r"does not contain train\.csv and test\.csv.*github\.com/GeWu-Lab"):
        cremad.CREMAD.prepare(raw=raw, out=out, split_files=tmp_path, workers=1)


def test_the_released_loader_can_read_clips_prepared_at_3_fps(tmp_path):
    """A reimplementation of it: labels from the sorted stat.csv, frames by number, in training and in test."""
    raw_clips.write_clip(tmp_path / "raw", "1001_IEO_ANG_HI", seconds=2.5)
    raw_clips.write_clip(tmp_path / "raw", "1001_IEO_SAD_HI", seconds=2.5)
    split_files(tmp_path / "raw", ["1001_IEO_ANG_HI"], ["1001_IEO_SAD_HI"])
    out = tmp_path / "out"
    cremad.CREMAD.prepare(raw=tmp_path / "raw", out=out, fps=3, workers=1)

    classes = sorted(line.strip() for line in (out / "stat.csv").read_text().splitlines())
    label_of = {name: index for index, name in enumerate(classes)}
    assert label_of["ANG"] == 0 and label_of["SAD"] == 5
    for part in ("train", "test"):
        for line in (out / f"{part}.csv").read_text().splitlines():
            clip, label = line.split(",")
            assert label in label_of
            audio = torch.load(out / "audio" / f"{clip}.pt").unsqueeze(0)
            assert audio.shape == (1, 1024, 128)
            count = len(list((out / "visual" / clip).iterdir()))
            segment = count // 2
            assert count >= 4
            for i in range(2):
                for number in (i * segment + 1, i * segment + segment, i * segment + max(segment // 2, 1)):
                    path = out / "visual" / clip / f"frame_{number:05d}.jpg"
                    assert Image.open(path).convert("RGB").size == (raw_clips.WIDTH, raw_clips.HEIGHT)
