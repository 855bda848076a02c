"""Ranges with the smallest expected squared quantization error over the histogram.

The values of a bin are treated as evenly spread, so the error is an exact integral, not a sum over sampled points: with
``u = x / scale`` and n the integer that u is quantized to, the integral of ``(u - n)^2`` is ``n / 12 + (u - n)^3 / 3``,
continuous from one integer to the next (each full step contributes 1/12), with n fixed at the last integer beyond the
range, where values are clipped.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from quantkit.kernels import inlined, kernel
from quantkit.numerics import Range
from quantkit.stats.bins import MANTISSA_BITS, SIGN_BIN, magnitude_edges
from quantkit.stats.tensor import TensorStatistics

FloatVector = npt.NDArray[np.float64]
CountVector = npt.NDArray[np.int64]
# Returns the errors of several thresholds, or of ends of a range.
Error = Callable[[FloatVector], FloatVector]

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
# The terms of a block of bins are computed in a vectorized loop and then added in order.
_BLOCK = 256


def symmetric_mse_threshold(statistics: TensorStatistics, *, divisor: float, qmax: int) -> float:
    """Return the threshold t with the smallest error for ``scale = t / divisor``, clipped to +-qmax."""
    bins, counts = statistics.magnitudes()
    greatest = statistics.range.threshold
    if greatest == 0.0:
        return 0.0
    lower, upper = magnitude_edges(bins)
    table = _table(lower, np.minimum(upper, greatest), counts)
    terms = np.empty(_BLOCK)

    def error(thresholds: FloatVector) -> FloatVector:
        errors = np.empty(thresholds.size)
        _symmetric_errors(table, bins.size, thresholds / divisor, thresholds.size, qmax, terms, errors)
        return errors

    return _least(error, greatest)


def affine_mse_range(statistics: TensorStatistics, *, steps: int) -> Range:
    """Return the range [lo, hi] with the smallest error of the affine quantizer, including its rounded zero point.

    For a one-sided tensor, the end at zero is kept and the other end is searched. For a two-sided one, the search
    starts from the best of four ranges (observed; both ends cut at one magnitude; either end cut), then refines the
    ends in turn.
    """
    observed = statistics.range
    error = _AffineError(statistics, steps)
    if observed.lo == 0.0:
        return Range(0.0, _least(error.by_hi(0.0), observed.hi))
    if observed.hi == 0.0:
        return Range(-_least(error.by_lo(0.0), -observed.lo), 0.0)
    coarse = _AffineError(statistics, steps, coarse=True)
    low, high = -observed.lo, observed.hi
    both = _least(lambda t: coarse(-np.minimum(t, low), np.minimum(t, high)), observed.threshold)
    starts = (
        observed,
        Range(-min(both, low), min(both, high)),
        Range(-low, _least(coarse.by_hi(-low), high)),
        Range(-_least(coarse.by_lo(high), low), high),
    )
    errors = error(np.array([one.lo for one in starts]), np.array([one.hi for one in starts]))
    best = int(np.argmin(errors))
    return _refine(error, starts[best], float(errors[best]), observed)


class _AffineError:
    """Summed squared error of the affine quantizer of [lo, hi]; infinity if its scale is not positive."""

    def __init__(self, statistics: TensorStatistics, steps: int, coarse: bool = False) -> None:
        self._steps = steps
        self._negative, self._positive = _halves(statistics, coarse)
        self._terms = np.empty(_BLOCK)

    def __call__(self, lo: FloatVector, hi: FloatVector) -> FloatVector:
        """Return the error of each range."""
        negative, positive = self._negative, self._positive
        errors = np.empty(lo.size)
        _affine_errors(
            negative, negative.shape[1] - 1, positive, positive.shape[1] - 1, lo, hi, lo.size, self._steps,
            self._terms, errors,
        )  # fmt: skip
        return errors

    def by_hi(self, lo: float) -> Error:
        """Return the error as a function of the upper end."""
        return lambda hi: self(np.full(hi.size, lo), hi)

    def by_lo(self, hi: float) -> Error:
        """Return the error as a function of the magnitude of the lower end."""
        return lambda lo: self(-lo, np.full(lo.size, hi))


def _refine(error: _AffineError, start: Range, least: float, observed: Range) -> Range:
    """Move each end in turn to the best position nearby; keep a move only if it reduces the error."""
    lo, hi = start.lo, start.hi
    for _ in range(_AFFINE_ROUNDS):
        before = least
        new_hi, found = _golden_section(error.by_hi(lo), hi * _NEAR, min(hi / _NEAR, observed.hi))
        if found < least:
            hi, least = new_hi, found
        new_lo, found = _golden_section(error.by_lo(hi), -lo * _NEAR, min(-lo / _NEAR, -observed.lo))
        if found < least:
            lo, least = -new_lo, found
        if least == before:
            break
    return Range(lo, hi)


def _table(lower: FloatVector, upper: FloatVector, counts: CountVector) -> FloatVector:
    """Return the bins of one sign as the kernels read them, ``[4, bins + 1]``.

    The rows are the lower and upper edges, the counts, and the squared error if all bins below are quantized to zero.
    """
    table = np.zeros((4, counts.size + 1))
    table[:3, :-1] = lower, np.maximum(upper, lower), counts
    low, high, count = table[:3, :-1]
    # Mean square of an evenly spread bin: the error if its values are quantized to zero.
    square = (low**2 + low * high + high**2) / 3.0
    square[low == 0.0] = 0.0  # almost all values of the zero bin are zeros
    np.cumsum(count * square, out=table[3, 1:])
    return table


def _halves(statistics: TensorStatistics, coarse: bool) -> tuple[FloatVector, FloatVector]:
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
        halves.append(_table(lower, np.minimum(upper, max(greatest, 0.0)), counts))
    return halves[0], halves[1]


def _least(error: Error, greatest: float) -> float:
    """Return the minimizer in (0, greatest]: a coarse geometric search, then golden section around the best."""
    candidates = np.asarray(greatest * _COARSE_RATIO ** np.arange(_COARSE_STEPS), np.float64)
    errors = error(candidates)
    best = int(np.argmin(errors))
    low = float(candidates[min(best + 1, _COARSE_STEPS - 1)])
    high = float(candidates[max(best - 1, 0)])
    refined, refined_error = _golden_section(error, low, high)
    return refined if refined_error < errors[best] else float(candidates[best])


def _golden_section(error: Error, low: float, high: float) -> tuple[float, float]:
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    error_a, error_b = error(np.array([a, b])).tolist()
    for _ in range(_GOLDEN_STEPS):
        if error_a <= error_b:
            high, b, error_b = b, a, error_a
            a = high - _GOLDEN * (high - low)
            error_a = float(error(np.array([a]))[0])
        else:
            low, a, error_a = a, b, error_b
            b = low + _GOLDEN * (high - low)
            error_b = float(error(np.array([b]))[0])
    return (a, error_a) if error_a <= error_b else (b, error_b)


@inlined
def _error(table: FloatVector, bins: int, scale: float, qmax: int, terms: FloatVector) -> float:
    """Return the summed squared error over the magnitudes of a table, quantized to integers of at most qmax."""
    upper_at, counts_at, below_at = bins + 1, 2 * (bins + 1), 3 * (bins + 1)
    if qmax == 0:
        return table[below_at + bins]  # type: ignore[no-any-return]
    inverse, top = 1.0 / scale, float(qmax)
    first, end = 0, bins  # the first bin that exceeds half a step; bins below are quantized to zero
    while first < end:
        middle = (first + end) // 2
        if table[upper_at + middle] <= 0.5 * scale:
            first = middle + 1
        else:
            end = middle
    total = 0.0
    for start in range(first, bins, _BLOCK):
        size = min(_BLOCK, bins - start)
        for i in range(size):
            k = start + i
            a, b, count = table[k] * inverse, table[upper_at + k] * inverse, table[counts_at + k]
            width = b - a
            n_a, n_b = min(np.rint(a), top), min(np.rint(b), top)
            error = (n_b - n_a) / 12.0 + ((b - n_b) ** 3 - (a - n_a) ** 3) / 3.0
            center = 0.5 * (a + b)
            n = min(np.rint(center), top)
            narrow = count * ((center - n) ** 2 + width * width / 12.0)  # avoids cancellation in the difference above
            terms[i] = count * error / width if width > 1e-3 else narrow
        for i in range(size):
            total += terms[i]
    return table[below_at + first] + scale * scale * total  # type: ignore[no-any-return]


@kernel("void", "float64*", "int64", "float64*", "int64", "int64", "float64*", "float64*")
def _symmetric_errors(
    table: FloatVector,
    bins: int,
    scales: FloatVector,
    candidates: int,
    qmax: int,
    terms: FloatVector,
    errors: FloatVector,
) -> None:
    for i in range(candidates):
        errors[i] = _error(table, bins, scales[i], qmax, terms)


@kernel(
    "void", "float64*", "int64", "float64*", "int64", "float64*", "float64*", "int64", "int64", "float64*", "float64*"
)
def _affine_errors(
    negative: FloatVector,
    negative_bins: int,
    positive: FloatVector,
    positive_bins: int,
    lows: FloatVector,
    highs: FloatVector,
    candidates: int,
    steps: int,
    terms: FloatVector,
    errors: FloatVector,
) -> None:
    for i in range(candidates):
        scale = (highs[i] - lows[i]) / steps
        if not scale > 0.0:
            errors[i] = math.inf
            continue
        zero = int(min(max(np.rint(-lows[i] / scale), 0.0), float(steps)))
        error = _error(positive, positive_bins, scale, steps - zero, terms)
        errors[i] = error + _error(negative, negative_bins, scale, zero, terms)
