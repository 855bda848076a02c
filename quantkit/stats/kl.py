"""Thresholds with the smallest Kullback-Leibler divergence, by three common definitions.

Each tries every threshold at a bin edge, merges the bins below it into the levels of int8, spreads each level over its
occupied bins again, and compares the result with the clipped histogram. Computed directly, a candidate needs one
logarithm per bin. Since all bins of a level have the same value after spreading, sums of ``h``, of ``h log h`` and of
the number of occupied bins are sufficient, and a candidate needs one logarithm per level.
"""

import math

import numpy as np
import numpy.typing as npt

from quantkit.kernels import inlined, kernel
from quantkit.stats.linear import linear_magnitudes, linear_symmetric
from quantkit.stats.tensor import TensorStatistics

CountVector = npt.NDArray[np.int64]
FloatVector = npt.NDArray[np.float64]

TENSORRT_BINS, TENSORRT_LEVELS = 2048, 128
RELAY_BINS, RELAY_LEVELS = 8001, 255
# onnxruntime's default of 128 bins leaves one candidate; an odd number has a bin centred on zero.
ORT_BINS, ORT_LEVELS = 2049, 255

# MXNet's smoothing, which Relay and onnxruntime use: each empty bin gets this value.
_EPSILON = 1e-4
# For e up to this value and h of at least 1, the second-order expansion of (h - e) log(h - e) is accurate to 1e-6.
_EXPANSION_LIMIT = 0.01


def tensorrt_threshold(statistics: TensorStatistics) -> float:
    """Return the threshold of TensorRT's calibrator: 2048 bins of ``|x|``, 128 levels, no smoothing.

    Definition: S. Migacz, "8-bit Inference with TensorRT", GTC 2017, with what NVIDIA's published calibrators
    (TensorRT Model Optimizer, ``_compute_amax_entropy``) add to it: the first bin takes the count of the second, since
    zeros, half of the outputs of a ReLU, are exact under any range, and would otherwise increase the divergence of
    every candidate that merges their bin with others; and of equal candidates the widest is selected. If the number of
    bins is not a multiple of 128, level j starts at bin ``j * i // 128``.
    """
    histogram = linear_magnitudes(statistics, TENSORRT_BINS)
    histogram[0] = histogram[1]
    divergence = tensorrt_divergences(histogram)
    best = TENSORRT_BINS - int(np.argmin(divergence[::-1]))
    return statistics.range.threshold * best / TENSORRT_BINS


def relay_threshold(statistics: TensorStatistics) -> float:
    """Return the threshold of Relay's ``kl_divergence`` (Apache TVM, `MinimizeKL`): 8001 bins on [-T, T], 255 levels.

    The VACC compiler is based on this definition.
    """
    return _symmetric_threshold(statistics, RELAY_BINS, RELAY_LEVELS, True)


def ort_threshold(statistics: TensorStatistics) -> float:
    """Return the threshold of onnxruntime's entropy calibrator with 2049 bins and 255 levels."""
    return _symmetric_threshold(statistics, ORT_BINS, ORT_LEVELS, False)


