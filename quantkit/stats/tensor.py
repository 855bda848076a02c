"""Statistics of a tensor, the result of a pass and the input of every method."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from quantkit.numerics import Range
from quantkit.stats.bins import BINS, SIGN_BIN, bin_of

BinVector = npt.NDArray[np.uint32]
CountVector = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Histogram and exact extremes of all values of a tensor; statistics merge exactly, in any order.

    Invariants: ``bins`` ascend strictly and are finite bins, ``counts`` are positive and sum to ``count``; ``zeros``
    is at most the count of bin 0; ``lo <= hi``; with ``count == 0`` the extremes are 0 and the vectors empty.

    Attributes:
        bins: uint32 ``[k]``, occupied bins (see `quantkit.stats.bins`).
        counts: int64 ``[k]``.
        count: number of finite values.
        zeros: number of values equal to zero, of either sign.
        lo: smallest finite value, exact.
        hi: largest finite value, exact.
        nan: number of NaN values.
        positive_infinities: number of positive infinities.
        negative_infinities: number of negative infinities.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> statistics = quantkit.load_statistics("run/statistics.safetensors")
        >>> statistics.tensors["input"].range
        Range(lo=-1.0, hi=1.0)
    """

    bins: BinVector
    counts: CountVector
    count: int
    zeros: int
    lo: float
    hi: float
    nan: int = 0
    positive_infinities: int = 0
    negative_infinities: int = 0

    @classmethod
    def empty(cls) -> Self:
        """Return the statistics of no values: the neutral element of `merge`."""
        return cls(np.empty(0, np.uint32), np.empty(0, np.int64), 0, 0, 0.0, 0.0)

    @property
    def non_finite(self) -> int:
        """Number of values that are NaN or infinite."""
        return self.nan + self.positive_infinities + self.negative_infinities

    @property
    def range(self) -> Range:
        """The exact observed range, extended to contain zero."""
        return Range.around(self.lo, self.hi)

    @property
    def constant(self) -> bool:
        """Whether every value was the same."""
        return self.lo == self.hi

    def merge(self, other: "TensorStatistics") -> "TensorStatistics":
        """Return the statistics of the union of both sets of values."""
        if other.count == 0 or self.count == 0:
            lo, hi = (self.lo, self.hi) if self.count else (other.lo, other.hi)
        else:
            lo, hi = min(self.lo, other.lo), max(self.hi, other.hi)
        bins, counts = _add_sparse(self, other)
        return TensorStatistics(
            bins,
            counts,
            self.count + other.count,
            self.zeros + other.zeros,
            lo,
            hi,
            self.nan + other.nan,
            self.positive_infinities + other.positive_infinities,
            self.negative_infinities + other.negative_infinities,
        )

    def rectified(self) -> "TensorStatistics":
        """Return the statistics of ``max(x, 0)``, identical to observing it if all values are finite."""
        split = int(np.searchsorted(self.bins, SIGN_BIN))
        negative = int(self.counts[split:].sum())
        if not negative:
            return self
        bins, counts = self.bins[:split], self.counts[:split]
        if bins.size and bins[0] == 0:
            counts = np.concatenate([counts[:1] + negative, counts[1:]])
        else:
            bins = np.concatenate([np.zeros(1, np.uint32), bins])
            counts = np.concatenate([np.array([negative], np.int64), counts])
        return TensorStatistics(bins, counts, self.count, self.zeros + negative, max(self.lo, 0.0), max(self.hi, 0.0))

    def within(self, lo: float, hi: float) -> "TensorStatistics":
        """Return the statistics of the values from ``lo`` to ``hi``, both of which must be among the values.

        Values beyond an end are included if they share its bin, which means within 0.2 % of it.
        """
        if lo <= self.lo and hi >= self.hi:
            return self
        ends = bin_of(np.array([lo, hi], np.float32))
        first, last = _by_value(ends)
        places = _by_value(self.bins)
        kept = (first <= places) & (places <= last)
        bins, counts = self.bins[kept], self.counts[kept]
        zeros = self.zeros if bins.size and bins[0] == 0 else 0
        return replace(self, bins=bins, counts=counts, count=int(counts.sum()), zeros=zeros, lo=lo, hi=hi)

    def magnitudes(self) -> tuple[npt.NDArray[np.int64], CountVector]:
        """Return the histogram of ``|x|``: ascending magnitude bins (int64) and their counts."""
        negative = int(np.searchsorted(self.bins, SIGN_BIN))
        folded = np.concatenate([self.bins[:negative], self.bins[negative:] - np.uint32(SIGN_BIN)])
        bins, inverse = np.unique(folded, return_inverse=True)
        counts = np.zeros(bins.size, np.int64)
        np.add.at(counts, inverse, self.counts)
        return bins.astype(np.int64), counts

    def ascending(self) -> tuple[npt.NDArray[np.int64], CountVector]:
        """Return bins and counts ordered by value, from the most negative to the largest."""
        negative = int(np.searchsorted(self.bins, SIGN_BIN))
        order = np.concatenate([np.arange(self.bins.size - 1, negative - 1, -1), np.arange(negative)])
        return self.bins[order].astype(np.int64), self.counts[order]

    def identical(self, other: "TensorStatistics") -> bool:
        """Whether both are bit-identical."""
        return (
            np.array_equal(self.bins, other.bins)
            and np.array_equal(self.counts, other.counts)
            and replace(self, bins=other.bins, counts=other.counts).__dict__ == other.__dict__
        )

    def check(self) -> str | None:
        """Return the violated invariant, or None."""
        if self.bins.shape != self.counts.shape or self.bins.ndim != 1:
            return "bins and counts differ in length"
        if self.bins.size and (int(self.bins[-1]) >= BINS or (np.diff(self.bins.astype(np.int64)) <= 0).any()):
            return "the bins do not ascend"
        if (self.counts <= 0).any() or int(self.counts.sum()) != self.count:
            return "the counts do not add up"
        if not (np.isfinite([self.lo, self.hi]).all() and self.lo <= self.hi):
            return "the extremes are not in order"
        if not self._extremes_fit():
            return "the extremes are not in the outermost bins"
        if not 0 <= self.zeros <= (int(self.counts[0]) if self.bins.size and self.bins[0] == 0 else 0):
            return "there are more zeros than values near zero"
        if min(self.nan, self.positive_infinities, self.negative_infinities) < 0:
            return "a count is negative"
        return None

    def _extremes_fit(self) -> bool:
        if not self.bins.size:
            return self.lo == self.hi == 0.0
        with np.errstate(over="ignore"):  # values too large for float32 are in no finite bin
            lowest, highest = bin_of(np.array([self.lo, self.hi], np.float64).astype(np.float32)).tolist()
        ascending, _ = self.ascending()
        return bool(lowest == ascending[0] and highest == ascending[-1])


def _by_value(bins: BinVector) -> npt.NDArray[np.int64]:
    """Return sort keys of bins by value, the most negative first."""
    magnitude = bins.astype(np.int64)
    return np.where(magnitude >= SIGN_BIN, SIGN_BIN - 1 - magnitude, magnitude)


def _add_sparse(one: TensorStatistics, two: TensorStatistics) -> tuple[BinVector, CountVector]:
    bins = np.union1d(one.bins, two.bins)
    counts = np.zeros(bins.size, np.int64)
    counts[np.searchsorted(bins, one.bins)] += one.counts
    counts[np.searchsorted(bins, two.bins)] += two.counts
    return bins, counts
