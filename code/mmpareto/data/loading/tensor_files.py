"""Tensor files (.pt) of a prepared folder, which other people may have prepared."""

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch

from mmpareto.files import open_regular

# The pickle of a tensor has about 30 operations in 150 bytes. One that is nested thousands of levels deep overflows the
# interpreter's stack.
MOST_BYTES, MOST_OPERATIONS = 1 << 14, 1 << 14
LEGACY_PICKLES = 5  # one after the other, in files from before PyTorch 1.6


def load_tensor(path: Path) -> Any:
    """Read a tensor file, with `weights_only`, to the CPU.

    Raises:
        Exception: of any type; it is damaged, compressed, or has more objects than a tensor.
    """
    with open_regular(path) as file:
        if file.peek(2)[:2] == b"PK":
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    if member.compress_type != zipfile.ZIP_STORED:  # PyTorch writes none, but would unpack gigabytes
                        raise ValueError(f"{member.filename} is compressed")
                    if member.filename.endswith(".pkl") and member.file_size > MOST_BYTES:
                        raise ValueError("it has more objects than a tensor")
        else:
            operations = 0
            for _ in range(LEGACY_PICKLES):
                for _ in pickletools.genops(file):
                    operations += 1
                    if operations > MOST_OPERATIONS:
                        raise ValueError("it has more objects than a tensor")
    return torch.load(path, map_location="cpu", weights_only=True)
