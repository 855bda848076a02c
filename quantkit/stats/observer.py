"""Observer: accumulates the statistics of a tensor batch by batch."""

import mmap
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from quantkit.stats.bins import BINS, SHIFT, SIGN_BIN, bin_of
from quantkit.stats.kernel import (
    SLOTS,
    Bits,
    Counters,
    Extremes,
    count_bins,
    count_bins_numpy,
    move_counts,
    occupied_bins,
)
from quantkit.stats.tensor import TensorStatistics

# Below the capacity of the uint32 counters by more than any single tensor adds.
_DRAIN_AT = 1 << 31

_POSITIVE_INFINITY = 0x7F800000
_NEGATIVE_INFINITY = 0xFF800000


Kernel = Callable[[Bits, Counters, tuple[int, int]], Extremes]


class Shown(NamedTuple):
    """Summary of the values of one call of `Observer.observe`.

    Attributes:
        non_finite: number of NaN or infinite values.
        lo: smallest finite value; infinity if there is none.
        hi: largest finite value; minus infinity if there is none.
    """

    non_finite: int
    lo: float
    hi: float


class Observer:
    """Counts the values of one tensor in constant memory.

    Only one thread at a time may call `observe`. Observers of one tensor can be merged exactly (`absorb`), in any
    order.
    """

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel = kernel or default_kernel()
        self._counters = Counters(_counters(SLOTS, np.uint32))
        self._recent = self._counters.counts
        self._recent_count = 0
        self._tops = (0, 0)
        # Without zeros, which would extend every search for occupied bins to the first bin.
        self._counts = (_counters(SIGN_BIN, np.int64), _counters(SIGN_BIN, np.int64))
        self._totals = (0, 0)
        self._drained = False
        self._zeros = 0
        self._lo, self._hi = np.inf, -np.inf
        self._nan = self._positive_infinities = self._negative_infinities = 0

    def observe(self, x: npt.NDArray[np.floating]) -> Shown:
        """Count all values of ``x``, any shape, converted to float32."""
        values = np.ascontiguousarray(x, np.float32).reshape(-1)
        if values.size == 0:
            return Shown(0, np.inf, -np.inf)
        if values.size + self._recent_count >= _DRAIN_AT:
            self._drain_into(self)
        extremes = self._kernel(values.view(np.uint32), self._counters, self._tops)
        positive, negative = self._tops
        self._tops = max(positive, extremes.signed_max >> SHIFT), max(negative, extremes.unsigned_max >> SHIFT)
        self._recent_count += values.size
        if extremes.signed_max >= _POSITIVE_INFINITY or extremes.unsigned_max >= _NEGATIVE_INFINITY:
            return self._set_aside_non_finite(values)
        shown = Shown(0, *_as_numbers(extremes))
        self._widen(shown.lo, shown.hi)
        return shown

    def absorb(self, other: "Observer") -> None:
        """Add the counts of another observer of the same tensor, which is empty afterwards."""
        if other._drained:
            self.add(other.statistics())
        else:
            other._drain_into(self)
            self._add_non_finite(other._nan, other._positive_infinities, other._negative_infinities)
        other._forget()

    def add(self, statistics: TensorStatistics) -> None:
        """Add statistics counted elsewhere."""
        split = int(np.searchsorted(statistics.bins, SIGN_BIN))
        self._counts[0][statistics.bins[:split]] += statistics.counts[:split]
        self._counts[1][statistics.bins[split:] - np.uint32(SIGN_BIN)] += statistics.counts[split:]
        if statistics.zeros:
            self._counts[0][0] -= statistics.zeros
        negative = int(statistics.counts[split:].sum())
        self._count(statistics.count - statistics.zeros - negative, negative, statistics.zeros)
        if statistics.count:
            self._widen(statistics.lo, statistics.hi)
        self._drained = True
        self._add_non_finite(statistics.nan, statistics.positive_infinities, statistics.negative_infinities)

    def statistics(self) -> TensorStatistics:
        """Return the statistics of all observed values."""
        self._drain_into(self)
        magnitudes = [
            occupied_bins(half, stop, total)
            for half, stop, total in zip(self._counts, self._stops(), self._totals, strict=True)
        ]
        counts = np.concatenate([half[occupied] for half, occupied in zip(self._counts, magnitudes, strict=True)])
        bins = np.concatenate([magnitudes[0], magnitudes[1] + np.uint32(SIGN_BIN)])
        if self._zeros and (bins.size == 0 or bins[0] != 0):
            bins, counts = np.insert(bins, 0, 0), np.insert(counts, 0, 0)
        if self._zeros:
            counts[0] += self._zeros
        empty = bins.size == 0
        return TensorStatistics(
            bins,
            counts,
            int(counts.sum()),
            self._zeros,
            # Adding 0.0 turns -0.0 into 0.0, so that equal statistics are bit-identical.
            0.0 if empty else float(self._lo) + 0.0,
            0.0 if empty else float(self._hi) + 0.0,
            self._nan,
            self._positive_infinities,
            self._negative_infinities,
        )

    def take(self) -> TensorStatistics:
        """Return the statistics of everything shown so far; the observer is empty afterwards."""
        taken = self.statistics()
        self._forget()
        return taken

    def _set_aside_non_finite(self, values: npt.NDArray[np.float32]) -> Shown:
        finite = np.isfinite(values)
        strange = values[~finite]
        # They were counted in the bins of exponent 255; take them out again.
        bins, counts = np.unique(strange.view(np.uint32) >> np.uint32(SHIFT), return_counts=True)
        self._recent[bins] -= counts.astype(np.uint32)
        self._recent_count -= strange.size
        lo, hi = (float(end(values[finite], initial=start)) for end, start in ((np.min, np.inf), (np.max, -np.inf)))
        self._widen(lo, hi)
        self._add_non_finite(
            int(np.isnan(strange).sum()), int((strange == np.inf).sum()), int((strange == -np.inf).sum())
        )
        return Shown(int(strange.size), lo, hi)

    def _widen(self, lo: float, hi: float) -> None:
        self._lo, self._hi = min(self._lo, lo), max(self._hi, hi)

    def _add_non_finite(self, nan: int, positive_infinities: int, negative_infinities: int) -> None:
        self._nan += nan
        self._positive_infinities += positive_infinities
        self._negative_infinities += negative_infinities

    def _forget(self) -> None:
        if self._drained:
            for half, stop in zip(self._counts, self._stops(), strict=True):
                half[:stop] = 0
        self._drained = False
        self._totals = (0, 0)
        self._zeros = self._nan = self._positive_infinities = self._negative_infinities = 0
        self._lo, self._hi = np.inf, -np.inf

    def _drain_into(self, other: "Observer") -> None:
        """Move the uint32 counters to the int64 ones of ``other``, which may be this observer."""
        other._widen(self._lo, self._hi)
        if self._recent_count == 0:
            return
        zeros = int(self._recent[BINS:].sum(dtype=np.int64))
        moved = move_counts(self._recent[:BINS], *other._counts, *self._stops(), self._recent_count - zeros)
        other._count(*moved, zeros)
        other._drained = True
        self._recent[BINS:] = 0
        self._recent_count = 0

    def _count(self, positive: int, negative: int, zeros: int) -> None:
        self._totals = self._totals[0] + positive, self._totals[1] + negative
        self._zeros += zeros

    def _stops(self) -> tuple[int, int]:
        """Return the end of the bins that can be occupied, for positive and for negative values."""
        ends = bin_of(np.array([max(self._hi, 0.0), max(-self._lo, 0.0)], np.float32))
        return int(ends[0]) + 1, int(ends[1]) + 1


def _counters(size: int, dtype: type[np.uint32] | type[np.int64]) -> npt.NDArray[Any]:
    """Return zeros that allocate memory only for occupied bins.

    The memory is mapped from the system, because `numpy.zeros` may reuse memory and clear all of it.
    """
    size_bytes = size * np.dtype(dtype).itemsize
    if not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(size, dtype)
    return np.frombuffer(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype)


def default_kernel() -> Kernel:
    """Return the compiled kernel, or the numpy one if ``QUANTKIT_KERNEL=numpy`` is set."""
    return count_bins_numpy if os.environ.get("QUANTKIT_KERNEL") == "numpy" else count_bins


def _as_numbers(extremes: Extremes) -> tuple[float, float]:
    """Return the smallest and the largest value; see `Extremes`."""
    any_negative = extremes.unsigned_max >= 0x80000000
    lowest = extremes.unsigned_max if any_negative else extremes.signed_min
    highest = extremes.signed_max if extremes.signed_max >= 0 else extremes.signed_min & 0xFFFFFFFF
    patterns = np.array([lowest, highest], np.uint32).view(np.float32)
    return float(patterns[0]), float(patterns[1])
