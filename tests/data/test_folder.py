"""Own clips: class folders, split folders and lists, with sound, pictures or both."""

import csv
import json
import shutil
from pathlib import Path

import av
import prepare as prepare_cli
import pytest
import raw_clips
import raw_mp4
import torch
from mmpareto.data.folder import ClipFolder, choose_modalities, find_in_folders, find_listed
from mmpareto.data.loading.options import InputOptions
from mmpareto.errors import InputError


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of five clips, with the same names, and what else is in such a folder."""
    folder = tmp_path_factory.mktemp("own") / "my pets"
    raw_mp4.write_mp4s([folder / kind / f"{number}.mp4" for kind in ("cat", "dog") for number in range(5)])
    (folder / "notes.txt").write_text("recorded in May")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.mp4").write_bytes(b"not a clip")
    return folder


def prepare(raw: Path, out: Path, **options):
    return ClipFolder.prepare(raw=raw, out=out, **{"workers": 1} | options)


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return [*csv.reader(file)]


def test_clips_of_one_name_stay_apart_and_are_split_at_random(raw: Path, tmp_path: Path) -> None:
    report = prepare(raw, tmp_path / "out")
    assert (report.found, report.prepared, report.skipped) == (10, 10, {})
    assert report.counts == {"train": {"cat": 4, "dog": 4}, "test": {"cat": 1, "dog": 1}}
    text = report.text()
    assert "random, stratified, 80% for training and 20% for testing, seed 0" in text
    assert "modalities       audio, visual\n" in text and "1 ignored (.txt)" in text
    listed = rows(tmp_path / "out" / "train.csv") + rows(tmp_path / "out" / "test.csv")
    assert sorted(listed) == [[f"{kind}__{n}", kind] for kind in ("cat", "dog") for n in range(5)]
    origin = {name: path for name, path, _ in rows(tmp_path / "out" / "sources.csv")}
    assert origin["dog__3"] == str(raw / "dog" / "3.mp4")
    record = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert record["modalities"] == ["audio", "visual"] and record["title"] == "my pets"

    samples = ClipFolder.open(tmp_path / "out", "train", training=False, options=InputOptions(frames=1, image_size=8))
    inputs, label, *_ = samples[len(samples) - 1]
    assert samples.classes == ["cat", "dog"] and label == 1
    assert inputs["audio"].shape == (1, 1024, 128) and inputs["visual"].shape == (1, 3, 8, 8)

    again = prepare(raw, tmp_path / "out")
    assert (again.prepared, again.already) == (0, 10)


def test_a_file_that_has_been_replaced_is_refused(raw: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(raw, copy)
    prepare(copy, out)
    (copy / "cat" / "1.mp4").unlink()
    raw_mp4.write_mp4(copy / "cat" / "1.mp4", seconds=0.5)
    with pytest.raises(InputError, match=r"prepared from other files of the same names \(cat__1\)"):
        prepare(copy, out)


def names(found) -> list[tuple[str, str, str | None]]:
    return sorted((clip.name, clip.label, clip.part) for clip in found.clips)


def empty_files(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def test_folders_of_a_split_are_the_split(tmp_path: Path) -> None:
    found = find_in_folders(empty_files(tmp_path, "Train/a/1.mp4", "Train/b/1.mov", "val/a/1.avi", "test/b/x/1.webm"))
    assert names(found) == [
        ("Train__a__1", "a", "train"),
        ("Train__b__1", "b", "train"),
        ("test__b__x__1", "b", "test"),
        ("val__a__1", "a", "valid"),
    ]
    assert found.split_source is not None


def test_a_folder_around_the_classes_is_ignored(tmp_path: Path) -> None:
    found = find_in_folders(empty_files(tmp_path, "set/clips/a/1.mp4", "set/clips/b/1.mp4", "set/license.txt"))
    assert names(found) == [("a__1", "a", None), ("b__1", "b", None)]


def test_train_may_be_the_name_of_a_class(tmp_path: Path) -> None:
    found = find_in_folders(empty_files(tmp_path, "train/1.mp4", "test/1.mp4", "bus/1.mp4", "0.mp4"))
    assert [label for _, label, _ in names(found)] == ["bus", "test", "train"]
    assert found.split_source is None
    assert found.skipped == {
        "not in a class folder": {str(tmp_path / "0.mp4"): f"{tmp_path}/0.mp4 is not in the folder of a class"}
    }


def test_a_list_gives_labels_and_the_split(tmp_path: Path) -> None:
    empty_files(tmp_path, "x/1.mp4", "y/1.mp4", "z.dat")
    (tmp_path / "list.csv").write_text(
        "Label,Path,split\ncat,x/1.mp4,train\n\ndog,y/1.mp4,TEST\ncat,z.dat,dev\na,q.mp4,test\n"
    )
    found = find_listed(tmp_path / "list.csv", tmp_path)
    assert names(found) == [("x__1", "cat", "train"), ("y__1", "dog", "test"), ("z", "cat", "valid")]
    assert found.skipped == {
        "file does not exist": {
            str(tmp_path / "q.mp4"): f"{tmp_path}/list.csv, line 6: {tmp_path}/q.mp4 does not exist"
        }
    }


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("x.mp4\n", "line 1: 'x.mp4' is not path,label"),
        ("x.mp4,a\nx.mp4,b\n", "line 2: .*x.mp4 is already in line 1"),
        ("x.mp4,a,tset\n", "line 1: the split 'tset' is not train, valid or test"),
        ("x.mp4,a\ny.mp4\n", "line 2: 'y.mp4' is not path,label"),
        ("nowhere.mp4,a\n", "lists no file that exists .*nowhere.mp4 does not exist"),
        ("path,label,weight\nx.mp4,a,1\n", "line 1: .* is not path,label or path,label,split"),
    ],
)
def test_a_wrong_list_is_refused(content: str, complaint: str, tmp_path: Path) -> None:
    empty_files(tmp_path, "x.mp4", "y.mp4")
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(InputError, match=complaint):
        find_listed(tmp_path / "list.csv", tmp_path)


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        (("a/1.mp4", "a/1.wav", "b/1.mp4"), "a/1.mp4 and .*a/1.wav would both be the clip 'a__1'"),
        (("a/1.mp4", "a/2.mp4"), "has a as its only class"),
        (("a/1.jpg", "b/2.jpg"), "has no video or audio file, but files of the kinds .jpg"),
        (("train/a/1.mp4", "test/a/1.mp4", "more/a/2.mp4"), "of a split, and beside them clips in more"),
        (("a/1.mp4", "b/1.mp4"), "none of the 2 clips can be opened; the first: a__1: "),
    ],
)
def test_raw_folders_that_cannot_be_used_are_refused(paths: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint):
        prepare(empty_files(tmp_path / "raw", *paths), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_fraction_is_for_data_without_a_split(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("cat/0.mp4,cat,train\ndog/0.mp4,dog,test\n")
    with pytest.raises(InputError, match="--test_fraction is for data without a split"):
        prepare(raw, tmp_path / "out", list_file=tmp_path / "list.csv", test_fraction=0.5)
    report = prepare(raw, tmp_path / "out", list_file=tmp_path / "list.csv")
    assert report.counts == {"train": {"cat": 1, "dog": 0}, "test": {"cat": 0, "dog": 1}}
    assert prepare(raw, tmp_path / "half", test_fraction=0.4).counts["test"] == {"cat": 2, "dog": 2}


BOTH, SILENT, SOUND = frozenset(("audio", "video")), frozenset(("video",)), frozenset(("audio",))


def test_modalities_are_those_that_any_clip_has() -> None:
    wanted, lacking, notes = choose_modalities({"a": BOTH, "b": SILENT, "c": BOTH}, None)
    assert wanted == ["audio", "visual"] and lacking == {"no audio": {"b": "b: it has no audio"}}
    assert notes[1] == "  clips without audio are left out (1); --modalities visual would use them"
    assert choose_modalities({"a": BOTH, "b": SILENT}, ["visual"])[:2] == (["visual"], {})
    assert choose_modalities({"a": SILENT, "b": SILENT}, None)[:2] == (["visual"], {})
    with pytest.raises(InputError, match="no clip has audio; leave audio out"):
        choose_modalities({"a": SILENT}, ["audio", "visual"])
    with pytest.raises(InputError, match="no clip has audio and visual; choose one with --modalities"):
        choose_modalities({"a": SILENT, "b": SOUND}, None)


@pytest.mark.parametrize("kind", ["silent", "sound"])
def test_clips_with_one_modality(kind: str, tmp_path: Path) -> None:
    """Any container: Matroska without sound; FLAC, the second with a cover picture, which is no video."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    for label in ("a", "b"):
        for number in range(2):
            if kind == "silent":
                raw_clips.write_video(raw / label / f"{number}.mkv", 30, rate=25, codec="mpeg4")
            else:
                write_flac(raw / label / f"{number}.flac", cover=number == 1)
    report = prepare(raw, out, test_fraction=0.5)
    assert not report.skipped and report.prepared == 4
    samples = ClipFolder.open(out, "test", training=False, options=InputOptions(frames=1, image_size=8))
    shape = {"visual": (1, 3, 8, 8)} if kind == "silent" else {"audio": (1, 1024, 128)}
    assert {name: tuple(x.shape) for name, x in samples[0].inputs.items()} == shape
    assert prepare_cli.main(["folder", "--out", str(out), "--check"]) == 0


def write_flac(path: Path, cover: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono")
        picture = container.add_stream("mjpeg", rate=1) if cover else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 16, 16, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame(16, 16, "yuvj420p")))
            container.mux(picture.encode())
        frame = av.AudioFrame.from_ndarray(raw_clips.noise(0.2), "s16", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_the_command_reports_skipped_clips(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, out = tmp_path / "raw", tmp_path / "mine"
    shutil.copytree(raw, copy)
    raw_mp4.write_mp4(copy / "cat" / "silent.mp4", sound=False)
    (copy / "dog" / "broken.mp4").write_bytes(b"nothing")
    command = ["folder", "--raw", str(copy), "--out", str(out), "--workers", "1"]
    assert prepare_cli.main(command) == 1
    printed = capsys.readouterr().out
    assert "clips found      12\nprepared now     10" in printed and "skipped          2" in printed
    assert "no audio: 1" in printed and "dog__broken: " in printed
    assert f"python code/train.py --dataset folder --data {out}" in printed
    assert prepare_cli.main([*command, "--allow_missing"]) == 0
    waveform = torch.load(out / "audio" / "cat__0.pt", weights_only=True)
    assert waveform.shape == (1024, 128)
