"""Cache of decoded images: one memory-mapped file instead of many JPEG files to decode in every epoch."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from mmpareto.data.loading import layout
from mmpareto.data.workers import available_cores
from mmpareto.errors import InputError
from mmpareto.files import atomic_path, read_json, remove_leftovers, write_text
from mmpareto.progress import progress

FOLDER = "cache"
CHUNK = 256  # images decoded at a time
MARGIN = 8 / 7  # stored size over network input size: 256 for 224, the customary pair


class ImageCache:
    """The images of a split in one file, uint8 (3, H, W), RGB; created on first use.

    An image whose shorter side exceeds 8/7 of the network's input is resized to that (bilinear, antialiased), so a
    training crop is a little softer than one of the original; other images are unchanged. The cache is rebuilt if the
    prepared folder or the size has changed.

    Arguments:
        folder: the prepared folder; the cache is in `folder`/cache.
        name: of the cache's files.
        files: the images.
        image_size: side of the network's input, in pixels.

    Raises:
        InputError: an image is missing or damaged, or the cache cannot be written.
    """

    def __init__(self, folder: Path, name: str, files: Sequence[Path], image_size: int) -> None:
        side = round(image_size * MARGIN)
        self._data = folder / FOLDER / f"{name}-{side}.bin"
        self._indices = {path: index for index, path in enumerate(files)}
        key = {"fingerprint": layout.fingerprint(folder), "side": side, "pictures": len(files)}
        record_path = self._data.with_suffix(".json")
        record = _read(record_path)
        if {entry: record.get(entry) for entry in key} != key or not _is_complete(self._data, record):
            try:
                remove_leftovers(self._data.parent, [self._data.name, record_path.name])
                record = key | {"shapes": _build(self._data, files, side, name)}
                write_text(record_path, json.dumps(record))  # last: without it the data file is ignored
            except OSError as error:
                raise InputError(
                    f"cannot write the cache {self._data} ({error.strerror}); run without --cache."
                ) from error
        self._shapes = np.array(record["shapes"], np.int64).reshape(-1, 2)
        self._offsets = np.concatenate([[0], np.cumsum(3 * self._shapes.prod(1))])
        self._bytes: Any = None

    def __call__(self, path: Path) -> Tensor:
        """Return an image, uint8 (3, H, W)."""
        if self._bytes is None:  # opened by the process that reads, since a map cannot be sent to a worker
            self._bytes = np.memmap(self._data, np.uint8, mode="r")
        index = self._indices[path]
        height, width = self._shapes[index]
        values = np.array(self._bytes[self._offsets[index] : self._offsets[index + 1]])
        return torch.from_numpy(values).view(3, int(height), int(width))

    def __getstate__(self) -> dict[str, Any]:
        """The state without the memory map."""
        return self.__dict__ | {"_bytes": None}


def _read(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_complete(data: Path, record: dict[str, Any]) -> bool:
    try:
        size = sum(3 * height * width for height, width in record["shapes"])
    except (KeyError, TypeError, ValueError):  # a damaged record
        return False
    return data.is_file() and data.stat().st_size == size


def _build(data: Path, files: Sequence[Path], side: int, name: str) -> list[tuple[int, int]]:
    """Write the images one after the other; return their heights and widths."""
    shapes = []
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]  # memory stays constant
    with (
        atomic_path(data) as temporary,
        temporary.open("wb") as file,
        ThreadPoolExecutor(available_cores()) as pool,
        progress(total=len(files), unit="image", desc=f"cache of {name}", disable=None) as bar,
    ):
        for chunk in chunks:
            for image in pool.map(lambda path: _read_small(path, side), chunk):  # decoding releases the GIL
                shapes.append((image.shape[1], image.shape[2]))
                file.write(image.numpy().tobytes())
                bar.update()
    return shapes


def _read_small(path: Path, side: int) -> Tensor:
    image = layout.read_image(path, "prepare the data set again")
    if min(image.shape[1:]) <= side:
        return image
    return transforms.resize(image, [side], interpolation=transforms.InterpolationMode.BILINEAR, antialias=True)
