"""Kinds of files that come from elsewhere: sound examples, hostile ones made by hand, and the reader of each."""

import gzip
import importlib.util
import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import raw_clips
import run_kinds as runs
import torch
from mmpareto.data import ave, cgmnist, features, folder, kinetics_sounds, modelnet40, ucf101, vggsound
from mmpareto.data.loading import layout, sources
from mmpareto.data.mmsa import MOSI
from mmpareto.data.preparation.archives import unpacked
from mmpareto.data.preparation.splits import PublishedFile, published_split
from mmpareto.data.raw.array_files import open_arrays
from mmpareto.data.raw.containers import stream_kinds
from mmpareto.data.raw.idx import read_idx
from mmpareto.data.raw.media import read_clip
from mmpareto.data.raw.off_files import read_off
from mmpareto.data.raw.unpickling import load_object_array, load_pickle
from mmpareto.models.pretrained import read_released
from PIL import Image


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        name: of the file that is read.
        readers: each reads the file.
        examples: writes sound files to an empty folder, which become the material of damaged ones.
        hostile: contents made by hand.
        alter: changes entries of a sound file, which bytes that are damaged at random hardly ever do.
        beside: writes what lies beside the file.
        slowness: of its readers; so many times fewer of its inputs are read.
    """

    name: str
    readers: Sequence[Callable[[Path], Any]]
    examples: Callable[[Path], None]
    hostile: Sequence[bytes] = ()
    alter: Callable[[random.Random, bytes], bytes] | None = None
    beside: Callable[[Path], None] | None = None
    slowness: int = 1


# --- sound and pictures ---


def wav(
    samples: bytes, rate: int = 16_000, channels: int = 1, code: int = 3, bits: int = 32, tail: bytes = b""
) -> bytes:
    width = channels * bits // 8 % 65536
    header = struct.pack("<HHIIHH", code, channels, rate, rate * width % 2**32, width, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + header + b"data" + struct.pack("<I", len(samples)) + samples + tail
    return b"RIFF" + struct.pack("<I", len(body)) + body


def floats(value: float, count: int = 16_000) -> bytes:
    return np.full(count, value, "<f4").tobytes()


TAG = b"LIST" + struct.pack("<I", 16) + b"INFOINAM" + struct.pack("<I", 4) + b"caf\xe9"
WAVS = [
    *(wav(floats(value)) for value in (0.0, np.nan, -np.inf, 1e38, 32_768.0)),
    *(wav(floats(0.1), rate) for rate in (0, 1, 44_101, 999_983, 2**31 - 1, 2**32 - 1)),
    *(wav(floats(0.1), channels=channels) for channels in (0, 2, 64, 65_535)),
    *(
        wav(floats(0.1), code=code, bits=bits)
        for code, bits in ((1, 0), (1, 7), (1, 64), (3, 16), (6, 8), (0xFFFE, 32))
    ),
    wav(floats(0.1), tail=TAG),
    wav(b""),
]


def write_wavs(target: Path) -> None:
    raw_clips.write_wav(target / "mono", raw_clips.noise(0.2))
    raw_clips.write_wav(target / "stereo", raw_clips.noise(0.2, channels=2, rate=44_100), 44_100)
    (target / "float").write_bytes(wav(floats(0.25, 4_000)))


def write_movies(target: Path, suffix: str) -> None:
    raw_clips.write_movie(target / f"a.{suffix}", range(12), raw_clips.noise(0.4, rate=44_100))
    raw_clips.write_movie(target / f"b.{suffix}", range(12), codec="mpeg4", options={})


def write_flvs(target: Path) -> None:
    raw_clips.write_video(target / "a.flv", 12)
    raw_clips.write_video(target / "b.flv", 12, sound=0.3)


def write_avis(target: Path) -> None:
    raw_clips.write_movie(
        target / "a.avi", range(12), raw_clips.noise(0.4, rate=44_100), codec="mpeg4", sound_codec="mp2"
    )


def read_sound(path: Path) -> None:
    read_clip(path, path, kinds=["fbank", "spectrogram", "waveform"], fps=None)


def read_movie(path: Path) -> None:
    read_clip(path, path, kinds=["fbank"], fps=1)


def read_frames(path: Path) -> None:
    read_clip(path, path, kinds=[], fps=2)


def read_prepared_image(path: Path) -> None:
    layout.read_image(path, "prepare it again")


def read_prepared_array(path: Path) -> None:
    sources.open_array(path, 2, 2)


def write_pictures(target: Path) -> None:
    image = Image.fromarray(raw_clips.picture(5))
    image.save(target / "a.jpg", quality=90)
    image.save(target / "b.jpg", progressive=True)
    image.convert("RGBA").save(target / "c.png")


def large_jpeg(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", side, side)
    return bytes(content)


PICTURES = [large_jpeg(side) for side in (0, 1, 20_000, 65_500)]


# --- lists ---


def write_texts(*texts: str) -> Callable[[Path], None]:
    def write(target: Path) -> None:
        for number, text in enumerate(texts):
            (target / str(number)).write_text(text)

    return write


CLIPS = "a_1,ANG\nb_2,SAD\nc_3,ANG\nd_4,SAD\n"
IDS = [f"abcdefghij{letter}" for letter in "klmnop"]
LISTS = [
    b"",
    b"\xef\xbb\xbf",
    b"\x00" * 1_000,
    b"\xff\xfe" + "clip,ANG\n".encode("utf-16-le"),
    b'"' + b"x" * 300_000,
    b"," * 200_000,
    b"\n" * 200_000,
    b"x" * 300_000 + b",ANG\n",
    b"".join(b"clip%d,ANG\n" % number for number in range(100_000)),
    b"".join(b"abcdefghijk,%d,dog,train\n" % (k * ((1 << 61) - 1)) for k in range(20_000)),
    b"abcdefghijk," + b"9" * 6_000 + b",dog,train\n",
    b"abcdefghijk_000001,10," + b"9" * 6_000 + b"\n",
]


def read_prepared_lists(path: Path) -> None:
    target = path.parent
    for name, content in (("stat.csv", "ANG\nSAD\n"), ("train.csv", CLIPS)):
        if path.name != name:
            (target / name).write_text(content)
    layout.read_split(target, "train", layout.read_classes(target))


def read_published(path: Path) -> None:
    (path.parent / "test.csv").write_text("z,ANG\n")
    counts = PublishedFile("", {"ANG": 1, "SAD": 1})
    published_split(path.parent, {"train": counts, "test": counts}, {})


def read_kinetics(path: Path) -> None:
    (path.parent / "my_test.txt").write_text("zzzzzzzzzzz_000001,10,3\n")
    kinetics_sounds.read_lists(path.parent)


def read_ave(path: Path) -> None:
    for name in ("valSet.txt", "testSet.txt"):
        (path.parent / name).write_text(f"{ave.HEADER}\n")
    ave.read_lists(path.parent)


def read_ucf101(path: Path) -> None:
    (path.parent / "classInd.txt").write_text("1 Run\n2 Walk\n")
    (path.parent / "testlist01.txt").write_text("Run/v_Run_g01_c01.avi\n")
    ucf101.read_lists([path.parent], 1)


def read_record(path: Path) -> None:
    (path.parent / "stat.csv").write_text("ANG\n")
    layout.with_prepared_audio(layout.InputOptions(), path.parent)


def read_array_record(path: Path) -> None:
    (path.parent / "stat.csv").write_text("0\n1\n")
    (path.parent / "arrays").mkdir()
    for part in ("train", "test"):
        (path.parent / f"{part}.csv").write_text("a,0\nb,1\n")
        np.save(path.parent / "arrays" / f"{part}_x.npy", np.zeros((2, 3), np.float32))
    if b'"x"' in path.read_bytes():
        features.FeatureArrays.open(path.parent, "train", training=True)[0]


# --- arrays and pickles ---


def feature_file() -> dict[str, Any]:
    """A small file like MMSA's."""
    random = np.random.default_rng(0)
    sizes = {"text": 768, "audio": 5, "vision": 20}
    parts = {}
    for part in ("train", "valid", "test"):
        parts[part] = {name: random.normal(size=(2, 3, size)).astype("f4") for name, size in sizes.items()}
        parts[part] |= {"regression_labels": np.array([1.0, -2.0]), "id": ["a$_$1", "b$_$2"]}
        parts[part] |= {"audio_lengths": [3, 2], "vision_lengths": [1, 3]}
    return parts


