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
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.workers import available_cores
from mmpareto.errors import InputError
from mmpareto.files import atomic_path, file_lock, read_json, remove_leftovers, write_text
from mmpareto.progress import progress

FOLDER = "cache"
CHUNK = 256  # images decoded at a time
MARGIN = 8 / 7  # stored size over network input size: 256 for 224, the customary pair


class ImageCache:
    """The images of a split in one file, uint8 (3, H, W), RGB; created on first use.

    An image whose shorter side exceeds 8/7 of the network's input is resized to that (bilinear, antialiased), so a
    training crop is a little softer than one of the original; other images are unchanged. The cache is rebuilt if the
    prepared folder or the size has changed. Of several processes, one builds it, and the others wait.

    Arguments:
        folder: the prepared folder; without `cache_dir`, the cache is in `folder`/cache.
        name: of the cache's files.
        files: the images.
        options: `image_size` and `cache_dir`, in which each prepared data set has a folder of its own.

    Raises:
        InputError: an image is missing or damaged, or the cache cannot be written.
    """

    def __init__(self, folder: Path, name: str, files: Sequence[Path], options: InputOptions) -> None:
        side, fingerprint = round(options.image_size * MARGIN), layout.fingerprint(folder)
        own = folder / FOLDER if options.cache_dir is None else Path(options.cache_dir) / fingerprint[:16]
        self._data = own / f"{name}-{side}.bin"
        self._indices = {path: index for index, path in enumerate(files)}
        key = {"fingerprint": fingerprint, "side": side, "pictures": len(files)}
        record = _read(self._data, key)  # without the lock: a finished cache may be where nothing can be written
        if record is None:
            try:
                with file_lock(self._data.with_suffix(".lock")):
                    record = _read(self._data, key) or _build(self._data, key, files)
            except OSError as error:
                raise InputError(
                    f"cannot write the cache {self._data} ({error.strerror}); give another folder by --cache_dir, or "
                    "run without --cache."
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


def _read(data: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a cache; None if it is absent, damaged, or of other images."""
    try:
        record = read_json(data.with_suffix(".json"))
        size = sum(3 * height * width for height, width in record["shapes"])
        fits = {entry: record[entry] for entry in key} == key and data.stat().st_size == size
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if fits else None


def _build(data: Path, key: dict[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """Write the images one after the other, and then the record, without which they are ignored; return it."""
    shapes: list[tuple[int, int]] = []
    record_path = data.with_suffix(".json")
    remove_leftovers(data.parent, (data.name, record_path.name))
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]  # memory stays constant
    with (
        atomic_path(data) as temporary,
        temporary.open("wb") as file,
        ThreadPoolExecutor(available_cores()) as pool,
        progress(total=len(files), unit="image", desc=f"cache {data.stem}", disable=None) as bar,
    ):
        for chunk in chunks:
            for image in pool.map(lambda path: _read_small(path, key["side"]), chunk):  # decoding releases the GIL
                shapes.append((image.shape[1], image.shape[2]))
                file.write(image.numpy().tobytes())
                bar.update()
    record = key | {"shapes": shapes}
    write_text(record_path, json.dumps(record))
    return record


def _read_small(path: Path, side: int) -> Tensor:
    image = layout.read_image(path, "prepare the data set again")
    if min(image.shape[1:]) <= side:
        return image
    return transforms.resize(image, [side], interpolation=transforms.InterpolationMode.BILINEAR, antialias=True)
