import numpy as np
import pytest
import torch
from mmpareto.data.preparation.sheet import contact_sheet
from mmpareto.errors import InputError
from PIL import Image
from prepared_clips import open_clips

COLOURS = {"bark": (200, 30, 30), "meow": (30, 30, 200)}


@pytest.fixture
def prepared(tmp_path):
    """Two classes, with three clips and one; each has frames of one colour and sound of 300 frames."""
    folder = tmp_path / "animals"
    clips = {"dog_1": "bark", "dog_2": "bark", "dog_3": "bark", "cat": "meow"}
    (folder / "audio").mkdir(parents=True)
    for number, (clip, label) in enumerate(clips.items()):
        feature = torch.full((1024, 128), 0.438)
        feature[:300] = torch.randn(300, 128, generator=torch.Generator().manual_seed(number))
        torch.save(feature, folder / "audio" / f"{clip}.pt")
        (folder / "visual" / clip).mkdir(parents=True)
        for frame in range(1, 4):
            Image.new("RGB", (64, 48), COLOURS[label]).save(folder / "visual" / clip / f"frame_{frame:05d}.jpg")
    (folder / "stat.csv").write_text("bark\nmeow\n")
    (folder / "train.csv").write_text("".join(f"{clip},{label}\n" for clip, label in clips.items()))
    return folder


def sheet(folder, out, **options):
    dataset = open_clips(folder, "train", training=True, image_size=48, crop_scale=(1.0, 1.0))
    contact_sheet(dataset, folder.name, out, **options)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def area(picture, colour):
    return (np.abs(picture - colour).max(-1) < 12).sum()


@pytest.mark.parametrize("name", ["sheet.png", "new/sheet.jpg"])
def test_one_row_per_class(prepared, tmp_path, name):
    out = tmp_path / name
    sheet(prepared, out)
    picture = pixels(out)
    assert picture.shape[1] == 1200
    assert out.stat().st_size < 400_000
    bark, meow = area(picture, COLOURS["bark"]), area(picture, COLOURS["meow"])
    assert bark == pytest.approx(3 * meow, rel=0.05)  # three clips against one
    assert meow > 5_000
    assert (np.abs(picture - COLOURS["bark"]).max(-1) < 12).nonzero()[0].max() < (
        np.abs(picture - COLOURS["meow"]).max(-1) < 12
    ).nonzero()[0].min()
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


def test_the_number_of_clips_per_class(prepared, tmp_path):
    sheet(prepared, tmp_path / "one.png", per_class=1)
    sheet(prepared, tmp_path / "two.png", per_class=2)
    one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    assert area(two, COLOURS["bark"]) == pytest.approx(2 * area(two, COLOURS["meow"]), rel=0.05)
    assert area(one, COLOURS["bark"]) == pytest.approx(area(one, COLOURS["meow"]), rel=0.05)


def test_the_padding_is_cut_off(prepared, tmp_path):
    """The plot of the sound shows its 300 frames, whatever the padding."""
    sheet(prepared, tmp_path / "padded.png")
    for path in (prepared / "audio").glob("*.pt"):
        feature = torch.load(path, weights_only=True)
        feature[300:] = 0.0  # another padding value, the same length
        torch.save(feature, path)
    sheet(prepared, tmp_path / "otherwise.png")
    feature[600] = 2.0
    torch.save(feature, path)
    sheet(prepared, tmp_path / "longer.png")
    padded, otherwise, longer = (pixels(tmp_path / f"{name}.png") for name in ("padded", "otherwise", "longer"))
    np.testing.assert_array_equal(padded, otherwise)
    assert (padded != longer).any()


def test_uninformative_clips_are_left_out(prepared, tmp_path):
    (prepared / "uninformative.csv").write_text("dog_2,visual\n")
    Image.new("RGB", (64, 48), (0, 200, 0)).save(prepared / "visual" / "dog_2" / "frame_00001.jpg")
    sheet(prepared, tmp_path / "sheet.png")
    assert area(pixels(tmp_path / "sheet.png"), (0, 200, 0)) == 0


@pytest.mark.parametrize("damage", ["no folder", "no stat.csv", "damaged feature", "no frame"])
def test_an_unprepared_or_damaged_folder_is_refused(prepared, tmp_path, damage):
    folder = prepared
    if damage == "no folder":
        folder = tmp_path / "absent"
    elif damage == "no stat.csv":
        (prepared / "stat.csv").unlink()
    elif damage == "damaged feature":
        (prepared / "audio" / "cat.pt").write_bytes(b"not a tensor")
    else:
        for path in (prepared / "visual" / "cat").iterdir():
            path.unlink()
    with pytest.raises(InputError, match=r"absent|animals"):
        sheet(folder, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_other_formats_and_zero_clips_are_refused(prepared, tmp_path):
    with pytest.raises(InputError, match=r"\.png or \.jpg"):
        sheet(prepared, tmp_path / "sheet.gif")
    with pytest.raises(InputError, match="at least 1"):
        sheet(prepared, tmp_path / "sheet.png", per_class=0)