def _symmetric_threshold(statistics: TensorStatistics, bins: int, levels: int, relay: bool) -> float:
    histogram = linear_symmetric(statistics, bins)
    best = int(np.argmin(symmetric_divergences(histogram, levels, relay))) + levels // 2
    threshold = statistics.range.threshold
    upper_edge = min(bins // 2 + best + 1, bins)
    return threshold * (2.0 * upper_edge / bins - 1.0)


def tensorrt_divergences(histogram: CountVector) -> FloatVector:
    """Return KL(P || Q) of every candidate of 128 to all bins of ``|x|``.

    P is the first i bins with the rest added to the last of them; Q is the first i bins merged into 128 levels, each
    spread evenly over its occupied bins. Infinite if P has values where Q is zero.
    """
    divergences = np.full(histogram.size - TENSORRT_LEVELS + 1, np.inf)
    _tensorrt_divergences(_sums(histogram), histogram, histogram.size, divergences)
    return divergences


def symmetric_divergences(histogram: CountVector, levels: int, relay: bool) -> FloatVector:
    """Return KL(P || Q) of every candidate window of ``levels`` to all bins around the middle one.

    P is the window with the values beyond it added to its ends; Q its bins merged into ``levels`` levels and spread
    again; both smoothed by MXNet's rule. The implementations of Relay and onnxruntime differ in details, which are
    reproduced: Relay leaves the window's first bin out of Q and widens the last level to the window's end; onnxruntime
    spreads over empty bins too, rounds Q down to integers, and leaves Q empty after the last complete level.

    Args:
        histogram: int64 ``[bins]``, bins odd.
        levels: number of quantized levels, odd.
        relay: Relay's details, else onnxruntime's.
    """
    divergences = np.full(histogram.size // 2 - levels // 2 + 1, np.inf)
    _symmetric_divergences(
        _sums(histogram), histogram, histogram.size, levels, int(relay), np.empty(levels), divergences
    )
    return divergences


def _sums(histogram: CountVector) -> FloatVector:
    """Return prefix sums over the bins, ``[5, bins + 1]``: of h, occupied, h log h, log h and 1 / h."""
    h = histogram.astype(np.float64)
    occupied = h > 0
    safe = np.where(occupied, h, 1.0)
    log = np.log(safe)
    sums = np.zeros((5, h.size + 1))
    np.cumsum((h, occupied, h * log, log, np.where(occupied, 1.0 / safe, 0.0)), axis=1, out=sums[:, 1:])
    return sums


@kernel("void", "float64*", "int64*", "int64", "float64*")
def _tensorrt_divergences(sums: FloatVector, histogram: CountVector, bins: int, result: FloatVector) -> None:
    levels = TENSORRT_LEVELS
    mass, full, h_log_h = 0, bins + 1, 2 * (bins + 1)  # where the rows of sums begin
    total = sums[mass + bins]
    for i in range(levels, bins + 1):
        last, outliers = float(histogram[i - 1]), total - sums[mass + i]
        if sums[mass + i] == 0.0 or (outliers > 0.0 and last == 0.0):
            continue
        p_log_p = sums[h_log_h + i]
        if outliers > 0.0:
            p_log_p += (last + outliers) * math.log(last + outliers) - last * math.log(last)
        p_log_q, spread = 0.0, 1.0
        for level in range(levels):
            start, stop = level * i // levels, (level + 1) * i // levels
            occupied = sums[full + stop] - sums[full + start]
            if occupied > 0.0:
                spread = (sums[mass + stop] - sums[mass + start]) / occupied
                p_log_q += (sums[mass + stop] - sums[mass + start]) * math.log(spread)
        if outliers > 0.0:
            p_log_q += outliers * math.log(spread)  # the last bin is occupied, so it is in the last level spread
        result[i - levels] = (p_log_p - p_log_q) / total - math.log(total) + math.log(sums[mass + i])


@inlined
def _sum_p_log_p(e: float, start: int, stop: int, sums: FloatVector, histogram: CountVector, bins: int) -> float:
    """Return the sum of (h - e) log(h - e) over the occupied bins in [start, stop)."""
    full, h_log_h, log_h, inverse = bins + 1, 2 * (bins + 1), 3 * (bins + 1), 4 * (bins + 1)
    if e <= _EXPANSION_LIMIT:
        slope = (sums[log_h + stop] - sums[log_h + start]) + (sums[full + stop] - sums[full + start])
        curvature = 0.5 * e * e * (sums[inverse + stop] - sums[inverse + start])
        return float((sums[h_log_h + stop] - sums[h_log_h + start]) - e * slope + curvature)
    total = 0.0
    for k in range(start, stop):
        if histogram[k] > 0:
            total += (histogram[k] - e) * math.log(histogram[k] - e)
    return total


@kernel("void", "float64*", "int64*", "int64", "int64", "int64", "float64*", "float64*")
def _symmetric_divergences(
    sums: FloatVector,
    histogram: CountVector,
    bins: int,
    levels: int,
    relay: int,
    q_of: FloatVector,
    result: FloatVector,
) -> None:
    middle, half = bins // 2, levels // 2
    mass, full = 0, bins + 1  # where the rows of sums begin
    total = sums[mass + bins]
    for i in range(half, middle + 1):
        start, stop = middle - i, min(middle + i + 1, bins)
        n = stop - start
        merged = n // levels
        first = sums[mass + start + 1]  # everything at or below the window's first bin
        last = total - sums[mass + stop - 1]
        inside = sums[full + stop - 1] - sums[full + start + 1]
        p_full = inside + (first > 0) + (last > 0)
        # Q: one value per level; zeros are smoothed to epsilon.
        q_total, q_full = 0.0, 0.0
        for level in range(levels):
            a = start + level * merged
            b = a + merged
            if relay:
                if level == levels - 1:
                    b = stop
                lo = max(a, start + 1)  # the first bin of Relay's window is empty
                content, occupied = sums[mass + b] - sums[mass + lo], sums[full + b] - sums[full + lo]
                value = content / occupied if occupied > 0 else 0.0
                bins_of_level = occupied
                if level == 0 and first > 0 and value > 0:
                    bins_of_level += 1
                if level == levels - 1 and last > 0 and histogram[stop - 1] == 0 and value > 0:
                    bins_of_level += 1
            else:
                content = sums[mass + b] - sums[mass + a]
                if level == levels - 1:
                    content = sums[mass + stop] - sums[mass + a]
                occupied = sums[full + b] - sums[full + a]
                if level == 0 and first > 0 and histogram[start] == 0:
                    occupied += 1
                if b == stop and last > 0 and histogram[stop - 1] == 0:
                    occupied += 1
                value = float(math.floor(content / occupied)) if occupied > 0 else 0.0
                bins_of_level = float(merged) if value > 0 else 0.0
            q_of[level] = value
            q_total += value * bins_of_level
            q_full += bins_of_level if value > 0 else 0.0
        if q_full == 0.0:
            continue
        e_p = _EPSILON * (n - p_full) / p_full
        e_q = _EPSILON * (n - q_full) / q_full
        if e_p >= 1.0 or e_q >= 1.0:
            continue
        p_log_p = _sum_p_log_p(e_p, start + 1, stop - 1, sums, histogram, bins)
        if first > 0:
            p_log_p += (first - e_p) * math.log(first - e_p)
        if last > 0:
            p_log_p += (last - e_p) * math.log(last - e_p)
        p_log_q, empty_terms = 0.0, 0.0
        for level in range(levels + 1):
            a = start + level * merged
            b = a + merged
            if relay and level == levels - 1:
                b = stop
            if level == levels:  # the bins after the last level in onnxruntime
                if relay or a >= stop:
                    break
                b = stop
            log_q = math.log(_EPSILON)
            value = 0.0
            if level < levels and q_of[level] - e_q > 0.0:
                value = q_of[level]
                log_q = math.log(value - e_q)
            lo, hi = max(a, start + 1), min(b, stop - 1)
            content, occupied = sums[mass + hi] - sums[mass + lo], sums[full + hi] - sums[full + lo]
            if hi < lo:
                content, occupied = 0.0, 0.0
            if a == start and first > 0:
                content, occupied = content + first, occupied + 1
            if b == stop and last > 0:
                content, occupied = content + last, occupied + 1
            p_log_q += (content - e_p * occupied) * log_q
            if value > 0.0 and not relay:  # empty bins of P where Q is not empty
                empty_terms += (b - a - occupied) * _EPSILON * (math.log(_EPSILON) - log_q)
        result[i - half] = (p_log_p - p_log_q + empty_terms) / total - math.log(total) + math.log(q_total)
