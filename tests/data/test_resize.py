import hashlib
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.data.resize import resize_bilinear, resize_nearest

SIZES = st.integers(1, 90)


def picture(height: int, width: int, channels: int | None) -> np.ndarray:
    shape = (height, width) if channels is None else (height, width, channels)
    return np.random.default_rng(height * 1000 + width).integers(0, 256, shape, dtype=np.uint8)


def sample(at: np.ndarray, line: np.ndarray) -> np.ndarray:
    return np.interp(at, np.arange(line.size), line)


def bilinear_in_float(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear sampling at half-pixel centres, one axis at a time, by numpy's own linear interpolation."""
    for axis, target in enumerate((height, width)):
        source = pixels.shape[axis]
        at = (np.arange(target) + 0.5) * source / target - 0.5
        pixels = np.apply_along_axis(partial(sample, at), axis, pixels)
    return pixels


@settings(max_examples=80, deadline=None)
@given(height=SIZES, width=SIZES, to_height=SIZES, to_width=SIZES, channels=st.sampled_from([None, 1, 3]))
def test_resize_bilinear_is_within_one_level_of_real_arithmetic(
    height: int, width: int, to_height: int, to_width: int, channels: int | None
) -> None:
    pixels = picture(height, width, channels)
    result = resize_bilinear(pixels, to_height, to_width)
    assert result.shape == (to_height, to_width, *pixels.shape[2:])
    assert abs(result - bilinear_in_float(pixels.astype(float), to_height, to_width)).max() <= 1


@given(height=SIZES, width=SIZES, value=st.integers(0, 255))
@settings(deadline=None)
def test_resize_flat_picture_stays_flat(height: int, width: int, value: int) -> None:
    result = resize_bilinear(np.full((9, 7, 3), value, np.uint8), height, width)
    assert abs(result.astype(int) - value).max() <= 1
    np.testing.assert_array_equal(resize_nearest(np.full((9, 7), value, np.uint8), height, width), value)


def test_resize_to_same_size_changes_nothing() -> None:
    pixels = picture(13, 21, 3)
    np.testing.assert_array_equal(resize_bilinear(pixels, 13, 21), pixels)
    np.testing.assert_array_equal(resize_nearest(pixels, 13, 21), pixels)


def test_resize_bilinear_does_not_average_what_it_shrinks() -> None:
    """A fourfold shrink reads two pixels of four, so a line between them vanishes: no antialias."""
    pixels = np.zeros((1, 8), np.uint8)
    pixels[0, [0, 3, 4, 7]] = 255
    np.testing.assert_array_equal(resize_bilinear(pixels, 1, 2), [[0, 0]])


def test_resize_nearest_takes_pixel_at_floor() -> None:
    np.testing.assert_array_equal(resize_nearest(np.array([[0, 1, 2, 3, 4]], np.uint8), 1, 3), [[0, 1, 3]])
    np.testing.assert_array_equal(resize_nearest(np.array([[0, 1, 2]], np.uint8), 1, 5), [[0, 0, 1, 1, 2]])


# From OpenCV 5.0.0: the first 16 digits of the SHA-256 of what INTER_LINEAR and INTER_NEAREST make of `picture`.
OPENCV = [
    ((37, 53, 3), (24, 24), "f10f77196df44662", "61f1f87f28f2ad77"),
    ((20, 31, 3), (45, 64), "a0998a1e31bcb7e5", "61a7d8c9350dc20b"),
    ((64, 48, None), (32, 24), "c3d5d60bbe913d4d", "31d41f000674f728"),
    ((100, 9, 3), (7, 90), "2c2b9a415b7e79f4", "0bc554e46888bfb4"),
    ((1, 17, None), (5, 40), "80c9169a443b1e98", "16bebb4a88f84412"),
]


@pytest.mark.parametrize(("source", "size", "linear", "nearest"), OPENCV)
def test_resize_has_the_bits_of_opencv(
    source: tuple[int, int, int | None], size: tuple[int, int], linear: str, nearest: str
) -> None:
    pixels = picture(*source)
    found = [hashlib.sha256(resize(pixels, *size).tobytes()) for resize in (resize_bilinear, resize_nearest)]
    assert [digest.hexdigest()[:16] for digest in found] == [linear, nearest]


def test_resize_of_random_pictures_equals_opencv() -> None:
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless, which quantkit does not depend on")
    rng = np.random.default_rng(1)
    for _ in range(300):
        height, width, to_height, to_width = (int(n) for n in rng.integers(1, 400, 4))
        pixels = picture(height, width, 3 if to_width % 2 else None)
        expected = cv2.resize(pixels, (to_width, to_height), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(resize_bilinear(pixels, to_height, to_width), expected)
        expected = cv2.resize(pixels, (to_width, to_height), interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(resize_nearest(pixels, to_height, to_width), expected)
