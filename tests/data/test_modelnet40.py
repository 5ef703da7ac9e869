import argparse
import itertools
import json

import numpy as np
import pytest
from mmpareto.data import modelnet40
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.modelnet40 import ModelNet40
from mmpareto.errors import InputError
from PIL import Image

SHADED, NUMBERED = "{}.obj.shaded_v{:03d}.png", "{}.{:03d}.png"
SHAPES = [
    ("airplane", "train", "airplane_0001"),
    ("airplane", "train", "airplane_0002"),
    ("airplane", "test", "airplane_0627"),
    ("night_stand", "train", "night_stand_0001"),
    ("night_stand", "test", "night_stand_0201"),
]


def colour(shape, view):
    """Return a different colour for every view of every shape, far enough apart for JPEG."""
    return (20 * view + 10, 200 - 15 * view, 20 + 40 * [name for *_, name in SHAPES].index(shape))


def write_views(folder, form=SHADED, first=1, shapes=SHAPES, views=range(12), size=(24, 20)):
    for label, part, shape in shapes:
        subfolder = folder / label / part
        subfolder.mkdir(parents=True, exist_ok=True)
        for view in views:
            Image.new("RGB", size, colour(shape, view)).save(subfolder / form.format(shape, first + view))


def write_mesh(path, seed=0, header="OFF\n{} {} 0"):
    """Write a roof with a chimney, of triangles and rectangles, whose width and depth depend on the seed."""
    rng = np.random.default_rng(seed)
    wide, deep = rng.uniform(1, 3, 2)
    ridge = [(0, 0, 1), (0, deep, 1)]
    points = [(-wide, 0, 0), (wide, 0, 0), (wide, deep, 0), (-wide, deep, 0), *ridge]
    chimney = [(x, y, z) for x, y, z in itertools.product((0.3, 0.5), (0.1, 0.3), (0, 1.5))]
    faces = [(0, 1, 2, 3), (0, 1, 4), (2, 3, 5), (1, 2, 5, 4), (3, 0, 4, 5)]
    faces += [
        tuple(6 + i for i in face) for face in [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (1, 5, 7, 3)]
    ]
    points = [*points, *chimney]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(map(str, point)) for point in points]
    lines += [" ".join(map(str, (len(face), *face))) for face in faces]
    path.write_text("\n".join([header.format(len(points), len(faces)), *lines, ""]))


def write_meshes(folder, shapes=SHAPES):
    for number, (label, part, shape) in enumerate(shapes):
        write_mesh(folder / label / part / f"{shape}.off", number, ("OFF\n{} {} 0", "OFF{} {} 0")[number % 2])


def mean_colour(path):
    return np.asarray(Image.open(path)).reshape(-1, 3).mean(0)


def listed(out, part):
    return [tuple(line.split(",")) for line in (out / f"{part}.csv").read_text().split()]


def test_the_published_numbers_of_shapes():
    assert len(modelnet40.SHAPES) == 40 and list(modelnet40.SHAPES) == sorted(modelnet40.SHAPES)
    assert sum(train for train, _ in modelnet40.SHAPES.values()) == 9843
    assert sum(test for _, test in modelnet40.SHAPES.values()) == 2468


@pytest.mark.parametrize("form", [SHADED, NUMBERED])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("deeper", [False, True])
def test_front_and_rear_are_the_first_and_the_seventh_view(tmp_path, form, first, deeper):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_views(raw / "modelnet40_images_new_12x" if deeper else raw, form, first)
    report = ModelNet40.prepare(raw=raw, out=out, workers=1)
    assert (report.found, report.prepared, report.complete) == (5, 5, True)
    for _, _, shape in SHAPES:
        for view, number in (("front", 0), ("rear", 6)):
            path = out / view / f"{shape}.jpg"
            assert Image.open(path).size == (24, 20) and Image.open(path).format == "JPEG"
            np.testing.assert_allclose(mean_colour(path), colour(shape, number), atol=3)
    assert (out / "stat.csv").read_text().split() == ["airplane", "night_stand"]
    for part in ("train", "test"):
        assert listed(out, part) == [(shape, label) for label, where, shape in SHAPES if where == part]


