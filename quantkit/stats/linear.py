"""Converts logarithmic bins to the equal bins of the KL definitions."""

import numpy as np
import numpy.typing as npt

from quantkit.stats.bins import magnitude_edges, signed_edges
from quantkit.stats.tensor import TensorStatistics

CountVector = npt.NDArray[np.int64]
FloatVector = npt.NDArray[np.float64]

# A bin with so many values between two empty ones holds one value, many times: a continuous distribution would have put
# about as many into its neighbours, and leaves both empty with a probability of exp(-2 * 16).
_POINT_COUNT = 16


def linear_magnitudes(statistics: TensorStatistics, bins: int) -> CountVector:
    """Return the histogram of ``|x|`` in ``bins`` equal bins on [0, max |x|], int64, summing to their number."""
    occupied, counts = statistics.magnitudes()
    lower, upper = magnitude_edges(occupied)
    threshold = statistics.range.threshold
    edges = np.linspace(0.0, threshold, bins + 1)
    return _spread(lower, np.minimum(upper, threshold), counts, edges)


def linear_symmetric(statistics: TensorStatistics, bins: int) -> CountVector:
    """Return the histogram of ``x`` in ``bins`` equal bins on [-T, T], T = max |x|, int64, summing to their number."""
    occupied, counts = statistics.ascending()
    lower, upper = signed_edges(occupied)
    threshold = statistics.range.threshold
    edges = np.linspace(-threshold, threshold, bins + 1)
    return _spread(np.maximum(lower, statistics.lo), np.minimum(upper, statistics.hi), counts, edges)


def _spread(lower: FloatVector, upper: FloatVector, counts: CountVector, edges: FloatVector) -> CountVector:
    """Count values in equal bins, with the values of a bin evenly spread and rounded to integer counts.

    Integer counts are needed because the definitions depend on which bins are empty, and half a value in each of two
    bins does not occur in a histogram of raw values. For the same reason, one value that occurs many times, such as a
    grey level of an image, is not spread (see `_point_masses`).
    """
    lower, upper = _point_masses(lower, np.maximum(upper, lower), counts)
    ends = np.cumsum(counts)
    knots = np.empty(2 * lower.size)
    knots[0::2], knots[1::2] = lower, upper
    heights = np.empty(2 * lower.size)
    heights[0::2], heights[1::2] = ends - counts, ends
    below = np.interp(edges, knots, heights, left=0.0, right=float(ends[-1]))
    below[-1] = ends[-1]
    whole: CountVector = np.diff(np.rint(below), prepend=0.0).astype(np.int64)[1:]
    whole[0] += np.int64(np.rint(below[0]))
    return whole


def _point_masses(lower: FloatVector, upper: FloatVector, counts: CountVector) -> tuple[FloatVector, FloatVector]:
    """Return the edges of the bins, those of a bin with a single value moved to that value.

    The outermost edges are the exact extremes, so the outermost bins have their value there; others are known to half a
    bin.

    Args:
        lower: lower edges, ascending, the first one no less than the least value.
        upper: upper edges, the last one no more than the greatest value.
        counts: values in each bin.
    """
    if counts.size < 2:
        return lower, upper
    gap = lower[1:] > upper[:-1]
    alone = np.append(True, gap) & np.append(gap, True) & (counts >= _POINT_COUNT)
    points = 0.5 * (lower + upper)
    points[0], points[-1] = lower[0], upper[-1]
    return np.where(alone, points, lower), np.where(alone, points, upper)