def write_pickles(target: Path) -> None:
    for protocol in (0, 2, 4, 5):
        (target / str(protocol)).write_bytes(pickle.dumps(feature_file(), protocol))
    for change in (
        {"id": None},
        {"id": [None, 3]},
        {"regression_labels": [[1.0], "x"]},
        {"text": [1]},
        {"audio": None},
    ):
        content = feature_file()
        content["train"] |= change
        (target / str([*change.values()])).write_bytes(pickle.dumps(content, 4))


class Executing:
    """A pickle of it runs a command."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        import os

        return os.system, ("touch executed",)


_NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
_DTYPE = b"cnumpy\ndtype\nX\x02\x00\x00\x00%s\x89\x88\x87R"
_OBJECTS = _NDARRAY + b"(K\x01K\x01\x85" + _DTYPE % b"O8" + b"\x89]"
_TWICE = b"".join(b"](h%ch%ce\x94" % (i, i) for i in range(100))
_PAIRS = b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(100))
_MANY = (b"\x8a\x0a%sN" % (k * ((1 << 61) - 1)).to_bytes(10, "little") for k in range(1, 50_000))
_CHAIN = (_OBJECTS + b"j%satb\x94" % struct.pack("<I", i) for i in range(20_000))
_HUGE = struct.pack("<Q", 1 << 30)
_PROGRAMS = [
    b"]" * 200_000 + b"a" * 199_999 + b".",
    b")" + b"\x85" * 200_000 + b".",
    b"})" + b"\x85" * 200_000 + b"Ns.",
    b"\x8f()" + b"\x85" * 200_000 + b"\x90.",
    b"(" * 100_000 + b"\x91" * 100_000 + b".",
    b"("
    + _OBJECTS
    + b"Natb\x94"
    + b"".join(_OBJECTS + b"j%satb\x94" % struct.pack("<I", i) for i in range(20_000))
    + b"l.",
    (_OBJECTS[:-1] + b"](") * 20_000 + b"N" + b"etb" * 20_000 + b".",
    b"]\x94" + _TWICE + b"Q.",
    b"]\x94" + _TWICE + b".",
    _NDARRAY + b"(K\x01)\x94" + _PAIRS + _DTYPE % b"f4" + b"\x89C\x00tb.",
    b"cnumpy\ndtype\n)\x94" + _PAIRS + b"\x89\x88\x87R.",
    b"c_codecs\nencode\nX\x01\x00\x00\x00a)\x94" + _PAIRS + b"\x86R.",
    b"}(" + b"".join(_MANY) + b"u.",
    *(code + _HUGE + b"abc." for code in (b"\x96", b"\x8e", b"\x8d", b"\x95")),
    b"\x95" + _HUGE + b"\x96" + _HUGE + b"abc.",
    b"I" + b"9" * 100_000 + b"\n.",
    b"\x8b\x00\x00\x00\x40abc.",
]
PICKLES = [
    *(b"\x80\x04" + program for program in _PROGRAMS),
    *(pickle.dumps({"train": [Executing()]}, protocol) for protocol in (0, 2, 4)),
    pickle.dumps({"train": torch.zeros(2)}),
    pickle.dumps(io.BytesIO()),
]


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def described(descr: str, shape: str, content: bytes = bytes(16)) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}", content)


NPYS = [
    *(
        described("'<f8'", shape)
        for shape in ("(1000000000,)", "(2,)", "(-1,)", "(0, 99999999999999999999)", "'ab'", "()")
    ),
    *(described("'<f8'", f"({'1,' * 70})") for _ in range(1)),
    *(described(descr, "(1,)") for descr in ("'O'", "'V9'", "[('a', '<f8')]", "'<M8[s]'", "'<U4'", "['x']", "7")),
    described("'O'", "()", pickle.dumps(np.array(Executing(), dtype=object))),
    *(described("'O'", "()", content) for content in PICKLES[:10]),
    *(npy(text) for text in ("(" * 110, "-" * 110, "{'descr'", "{}", "__import__('os').system('touch executed')")),
    b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{",
    b"\x93NUMPY\x03\x00\x10\x00\x00\x00{",
]


def write_npys(target: Path) -> None:
    np.save(target / "a.npy", np.arange(6.0).reshape(2, 3))
    np.save(target / "b.npy", np.array({"train_image": np.zeros((1, 28, 28, 3), np.uint8)}, dtype=object))


def npz(**arrays: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def _saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


_LABELS = _saved(np.array([0, 1, 0, 1]))
NPZS = [
    *(npz(x=content, labels=_LABELS) for content in NPYS[:22]),
    *(npz(x=_saved(np.ones((4, 2))), labels=content) for content in NPYS[:22]),
    npz(x=_saved(np.ones((4, 2))), labels=_LABELS, split=_saved(np.zeros((4, 2), int))),
    npz(x=_saved(np.ones((4, 2))), labels=_LABELS, split=_saved(np.array(3))),
    npz(x=_saved(np.ones((4, 2, 2))), labels=_LABELS, x_lengths=_saved(np.array(["a", "b", "c", "d"]))),
    npz(x=_saved(np.ones((4, 2))), labels=_saved(np.array([1e300, 1, 0, 1]))),
    npz(x=_saved(np.ones((4, 2))), labels=_saved(np.array(0))),
    npz(x=_saved(np.ones((4, 2))), labels=_LABELS, names=_saved(np.array(["a", "a\n", "", "\x00"]))),
    npz(),
]


def write_npzs(target: Path) -> None:
    random = np.random.default_rng(0)
    labels, images = np.array(["x", "y"] * 3), random.integers(0, 256, (6, 5, 5), np.uint8)
    np.savez(target / "a.npz", v=random.normal(size=(6, 3)), labels=labels, split=["train", "test"] * 3)
    np.savez_compressed(target / "b.npz", i=images, s=np.ones((6, 4, 2)), s_lengths=[1, 2, 3, 4, 4, 0], label=range(6))


def read_arrays(path: Path) -> None:
    features.read_own_arrays(open_arrays(path))


def safetensors(header: bytes, content: bytes = bytes(64)) -> bytes:
    return struct.pack("<Q", len(header)) + header + content


_METADATA = b'{"__metadata__": {"classes": "%s"}, "x": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]}}'
SAFETENSORS = [
    struct.pack("<Q", 1 << 62) + b"{}",
    safetensors(b"[" * 50_000),
    safetensors(_METADATA % (b"[" * 50_000)),
    safetensors(_METADATA % b"3"),
    *(
        safetensors(b'{"x": {"dtype": "%s", "shape": [%s], "data_offsets": [0, 32]}}' % (dtype, shape))
        for dtype in (b"F32", b"F8_E4M3", b"BF16", b"XX")
        for shape in (b"8", b"4000000000,4000000000", b"-1", b"0,999999999999999999999", b"")
    ),
]


def write_safetensors(target: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"v": np.ones((4, 3), "f4"), "labels": np.array([0, 1, 0, 1])}, target / "a")


def write_tensors(target: Path) -> None:
    torch.save(torch.ones(1024, 128).half(), target / "a.pt")
    torch.save(torch.zeros(1024, 128).half(), target / "b.pt", _use_new_zipfile_serialization=False)


def _tensor_file(thing: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer, **options)
    return buffer.getvalue()


def _with_pickle(program: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (("data.pkl", program), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"x/{name}", content)
    return buffer.getvalue()


TENSORS = [
    *(_with_pickle(content) for content in PICKLES[:20]),
    *PICKLES[:20],
    _tensor_file(torch.ones(1024, 128).to_sparse()),
    _tensor_file(torch.empty(1024, 128, device="meta")),
    _tensor_file(torch.ones(1, 1).expand(1024, 128)),
    _tensor_file(torch.ones(1024, 128, requires_grad=True)),
    _tensor_file({"a": torch.ones(2)}),
    _tensor_file(Executing()),
]


def write_released_checkpoints(target: Path) -> None:
    """Files that have what the reader looks at first; a whole one would be too large."""
    weights = {"module.audio_net.conv1.weight": torch.ones(4, 1, 7, 7), "module.head.fc_out.weight": torch.ones(2, 8)}
    torch.save({"model": weights, "epoch": 3, "acc": 0.5}, target / "a")


def read_tensor(path: Path) -> None:
    layout.read_feature(path.parent.parent, path.stem, "fbank")


# --- meshes, IDX, archives ---

SQUARE = "OFF\n4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"
MESHES = [
    SQUARE.replace("3 0 2 3", f"3 0 2 {'9' * 5_000}").encode(),
    SQUARE.replace("1 1 0", f"1 1 {'9' * 5_000}").encode(),
    SQUARE.replace("3 0 2 3", f"{'9' * 12} 0 2 3").encode(),
    SQUARE.replace("3 0 2 3", f"{'9' * 5_000} 0 2 3").encode(),
    SQUARE.replace("3 0 2 3", "3 0 -1 3").encode(),
    SQUARE.replace("3 0 2 3", "-3 0 1 3").encode(),
    SQUARE.replace("4 2 0", f"{'9' * 99} 2 0").encode(),
    SQUARE.replace("1 1 0", "nan inf -inf").encode(),
    b"OFF\n" + b"#" * 1_000_000,
    b"OFF 0 0 0\n",
]

IDX = b"\x00\x00\x08\x03" + struct.pack(">III", 2, 4, 4) + bytes(range(32))
IDXS = [
    b"\x00\x00\x08\x03" + struct.pack(">III", 0, 0xFFFFFFFF, 0xFFFFFFFF),
    b"\x00\x00\x08\x03" + struct.pack(">III", 0xFFFFFFFF, 0xFFFFFFFF, 0),
    b"\x00\x00\x08\xff" + bytes(4 * 255),
    b"\x00\x00\x08\x01" + struct.pack(">I", 1 << 30),
    gzip.compress(b"\x00\x00\x08\x01" + struct.pack(">I", 1 << 29) + bytes(1 << 22), 1),
    gzip.compress(b"\x00\x00\x08\x01" + struct.pack(">I", 1 << 22) + bytes(1 << 22), 1),
]


def write_idxs(target: Path) -> None:
    (target / "a").write_bytes(IDX)
    (target / "b").write_bytes(gzip.compress(IDX))


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for member, content in members:
            member.size = len(content) if member.isreg() or (not member.isdev() and content) else member.size
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    result = tarfile.TarInfo(name)
    result.type, result.linkname = kind, link
    return result


def _negative() -> bytes:
    content = bytearray(tarred((member("a"), b"")))
    content[124:136] = (-512).to_bytes(12, "big", signed=True)
    content[148:156] = b"        "
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


NAMES = ("../x", "/tmp/reliability_x", "a/../../x", "a\n", "n" * 3_000, "a/" * 2_000)
TARS = [
    _negative(),
    tarred((member("x", tarfile.XHDTYPE), bytes(4 << 20)), mode="w:gz"),
    tarred((member("x", tarfile.GNUTYPE_LONGNAME), bytes(4 << 20)), mode="w:gz"),
    tarred((member("x", tarfile.XHDTYPE), b"22 size=%s\n" % (b"9" * 13))),
    *(
        tarred((member(name), b"x"))
        for name in ("../x", "/tmp/reliability_x", "a/../../x", "a\n", "n" * 3_000, "a/" * 2_000)
    ),
    tarred((member("l", tarfile.SYMTYPE, ".."), b""), (member("l/x"), b"x")),
    tarred((member("l", tarfile.LNKTYPE, "/etc/passwd"), b"")),
    tarred((member("p", tarfile.FIFOTYPE), b""), (member("d", tarfile.CHRTYPE), b"")),
    tarred((member("a"), b"x"), (member("a/b"), b"x")),
]
ZIPS = [
    *(zipped((name, b"x")) for name in NAMES),
    zipped(("a", b"x"), ("a/b", b"x")),
    zipped(("zeros", bytes(1 << 20))),
]


def write_zips(target: Path) -> None:
    (target / "a").write_bytes(zipped(("d/a.txt", b"hello" * 50), ("b.txt", b"x")))


def write_tars(target: Path) -> None:
    for mode in ("w", "w:gz"):
        content = tarred((member("d", tarfile.DIRTYPE), b""), (member("d/a.txt"), b"hello" * 50), mode=mode)
        (target / mode.replace(":", "_")).write_bytes(content)


def read_archive(path: Path) -> None:
    unpacked(path, path.parent / "out")


JSON = json.dumps({"dataset": "cremad", "audio": ["fbank"], "fps": 1, "clips": {"train": 3}, "modalities": ["audio"]})
ARRAYS = json.dumps(
    {"dataset": "features", "modalities": {"x": {"kind": "vector", "shape": [3]}}, "task": "classification"}
)
JSONS = [
    *(b'{"modalities": {"x": %s}}' % value for value in (b"3", b"{}", b'{"kind": "image", "shape": []}', b"null")),
    *(b'{"modalities": {"x": {"kind": "image", "shape": [%s]}}}' % value for value in (b"3", b"1,2,3", b"-1", b"[3]")),
    b'{"modalities": {"x": {"kind": "vector", "shape": [3], "standardised": true}}}',
    b'{"modalities": {"x": {"kind": "vector", "shape": [3]}}, "task": "regression", "label_scale": [1]}',
    *(b"[" * depth + b"]" * depth for depth in (900, 5_000, 100_000)),
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b"9" * 5_000,
    b'{"fps": 1e999, "audio": "fbank"}',
    *(b'{"audio": %s}' % value for value in (b"3", b"null", b"[3]", b"[[]]", b"{}", b'["x"]', b'"x"', b"true")),
    b'{"dataset": ["\\ud800"], "audio": ["\\ud800"]}',
]

KINDS: dict[str, Kind] = {
    "wav": Kind("a.wav", [stream_kinds, read_sound], write_wavs, WAVS),
    "flv": Kind("a.flv", [stream_kinds, read_frames, read_movie], write_flvs),
    "mp4": Kind("a.mp4", [stream_kinds, read_frames, read_movie], lambda target: write_movies(target, "mp4")),
    "mkv": Kind("a.mkv", [stream_kinds, read_frames, read_movie], lambda target: write_movies(target, "mkv")),
    "avi": Kind("a.avi", [stream_kinds, read_frames, read_movie], write_avis),
    "picture": Kind(
        "a.jpg",
        [read_prepared_image, modelnet40._read_image],
        write_pictures,
        [large_jpeg(side) for side in (0, 1, 20_000, 65_500)],
    ),
    "tensor": Kind("audio/a.pt", [read_tensor], write_tensors, TENSORS),
    "prepared list": Kind("train.csv", [read_prepared_lists], write_texts(CLIPS), LISTS),
    "classes": Kind("stat.csv", [read_prepared_lists], write_texts("ANG\nSAD\n"), LISTS),
    "prepared.json": Kind("prepared.json", [read_record, read_array_record], write_texts(JSON, ARRAYS), JSONS),
    "list of clips": Kind(
        "list.csv",
        [lambda path: folder.find_listed(path, path.parent)],
        write_texts("path,label,split\nlist.csv,x,train\n", "list.csv,x\n"),
        LISTS,
    ),
    "split file": Kind("train.csv", [read_published], write_texts(CLIPS), LISTS),
    "kinetics list": Kind(
        "my_train.txt", [read_kinetics], write_texts("".join(f"{clip}_000001_000011,10,3\n" for clip in IDS)), LISTS
    ),
    "vggsound list": Kind(
        "vggsound.csv",
        [lambda path: vggsound.read_list(path.parent)],
        write_texts("".join(f'{clip},12,"horn, car",train\n' for clip in IDS)),
        LISTS,
    ),
    "ave list": Kind(
        "trainSet.txt", [read_ave], write_texts("".join(f"Bark&{clip}&good&0&10\n" for clip in IDS)), LISTS
    ),
    "ucf101 list": Kind("trainlist01.txt", [read_ucf101], write_texts("Run/v_Run_g02_c01.avi 1\n"), LISTS),
    "off": Kind("a.off", [read_off], write_texts(SQUARE, SQUARE.replace("\n", "", 1)), MESHES),
    "idx": Kind("a.idx", [read_idx], write_idxs, IDXS),
    "npy": Kind("a.npy", [read_prepared_array, load_object_array, cgmnist._read_published], write_npys, NPYS),
    "npz": Kind("a.npz", [read_arrays], write_npzs, NPZS),
    "pickle": Kind("a.pkl", [load_pickle, MOSI._read], write_pickles, PICKLES),
    "zip": Kind("a.zip", [read_archive], write_zips, ZIPS),
    "tar": Kind("a.tar.gz", [read_archive], write_tars, TARS),
}
if importlib.util.find_spec("safetensors"):
    KINDS["safetensors"] = Kind("a.safetensors", [read_arrays], write_safetensors, SAFETENSORS)

# Files of a run
CHECKPOINTS = [*TENSORS, _tensor_file({"format": 1}), _tensor_file({"format": 1, "model": {}, "optimizer": {}})]


def run_kind(
    name: str,
    readers: Sequence[Callable[[Path], Any]],
    examples: Callable[[Path], None] | None = None,
    hostile: Sequence[bytes] = JSONS,
    alter: Callable[[random.Random, bytes], bytes] = runs.alter_json,
) -> Kind:
    return Kind(name, readers, examples or runs.examples_of(name), hostile, alter, runs.write_run, slowness=8)


KINDS |= {
    "checkpoint": run_kind(
        "last.pt",
        [runs.resume, runs.evaluate, runs.teach, runs.start_from],
        runs.examples_of("last.pt", "best.pt"),
        CHECKPOINTS,
        runs.alter_checkpoint,
    ),
    "released checkpoint": run_kind(
        "a.pth", [read_released], write_released_checkpoints, CHECKPOINTS, runs.alter_checkpoint
    ),
    "config": run_kind("config.json", [runs.resume, runs.start_like, runs.evaluate_best, runs.tabulate, runs.plot]),
    "summary": run_kind("summary.json", [runs.tabulate, runs.plot]),
    "metrics": run_kind("metrics.jsonl", [runs.tabulate, runs.plot, runs.resume], alter=runs.alter_lines),
    "gradients": run_kind("gradients.npz", [runs.plot_gradients, runs.resume], hostile=NPZS, alter=runs.alter_arrays),
    "covariance": run_kind("covariance.json", [runs.plot_measured]),
    "sharpness": run_kind("sharpness.json", [runs.plot_measured]),
    "landscape": run_kind("landscape.json", [runs.plot_measured]),
    "costs": run_kind("cost.json", [runs.read_measured_costs], runs.write_json(runs.COSTS)),
    "steps": run_kind("steps.json", [runs.read_measured_steps], runs.write_json({"2": runs.COSTS})),
    "run ids": run_kind("logger.json", [runs.read_run_ids], runs.write_json({"wandb": "abc"})),
}
