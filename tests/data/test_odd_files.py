"""Files that are no files, lists that do not fit, headers that announce too much, and what killed processes leave."""

import codecs
import errno
import hashlib
import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import raw_clips
import torch
from mmpareto.data import cremad, mmsa_files, vggsound
from mmpareto.data.folder import find_listed
from mmpareto.data.loading import layout
from mmpareto.data.loading.sources import open_array
from mmpareto.data.preparation import archives
from mmpareto.data.preparation.archives import unpacked
from mmpareto.data.preparation.prepared_folder import locked
from mmpareto.data.preparation.splits import PublishedFile, published_split
from mmpareto.data.raw.array_files import open_arrays
from mmpareto.data.raw.off_files import read_off
from mmpareto.data.raw.unpickling import load_object_array, load_pickle
from mmpareto.errors import InputError
from mmpareto.files import parse_json


def no_file(path: Path, kind: str) -> Path:
    """Make something at `path` that is not a file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    return path


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_what_is_no_file_is_not_read(tmp_path, kind):
    path = no_file(tmp_path / "train.csv", kind)
    for read in (
        lambda: find_listed(path, tmp_path),
        lambda: layout.read_names(tmp_path, "train"),
        lambda: load_pickle(path),
        lambda: read_off(path),
        lambda: open_array(path, 1, 1),
    ):
        with pytest.raises(InputError, match=r"train\.csv"):
            read()


def test_no_clip_in_the_split_files_shows_the_names_of_both(tmp_path):
    raw_clips.write_clips(tmp_path / "raw", raw_clips.names(actors=1))
    for part, clip in (("train", "1091_ABC_ANG_XX.wav"), ("test", "1091_ABC_SAD_XX.wav")):
        (tmp_path / f"{part}.csv").write_text(f"{clip},{clip[9:12]}\n")
    with pytest.raises(InputError, match=r"they list 1091_ABC_ANG_XX\.wav.* found are 1001_IEO_") as caught:
        cremad.CREMAD.prepare(raw=tmp_path / "raw", out=tmp_path / "out", split_files=tmp_path, workers=1)
    assert str(tmp_path / "train.csv") in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_official_list_with_a_byte_order_mark_is_official(tmp_path):
    published = {}
    for part, text in (("train", b"a,X\nb,X\n"), ("test", b"c,X\n")):
        published[part] = PublishedFile(hashlib.sha256(text).hexdigest(), {"X": text.count(b"X")})
        (tmp_path / f"{part}.csv").write_bytes(codecs.BOM_UTF8 + text.replace(b"\n", b"\r\n"))
    assert published_split(tmp_path, published, {}).official


def test_numbers_of_any_length_in_lists_are_refused(tmp_path):
    for start in ("9" * 5_000, "1" * 20, "²"):
        (tmp_path / "vggsound.csv").write_text(f"abcdefghijk,{start},dog,train\n")
        with pytest.raises(InputError, match="line 1"):
            vggsound.read_list(tmp_path)
    for text in ("[" * 5_000, "9" * 5_000):
        with pytest.raises(ValueError, match=r"nested|4300"):
            parse_json(text)
    (tmp_path / "x.off").write_text(f"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 {'9' * 5_000}\n")
    with pytest.raises(InputError, match=r"x\.off") as caught:
        read_off(tmp_path / "x.off")
    assert len(str(caught.value)) < 500


# --- pickles and arrays ---

NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
OBJECTS = NDARRAY + b"(K\x01K\x01\x85cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R\x89]"
TWICE = b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(60))
CHAIN = b"".join(OBJECTS + b"j" + struct.pack("<I", i) + b"atb\x94" for i in range(5_000))
PRIME = (1 << 61) - 1
COLLIDING = b"".join(b"\x8a\x0a" + (k * PRIME).to_bytes(10, "little") + b"N" for k in range(1, 3_000))


@pytest.mark.parametrize(
    "program",
    [
        b"})" + b"\x85" * 100_000 + b"Ns.",  # as a key, its hash overflows the stack
        b"\x8f()" + b"\x85" * 100_000 + b"\x90.",
        b"("
        + OBJECTS
        + b"Natb\x94"
        + b"".join(OBJECTS + b"j" + struct.pack("<I", i) + b"atb\x94" for i in range(20_000))
        + b"l.",
        b"]\x94" + TWICE + b"Q.",  # 2 ** 60 items, if they are shown
        b"}(" + COLLIDING + b"u.",
        b"\x96" + struct.pack("<Q", 1 << 30) + b"abc.",
    ],
    ids=["deep key", "deep member", "chain of arrays", "shared references", "one hash", "a gigabyte"],
)
def test_pickles_that_crash_or_exhaust_other_readers(tmp_path, program):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + program)
    with pytest.raises(InputError, match=r"x\.pkl") as caught:
        load_pickle(tmp_path / "x.pkl")
    assert len(str(caught.value)) < 500


def test_a_pickle_of_other_classes_says_what_to_do(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"frame": torch.zeros(2)}))
    with pytest.raises(InputError, match=r"torch.*None of it was run.*save its content as NumPy arrays"):
        load_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("key", "value"),
    [("id", None), ("id", [None]), ("id", ["a", [["deep"]]]), ("regression_labels", [[["x"]]]), ("id", [10**5_000])],
)
def test_entries_of_other_types_in_a_feature_file(key, value):
    shared: list[object] = [1.0]
    for _ in range(60):
        shared = [shared, shared]
    array = np.ones((1, 2, 3), np.float32)
    part = {"text": array, "audio": array, "vision": array, "regression_labels": shared, "id": ["a"]}
    sizes = dict.fromkeys(("text", "audio", "vision"), 3)
    for change in ({}, {key: value}):
        with pytest.raises(mmsa_files.UnfitError):
            mmsa_files.read_part(part | change, sizes, 3)


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


HEADERS = [
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 99999999999999999999), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': ['<f8'], 'fortran_order': 7, 'shape': 'abc', }",
    "(" * 110,
    "{'descr': '<f8', 'fortran_order'",
]


@pytest.mark.parametrize("header", HEADERS)
def test_damaged_headers_of_arrays(tmp_path, header):
    content = npy(header, bytes(8))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(InputError, match=r"x\.npz: the array 'a'"):
        open_arrays(tmp_path / "x.npz").read("a")
    (tmp_path / "x.npy").write_bytes(content)
    for read in (lambda: load_object_array(tmp_path / "x.npy"), lambda: open_array(tmp_path / "x.npy", 1, 1)):
        with pytest.raises(InputError, match=r"x\.npy"):
            read()


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_tensor_files_of_other_people(tmp_path):
    good = torch.zeros(1024, 128, requires_grad=True)
    deep: tuple = ()
    for _ in range(20_000):
        deep = (deep,)
    (tmp_path / "audio").mkdir()
    path = tmp_path / "audio" / "a.pt"
    torch.save(good, path)
    assert not layout.read_feature(tmp_path, "a", "fbank").requires_grad
    torch.save(good, path, _use_new_zipfile_serialization=False)
    assert layout.read_feature(tmp_path, "a", "fbank").shape == good.shape
    packed = io.BytesIO()
    torch.save(good, packed)
    with zipfile.ZipFile(packed) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as other:
        for member in archive.infolist():
            other.writestr(member.filename, archive.read(member))
    hostile = [path.read_bytes(), b"\x80\x02})" + b"\x85" * 100_000 + b"Ns."]
    for bad in (good.detach().to_sparse(), torch.empty(1024, 128, device="meta"), {"a": 1}):
        torch.save(bad, path)
        hostile.append(path.read_bytes())
    for content in hostile:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.pt"):
            layout.read_feature(tmp_path, "a", "fbank")


# --- archives ---


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], compression: str = "gz") -> Path:
    with tarfile.open(path, f"w:{compression}") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_a_header_of_many_megabytes_is_refused(tmp_path):
    member = tarfile.TarInfo("a" * 10)
    member.type = tarfile.XHDTYPE
    tar(tmp_path / "x.tar.gz", (member, bytes(20 << 20)))
    with pytest.raises(InputError, match=r"x\.tar\.gz.*header of 20971520 bytes"):
        unpacked(tmp_path / "x.tar.gz", tmp_path / "raw")


def test_a_negative_size_does_not_loop(tmp_path):
    content = bytearray(tar(tmp_path / "x.tar", (tarfile.TarInfo("a"), b""), compression="").read_bytes())
    content[124:136] = (-512).to_bytes(12, "big", signed=True)
    content[148:156] = b"        "
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.tar.*negative"):
        unpacked(tmp_path / "x.tar", tmp_path / "raw")


def test_a_tar_gz_is_compared_with_the_free_space(tmp_path, monkeypatch):
    path = tar(tmp_path / "x.tar.gz", (tarfile.TarInfo("a"), bytes(1 << 20)), (tarfile.TarInfo("b"), bytes(1 << 20)))
    usage = archives.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: usage._replace(free=1_500_000))
    with pytest.raises(InputError, match=r"unpacks to .* but only 0\.0 GB are free"):
        unpacked(path, tmp_path / "raw")
    assert [*tmp_path.iterdir()] == [path]


# --- the disk ---


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_one_sentence(tmp_path, number):
    with pytest.raises(InputError, match="start again"), locked(tmp_path):
        raise OSError(number, os.strerror(number))


def test_leftovers_of_killed_preparations_are_removed(tmp_path):
    kept = [tmp_path / name for name in (".git", ".train.csv.old", "train.csv", ".notes.txt.abcdefgh.txt")]
    for path in kept:
        path.touch()
    for name in ("train.csv", "prepared.json", "checksums.sha256"):
        (tmp_path / f".{name}.ab_12345{Path(name).suffix}").touch()
    killed_array = tmp_path / "arrays" / ".train_audio.npy.abcdefgh.npy"
    killed_array.parent.mkdir()
    killed_array.touch()
    with locked(tmp_path):
        assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "arrays"])
        assert not killed_array.exists()
