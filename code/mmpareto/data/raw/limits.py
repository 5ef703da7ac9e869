"""Limits of what a file may announce: a few bytes may announce more than memory holds."""

MOST_PIXELS = 8192 * 4352  # of an image or a frame: 8K
MOST_AXES = 32  # of an array: NumPy's limit before version 2


def check_pixels(width: int, height: int) -> None:
    """Raise ValueError if an image of this size is larger than 8K."""
    if width * height > MOST_PIXELS:
        raise ValueError(f"it has {width} × {height} pixels")
