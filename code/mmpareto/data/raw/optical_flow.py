"""Optical flow from one video frame to the next, and its encoding as two greyscale images."""

import numpy as np

from mmpareto.errors import InputError

FLOW_FOLDERS = ("flow_u", "flow_v")
"""Folders of the images of the horizontal and of the vertical component: <folder>/<clip>/frame_00001.jpg …"""

# Two-stream networks clip flow to this many pixels in either direction (Wang et al., Temporal Segment Networks, ECCV
# 2016: dense_flow's -b 20), map it to 0…255 and save it as JPEG (Simonyan and Zisserman, NeurIPS 2014).
BOUND = 20.0

SMALLEST = 16  # pixels per side; OpenCV's DIS accepts no smaller image, and crashes on some


def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Displacement of every pixel from `first` to `second`, by dense inverse search (Kroeger et al., ECCV 2016).

    This is OpenCV's implementation at its best preset, which ends with a variational refinement. It is the better of
    the two dense methods in OpenCV's main modules: for a square that moves over a moving background, its mean endpoint
    error is about half of Farnebäck's, at the square's edges and elsewhere, in half the time (10 ms of a core at
    320 × 240).

    Arguments:
        first, second: frames (height, width, 3), uint8, RGB.

    Returns:
        The displacement in pixels to the right and down, (2, height, width), float32.

    Raises:
        InputError: the frames differ in size or are smaller than 16 × 16.
    """
    import cv2  # here, since only the preparation of UCF-101 needs it

    if first.shape != second.shape:
        raise InputError(f"the frame size changes from {first.shape[:2]} to {second.shape[:2]} within the video.")
    if min(first.shape[:2]) < SMALLEST:
        height, width = first.shape[:2]
        raise InputError(f"a frame has {width} × {height} pixels; flow needs {SMALLEST} × {SMALLEST} or more.")
    cv2.setNumThreads(1)  # parallelism is across processes
    before, after = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    start = np.zeros((*before.shape, 2), np.float32)
    displacement = cv2.DISOpticalFlow.create(cv2.DISOpticalFlow_PRESET_MEDIUM).calc(before, after, start)
    return np.ascontiguousarray(np.moveaxis(displacement, 2, 0))


def encode(displacement: np.ndarray) -> np.ndarray:
    """Pixels → uint8, linear: −20 and less become 0, 20 and more become 255."""
    clipped = np.clip(displacement, -BOUND, BOUND)
    return np.rint((clipped + BOUND) * (255 / (2 * BOUND))).astype(np.uint8)
