"""Percentiles of a histogram."""

import numpy as np
import numpy.typing as npt

from quantkit.numerics import Range
from quantkit.stats.bins import magnitude_edges, signed_edges
from quantkit.stats.tensor import TensorStatistics

FloatVector = npt.NDArray[np.float64]


def magnitude_percentile(statistics: TensorStatistics, fraction: float) -> float:
    """Return the value of rank ``int(n * fraction)``, counted from 0, among the n magnitudes in ascending order.

    This is the definition of Relay, and so of the card. The bin of the rank is exact; values within the bin are treated
    as evenly spread, so the error is at most one bin (a relative ``2 ** -MANTISSA_BITS``), and the result is at most
    max |x|.
    """
    bins, counts = statistics.magnitudes()
    if bins.size == 0:
        return 0.0
    lower, upper = magnitude_edges(bins)
    greatest = statistics.range.threshold
    rank = min(int(statistics.count * fraction), statistics.count - 1)
    return _value_of_rank(rank, lower, np.minimum(upper, greatest), counts, statistics.count, greatest)


def two_sided_percentile(statistics: TensorStatistics, fraction: float) -> Range:
    """Return the range that cuts half of ``1 - fraction`` of the values at either end, extended to contain zero.

    The ends are the values of those ranks among all values in ascending order (onnxruntime's asymmetric percentile).
    """
    bins, counts = statistics.ascending()
    if bins.size == 0:
        return Range(0.0, 0.0)
    lower, upper = signed_edges(bins)
    lower, upper = np.maximum(lower, statistics.lo), np.minimum(upper, statistics.hi)
    cut = (1.0 - fraction) / 2.0
    n = statistics.count
    low_rank = min(int(n * cut), n - 1)
    high_rank = n - 1 - low_rank
    lo = statistics.lo if low_rank == 0 else _value_of_rank(low_rank, lower, upper, counts, n, statistics.hi)
    hi = _value_of_rank(high_rank, lower, upper, counts, n, statistics.hi)
    return Range.around(lo, hi)


def _value_of_rank(
    rank: int, lower: FloatVector, upper: FloatVector, counts: npt.NDArray[np.int64], n: int, greatest: float
) -> float:
    if rank >= n - 1:
        return greatest
    cumulative = np.cumsum(counts)
    index = int(np.searchsorted(cumulative, rank, side="right"))
    if lower[index] <= 0.0 <= upper[index]:
        return 0.0  # almost all values of the zero bin are zeros
    within = rank - (int(cumulative[index]) - int(counts[index])) + 0.5
    share = within / int(counts[index])
    return float(lower[index] + share * (upper[index] - lower[index]))
