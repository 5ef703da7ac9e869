import json
from pathlib import Path

import numpy as np
import pytest
import raw_mp4
import torch
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.raw import optical_flow
from mmpareto.data.ucf101 import UCF101, read_lists
from mmpareto.errors import InputError
from PIL import Image

# As in the real data set, one class has videos whose names are capitalised differently from their folder.
TRAIN = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", "HandstandPushups/v_HandStandPushups_g08_c01.avi 2"]
TEST = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "HandstandPushups/v_HandStandPushups_g01_c01.avi"]
CLIPS = [line.split("/")[1].split(".")[0] for line in [*TRAIN, *TEST]]
PICTURE = raw_mp4.texture(400, 400)
RATE, FRAMES = 5, 11  # frames 0, 5 and 10 are kept at 1 fps, but no frame follows the last one


def moving(right: int, down: int, count: int = FRAMES) -> list[np.ndarray]:
    """Frames in which the picture moves by `right` and `down` pixels per frame."""
    tops, lefts = (150 - down * np.arange(count), 150 - right * np.arange(count))
    return [PICTURE[top : top + 64, left : left + 96] for top, left in zip(tops, lefts, strict=True)]


def write_lists(folder: Path, train=TRAIN, test=TEST, fold=1):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 HandstandPushups\n")
    for name, lines in (("train", train), ("test", test)):
        (folder / f"{name}list{fold:02d}.txt").write_text("".join(f"{line}\r\n" for line in lines))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("UCF 101")
    write_lists(folder / "ucfTrainTestlist")
    write_lists(folder / "ucfTrainTestlist", [TRAIN[0]], [TEST[0], "ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.avi"], 2)
    for clip, motion in zip(CLIPS, [(3, -2), (-4, 1), (0, 5), (2, 2)], strict=True):
        raw_mp4.write_avi(folder / "UCF-101" / clip.split("_")[1] / f"{clip}.avi", moving(*motion), RATE)
    return folder


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_from_raw_files_to_samples(raw, tmp_path):
    out = tmp_path / "out"
    report = UCF101.prepare(raw=raw, out=out, workers=1)
    assert report.prepared == 4 and report.complete and report.outside == 0
    assert (out / "stat.csv").read_text().split() == ["ApplyEyeMakeup", "HandstandPushups"]
    assert (out / "train.csv").read_text().splitlines() == [
        f"{CLIPS[0]},ApplyEyeMakeup",
        f"{CLIPS[1]},HandstandPushups",
    ]
    assert (out / "test.csv").read_text().splitlines() == [f"{CLIPS[2]},ApplyEyeMakeup", f"{CLIPS[3]},HandstandPushups"]
    assert json.loads((out / "prepared.json").read_text())["flow"] == "dense inverse search"
    for clip, motion in zip(CLIPS, [(3, -2), (-4, 1), (0, 5), (2, 2)], strict=True):
        for folder in ("visual", "flow_u", "flow_v"):
            assert sorted(path.name for path in (out / folder / clip).iterdir()) == [
                "frame_00001.jpg",
                "frame_00002.jpg",
            ]
        for number, frame in ((1, 0), (2, RATE)):
            shown = pixels_of(out / "visual" / clip / f"frame_{number:05d}.jpg")
            assert np.abs(shown.astype(int) - moving(*motion)[frame]).mean() < 8
            for folder, pixels in zip(("flow_u", "flow_v"), motion, strict=True):
                part = pixels_of(out / folder / clip / f"frame_{number:05d}.jpg")
                assert part.shape == (64, 96)  # greyscale, of the size of the video
                inside = part[16:-16, 16:-16].astype(float) * 40 / 255 - 20
                assert abs(np.median(inside) - pixels) < 0.3

    samples = UCF101.open(out, "train", training=False, options=InputOptions(frames=2, image_size=32))
    inputs, label, *_ = samples[1]
    assert [*inputs] == ["rgb", "flow"] and label == 1
    assert inputs["rgb"].shape == (2, 3, 32, 32) and inputs["flow"].shape == (2, 2, 32, 32)
    assert inputs["rgb"].dtype == inputs["flow"].dtype == torch.uint8
    middle = inputs["flow"][:, :, 8:24, 8:24].float().mean((0, 2, 3)) * 40 / 255 - 20
    assert torch.allclose(middle, torch.tensor([-4.0, 1.0]), atol=0.4)
    assert samples.channels == {"rgb": 3, "flow": 2}

    again = UCF101.prepare(raw=raw, out=out, workers=1)
    assert again.prepared == 0 and again.already == 4
    with pytest.raises(InputError, match="prepared with fps 1, not 5"):
        UCF101.prepare(raw=raw, out=out, fps=5, workers=1)


