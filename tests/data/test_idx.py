import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp
from mmpareto.data.raw.idx import read_idx
from mmpareto.errors import InputError
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # no time stamp, which would become part of test ids


def idx(array: npt.NDArray[Any]) -> bytes:
    """Encode an array in the IDX format, which yann.lecun.com/exdb/mnist describes."""
    code = CODES[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@given(array=hnp.arrays(np.dtype("u1"), hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)))
def test_reads_what_was_written(tmp_path_factory: pytest.TempPathFactory, array: npt.NDArray[np.uint8]) -> None:
    path = tmp_path_factory.getbasetemp() / "x-ubyte"
    for content in (idx(array), gzip.compress(idx(array))):
        path.write_bytes(content)
        result = read_idx(path)
        assert result.dtype == np.uint8 and result.shape == array.shape
        assert np.array_equal(result, array)


@pytest.mark.parametrize("kind", CODES)
def test_reads_every_type_as_torchvision_does(tmp_path: Path, kind: str) -> None:
    array = np.array([[0, 1, 100], [3, 4, -5 if kind != "u1" else 250]]).astype(kind)
    path = tmp_path / "x-idx"
    path.write_bytes(idx(array))
    result = read_idx(path)
    assert result.dtype == np.dtype(kind) and np.array_equal(result, array)
    assert torch.equal(torch.from_numpy(result), read_sn3_pascalvincent_tensor(str(path)))


def images() -> bytes:
    return idx(np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file .it begins with nothing"),
        (b"\x00\x00\x08", "no IDX file"),
        (b"\x00\x01" + images()[2:], "no IDX file"),
        (b"\x00\x00\x07" + images()[3:], "no IDX file"),
        (b"<!DOCTYPE html>", "no IDX file"),
        (images()[:11], "ends in its header"),
        (images()[:-1], "24 bytes.*only 23"),
        (images() + b"\0", "24 bytes.*holds more"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x09" + b"12345", "only 5"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12 + b"12345", "larger"),
        (b"\x00\x00\x08\x03" + bytes(4) + b"\xff" * 8, "larger"),  # no item, of an impossible shape
        (packed(b"\x00\x00\x08\x01\x20\x00\x00\x00" + bytes(1 << 20)), "larger"),
        (b"\x00\x00\x08\x41" + bytes(4 * 65), "larger"),
        (packed(images())[:-9], "damaged"),
        (packed(images())[:-8] + b"\0" * 8, "damaged"),
        (packed(images())[:12] + b"\xff\xff" + packed(images())[14:], "damaged"),
        (packed(images()[:-1]), "only 23"),
        (b"\x1f\x8b", "damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"train-images-idx3-ubyte\.gz.*{message}"):
        read_idx(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent cannot be read"):
        read_idx(tmp_path / "absent")
