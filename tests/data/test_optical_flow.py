import numpy as np
import pytest
import raw_mp4
from hypothesis import given
from hypothesis import strategies as st
from mmpareto.data.raw.optical_flow import BOUND, encode, flow
from mmpareto.errors import InputError

PICTURE = raw_mp4.texture(160, 200)


def shifted(right: int, down: int) -> tuple[np.ndarray, np.ndarray]:
    """Two crops of a picture, whose content moves by `right` and `down` pixels from the first to the second."""
    return PICTURE[20:140, 20:180], PICTURE[20 - down : 140 - down, 20 - right : 180 - right]


@pytest.mark.parametrize(("right", "down"), [(3, -2), (0, 0), (-7, 5), (1, 12)])
def test_a_known_translation_is_recovered(right, down):
    result = flow(*shifted(right, down))
    assert result.shape == (2, 120, 160) and result.dtype == np.float32
    inside = result[:, 16:-16, 16:-16]
    error = np.hypot(inside[0] - right, inside[1] - down)  # the endpoint error
    assert error.mean() < 0.1
    assert np.hypot(result[0] - right, result[1] - down).mean() < 0.5  # content that leaves the picture is unknown


def test_a_square_and_a_background_that_move_apart():
    """A square moves right and down over a background that moves left."""
    first, second = PICTURE[20:140, 20:180].copy(), PICTURE[20:140, 22:182].copy()
    square = raw_mp4.texture(48, 48, seed=1)
    first[30:78, 40:88], second[34:82, 45:93] = square, square
    result = flow(first, second)
    on, off = result[:, 40:70, 50:80], result[:, 90:110, 100:150]
    assert np.abs(on.mean(axis=(1, 2)) - [5, 4]).max() < 0.3
    assert np.abs(off.mean(axis=(1, 2)) - [-2, 0]).max() < 0.3


def test_a_mirror_image_moves_the_other_way():
    first, second = shifted(3, -2)
    result = flow(first, second)
    mirrored = flow(first[:, ::-1], second[:, ::-1])
    assert np.abs(mirrored - result[:, :, ::-1] * [[[-1]], [[1]]]).mean() < 0.05


@pytest.mark.parametrize("size", [(15, 100), (100, 15), (1, 1)])
def test_pictures_that_are_too_small_are_refused(size):
    with pytest.raises(InputError, match=rf"has {size[1]} × {size[0]} pixels; flow needs 16 × 16"):
        flow(np.zeros((*size, 3), np.uint8), np.zeros((*size, 3), np.uint8))


@pytest.mark.parametrize("size", [(16, 16), (16, 900), (900, 16), (17, 31), (240, 320)])
def test_pictures_that_are_large_enough_are_accepted(size):
    result = flow(np.zeros((*size, 3), np.uint8), np.zeros((*size, 3), np.uint8))
    assert result.shape == (2, *size) and np.all(result == 0)


def test_a_change_of_size_is_refused():
    with pytest.raises(InputError, match=r"size changes from \(20, 30\) to \(30, 20\)"):
        flow(np.zeros((20, 30, 3), np.uint8), np.zeros((30, 20, 3), np.uint8))


def test_the_scale_of_two_stream_networks():
    """−20 to 20 pixels become 0 to 255; no motion is halfway between 127 and 128."""
    pixels = np.array([-30, -20, -10, 0, 10, 20, 30, 40 / 255 - 20])
    assert [*encode(pixels)] == [0, 0, 64, 128, 191, 255, 255, 1]


@given(st.lists(st.floats(-BOUND, BOUND, width=32), min_size=1, max_size=20))
def test_the_encoding_is_linear_to_half_a_step(pixels):
    encoded = encode(np.array(pixels))
    assert encoded.dtype == np.uint8
    assert np.abs(encoded * (40 / 255) - 20 - pixels).max() <= 20 / 255 + 1e-5
