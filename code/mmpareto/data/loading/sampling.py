"""Random and fixed choices of frames and crops: plain numbers, no images.

Every random choice uses a generator that is passed in, and depends on nothing else.
"""

import math
from typing import NamedTuple

import numpy as np

from mmpareto.data.loading.options import FrameChoice


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Random number generator of one sample in one epoch: a pure function of its three arguments (each ≥ 0)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, index))))


def fixed_frames(available: int, wanted: int, choice: FrameChoice) -> list[int]:
    """Frame numbers (from 1) that evaluation reads: a sorted list of length `wanted`.

    "released" and "spread", with 2·wanted frames or more: the middle i·seg + seg // 2 of `wanted` segments of
    seg = available // wanted frames, as in the released MMPareto loader. With fewer, its first number is 0, a file that
    does not exist. "released" then reads frames 1 … wanted, as in its training and in its authors' later loaders, whose
    number is i·seg + max(seg // 2, 1); "spread" reads frames spaced evenly from the first to the last.

    "first" and "starts" read the same frames as in training. Where there are too few, frames are read several times.
    """
    segment = available // wanted
    if choice in ("first", "starts") or (choice == "released" and segment < 2):
        return _first_frames(available, wanted, choice)
    if segment >= 2:
        return [i * segment + segment // 2 for i in range(wanted)]
    if wanted == 1:
        return [1]
    steps = wanted - 1
    return [1 + (2 * i * (available - 1) + steps) // (2 * steps) for i in range(wanted)]  # rounded half up


def random_frames(available: int, wanted: int, choice: FrameChoice, generator: np.random.Generator) -> list[int]:
    """Frame numbers (from 1) that training reads: a sorted list of length `wanted`.

    "released" and "spread", with 2·wanted frames or more: one of i·seg + 1 … i·seg + seg from each of the `wanted`
    segments of seg = available // wanted frames, as in the released MMPareto loader. With fewer, seg is 1, and that
    loader always reads frames 1 … wanted, as "released" does; if seg is 0, it fails, and "released" repeats the last
    frame. "spread" then draws `wanted` different frames; if there are too few, each of them once, and the rest with
    replacement.

    "first" reads frames 1 … wanted always: OGM-GE and DGL draw frame numbers, but then read the frames that their
    folder lists first. There, a folder is listed in the file system's order; here, in the order of time. "starts" reads
    frame i·seg + 1 of each segment always, as OGM-GE does on Kinetics-Sounds and AVE (its dataset/dataset.py).
    """
    segment = available // wanted
    if choice in ("first", "starts") or (choice == "released" and segment < 2):
        return _first_frames(available, wanted, choice)
    if segment >= 2:
        return [i * segment + int(generator.integers(1, segment + 1)) for i in range(wanted)]
    if available >= wanted:
        chosen = generator.choice(available, size=wanted, replace=False)
    else:
        again = generator.integers(0, available, size=wanted - available)
        chosen = np.concatenate([np.arange(available), again])
    return [1 + int(number) for number in np.sort(chosen)]


def _first_frames(available: int, wanted: int, choice: FrameChoice) -> list[int]:
    """Frames 1 … wanted, the last one again where there are fewer; for "starts" the first of each segment."""
    if choice == "starts":
        return [i * (available // wanted) + 1 for i in range(wanted)]
    return [min(number, available) for number in range(1, wanted + 1)]


class Crop(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_crop(
    height: int,
    width: int,
    generator: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Crop:
    """A random rectangle with the distribution of torchvision's RandomResizedCrop (Szegedy et al. 2015).

    The fraction of the area is uniform in `scale`, the logarithm of width / height is uniform in that of `ratio`, and
    the position is uniform. After ten rectangles that do not fit: the largest central one whose ratio is in `ratio`.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(low, high))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(generator.integers(0, height - crop_height + 1))
            left = int(generator.integers(0, width - crop_width + 1))
            return Crop(top, left, crop_height, crop_width)
    crop_width = min(width, round(height * ratio[1]))
    crop_height = min(height, round(width / ratio[0]))
    return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)
