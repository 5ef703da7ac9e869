"""Cache of decoded images in one file, which gives the same samples."""

import json
import pickle
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from mmpareto.data.loading import image_cache, layout
from mmpareto.data.loading.batches import EpochOrder, make_loader
from mmpareto.errors import InputError
from prepared_clips import open_clips, write_prepared
from torchvision.transforms.v2 import functional as transforms


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_prepared(tmp_path / "cremad", train=5, test=3, frames=(1, 3, 4), size=(36, 48))


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(layout, "read_image", never)


@pytest.mark.parametrize("training", [True, False])
def test_small_images_give_the_same_samples(folder: Path, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"training": training, "seed": 3, "image_size": 32}  # 36 pixels do not exceed 8/7 of 32: no resize
    plain, cached = open_clips(folder, "train", **options), open_clips(folder, "train", cache=True, **options)
    expected = [plain[epoch, index].inputs["visual"] for epoch in (0, 4) for index in range(5)]
    forbid_decoding(monkeypatch)
    for x, (epoch, index) in zip(expected, ((e, i) for e in (0, 4) for i in range(5)), strict=True):
        assert torch.equal(cached[epoch, index].inputs["visual"], x)


def test_large_images_are_resized_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = layout.read_names(folder, "train")
    whole = layout.read_frame(folder, names[1], 2)
    cached = open_clips(folder, "train", training=False, image_size=14, cache=True)
    forbid_decoding(monkeypatch)
    result = cached.sources["visual"].frame(1, 2)  # type: ignore[attr-defined]
    assert result.shape == (3, 16, 21)
    assert torch.equal(result, transforms.resize(whole, [16], antialias=True))


def test_a_second_run_and_the_workers_read_the_existing_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_clips(folder, "train", training=True, image_size=24, cache=True)
    expected = [first[0, index].inputs["visual"] for index in range(5)]
    forbid_decoding(monkeypatch)
    second = pickle.loads(pickle.dumps(open_clips(folder, "train", training=True, image_size=24, cache=True)))
    assert len(pickle.dumps(second)) < 20_000  # the images are not pickled
    order = EpochOrder(5)
    batches = list(make_loader(second, batch_size=5, order=order, workers=1))
    for index, result in zip(batches[0].indices.tolist(), batches[0].inputs["visual"], strict=True):
        assert torch.equal(result, expected[index])


@pytest.mark.parametrize("change", ["list", "record", "size", "cut", "damaged record"])
def test_rebuilt_when_the_folder_or_the_size_changes(
    folder: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_clips(folder, "train", training=False, image_size=24, cache=True)
    data, record = folder / "cache" / "train-visual-27.bin", folder / "cache" / "train-visual-27.json"
    before = data.read_bytes()
    size = 24
    if change == "list":
        lines = (folder / "train.csv").read_text().splitlines(keepends=True)
        (folder / "train.csv").write_text("".join(reversed(lines)))
    elif change == "record":
        (folder / "prepared.json").write_text(json.dumps({"fps": 1, "audio": ["fbank"], "seed": 9}))
    elif change == "size":
        size = 28
    elif change == "cut":
        data.write_bytes(before[:-1])
    else:
        record.write_text("{")
    made: list[Path] = []
    original = image_cache._read_small
    monkeypatch.setattr(image_cache, "_read_small", lambda path, side: made.append(path) or original(path, side))
    dataset = open_clips(folder, "train", training=False, image_size=size, cache=True)
    assert len(made) == 1 + 3 + 4 + 1 + 3
    assert dataset[0].inputs["visual"].shape == (2, 3, size, size)


def test_an_interrupted_write_leaves_no_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(path: Path, side: int) -> torch.Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "_read_small", stop)
        with pytest.raises(KeyboardInterrupt):
            open_clips(folder, "train", training=False, image_size=24, cache=True)
    assert [path.suffix for path in (folder / "cache").iterdir()] == [".lock"]
    killed = folder / "cache" / ".train-visual-27.bin.abcdefgh.bin"  # as a process leaves it that is killed
    killed.touch()
    open_clips(folder, "train", training=False, image_size=24, cache=True)
    assert not killed.exists()


def test_of_two_processes_one_builds_the_cache_in_a_folder_of_their_choice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    original = image_cache._read_small

    def slow(path: Path, side: int) -> torch.Tensor:
        time.sleep(0.02)
        made.append(path)
        return original(path, side)

    monkeypatch.setattr(image_cache, "_read_small", slow)
    options = {"training": False, "image_size": 24, "cache": True, "cache_dir": str(tmp_path / "there")}
    with ThreadPoolExecutor(2) as pool:  # locks exclude threads, too
        opened = [*pool.map(lambda _: open_clips(folder, "train", **options), range(2))]
    assert len(made) == 1 + 3 + 4 + 1 + 3
    assert torch.equal(*(dataset[2].inputs["visual"] for dataset in opened))
    assert not (folder / "cache").exists()
    assert "cache_dir" not in opened[0].description  # which checkpoints keep
    assert [path.name for path in (tmp_path / "there").iterdir()] == [layout.fingerprint(folder)[:16]]


def test_a_damaged_image_is_named(folder: Path) -> None:
    path = next((folder / "visual").rglob("*.jpg"))
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=re.escape(str(path))):
        open_clips(folder, "train", training=False, cache=True)
        open_clips(folder, "test", training=False, cache=True)
