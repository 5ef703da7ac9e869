"""IDX files, the format in which MNIST is distributed (LeCun, Cortes and Burges; yann.lecun.com/exdb/mnist)."""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from mmpareto.errors import InputError
from mmpareto.files import open_regular

GZIP_MAGIC = b"\x1f\x8b"
MOST_BYTES = 1 << 28  # of the array: five times MNIST's largest; a small gzip file may hold a thousand times its size
MOST_AXES = 8
DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}  # by the third byte of a file


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file, compressed with gzip or not; its content decides, not its name.

    Returns:
        The array, of the shape and type that the header states, in the machine's byte order.

    Raises:
        InputError: the file is missing, is no IDX file, holds fewer or more bytes than its header states, or is larger
            than any of MNIST's.
    """
    try:
        with open_regular(path) as file:
            is_zipped = file.read(2) == GZIP_MAGIC
            file.seek(0)
            return _read(cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_zipped else file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged ({error}); download it again.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _read(file: BinaryIO, path: Path) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES:
        start = magic.hex(" ") or "nothing"
        raise InputError(f"{path} is no IDX file (it begins with {start}); download the right one.")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise InputError(f"{path} ends in its header; download it again.")
    shape, dtype = np.frombuffer(header, ">u4").tolist(), np.dtype(DTYPES[magic[2]])
    size = math.prod(shape) * dtype.itemsize
    if len(shape) > MOST_AXES or max(size, *shape, 0) > MOST_BYTES:
        raise InputError(
            f"{path} states the shape {tuple(shape[:MOST_AXES])}, larger than any file of MNIST's; download it again."
        )
    content = _read_up_to(file, size + 1)  # one byte more, to detect a longer file
    if len(content) != size:
        actual = f"only {len(content)}" if len(content) < size else "more"
        raise InputError(f"{path} states {size} bytes (shape {tuple(shape)}) and holds {actual}; download it again.")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_up_to(file: BinaryIO, size: int) -> bytearray:
    """Read at most `size` bytes, in chunks, so that the size stated by a damaged header is not allocated at once."""
    content = bytearray()
    while len(content) < size and (chunk := file.read(min(size - len(content), 1 << 24))):
        content += chunk
    return content