def test_another_fold_in_the_same_folder(raw, tmp_path):
    UCF101.prepare(raw=raw, out=tmp_path, workers=1)
    report = UCF101.prepare(raw=raw, out=tmp_path, fold=2, workers=1)
    assert report.prepared == 0 and report.already == 2 and report.outside == 2
    assert report.missing == ["v_ApplyEyeMakeup_g02_c01"] and "split 2 of the three" in report.split.sentence
    assert (tmp_path / "test.csv").read_text() == f"{CLIPS[2]},ApplyEyeMakeup\n"


def write_published(folder: Path, clip: str, count: int = FRAMES - 1) -> None:
    """Write pictures whose grey value is their number times 20 for u and times 5 for v."""
    for part, times in (("u", 20), ("v", 5)):
        (folder / part / clip).mkdir(parents=True)
        for number in range(1, count + 1):
            Image.new("L", (32, 24), times * number).save(folder / part / clip / f"frame{number:06d}.jpg")


def test_published_flow_is_read_at_the_kept_frames(raw, tmp_path):
    for clip in CLIPS[:3]:
        write_published(tmp_path / "tvl1_flow", clip.replace("HandStand", "Handstand"))
    cut = tmp_path / "tvl1_flow" / "v" / CLIPS[2] / "frame000006.jpg"
    Image.fromarray(PICTURE[:, :, 0]).save(cut)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    out = tmp_path / "out"
    report = UCF101.prepare(raw=raw, out=out, flow=tmp_path / "tvl1_flow", workers=1)
    assert report.prepared == 2 and {*report.skipped["no flow"]} == {CLIPS[2], CLIPS[3]}
    assert "frame000006.jpg is missing or not a complete JPEG" in report.skipped["no flow"][CLIPS[2]]
    assert not (out / "visual" / CLIPS[2]).exists()
    for clip in CLIPS[:2]:
        for number, published in ((1, 1), (2, 6)):  # frames 0 and 5
            for folder, part in (("flow_u", "u"), ("flow_v", "v")):
                name = clip.replace("HandStand", "Handstand")
                expected = tmp_path / "tvl1_flow" / part / name / f"frame{published:06d}.jpg"
                assert (out / folder / clip / f"frame_{number:05d}.jpg").read_bytes() == expected.read_bytes()
    with pytest.raises(InputError, match="with flow published pictures, not dense inverse search"):
        UCF101.prepare(raw=raw, out=out, workers=1)
    with pytest.raises(InputError, match=r"has no u/<clip>/frame000001\.jpg.*--flow the folder tvl1_flow"):
        UCF101.prepare(raw=raw, out=tmp_path / "other", flow=raw, workers=1)


def test_published_flow_is_not_computed_again(raw, tmp_path, monkeypatch):
    write_published(tmp_path / "tvl1_flow", CLIPS[0])
    monkeypatch.setattr(optical_flow, "flow", None)
    write_lists(tmp_path / "lists", TRAIN[:1], TEST[:1])
    report = UCF101.prepare(
        raw=raw, out=tmp_path / "out", flow=tmp_path / "tvl1_flow", split_files=tmp_path / "lists", workers=1
    )
    assert report.prepared == 1 and report.outside == 2
    assert report.skipped == {"no flow": {CLIPS[2]: report.skipped["no flow"][CLIPS[2]]}}  # only videos in the lists


