"""The inner loop of drift: all sums over one image of a tensor in a single pass, compiled by numba, without the GIL."""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

# Columns of the sums, with e = y - x.
COLUMNS = ("xx", "yy", "xy", "ee", "e")


class Grid(NamedTuple):
    """The integers a tensor is quantized to: ``x = scale (q - zero_point)``, with q in [qmin, qmax]."""

    scale: float
    zero_point: int
    qmin: int
    qmax: int

    @property
    def levels(self) -> int:
        """How many integers there are."""
        return self.qmax - self.qmin + 1


class ImageTerms(NamedTuple):
    """What one image adds to the drift of a tensor.

    Attributes:
        sums: float64 ``[channels, 5]``, sums of x^2, y^2, x y, e^2 and e over the elements of each channel.
        elements: number of elements.
        max_err: greatest ``|e|``.
        x_ends: least and greatest x.
        y_ends: least and greatest y.
        clipped: how many x lie beyond the grid by more than half a step; 0 without a grid.
        levels: int64 ``[levels]``, how often y takes each integer; empty without a grid.
    """

    sums: Float64Array
    elements: int
    max_err: float
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]
    clipped: int
    levels: Int64Array


def image_terms(x: Float32Array, y: Float32Array, grid: Grid | None) -> ImageTerms:
    """Compare one image of a tensor, float32 ``[channels, elements]`` of both models, at least one element."""
    sums = np.empty((x.shape[0], len(COLUMNS)))
    ends = _compare(x, y, sums)
    levels, clipped = np.zeros(0, np.int64), 0
    if grid is not None:
        levels = np.zeros(grid.levels, np.int64)
        lo = grid.scale * (grid.qmin - grid.zero_point - 0.5)
        hi = grid.scale * (grid.qmax - grid.zero_point + 0.5)
        clipped = int(_quantize(x, y, lo, hi, np.float32(grid.scale), grid.zero_point, grid.qmin, grid.qmax, levels))
    x_lo, x_hi, y_lo, y_hi, max_err = ends.tolist()
    return ImageTerms(sums, x.size, max_err, (x_lo, x_hi), (y_lo, y_hi), clipped, levels)


# Each loop is small, since one with everything in it spills its registers, and goes over one channel at a time, which
# then still lies in the cache for the next.


@numba.njit(nogil=True, cache=True)
def _compare(x: Float32Array, y: Float32Array, sums: Float64Array) -> Float64Array:
    """Fill the sums; return least and greatest x, least and greatest y, and the greatest error."""
    ends = np.array([np.inf, -np.inf, np.inf, -np.inf, 0.0])
    for channel in range(x.shape[0]):
        _add(x[channel], y[channel], sums[channel])
        _widen(x[channel], y[channel], ends)
    return ends


@numba.njit(nogil=True, cache=True)
def _add(x: Float32Array, y: Float32Array, sums: Float64Array) -> None:
    xx = yy = xy = ee = total = 0.0
    for i in range(x.size):
        u, v = np.float64(x[i]), np.float64(y[i])
        e = v - u
        xx += u * u
        yy += v * v
        xy += u * v
        ee += e * e
        total += e
    sums[0], sums[1], sums[2], sums[3], sums[4] = xx, yy, xy, ee, total


@numba.njit(nogil=True, cache=True)
def _widen(x: Float32Array, y: Float32Array, ends: Float64Array) -> None:
    """Plain comparisons: min() and max() would look for NaN at each."""
    x_lo = x_hi = x[0]
    y_lo = y_hi = y[0]
    worst = ends[4]
    for i in range(x.size):
        a, b = x[i], y[i]
        x_lo = a if a < x_lo else x_lo
        x_hi = a if a > x_hi else x_hi
        y_lo = b if b < y_lo else y_lo
        y_hi = b if b > y_hi else y_hi
        e = abs(np.float64(b) - np.float64(a))
        worst = e if e > worst else worst
    ends[0], ends[1] = min(ends[0], x_lo), max(ends[1], x_hi)
    ends[2], ends[3], ends[4] = min(ends[2], y_lo), max(ends[3], y_hi), worst


@numba.njit(nogil=True, cache=True)
def _quantize(
    x: Float32Array,
    y: Float32Array,
    lo: float,
    hi: float,
    scale: np.float32,
    zero_point: int,
    qmin: int,
    qmax: int,
    levels: Int64Array,
) -> int:
    """Count the integers that y takes; return how many x lie outside [lo, hi]."""
    outside = 0
    for channel in range(x.shape[0]):
        _count_integers(y[channel], scale, zero_point, qmin, qmax, levels)
        outside += _count_outside(x[channel], lo, hi)
    return outside


@numba.njit(nogil=True, cache=True)
def _count_integers(
    y: Float32Array, scale: np.float32, zero_point: int, qmin: int, qmax: int, levels: Int64Array
) -> None:
    """Quantize in float32 as `quantkit.numerics.quantize` does, and count; NaN counts as the least."""
    zero, least, most = np.float32(zero_point), np.float32(qmin), np.float32(qmax)
    for i in range(y.size):
        q = np.rint(y[i] / scale) + zero
        q = q if q > least else least
        q = q if q < most else most
        levels[np.int64(q) - qmin] += 1


@numba.njit(nogil=True, cache=True)
def _count_outside(x: Float32Array, lo: float, hi: float) -> int:
    outside = 0
    for i in range(x.size):
        outside += (x[i] < lo) | (x[i] > hi)
    return outside
