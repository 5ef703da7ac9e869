"""Pictures decoded once: a file that is mapped into memory in place of many that are decoded at every epoch."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as image

from mmpareto.data.loading import layout
from mmpareto.data.workers import available_cores
from mmpareto.errors import InputError
from mmpareto.files import atomic_path, write_text
from mmpareto.progress import progress

FOLDER = "cache"
AT_ONCE = 256  # pictures
LARGER = 8 / 7  # than the network's images: 256 for 224, the customary pair


class PictureCache:
    """The pictures of a split in one file, as uint8 (3, H, W), RGB; made when it is first asked for.

    A picture whose shorter side is above 8/7 of the network's is resized to that (bilinear, antialiased), so that a
    training crop is a little softer than one of the file; others are as in their files. What the cache was made of is
    compared with what is there, and it is made anew where that differs.

    Arguments:
        folder: the prepared folder; the cache lies in `folder`/cache.
        name: of the cache's files.
        files: the pictures.
        image_size: side of the network's images, in pixels.

    Raises:
        InputError: a picture is absent or damaged, or the cache cannot be written.
    """

    def __init__(self, folder: Path, name: str, files: Sequence[Path], image_size: int) -> None:
        side = round(image_size * LARGER)
        self._data = folder / FOLDER / f"{name}-{side}.bin"
        self._places = {path: place for place, path in enumerate(files)}
        made_of = {"fingerprint": layout.fingerprint(folder), "side": side, "pictures": len(files)}
        record = self._data.with_suffix(".json")
        found = _read(record)
        if {key: found.get(key) for key in made_of} != made_of or not _is_whole(self._data, found):
            try:
                found = made_of | {"shapes": _make(self._data, files, side, name)}
                write_text(record, json.dumps(found))  # last: without it the file counts for nothing
            except OSError as error:
                raise InputError(
                    f"cannot write the cache {self._data} ({error.strerror}); run without --cache."
                ) from error
        self._shapes = np.array(found["shapes"], np.int64).reshape(-1, 2)
        self._starts = np.concatenate([[0], np.cumsum(3 * self._shapes.prod(1))])
        self._bytes: Any = None

    def __call__(self, path: Path) -> Tensor:
        """A picture, uint8 (3, H, W)."""
        if self._bytes is None:  # in the process that reads: a worker must not be sent the file
            self._bytes = np.memmap(self._data, np.uint8, mode="r")
        place = self._places[path]
        height, width = self._shapes[place]
        values = np.array(self._bytes[self._starts[place] : self._starts[place + 1]])
        return torch.from_numpy(values).view(3, int(height), int(width))

    def __getstate__(self) -> dict[str, Any]:
        """Without the map, which a worker opens itself."""
        return self.__dict__ | {"_bytes": None}


def _read(record: Path) -> dict[str, Any]:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_whole(data: Path, found: dict[str, Any]) -> bool:
    size = sum(3 * height * width for height, width in found.get("shapes", []))
    return data.is_file() and data.stat().st_size == size


def _make(data: Path, files: Sequence[Path], side: int, name: str) -> list[tuple[int, int]]:
    """Write the pictures one after the other; their heights and widths."""
    shapes = []
    parts = [files[start : start + AT_ONCE] for start in range(0, len(files), AT_ONCE)]  # memory stays flat
    with (
        atomic_path(data) as temporary,
        temporary.open("wb") as file,
        ThreadPoolExecutor(available_cores()) as pool,
        progress(total=len(files), unit="picture", desc=f"cache of {name}", disable=None) as bar,
    ):
        for part in parts:
            for picture in pool.map(lambda path: _small(path, side), part):  # decoding lets other threads work
                shapes.append((picture.shape[1], picture.shape[2]))
                file.write(picture.numpy().tobytes())
                bar.update()
    return shapes


def _small(path: Path, side: int) -> Tensor:
    picture = layout.read_image(path, "prepare the data set again")
    if min(picture.shape[1:]) <= side:
        return picture
    return image.resize(picture, [side], interpolation=image.InterpolationMode.BILINEAR, antialias=True)
