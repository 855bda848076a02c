"""Histograms of calibration statistics for charts."""

from typing import Any

import numpy as np

from quantkit.numerics import Range
from quantkit.stats.bins import signed_edges
from quantkit.stats.tensor import TensorStatistics

HISTOGRAM_BINS = 240


def histogram(statistics: TensorStatistics, lo: float, hi: float) -> dict[str, Any]:
    """Return the number of values in equal bins over [lo, hi]; the values of a stored bin are spread evenly over it."""
    bins, counts = statistics.ascending()
    lower, upper = signed_edges(bins)
    ends = np.cumsum(counts).astype(np.float64)
    knots, heights = np.empty(2 * bins.size), np.empty(2 * bins.size)
    knots[0::2], knots[1::2] = np.maximum(lower, statistics.lo), np.minimum(upper, statistics.hi)
    heights[0::2], heights[1::2] = ends - counts, ends
    edges = np.linspace(lo, hi, HISTOGRAM_BINS + 1)
    below = np.interp(edges, knots, heights, left=0.0, right=float(statistics.count))
    # Rounded before the difference, so that a single value on an edge is drawn exactly once.
    return {"lo": lo, "hi": hi, "counts": np.diff(np.rint(below)).astype(np.int64).tolist()}


def share_outside(statistics: TensorStatistics, range_: Range) -> float:
    """Return the share of the values outside a range, 0 to 1, with the resolution of the stored bins."""
    bins, counts = statistics.ascending()
    lower, upper = signed_edges(bins)
    outside = (upper <= range_.lo) | (lower > range_.hi)
    return float(counts[outside].sum() / statistics.count) if statistics.count else 0.0
