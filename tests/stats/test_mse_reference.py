"""MSE ranges against the definition written out: one candidate at a time, one bin after the other, in plain Python."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.numerics import Range
from quantkit.stats.bins import SIGN_BIN, magnitude_edges
from quantkit.stats.mse import affine_mse_range, symmetric_mse_threshold
from quantkit.stats.observer import Observer
from quantkit.stats.tensor import TensorStatistics

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
Bins = tuple[np.ndarray, np.ndarray, np.ndarray]


def error_of(bins: Bins, scale: float, qmax: int) -> float:
    """Return the squared error of evenly spread bins: lost below half a step, integrated above."""
    below, total = 0.0, 0.0
    for low, high, count in zip(*bins, strict=True):
        if qmax == 0 or high <= 0.5 * scale:
            below += 0.0 if low == 0.0 else count * ((low**2 + low * high + high**2) / 3.0)
            continue
        a, b = low * (1.0 / scale), high * (1.0 / scale)
        width, middle = b - a, 0.5 * (a + b)
        n_a, n_b, n = (min(float(np.rint(u)), float(qmax)) for u in (a, b, middle))
        if width > 1e-3:
            p, q = b - n_b, a - n_a
            total += count * ((n_b - n_a) / 12.0 + (p * p * p - q * q * q) / 3.0) / width
        else:
            total += count * ((middle - n) * (middle - n) + width * width / 12.0)
    return below if qmax == 0 else below + scale * scale * total


def golden(error: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_a, at_b = error(a), error(b)
    for _ in range(24):
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - GOLDEN * (high - low)
            at_a = error(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + GOLDEN * (high - low)
            at_b = error(b)
    return (a, at_a) if at_a <= at_b else (b, at_b)


def least(error: Callable[[float], float], greatest: float) -> float:
    candidates = [float(t) for t in greatest * 0.94 ** np.arange(120)]
    errors = [error(t) for t in candidates]
    best = errors.index(min(errors))
    refined, at_refined = golden(error, candidates[min(best + 1, 119)], candidates[max(best - 1, 0)])
    return refined if at_refined < errors[best] else candidates[best]


def half(statistics: TensorStatistics, negative: bool, coarse: bool) -> Bins:
    """Return lower edges, upper edges and counts of one sign; coarse bins are 16 at a time."""
    chosen = (statistics.bins >= SIGN_BIN) == negative
    merged: dict[int, list[float]] = {}
    for bin_, count in zip(statistics.bins[chosen], statistics.counts[chosen], strict=True):
        (low,), (high,) = magnitude_edges(np.array([bin_]))
        entry = merged.setdefault(int(bin_) >> 4 if coarse else int(bin_), [float(low), 0.0, 0])
        entry[1], entry[2] = float(high), entry[2] + int(count)
    greatest = max(-statistics.lo if negative else statistics.hi, 0.0)
    columns = np.array(list(merged.values())).reshape(-1, 3).T
    return columns[0], np.maximum(np.minimum(columns[1], greatest), columns[0]), columns[2]


def affine_reference(statistics: TensorStatistics, steps: int) -> Range:
    def error_over(coarse: bool) -> Callable[[float, float], float]:
        negative, positive = half(statistics, True, coarse), half(statistics, False, coarse)

        def error(lo: float, hi: float) -> float:
            scale = (hi - lo) / steps
            if not scale > 0.0:
                return math.inf
            zero = int(min(max(round(-lo / scale), 0), steps))
            return error_of(positive, scale, steps - zero) + error_of(negative, scale, zero)

        return error

    fine, coarse, observed = error_over(False), error_over(True), statistics.range
    low, high = -observed.lo, observed.hi
    if low == 0.0:
        return Range(0.0, least(lambda hi: fine(0.0, hi), high))
    if high == 0.0:
        return Range(-least(lambda lo: fine(-lo, 0.0), low), 0.0)
    both = least(lambda t: coarse(-min(t, low), min(t, high)), observed.threshold)
    starts = [(-low, high), (-min(both, low), min(both, high)), (-low, least(lambda hi: coarse(-low, hi), high))]
    starts.append((-least(lambda lo: coarse(-lo, high), low), high))
    lo, hi = min(starts, key=lambda ends: fine(*ends))
    best = fine(lo, hi)
    for _ in range(3):
        before = best
        new, found = golden(lambda t, lo=lo: fine(lo, t), hi * 0.85, min(hi / 0.85, high))  # type: ignore[misc]
        hi, best = (new, found) if found < best else (hi, best)
        new, found = golden(lambda t, hi=hi: fine(-t, hi), -lo * 0.85, min(-lo / 0.85, low))  # type: ignore[misc]
        lo, best = (-new, found) if found < best else (lo, best)
        if best == before:
            break
    return Range(lo, hi)


def statistics_of(seed: int, kind: str) -> TensorStatistics:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(int(rng.integers(1, 60))) * 10.0 ** rng.uniform(-3, 3)
    x = {"two-sided": x, "positive": np.abs(x), "negative": -np.abs(x), "relu": np.maximum(x, 0.0)}[kind]
    observer = Observer()
    observer.observe(np.concatenate([x, np.zeros(rng.integers(0, 3))]))
    return observer.statistics()


@pytest.mark.parametrize("kind", ["two-sided", "positive", "negative", "relu"])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.sampled_from([255, 15]))
def test_mse_affine_has_the_bits_of_the_definition(kind: str, seed: int, steps: int) -> None:
    statistics = statistics_of(seed, kind)
    assert affine_mse_range(statistics, steps=steps) == affine_reference(statistics, steps)


@pytest.mark.parametrize("kind", ["two-sided", "positive", "relu"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32), qmax=st.sampled_from([127, 7]))
def test_mse_symmetric_has_the_bits_of_the_definition(kind: str, seed: int, qmax: int) -> None:
    statistics = statistics_of(seed, kind)
    bins, counts = statistics.magnitudes()
    greatest = statistics.range.threshold
    lower, upper = magnitude_edges(bins)
    table = lower, np.maximum(np.minimum(upper, greatest), lower), counts.astype(np.float64)
    expected = least(lambda t: error_of(table, t / (qmax + 0.5), qmax), greatest) if greatest else 0.0
    assert symmetric_mse_threshold(statistics, divisor=qmax + 0.5, qmax=qmax) == expected
