"""Content that can be prepared but is probably a mistake of whoever recorded or converted it."""

import numpy as np
import torch

# Kinds of remark, as they are in reports and in prepared.json.
SILENCE = "digital silence"
SILENT_FIRST_CHANNEL = "first channel silent"
INTEGER_SCALE = "sound at integer scale"
CONSTANT_PICTURES = "pictures of one colour"

LOUDEST = 16.0  # full scale is 1; filters exceed it a little, samples at integer scale by a factor of 128 and more
SPREAD = 4  # of the 255 levels: compression changes a constant picture by less
STRIDE = 16


def sound_remarks(waveform: torch.Tensor) -> list[str]:
    """Kinds of remark about the samples of a sound file, float32 (channels, samples).

    Samples that are all equal are silence. The filterbank reads the first channel only, so that its silence matters.
    """
    low, high = waveform.amin(dim=1), waveform.amax(dim=1)
    silent = low == high
    remarks = []
    if bool(silent.all()):
        remarks.append(SILENCE)
    elif bool(silent[0]):
        remarks.append(SILENT_FIRST_CHANNEL)
    if float(torch.maximum(-low, high).max()) > LOUDEST:
        remarks.append(INTEGER_SCALE)
    return remarks


def is_constant(picture: np.ndarray) -> bool:
    """Return whether a picture, uint8 (height, width) or (height, width, channels), is of one colour."""
    return all(_spread(part) <= SPREAD for part in (picture[::STRIDE, ::STRIDE], picture))  # few pixels decide most


def _spread(picture: np.ndarray) -> int:
    return int(np.ptp(picture, axis=(0, 1)).max(initial=0))
