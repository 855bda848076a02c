"""Observer: consumes the values of one tensor batch by batch, and yields their statistics."""

import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from quantkit.stats.bins import BINS, NON_FINITE_BIN, SHIFT, SIGN_BIN
from quantkit.stats.kernel import SLOTS, Bits, Counts, Extremes, count_bins, count_bins_numpy
from quantkit.stats.tensor import TensorStatistics

# Below the capacity of the uint32 counters by more than any one tensor adds.
_DRAIN_AT = 1 << 31

_POSITIVE_INFINITY = 0x7F800000
_NEGATIVE_INFINITY = 0xFF800000


class Observer:
    """Counts the values of one tensor; memory is fixed, whatever it is shown.

    One thread at a time may show it values; several observers of one tensor merge exactly.
    """

    def __init__(self, kernel: Callable[[Bits, Counts], Extremes] | None = None) -> None:
        self._kernel = kernel or default_kernel()
        self._counts = np.zeros(SLOTS, np.uint32)
        self._pending = 0
        self._lo = np.inf
        self._hi = -np.inf
        self._drained = TensorStatistics.empty()

    def observe(self, x: npt.NDArray[np.floating]) -> int:
        """Count all values of ``x``, any shape, converted to float32; return how many were NaN or infinite."""
        values = np.ascontiguousarray(x, np.float32).reshape(-1)
        if values.size == 0:
            return 0
        if values.size + self._pending >= _DRAIN_AT:
            self._drain()
        extremes = self._kernel(values.view(np.uint32), self._counts)
        self._pending += values.size
        if extremes.signed_max >= _POSITIVE_INFINITY or extremes.unsigned_max >= _NEGATIVE_INFINITY:
            return self._set_aside_non_finite(values)
        self._widen(*_as_numbers(extremes))
        return 0

    def statistics(self) -> TensorStatistics:
        """Return the statistics of everything shown so far."""
        self._drain()
        return self._drained

    def _set_aside_non_finite(self, values: npt.NDArray[np.float32]) -> int:
        finite = np.isfinite(values)
        strange = values[~finite]
        # They were counted in the bins of exponent 255; take them out again.
        bins, counts = np.unique(strange.view(np.uint32) >> np.uint32(SHIFT), return_counts=True)
        self._counts[bins] -= counts.astype(np.uint32)
        self._pending -= strange.size
        if finite.any():
            self._widen(float(values[finite].min()), float(values[finite].max()))
        self._drained = self._drained.merge(
            TensorStatistics(
                np.empty(0, np.uint32),
                np.empty(0, np.int64),
                0,
                0,
                0.0,
                0.0,
                nan=int(np.isnan(strange).sum()),
                positive_infinities=int((strange == np.inf).sum()),
                negative_infinities=int((strange == -np.inf).sum()),
            )
        )
        return int(strange.size)

    def _widen(self, lo: float, hi: float) -> None:
        self._lo, self._hi = min(self._lo, lo), max(self._hi, hi)

    def _drain(self) -> None:
        """Move the counters into the sparse int64 statistics."""
        if self._pending == 0:
            return
        zeros = int(self._counts[BINS:].sum(dtype=np.int64))
        bins = np.flatnonzero(self._counts[:BINS])
        counts = self._counts[bins].astype(np.int64)
        self._counts[bins] = 0
        self._counts[BINS:] = 0
        if zeros and bins.size and bins[0] == 0:
            counts[0] += zeros
        elif zeros:
            bins, counts = np.insert(bins, 0, 0), np.insert(counts, 0, zeros)
        assert not bins.size or not (bins % SIGN_BIN >= NON_FINITE_BIN).any()
        # A sum with 0.0 turns -0.0 into 0.0, so that equal statistics have equal bits.
        self._drained = self._drained.merge(
            TensorStatistics(
                bins.astype(np.uint32), counts, int(counts.sum()), zeros, float(self._lo) + 0.0, float(self._hi) + 0.0
            )
        )
        self._pending = 0
        self._lo, self._hi = np.inf, -np.inf


def default_kernel() -> Callable[[Bits, Counts], Extremes]:
    """Return the compiled kernel, or numpy's where ``QUANTKIT_KERNEL=numpy`` asks for it."""
    return count_bins_numpy if os.environ.get("QUANTKIT_KERNEL") == "numpy" else count_bins


def _as_numbers(extremes: Extremes) -> tuple[float, float]:
    """Return the least and the greatest value; see `Extremes` for why these patterns hold them."""
    any_negative = extremes.unsigned_max >= 0x80000000
    lowest = extremes.unsigned_max if any_negative else extremes.signed_min
    highest = extremes.signed_max if extremes.signed_max >= 0 else extremes.signed_min & 0xFFFFFFFF
    patterns = np.array([lowest, highest], np.uint32).view(np.float32)
    return float(patterns[0]), float(patterns[1])
