"""IDX files, the format in which MNIST is distributed (LeCun, Cortes and Burges; yann.lecun.com/exdb/mnist)."""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from mmpareto.errors import InputError

GZIP = b"\x1f\x8b"
# The third byte of a file; numbers are big-endian.
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file, compressed with gzip or not (its content tells, not its name).

    Returns:
        The array, of the shape and type that the file states, in the machine's byte order.

    Raises:
        InputError: the file is absent or no IDX file, or holds less or more than it states.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == GZIP
            file.seek(0)
            return _read(cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged ({error}); get it again.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _read(file: BinaryIO, path: Path) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES:
        raise InputError(f"{path} is no IDX file (it begins with {magic.hex(' ') or 'nothing'}); get the right one.")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise InputError(f"{path} ends in its header; get it again.")
    shape, dtype = np.frombuffer(header, ">u4").tolist(), np.dtype(TYPES[magic[2]])
    size = math.prod(shape) * dtype.itemsize
    content = _read_up_to(file, size + 1)  # a byte more, to see whether there is one
    if len(content) != size:
        found = f"only {len(content)}" if len(content) < size else "more"
        raise InputError(
            f"{path} states {size} bytes of numbers (shape {tuple(shape)}) and holds {found}; get it again."
        )
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_up_to(file: BinaryIO, size: int) -> bytearray:
    """At most `size` bytes, in pieces: what a damaged header claims is not reserved at once."""
    content = bytearray()
    while len(content) < size and (piece := file.read(min(size - len(content), 1 << 24))):
        content += piece
    return content
