"""The inner loops of weight rounding, compiled: numpy would need a few calls for every weight of a row."""

import numpy as np

from quantkit.kernels import kernel
from quantkit.types import Float64Array

# Rows that descend together share each row of the covariance, which is larger than the caches.
_ROWS = 16


def round_block(
    weights: Float64Array,
    factor: Float64Array,
    rounded: Float64Array,
    errors: Float64Array,
    *,
    start: int,
    end: int,
    qmax: int,
) -> None:
    """Round a block of columns one by one, and compensate each error in the columns of the block that follow.

    Args:
        weights: float64 ``[groups, rows, columns]``, contiguous as all others; changed within the block.
        factor: float64 ``[groups, columns, columns]``.
        rounded: as ``weights``; receives the integers.
        errors: float64 ``[groups, rows, end - start]``; receives the errors, divided by the diagonal of ``factor``.
        start: first column of the block.
        end: the column behind it.
        qmax: largest magnitude of an integer.
    """
    _round_block(weights, factor, rounded, errors, *weights.shape, start, end, float(qmax))


def descend(rounded: Float64Array, slope: Float64Array, covariance: Float64Array, *, qmax: int, sweeps: int) -> None:
    """Move single integers to their best value given all others, column by column, until none moves.

    Args:
        rounded: float64 ``[groups, rows, columns]``, contiguous as all others; changed.
        slope: its error times the covariance, of the same shape; changed.
        covariance: float64 ``[groups, columns, columns]``.
        qmax: largest magnitude of an integer.
        sweeps: largest number of passes over the columns.
    """
    _descend(rounded, slope, covariance, *rounded.shape, float(qmax), sweeps)


@kernel("void", "float64*", "float64*", "float64*", "float64*", "int64", "int64", "int64", "int64", "int64", "float64")
def _round_block(
    weights: Float64Array,
    factor: Float64Array,
    rounded: Float64Array,
    errors: Float64Array,
    groups: int,
    rows: int,
    columns: int,
    start: int,
    end: int,
    qmax: float,
) -> None:
    for group in range(groups):
        for row in range(group * rows, (group + 1) * rows):
            for k in range(start, end):
                place = (group * columns + k) * columns
                value = weights[row * columns + k]
                q = np.rint(value)
                q = q if q > -qmax else -qmax
                q = q if q < qmax else qmax
                error = (value - q) / factor[place + k]
                rounded[row * columns + k] = q
                errors[row * (end - start) + k - start] = error
                for j in range(k, end):
                    weights[row * columns + j] -= error * factor[place + j]


@kernel("void", "float64*", "float64*", "float64*", "int64", "int64", "int64", "float64", "int64")
def _descend(
    rounded: Float64Array,
    slope: Float64Array,
    covariance: Float64Array,
    groups: int,
    rows: int,
    columns: int,
    qmax: float,
    sweeps: int,
) -> None:
    for group in range(groups):
        for first in range(group * rows, (group + 1) * rows, _ROWS):
            last = min(first + _ROWS, (group + 1) * rows)
            for _ in range(sweeps):
                moved = False
                for k in range(columns):
                    place = (group * columns + k) * columns
                    for row in range(first, last):
                        q = rounded[row * columns + k]
                        best = q + np.rint(-slope[row * columns + k] / covariance[place + k])
                        best = best if best > -qmax else -qmax
                        best = best if best < qmax else qmax
                        change = best - q
                        if change != 0.0:
                            moved = True
                            rounded[row * columns + k] = best
                            for j in range(columns):
                                slope[row * columns + j] += change * covariance[place + j]
                if not moved:
                    break
