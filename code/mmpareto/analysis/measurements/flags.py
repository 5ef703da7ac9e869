"""The flags of the figures that measure runs at a checkpoint: covariance, sharpness and landscape."""

import argparse
from pathlib import Path
from typing import Any

from mmpareto.cli import at_least

Flags = tuple[tuple[str, dict[str, Any]], ...]


def odd(text: str) -> int:
    """The type of a flag whose value is an odd integer from 3 on: points with one in the middle."""
    if int(text) < 3 or int(text) % 2 == 0:
        raise argparse.ArgumentTypeError(f"{text} is not 3, 5, 7 …: the minimum would be none of the points")
    return int(text)


COMMON: Flags = (
    ("--checkpoint", {"default": "last.pt", "metavar": "FILE", "help": "in the run's folder (default: last.pt)"}),
    ("--data", {"type": Path, "metavar": "DIR", "help": "the prepared data set, where it is not where it was"}),
    ("--gpu_ids", {"default": "auto", "help": "a GPU's id; cpu; default: a GPU where there is one"}),
    ("--anew", {"action": "store_true", "help": "measure runs again that have been measured so"}),
)
COVARIANCE: Flags = (
    ("--batches", {"type": at_least(2), "default": 64, "help": "N, whose gradients scatter (default: 64)"}),
    ("--batch_size", {"type": at_least(1), "help": "samples a batch (default: that of the training)"}),
    *COMMON,
)
SHARPNESS: Flags = (
    ("--samples", {"type": at_least(1), "default": 64, "help": "of the training set (default: 64)"}),
    *COMMON,
)
LANDSCAPE: Flags = (
    ("--samples", {"type": at_least(1), "default": 128, "help": "of the training set (default: 128)"}),
    ("--points", {"type": odd, "default": 41, "help": "of the line from -1 to 1 (default: 41)"}),
    (
        "--plane",
        {"type": odd, "metavar": "POINTS", "help": "measure a plane, too, of so many points a side, such as 21"},
    ),
    ("--directions_seed", {"type": at_least(0), "default": 0, "help": "of the random directions (default: 0)"}),
    *COMMON,
)
