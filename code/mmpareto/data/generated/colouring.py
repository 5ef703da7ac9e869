"""Colours for gray digits: one mean colour per class, and jitter; the same bits on every machine.

Everything is computed in integers from the raw output of PCG64, which NumPy promises not to change (NEP 19). It does
not promise that for the distributions derived from it, and floating-point libraries differ in the last bit.
"""

from typing import Literal

import numpy as np

# The ten mean colours of Kim et al., "Learning not to learn", CVPR 2019 (supplementary material), red, green, blue.
# With the jitter below, the most likely class given the colour alone is the right one for 78% of the samples.
PALETTE = np.array(
    [
        (220, 20, 60),  # crimson
        (0, 128, 128),  # teal
        (253, 233, 16),  # lemon
        (0, 149, 182),  # Bondi blue
        (237, 145, 33),  # carrot orange
        (145, 30, 188),  # strong violet
        (70, 240, 240),  # cyan
        (250, 197, 187),  # pink
        (210, 245, 60),  # lime
        (128, 0, 0),  # maroon
    ]
)
CHANNELS = 3
UNIFORMS, WORDS = 16, 4  # jitter of a channel: 16 uniform numbers of 16 bits, from 4 words of 64
MEAN_OF_SUM = UNIFORMS * 0xFFFF // 2
CHUNK = 4096  # images that are computed at once

Part = Literal["train", "test"]


def ink_colours(labels: np.ndarray, part: Part, seed: int) -> np.ndarray:
    """Return the ink colour of each digit: a mean colour plus jitter of variance 0.03 per channel, in units of [0, 1].

    In training the mean colour is the label's, in test it is drawn independently of the label. The jitter is
    0.15·(u₁ + … + u₁₆ − 8) with u uniform in [0, 1): its variance is 0.15²·16/12 = 0.03, and it is normal except in the
    far tails (excess kurtosis −0.075). Sums are clipped to [0, 1]. A sample's colour is a function of its index, its
    label, `part` and `seed` alone.

    Arguments:
        labels: (N,) of 0 … 9.
        part: "train" or "test".
        seed: ≥ 0.

    Returns:
        (N, 3) uint8.
    """
    drawn = np.random.PCG64([seed, int(part == "test")]).random_raw((CHANNELS * WORDS + 1) * len(labels))
    words = drawn.reshape(len(labels), -1)
    means = PALETTE[labels if part == "train" else words[:, -1] % np.uint64(len(PALETTE))]
    uniforms = words[:, :-1, None] >> np.array([0, 16, 32, 48], np.uint64) & np.uint64(0xFFFF)
    sums = uniforms.reshape(len(labels), CHANNELS, UNIFORMS).sum(axis=2).astype(np.int64)
    # In levels of 255 and units of 2⁻¹⁸: 0.15 · 255 · (sum − mean) / 2¹⁶, and a half for rounding.
    levels = (means * (1 << 18) + 153 * (sums - MEAN_OF_SUM) + (1 << 17)) >> 18
    return levels.clip(0, 255).astype(np.uint8)


def coloured(gray: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return digits in coloured ink on black: each pixel is the digit's colour times its gray value.

    Arguments:
        gray: (N, H, W) uint8.
        colours: (N, 3) uint8.

    Returns:
        (N, 3, H, W) uint8.
    """
    images = np.empty((len(gray), CHANNELS, *gray.shape[1:]), np.uint8)
    for begin in range(0, len(gray), CHUNK):
        chunk = slice(begin, begin + CHUNK)
        product = gray[chunk, None].astype(np.uint16) * colours[chunk, :, None, None]  # 255² and a half fit
        images[chunk] = (product + 127) // 255
    return images


def gray_of(images: np.ndarray) -> np.ndarray:
    """Return the gray digits of coloured ones: the brightest channel, scaled so that each image's maximum is 255.

    Arguments:
        images: (N, 3, H, W) uint8.

    Returns:
        (N, H, W) uint8; all 0 where an image is black.
    """
    gray = np.empty((len(images), *images.shape[2:]), np.uint8)
    for begin in range(0, len(images), CHUNK):
        brightest = images[begin : begin + CHUNK].max(axis=1).astype(np.uint16)
        maximum = np.maximum(brightest.max(axis=(1, 2), keepdims=True), 1)
        gray[begin : begin + CHUNK] = (brightest * 255 + maximum // 2) // maximum
    return gray
