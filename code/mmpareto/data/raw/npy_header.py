"""The header of .npy data, whose every damage becomes one kind of exception."""

from typing import TYPE_CHECKING

import numpy as np

from mmpareto.data.raw.limits import MOST_AXES
from mmpareto.errors import one_line

if TYPE_CHECKING:
    from _typeshed import SupportsRead

VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npy_header(file: "SupportsRead[bytes]") -> tuple[tuple[int, ...], np.dtype]:
    """Read the header of .npy data, and return the shape and type that it states.

    Raises:
        ValueError: it is damaged; NumPy itself raises many kinds of exception.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in VERSIONS:
            raise ValueError(f"the version {version} of the format is unknown")
        shape, _, dtype = VERSIONS[version](file)
    except Exception as error:
        raise ValueError(one_line(error)) from None
    if len(shape) > MOST_AXES or not all(isinstance(size, int) and 0 <= size < 1 << 48 for size in shape):
        raise ValueError("its header states an impossible shape")
    return shape, dtype
