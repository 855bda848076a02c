"""Ranges with the smallest expected squared quantization error over the histogram.

The values of a bin are treated as evenly spread, so the error is an exact integral, not a sum over sampled points: with
``u = x / scale`` and n the integer that u is quantized to, the integral of ``(u - n)^2`` is ``n / 12 + (u - n)^3 / 3``,
continuous from one integer to the next (each full step contributes 1/12), with n fixed at the last integer beyond the
range, where values are clipped.
"""

import math
from collections.abc import Callable
from functools import partial

import numba
import numpy as np
import numpy.typing as npt

from quantkit.numerics import Range
from quantkit.stats.bins import MANTISSA_BITS, SIGN_BIN, magnitude_edges
from quantkit.stats.tensor import TensorStatistics

FloatVector = npt.NDArray[np.float64]
CountVector = npt.NDArray[np.int64]

# Ratio of neighbouring candidates in the coarse search, and its lower limit relative to the full range.
_COARSE_RATIO = 0.94
_COARSE_STEPS = 120
# Golden-section steps after it: each narrows the bracket by 0.618, so these end far below one bin.
_GOLDEN_STEPS = 24
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
# How far an end may move in one round of refinement, and the number of rounds.
_NEAR = 0.85
_AFFINE_ROUNDS = 3
# The coarse search of two-sided ranges merges this power of two of bins.
_COARSE_SHIFT = MANTISSA_BITS - 5


def symmetric_mse_threshold(statistics: TensorStatistics, *, divisor: float, qmax: int) -> float:
    """Return the threshold t with the smallest error for ``scale = t / divisor``, clipped to +-qmax."""
    bins, counts = statistics.magnitudes()
    greatest = statistics.range.threshold
    if greatest == 0.0:
        return 0.0
    lower, upper = magnitude_edges(bins)
    sums = _Sums(lower, np.minimum(upper, greatest), counts)
    return _least(lambda t: sums.error(t / divisor, qmax), greatest)


def affine_mse_range(statistics: TensorStatistics, *, steps: int) -> Range:
    """Return the range [lo, hi] with the smallest error of the affine quantizer, including its rounded zero point.

    For a one-sided tensor, the end at zero is kept and the other end is searched. For a two-sided one, the search
    starts from the best of four ranges (observed; both ends cut at one magnitude; either end cut), then refines the
    ends in turn.
    """
    observed = statistics.range
    error = _AffineError(statistics, steps)
    if observed.lo == 0.0:
        return Range(0.0, _least(lambda hi: error(0.0, hi), observed.hi))
    if observed.hi == 0.0:
        return Range(-_least(lambda lo: error(-lo, 0.0), -observed.lo), 0.0)
    coarse = _AffineError(statistics, steps, coarse=True)
    low, high = -observed.lo, observed.hi
    both = _least(lambda t: coarse(-min(t, low), min(t, high)), observed.threshold)
    starts = (
        observed,
        Range(-min(both, low), min(both, high)),
        Range(-low, _least(lambda hi: coarse(-low, hi), high)),
        Range(-_least(lambda lo: coarse(-lo, high), low), high),
    )
    start = min(starts, key=lambda range_: error(range_.lo, range_.hi))
    return _refine(error, start, observed)


def _refine(error: Callable[[float, float], float], start: Range, observed: Range) -> Range:
    """Move each end in turn to the best position nearby; keep a move only if it reduces the error."""
    lo, hi, least = start.lo, start.hi, error(start.lo, start.hi)
    for _ in range(_AFFINE_ROUNDS):
        before = least
        new_hi, found = _golden_section(partial(error, lo), hi * _NEAR, min(hi / _NEAR, observed.hi))
        if found < least:
            hi, least = new_hi, found
        kept = hi
        new_lo, found = _golden_section(lambda low: error(-low, kept), -lo * _NEAR, min(-lo / _NEAR, -observed.lo))  # noqa: B023
        if found < least:
            lo, least = -new_lo, found
        if least == before:
            break
    return Range(lo, hi)


