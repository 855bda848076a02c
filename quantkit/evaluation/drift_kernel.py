"""The inner loops of drift over one image of a tensor; loops that need many numpy passes are compiled.

The compiled loops (`quantkit.kernels`) release the GIL, as numpy does in the others.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quantkit.kernels import kernel
from quantkit.types import Float32Array, Float64Array, Int64Array

# Columns of the sums, with e = y - x.
COLUMNS = ("xx", "yy", "xy", "ee", "e")


class Grid(NamedTuple):
    """The integer grid of a tensor: ``x = scale (q - zero_point)``, with q in [qmin, qmax]."""

    scale: float
    zero_point: int
    qmin: int
    qmax: int

    @property
    def levels(self) -> int:
        """Number of integers."""
        return self.qmax - self.qmin + 1


class ImageTerms(NamedTuple):
    """Terms of one image in the drift of a tensor.

    Attributes:
        sums: float64 ``[channels, 5]``, sums of x^2, y^2, x y, e^2 and e over the elements of each channel.
        elements: number of elements.
        max_err: largest ``|e|``, subtracted in float32.
        x_ends: smallest and largest x.
        y_ends: smallest and largest y.
        clipped: number of x beyond the grid by more than half a step; 0 without a grid.
        levels: int64 ``[levels]``, counts of each integer of y; empty without a grid.
    """

    sums: Float64Array
    elements: int
    max_err: float
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]
    clipped: int
    levels: Int64Array


# Integers are counted alternately in this number of histograms: otherwise equal consecutive values, common after a
# ReLU, would wait for each other's count to be stored.
_LANES = 4
# Integers are computed block by block in a separate loop, which is vectorized.
_BLOCK = 1024


def image_terms(x: Float32Array, y: Float32Array, grid: Grid | None) -> ImageTerms:
    """Compare one image of a tensor, float32 ``[channels, elements]`` of both models, at least one element.

    If values are not finite, the sums are not finite, and the other terms are meaningless.
    """
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    sums = np.empty((x.shape[0], len(COLUMNS)))
    _add_channels(x, y, *x.shape, sums)
    max_err = _largest_error(x, y, x.size)
    x_ends, y_ends = (float(x.min()), float(x.max())), (float(y.min()), float(y.max()))
    if grid is None:
        return ImageTerms(sums, x.size, max_err, x_ends, y_ends, 0, np.zeros(0, np.int64))
    lo = np.float32(grid.scale * (grid.qmin - grid.zero_point - 0.5))
    hi = np.float32(grid.scale * (grid.qmax - grid.zero_point + 0.5))
    clipped = int(np.count_nonzero(x < lo) + np.count_nonzero(x > hi))
    levels = np.zeros((_LANES, grid.levels), np.int64)
    limits = grid.zero_point, grid.qmin, grid.qmax
    _count_integers(y, y.size, grid.scale, *limits, np.empty(_BLOCK, np.int32), levels, grid.levels)
    return ImageTerms(sums, x.size, max_err, x_ends, y_ends, clipped, levels.sum(axis=0))


# Reordering of additions is allowed, so the loop is vectorized and seven times as fast. The order depends only on the
# processor and the number of elements, not on batches or threads; onnxruntime's sums differ by processor in the same
# way.
@kernel("void", "float32*", "float32*", "int64", "int64", "float64*", fastmath=frozenset({"reassoc", "nsz"}))
def _add_channels(x: Float32Array, y: Float32Array, channels: int, elements: int, sums: Float64Array) -> None:
    for channel in range(channels):
        xx = yy = xy = ee = total = 0.0
        for i in range(channel * elements, (channel + 1) * elements):
            u, v = np.float64(x[i]), np.float64(y[i])
            e = v - u
            xx += u * u
            yy += v * v
            xy += u * v
            ee += e * e
            total += e
        row = 5 * channel
        sums[row], sums[row + 1], sums[row + 2], sums[row + 3], sums[row + 4] = xx, yy, xy, ee, total


@kernel("float32", "float32*", "float32*", "int64", fastmath=frozenset({"nnan", "nsz"}))
def _largest_error(x: Float32Array, y: Float32Array, size: int) -> np.float32:
    largest = np.float32(0.0)
    for i in range(size):
        error = abs(y[i] - x[i])
        largest = error if error > largest else largest
    return largest


@kernel("void", "float32*", "int64", "float32", "int64", "int64", "int64", "int32*", "int64*", "int64")
def _count_integers(
    y: Float32Array,
    size: int,
    scale: np.float32,
    zero_point: int,
    qmin: int,
    qmax: int,
    places: npt.NDArray[np.int32],
    levels: Int64Array,
    number: int,
) -> None:
    """Quantize in float32 as `quantkit.numerics.quantize` does, and count; NaN is counted as the smallest integer."""
    zero, least, most = np.float32(zero_point), np.float32(qmin), np.float32(qmax)
    for start in range(0, size, _BLOCK):
        block = min(_BLOCK, size - start)
        for i in range(block):
            q = np.rint(y[start + i] / scale) + zero
            q = q if q > least else least
            q = q if q < most else most
            places[i] = np.int32(q - least)
        whole = block // _LANES * _LANES
        for i in range(0, whole, _LANES):
            for lane in range(_LANES):
                levels[lane * number + places[i + lane]] += 1
        for i in range(whole, block):
            levels[places[i]] += 1
