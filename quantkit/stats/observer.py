"""Observer: accumulates the statistics of a tensor batch by batch."""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quantkit.stats.bins import SHIFT
from quantkit.stats.kernel import Counters, count_bins, count_bins_numpy
from quantkit.stats.tensor import TensorStatistics

Kernel = Callable[[npt.NDArray[np.float32], Counters], tuple[float, float]]


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
        self._counters = Counters()
        self._lo, self._hi = np.inf, -np.inf
        self._nan = self._positive_infinities = self._negative_infinities = 0

    def observe(self, x: npt.NDArray[np.floating]) -> Shown:
        """Count all values of ``x``, any shape, converted to float32."""
        values = np.ascontiguousarray(x, np.float32)
        if values.size == 0:
            return Shown(0, np.inf, -np.inf)
        lo, hi = self._kernel(values, self._counters)
        if not -np.inf < lo <= hi < np.inf:
            return self._set_aside_non_finite(values)
        self._widen(lo, hi)
        return Shown(0, lo, hi)

    def absorb(self, other: "Observer") -> None:
        """Add the counts of another observer of the same tensor, which is empty afterwards."""
        other._counters.move(self._counters)
        self._widen(other._lo, other._hi)
        if other._counters.earlier.state.any():
            self.add(other.statistics())
        else:
            self._add_non_finite(other._nan, other._positive_infinities, other._negative_infinities)
        other._forget()

    def add(self, statistics: TensorStatistics) -> None:
        """Add statistics counted elsewhere."""
        self._counters.earlier.add(statistics.bins, statistics.counts, statistics.zeros)
        if statistics.count:
            self._widen(statistics.lo, statistics.hi)
        self._add_non_finite(statistics.nan, statistics.positive_infinities, statistics.negative_infinities)

    def statistics(self) -> TensorStatistics:
        """Return the statistics of all observed values."""
        self._counters.move(self._counters)
        earlier = self._counters.earlier
        bins, zeros = earlier.occupied(), int(earlier.state[2])
        counts = earlier.by_bin[bins]
        if zeros and (bins.size == 0 or bins[0] != 0):
            bins, counts = np.insert(bins, 0, 0), np.insert(counts, 0, 0)
        if zeros:
            counts[0] += zeros
        empty = bins.size == 0
        return TensorStatistics(
            bins,
            counts,
            int(counts.sum()),
            zeros,
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
        self._counters.move(self._counters)
        self._counters.earlier.add(bins, -counts, 0)
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
        self._counters.earlier.clear()
        self._lo, self._hi = np.inf, -np.inf
        self._nan = self._positive_infinities = self._negative_infinities = 0


def default_kernel() -> Kernel:
    """Return the compiled kernel, or the numpy one if ``QUANTKIT_KERNEL=numpy`` is set."""
    return count_bins_numpy if os.environ.get("QUANTKIT_KERNEL") == "numpy" else count_bins