class _AffineError:
    """Summed squared error of the affine quantizer of [lo, hi]."""

    def __init__(self, statistics: TensorStatistics, steps: int, coarse: bool = False) -> None:
        self._steps = steps
        self._negative, self._positive = _halves(statistics, coarse)

    def __call__(self, lo: float, hi: float) -> float:
        scale = (hi - lo) / self._steps
        if not scale > 0.0:
            return math.inf
        zero = int(min(max(round(-lo / scale), 0), self._steps))
        return self._positive.error(scale, self._steps - zero) + self._negative.error(scale, zero)


class _Sums:
    """The bins of one sign, sorted so that only bins above half a step are evaluated."""

    def __init__(self, lower: FloatVector, upper: FloatVector, counts: CountVector) -> None:
        self._lower, self._upper = lower, np.maximum(upper, lower)
        self._counts = counts.astype(np.float64)
        # Mean square of an evenly spread bin: the error if its values are quantized to zero.
        square = (self._lower**2 + self._lower * self._upper + self._upper**2) / 3.0
        square[self._lower == 0.0] = 0.0  # almost all values of the zero bin are zeros
        self._below = np.concatenate([[0.0], np.cumsum(self._counts * square)])

    def error(self, scale: float, qmax: int) -> float:
        """Return the summed squared error over these magnitudes, quantized to integers of at most qmax."""
        if qmax == 0:
            return float(self._below[-1])
        first = int(np.searchsorted(self._upper, 0.5 * scale, side="right"))
        error = _error(self._lower[first:], self._upper[first:], self._counts[first:], 1.0 / scale, qmax)
        return float(self._below[first] + scale * scale * error)


def _halves(statistics: TensorStatistics, coarse: bool) -> tuple[_Sums, _Sums]:
    """Return the negative values, as magnitudes, and the others."""
    split = int(np.searchsorted(statistics.bins, SIGN_BIN))
    halves = []
    for part, greatest in ((slice(split, None), -statistics.lo), (slice(None, split), statistics.hi)):
        lower, upper = magnitude_edges(statistics.bins[part])
        counts = statistics.counts[part]
        if coarse and counts.size:
            groups = np.flatnonzero(np.diff(statistics.bins[part] >> np.uint32(_COARSE_SHIFT), prepend=-1))
            ends = np.append(groups[1:], counts.size) - 1
            lower, upper, counts = lower[groups], upper[ends], np.add.reduceat(counts, groups)
        halves.append(_Sums(lower, np.minimum(upper, max(greatest, 0.0)), counts))
    return halves[0], halves[1]


def _least(error: Callable[[float], float], greatest: float) -> float:
    """Return the minimizer in (0, greatest]: a coarse geometric search, then golden section around the best."""
    candidates = greatest * _COARSE_RATIO ** np.arange(_COARSE_STEPS)
    errors = [error(float(t)) for t in candidates]
    best = int(np.argmin(errors))
    low = float(candidates[min(best + 1, _COARSE_STEPS - 1)])
    high = float(candidates[max(best - 1, 0)])
    refined, refined_error = _golden_section(error, low, high)
    return refined if refined_error < errors[best] else float(candidates[best])


def _golden_section(error: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    error_a, error_b = error(a), error(b)
    for _ in range(_GOLDEN_STEPS):
        if error_a <= error_b:
            high, b, error_b = b, a, error_a
            a = high - _GOLDEN * (high - low)
            error_a = error(a)
        else:
            low, a, error_a = a, b, error_b
            b = low + _GOLDEN * (high - low)
            error_b = error(b)
    return (a, error_a) if error_a <= error_b else (b, error_b)


@numba.njit(nogil=True, cache=True)
def _error(lower: FloatVector, upper: FloatVector, counts: FloatVector, inverse_scale: float, qmax: int) -> float:
    total = 0.0
    top = float(qmax)
    for k in range(lower.size):
        a, b = lower[k] * inverse_scale, upper[k] * inverse_scale
        width = b - a
        if width > 1e-3:
            n_a, n_b = min(np.rint(a), top), min(np.rint(b), top)
            error = (n_b - n_a) / 12.0 + ((b - n_b) ** 3 - (a - n_a) ** 3) / 3.0
            total += counts[k] * error / width
        else:  # the difference above would cancel
            middle = 0.5 * (a + b)
            n = min(np.rint(middle), top)
            total += counts[k] * ((middle - n) ** 2 + width * width / 12.0)
    return total
