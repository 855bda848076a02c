"""Resizing without antialias, as OpenCV and the card's ``BILINEAR_CV`` do: the filter keeps its own width.

When a picture shrinks by more than two, bilinear weights touch only some of its pixels; that is what these functions
are for. Pillow's filters, which widen with the shrink, are pillow's own.
"""

import numpy as np
from numpy.typing import NDArray

# OpenCV computes on 8-bit pictures in fixed point: weights have 11 fractional bits.
_WEIGHT_BITS = 11


def resize_bilinear(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize by bilinear sampling at half-pixel centres, ``source = (target + 0.5) * scale - 0.5``.

    Weights and rounding are those of OpenCV's ``INTER_LINEAR`` for 8-bit pictures: fixed point of 11 bits, one
    intermediate shift of 4 bits before the vertical pass. (OpenCV averages 2 x 2 pixels where both sides shrink
    by exactly two; at half-pixel centres that is the same sampling, and the result differs by rounding only.)

    Args:
        pixels: uint8 ``[H, W]`` or ``[H, W, C]``.
        height: rows of the result.
        width: columns of the result.

    Returns:
        uint8 ``[height, width]`` or ``[height, width, C]``.
    """
    rows, row_weights = _taps(pixels.shape[0], height)
    columns, column_weights = _taps(pixels.shape[1], width)
    # Rows first would be cheaper to gather, but the fixed-point rounding is defined columns first.
    used = np.unique(rows)
    weights = column_weights.reshape(2, width, *[1] * (pixels.ndim - 2))
    lines = pixels[used]
    mixed = lines[:, columns[0]] * weights[0]
    mixed += lines[:, columns[1]] * weights[1]
    mixed >>= 4
    upper, lower = np.searchsorted(used, rows)
    weights = row_weights.reshape(2, height, *[1] * (pixels.ndim - 1))
    result: NDArray[np.int32] = (mixed[upper] * weights[0]) >> 16
    result += (mixed[lower] * weights[1]) >> 16
    result += 2
    result >>= 2
    return result.astype(np.uint8)


def resize_nearest(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize by taking the pixel at ``floor(target * scale)``, as OpenCV's ``INTER_NEAREST`` does.

    Args:
        pixels: uint8 ``[H, W]`` or ``[H, W, C]``.
        height: rows of the result.
        width: columns of the result.

    Returns:
        uint8 ``[height, width]`` or ``[height, width, C]``.
    """
    rows = np.arange(height) * pixels.shape[0] // height
    columns = np.arange(width) * pixels.shape[1] // width
    nearest: NDArray[np.uint8] = pixels[rows[:, np.newaxis], columns]
    return nearest


def _taps(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Return the two source indices of each target position, ``[2, target]``, and their fixed-point weights."""
    position = (np.arange(target) + 0.5) * (source / target) - 0.5
    first = np.floor(position).astype(np.intp)
    fraction = (position - first).astype(np.float32)
    fraction[first < 0] = 0
    fraction[first >= source - 1] = 0
    first = first.clip(0, source - 1)
    scale = 1 << _WEIGHT_BITS
    weights = np.stack([np.rint((1 - fraction) * scale), np.rint(fraction * scale)]).astype(np.int32)
    return np.stack([first, np.minimum(first + 1, source - 1)]), weights
