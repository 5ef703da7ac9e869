import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmpareto.data.loading import layout
from mmpareto.data.loading.batches import make_loader, stop_workers
from mmpareto.data.loading.layout import fingerprint
from mmpareto.data.loading.samples import prepare_input
from mmpareto.errors import InputError
from prepared_clips import open_clips, write_prepared


def test_a_missing_or_empty_folder_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cremad does not exist; .*`python code/prepare.py cremad --raw DIR`"):
        open_clips(tmp_path / "cremad", "train", training=True)
    (tmp_path / "synthetic").mkdir()
    with pytest.raises(InputError, match=r"not a prepared data set .*`python code/prepare.py synthetic`"):
        open_clips(tmp_path / "synthetic", "train", training=True)
    with pytest.raises(InputError, match=r"`python code/prepare.py NAME --raw DIR --out .*/mine`"):
        open_clips(tmp_path / "mine", "train", training=True)


def _append(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text((folder / name).read_text() + text)

    return change


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_append("train.csv", "a,SAD\nb,SAD\nc,SAD\nd,SAD\n"), r"4 of the 7 clips in .*train.csv .*\(a, b, c, d\)"),
        (_append("train.csv", "clip_000,BORED\n"), r"train.csv gives the clip 'clip_000' the class 'BORED'.*stat.csv"),
        (_append("train.csv", "clip_000\n"), r"train.csv has the line 'clip_000', which is not clip,class"),
        (_append("stat.csv", "SAD\n"), r"stat.csv names the class 'SAD' more than once"),
        (_write("train.csv", b"\n"), r"train.csv lists no clip"),
        (_write("train.csv", b"\xff\xfe\x00"), r"train.csv is not a CSV file in UTF-8"),
        (_write("stat.csv", b"\n"), r"stat.csv names no class"),
        (_write("prepared.json", b"{"), r"prepared.json is damaged"),
        (_write("prepared.json", b"[]"), r"prepared.json is damaged"),
        (lambda folder: (folder / "train.csv").unlink(), r"train.csv does not exist"),
    ],
)
def test_wrong_lists_are_refused(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    write_prepared(tmp_path, train=3, test=1)
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        open_clips(tmp_path, "train", training=True)


def test_a_feature_that_was_not_prepared_is_refused(tmp_path: Path) -> None:
    write_prepared(tmp_path / "cremad", train=1, test=1)
    with pytest.raises(InputError, match=r"without the feature 'spectrogram'; .* --audio spectrogram"):
        open_clips(tmp_path / "cremad", "train", training=True, audio="spectrogram")
    with pytest.raises(InputError, match="unknown audio feature 'mfcc'"):
        open_clips(tmp_path / "cremad", "train", training=True, audio="mfcc")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("audio/clip_000.pt", b"PK\x03\x04 cut", r"audio/clip_000.pt is not a readable tensor file"),
        ("audio/clip_000.pt", torch.zeros(1024, 64), r"clip_000.pt contains torch.float32 \(1024, 64\) instead"),
        ("audio/clip_000.pt", torch.zeros(1024, 128, dtype=torch.int64), r"clip_000.pt contains torch.int64"),
        ("audio/clip_000.pt", {"x": 1}, r"clip_000.pt contains dict instead"),
        ("visual/clip_000/frame_00001.jpg", b"", r"frame_00001.jpg is not a readable"),
        ("visual/clip_000/frame_00001.jpg", b"\x89PNG\r\n", r"frame_00001.jpg is not a readable"),
        ("visual/clip_000/frame_00001.jpg", "half", r"frame_00001.jpg is not a readable"),
        ("visual/clip_000/frame_00001.jpg", None, r"clip_000 has no frame"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = write_prepared(tmp_path, train=1, test=1, frames=1) / name
    if content is None:
        path.unlink()
    elif isinstance(content, str):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    dataset = open_clips(tmp_path, "train", training=False)
    with pytest.raises(InputError, match=message) as caught:
        dataset[0]
    assert "\n" not in str(caught.value)


def test_a_worker_raises_the_same_error(tmp_path: Path) -> None:
    (write_prepared(tmp_path, train=1, test=1, frames=1) / "audio/clip_000.pt").write_bytes(b"PK\x03\x04 cut")
    dataset = open_clips(tmp_path, "train", training=False)
    with pytest.raises(InputError) as direct:
        dataset[0]
    loader = make_loader(dataset, batch_size=1, workers=1)
    with pytest.raises(InputError) as in_worker:
        next(iter(loader))
    stop_workers(loader)
    assert str(in_worker.value) == str(direct.value)


def test_a_gap_in_the_frames_is_named(tmp_path: Path) -> None:
    write_prepared(tmp_path, train=1, test=1, frames=2)
    (tmp_path / "visual/clip_000/frame_00001.jpg").unlink()
    with pytest.raises(InputError, match=r"frame_00001.jpg is missing"):
        open_clips(tmp_path, "train", training=False)[0]


def test_prepare_input_refuses_wrong_shapes_and_no_frames(tmp_path: Path) -> None:
    description = open_clips(write_prepared(tmp_path), "train", training=False).description
    with pytest.raises(InputError, match=r"the audio feature contains torch.float32 \(3,\)"):
        prepare_input(description, torch.zeros(3), [torch.zeros(3, 8, 8, dtype=torch.uint8)])
    with pytest.raises(InputError, match="no frame"):
        prepare_input(description, torch.zeros(1024, 128), [])


def test_fingerprint_is_the_hash_of_the_lists(tmp_path: Path) -> None:
    write_prepared(tmp_path, train=2, test=1)
    digest = hashlib.sha256()
    for name in ("stat.csv", "train.csv", "test.csv", "prepared.json"):
        content = (tmp_path / name).read_bytes()
        digest.update(b"%s %d\n%s" % (name.encode(), len(content), content))
    assert fingerprint(tmp_path) == digest.hexdigest()
    (tmp_path / "prepared.json").unlink()
    assert fingerprint(tmp_path) != digest.hexdigest()


def test_lists_of_scores_and_of_several_labels(tmp_path):
    (tmp_path / "train.csv").write_text('"a, left",0.1\nb,-3\n')
    names, scores = layout.read_scores(tmp_path, "train")
    assert names == ["a, left", "b"] and scores.tolist() == [0.1, -3]
    (tmp_path / "test.csv").write_text("a,0,1\nb,1,1\n")
    assert layout.read_label_table(tmp_path, "test", ["x", "y"]) == (["a", "b"], [(0, 1), (1, 1)])
    with pytest.raises(InputError, match="which is not a sample and 3 zeros or ones"):
        layout.read_label_table(tmp_path, "test", ["x", "y", "z"])
    with pytest.raises(InputError, match="a line that is not sample,score"):
        layout.read_scores(tmp_path, "test")