def test_a_shape_with_a_missing_view_is_skipped(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_views(raw)
    (raw / "airplane/train" / SHADED.format("airplane_0001", 1)).unlink()  # the numbers still begin at 1
    (raw / "night_stand/test" / SHADED.format("night_stand_0201", 7)).unlink()
    (raw / "airplane/test" / SHADED.format("airplane_0627", 3)).unlink()  # a view that is not used
    write_views(raw, shapes=[("night_stand", "test", "airplane_0002")])  # a duplicate name
    for other in ("plan.png", "a,b.obj.shaded_v001.png", "._airplane_0001.obj.shaded_v001.png", "notes.txt"):
        (raw / "airplane/train" / other).write_bytes(b"")
    report = ModelNet40.prepare(raw=raw, out=out, workers=1)
    assert {kind: set(sentences) for kind, sentences in report.skipped.items()} == {
        "view missing": {"airplane_0001", "night_stand_0201"},
        "duplicate name": {"airplane_0002"},
        "name not of the form": {"airplane/train/plan.png", "airplane/train/a,b.obj.shaded_v001.png"},
    }
    assert report.found == 7 and not report.missing and not report.complete
    assert "no front view (001)" in report.skipped["view missing"]["airplane_0001"]
    assert "no rear view (007)" in report.skipped["view missing"]["night_stand_0201"]
    assert listed(out, "train") == [("airplane_0002", "airplane"), ("night_stand_0001", "night_stand")]
    assert listed(out, "test") == [("airplane_0627", "airplane")]
    np.testing.assert_allclose(mean_colour(out / "front/airplane_0002.jpg"), colour("airplane_0002", 0), atol=3)
    np.testing.assert_allclose(mean_colour(out / "rear/airplane_0002.jpg"), colour("airplane_0002", 6), atol=3)


@pytest.mark.parametrize("views", [13, 20])
def test_other_numbers_of_views_are_refused(tmp_path, views):
    write_views(tmp_path / "raw", views=range(views), shapes=SHAPES[:1])
    with pytest.raises(InputError, match=rf"numbered 1 to {views}; .*twelve"):
        ModelNet40.prepare(raw=tmp_path / "raw", out=tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_images_of_other_modes_become_rgb_and_transparent_pixels_white(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_views(raw)
    front, rear = (raw / "airplane/train" / SHADED.format("airplane_0001", number) for number in (1, 7))
    Image.new("L", (9, 9), 77).save(front)
    picture = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    picture.paste((90, 30, 60, 255), (0, 8, 16, 16))
    picture.save(rear)
    ModelNet40.prepare(raw=raw, out=out, workers=1)
    np.testing.assert_allclose(mean_colour(out / "front/airplane_0001.jpg"), (77, 77, 77), atol=1)
    pixels = np.asarray(Image.open(out / "rear/airplane_0001.jpg"))
    assert pixels.shape == (16, 16, 3)
    np.testing.assert_allclose(pixels[:7].mean((0, 1)), (255, 255, 255), atol=3)
    np.testing.assert_allclose(pixels[9:].mean((0, 1)), (90, 30, 60), atol=3)


def test_a_damaged_image_is_skipped_with_a_reason(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_views(raw, size=(64, 64))
    cut = raw / "airplane/train" / SHADED.format("airplane_0001", 7)
    cut.write_bytes(cut.read_bytes()[:60])
    (raw / "night_stand/train" / SHADED.format("night_stand_0001", 1)).write_bytes(b"no picture")
    report = ModelNet40.prepare(raw=raw, out=out, workers=1)
    assert set(report.skipped) == {"unreadable file"}
    sentences = report.skipped["unreadable file"]
    assert "airplane_0001.obj.shaded_v007.png is not a readable image" in sentences["airplane_0001"]
    assert "night_stand_0001.obj.shaded_v001.png is not a readable image" in sentences["night_stand_0001"]
    assert not list((out / "front").glob("*_0001.jpg"))  # no partial output
    assert listed(out, "train") == [("airplane_0002", "airplane")]


@pytest.mark.parametrize("deeper", [False, True])
def test_meshes_are_rendered_from_the_front_and_the_rear(tmp_path, deeper):
    from mmpareto.data.generated.rendering import render
    from mmpareto.data.raw.off_files import read_off

    raw, out = tmp_path / "raw", tmp_path / "out"
    write_meshes(raw / "ModelNet40" if deeper else raw)
    (raw / "__MACOSX/ModelNet40/airplane/train").mkdir(parents=True)
    (raw / "__MACOSX/ModelNet40/airplane/train/._airplane_0001.off").write_bytes(b"\x00\x05\x16\x07")
    report = ModelNet40.prepare(raw=raw, out=out, image_size=96, workers=1)
    assert (report.found, report.prepared, report.complete) == (5, 5, True)
    for label, part, shape in SHAPES:
        mesh = read_off((raw / "ModelNet40" if deeper else raw) / label / part / f"{shape}.off")
        for view, azimuth in (("front", 0), ("rear", 180)):
            with Image.open(out / view / f"{shape}.jpg") as image:
                assert image.size == (96, 96) and image.mode == "RGB" and image.format == "JPEG"
                pixels = np.asarray(image).astype(int)
            (expected,) = render(mesh, [azimuth], 96)
            assert np.abs(pixels - expected[:, :, None]).mean() < 3
    assert json.loads((out / "prepared.json").read_text())["image_size"] == 96


def test_damaged_meshes_are_skipped_with_a_reason(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_meshes(raw)
    first, second = raw / "airplane/train/airplane_0001.off", raw / "night_stand/train/night_stand_0001.off"
    first.write_text(first.read_text()[:150])
    second.write_text("OFF\n3 1 0\n0 0 0\n0 0 1\n0 1 nan\n3 0 1 2\n")
    (raw / "airplane/train/wing, left.off").write_text(first.read_text())
    report = ModelNet40.prepare(raw=raw, out=out, image_size=32, workers=1)
    assert {kind: list(sentences) for kind, sentences in report.skipped.items()} == {
        "cut short": ["airplane_0001"],
        "coordinates not finite": ["night_stand_0001"],
        "name not of the form": ["airplane/train/wing, left.off"],
    }
    assert report.found == 6 and report.prepared == 3 and "airplane_0001.off" in report.text()


def test_images_are_preferred_to_meshes(tmp_path):
    raw = tmp_path / "raw"
    write_meshes(raw / "ModelNet40", SHAPES[1:])
    write_views(raw / "modelnet40_images_new_12x")
    assert ModelNet40.prepare(raw=raw, out=tmp_path / "1", workers=1).found == 5
    np.testing.assert_allclose(mean_colour(tmp_path / "1/rear/airplane_0001.jpg"), colour("airplane_0001", 6), atol=3)
    for kind, count in (("images", 5), ("off", 4)):
        report = ModelNet40.prepare(raw=raw, out=tmp_path / kind, kind=kind, image_size=32, workers=1)
        assert report.found == count
    with pytest.raises(InputError, match=r"was prepared with from images, not off"):
        ModelNet40.prepare(raw=raw, out=tmp_path / "1", kind="off", workers=1)
    with pytest.raises(InputError, match=r"image_size 32, not 64"):
        ModelNet40.prepare(raw=raw, out=tmp_path / "off", kind="off", image_size=64, workers=1)


def test_a_second_call_prepares_only_missing_shapes(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_meshes(raw)
    ModelNet40.prepare(raw=raw, out=out, image_size=32, workers=1)
    (out / "rear/airplane_0002.jpg").unlink()
    kept = (out / "front/airplane_0001.jpg").stat().st_mtime_ns
    report = ModelNet40.prepare(raw=raw, out=out, image_size=32, workers=2)
    assert (report.already, report.prepared) == (4, 1) and (out / "rear/airplane_0002.jpg").exists()
    assert (out / "front/airplane_0001.jpg").stat().st_mtime_ns == kept


def test_a_subset_of_the_classes_is_not_the_official_split(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    write_views(raw)
    report = ModelNet40.prepare(raw=raw, out=tmp_path / "1", workers=1)
    assert not report.split.official and "not the official one" in report.split.sentence
    assert "38 of the 40 classes are missing: bathtub, bed" in report.text()
    assert "airplane for training and test: 2 (626) and 1 (100)" in report.text()
    assert report.counts == {"train": {"airplane": 2, "night_stand": 1}, "test": {"airplane": 1, "night_stand": 1}}
    assert json.loads((tmp_path / "1/prepared.json").read_text())["official_split"] is False

    monkeypatch.setattr(modelnet40, "SHAPES", {"airplane": (2, 1), "night_stand": (1, 1)})
    report = ModelNet40.prepare(raw=raw, out=tmp_path / "2", workers=1)
    assert report.split.official and report.split.sentence == "official split" and not report.split.checks


def test_a_folder_without_shapes_is_refused_with_the_download_pages(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"absent does not exist.*modelnet\.cs\.princeton\.edu.*mvcnn_pytorch"):
        ModelNet40.prepare(raw=tmp_path / "absent", out=out)
    raw = tmp_path / "raw"
    (raw / "airplane").mkdir(parents=True)
    write_mesh(raw / "airplane/airplane_0001.off")
    with pytest.raises(InputError, match=r"raw holds no <class>/train/\*\.png or \.off.*princeton"):
        ModelNet40.prepare(raw=raw, out=out)
    write_meshes(raw, SHAPES[:2])
    with pytest.raises(InputError, match=r"raw holds no <class>/train/\*\.png, as in"):
        ModelNet40.prepare(raw=raw, out=out, kind="images")
    with pytest.raises(InputError, match=r"holds no shape in <class>/test"):
        ModelNet40.prepare(raw=raw, out=out)
    assert not out.exists()


def test_command_line_options():
    parser = argparse.ArgumentParser()
    ModelNet40.add_arguments(parser)
    options = vars(parser.parse_args(["--raw", "DIR"]))
    assert (options["kind"], options["image_size"]) == (None, 224)
    options = vars(parser.parse_args(["--raw", "DIR", "--from", "off", "--image_size", "64"]))
    assert (options["kind"], options["image_size"]) == ("off", 64)
    assert set(options) == {"raw", "out", "kind", "image_size", "seed", "workers"}


def test_a_prepared_folder_is_opened_with_two_modalities(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_views(raw)
    ModelNet40.prepare(raw=raw, out=out, workers=1)
    dataset = ModelNet40.open(out, "test", training=False, options=InputOptions(image_size=40))
    assert len(dataset) == 2 and dataset.classes == ["airplane", "night_stand"]
    sample = dataset[1]
    assert list(sample.inputs) == ["front", "rear"] and sample.label == 1
    for view, number in (("front", 0), ("rear", 6)):
        assert tuple(sample.inputs[view].shape) == (3, 40, 40)
        np.testing.assert_allclose(sample.inputs[view].float().mean((1, 2)), colour("night_stand_0201", number), atol=3)
    training = ModelNet40.open(out, "train", training=True, options=InputOptions(image_size=16))
    assert tuple(training[0].inputs["rear"].shape) == (3, 16, 16)
    (out / "rear/airplane_0627.jpg").unlink()
    with pytest.raises(
        InputError, match=r"1 of the 2 shapes of .*test\.csv are not in .*rear.* first is airplane_0627"
    ):
        ModelNet40.open(out, "test", training=False)