def test_videos_that_cannot_be_used_are_reported(raw, tmp_path):
    write_lists(tmp_path / "raw", [*TRAIN, "ApplyEyeMakeup/v_ApplyEyeMakeup_g03_c01.avi 1"])
    raw_mp4.write_avi(tmp_path / "raw" / f"{CLIPS[0]}.avi", moving(1, 1))
    raw_mp4.write_avi(tmp_path / "raw" / f"{CLIPS[1]}.avi", moving(1, 1, count=1))
    raw_mp4.write_avi(tmp_path / "raw" / "v_ApplyEyeMakeup_g03_c01.avi", [frame[:12] for frame in moving(1, 1)])
    (tmp_path / "raw" / f"{CLIPS[2]}.avi").write_bytes(b"")
    (tmp_path / "raw" / "holiday.avi").write_bytes(b"")
    report = UCF101.prepare(raw=tmp_path / "raw", out=tmp_path / "out", workers=1)
    assert report.prepared == 1 and report.missing == [CLIPS[3]]
    assert {kind: [*names] for kind, names in report.skipped.items()} == {
        "name not of the form": [str(tmp_path / "raw" / "holiday.avi")],
        "no frame": [CLIPS[1]],
        "cannot be used": ["v_ApplyEyeMakeup_g03_c01"],
        "unreadable file": [CLIPS[2]],
    }
    assert "96 × 12 pixels" in report.skipped["cannot be used"]["v_ApplyEyeMakeup_g03_c01"]


def test_missing_clips_are_named(raw, tmp_path):
    UCF101.prepare(raw=raw, out=tmp_path, workers=1)
    (tmp_path / "flow_v" / CLIPS[3]).rename(tmp_path / "elsewhere")
    UCF101.open(tmp_path, "train", training=True)
    with pytest.raises(
        InputError, match=rf"1 of the 2 clips in .*test\.csv are not in .*flow_v, the first is {CLIPS[3]}"
    ):
        UCF101.open(tmp_path, "test", training=True)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("ApplyEyeMakeup v_ApplyEyeMakeup_g09_c01.avi 1", r"trainlist01\.txt, line 3: .* is not `class/v_"),
        ("ApplyEyeMakeup/ApplyEyeMakeup.avi 1", r"line 3: .* is not `class/v_"),
        ("Archery/v_Archery_g09_c01.avi 1", r"line 3: Archery 1 is not a class of"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g09_c01.avi 2", r"line 3: ApplyEyeMakeup 2 is not a class of"),
        (TRAIN[0], r"trainlist01\.txt, line 3: v_ApplyEyeMakeup_g08_c01 is listed before"),
        (f"{TEST[0]} 1", r"testlist01\.txt, line 1: v_ApplyEyeMakeup_g01_c01 is listed before"),
    ],
)
def test_errors_in_lists_name_the_line(tmp_path, line, complaint):
    write_lists(tmp_path, [*TRAIN, line])
    with pytest.raises(InputError, match=complaint):
        read_lists([tmp_path], 1)


def test_a_wrong_class_list_is_refused(tmp_path):
    write_lists(tmp_path)
    (tmp_path / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 ApplyEyeMakeup\n")
    with pytest.raises(InputError, match=r"classInd\.txt, line 2: '2 ApplyEyeMakeup' is not `number class`"):
        read_lists([tmp_path], 1)


def test_missing_lists_or_videos_are_refused(raw, tmp_path):
    with pytest.raises(InputError, match=r"do not have classInd\.txt, trainlist03\.txt and testlist03\.txt.*crcv\.ucf"):
        UCF101.prepare(raw=raw, out=tmp_path / "out", fold=3, workers=1)
    write_lists(tmp_path / "lists", ["ApplyEyeMakeup/v_ApplyEyeMakeup_g24_c01.avi 1"], [])
    with pytest.raises(
        InputError,
        match=r"no clip that UCF-101's lists name: they list .*, and the clips found are .*; see https://www\.crcv\.ucf",
    ):
        UCF101.prepare(raw=raw, out=tmp_path / "out", split_files=tmp_path / "lists", workers=1)
    assert not (tmp_path / "out").exists()
