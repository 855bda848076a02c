"""Resizing without antialias, as in OpenCV and the card's ``BILINEAR_CV``: the filter width is constant.

If an image shrinks by more than two, bilinear sampling uses only some of its pixels. For filters that widen with the
scale, pillow is used.
"""

import numpy as np
from numpy.typing import NDArray

# OpenCV computes 8-bit images in fixed point: weights have 11 fractional bits.
_WEIGHT_BITS = 11


def resize_bilinear(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize by bilinear sampling at half-pixel centres, ``source = (target + 0.5) * scale - 0.5``.

    Weights and rounding are those of OpenCV's ``INTER_LINEAR`` for 8-bit images: fixed point of 11 bits, one
    intermediate shift of 4 bits before the vertical pass. If both sides shrink by exactly two, the result is the
    rounded mean of 2 x 2 pixels, OpenCV's special case.

    Args:
        pixels: uint8 ``[H, W]`` or ``[H, W, C]``.
        height: rows of the result.
        width: columns of the result.

    Returns:
        uint8 ``[height, width]`` or ``[height, width, C]``.
    """
    rows, row_fraction = _taps(pixels.shape[0], height)
    columns, column_fraction = _taps(pixels.shape[1], width)
    # OpenCV drops the weight beyond the left and right edge; at the top and bottom it mixes the edge row with itself.
    column_fraction[columns[0] == columns[1]] = 0
    row_weights, column_weights = _weights(row_fraction), _weights(column_fraction)
    channels = pixels[0, 0].size
    column_weights = column_weights.repeat(channels, axis=1)  # one row of values, so that inner loops are long
    used = np.unique(rows)
    lines = pixels[used]
    mixed = lines.take(columns[0], axis=1).reshape(len(used), -1) * column_weights[0]
    mixed += lines.take(columns[1], axis=1).reshape(len(used), -1) * column_weights[1]
    mixed >>= 4
    result: NDArray[np.int32] = _vertical(mixed, np.searchsorted(used, rows[0]), row_weights[0])
    result += _vertical(mixed, np.searchsorted(used, rows[1]), row_weights[1])
    result += 2
    result >>= 2
    return result.astype(np.uint8).reshape(height, width, *pixels.shape[2:])


def resize_nearest(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize by selecting the pixel at ``floor(target * scale)``, as OpenCV's ``INTER_NEAREST`` does.

    Args:
        pixels: uint8 ``[H, W]`` or ``[H, W, C]``.
        height: rows of the result.
        width: columns of the result.

    Returns:
        uint8 ``[height, width]`` or ``[height, width, C]``.
    """
    rows, columns = _nearest(pixels.shape[0], height), _nearest(pixels.shape[1], width)
    nearest: NDArray[np.uint8] = pixels[rows[:, np.newaxis], columns]
    return nearest


def _vertical(mixed: NDArray[np.int32], rows: NDArray[np.intp], weights: NDArray[np.int32]) -> NDArray[np.int32]:
    part = mixed.take(rows, axis=0)
    part *= weights[:, np.newaxis]
    part >>= 16
    return part


def _taps(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the two source indices of each target position, ``[2, target]``, and the weight of the second."""
    position = ((np.arange(target) + 0.5) * _scale(source, target) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.intp)
    return np.stack([first, first + 1]).clip(0, source - 1), position - first.astype(np.float32)


def _weights(fraction: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return both taps' weights in fixed point, ``[2, target]``."""
    shares = np.stack([1 - fraction, fraction])
    weights: NDArray[np.int32] = np.rint(shares * (1 << _WEIGHT_BITS)).astype(np.int32)
    return weights


def _nearest(source: int, target: int) -> NDArray[np.intp]:
    index: NDArray[np.intp] = np.floor(np.arange(target) * _scale(source, target)).astype(np.intp)
    return index.clip(0, source - 1)


def _scale(source: int, target: int) -> float:
    # The reciprocal of a quotient, as in OpenCV; the last bit affects the rounding of halves.
    return 1 / (target / source)
