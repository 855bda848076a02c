"""The inner loop of a pass: count the bins of one tensor, and find its extremes.

`count_bins` is compiled by numba, releases the GIL, and keeps its compiled code between runs; `count_bins_numpy`
gives the same integers without it.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from quantkit.stats.bins import BINS, SHIFT

Counts = npt.NDArray[np.uint32]
Bits = npt.NDArray[np.uint32]

# Zeros are half of what a ReLU gives. Counting them all in one bin makes every increment wait for the one before
# (a store-to-load stall), so they go round ZERO_SLOTS places behind the last bin.
ZERO_SLOTS = 8
SLOTS = BINS + ZERO_SLOTS

# The extremes are found block by block, just before the block is counted, while it lies in the first-level cache.
_BLOCK = 4096
# Bins looked at together when counters are moved.
_SCAN = 256

_SHIFT = np.uint32(SHIFT)
_ONE = np.uint32(1)
_MAGNITUDE = np.uint32(0x7FFFFFFF)


class Extremes(NamedTuple):
    """Extremes of the bit patterns of a tensor, from which its extremes as numbers follow.

    Attributes:
        signed_max: greatest pattern read as int32: the largest value unless all are negative.
        signed_min: least pattern read as int32: the negative value nearest zero, or the least non-negative one.
        unsigned_max: greatest pattern read as uint32: the most negative value, if any is negative.
    """

    signed_max: int
    signed_min: int
    unsigned_max: int


@numba.njit(nogil=True, cache=True)
def _count_bins(bits: Bits, counts: Counts, shift: np.uint32) -> tuple[np.int32, np.int32, np.uint32]:
    # The number of bins comes in with the arguments: compiled code is kept between runs, and a constant of another
    # module that changed since would have it write behind the end of ``counts``.
    bins = counts.size - ZERO_SLOTS
    if (0xFFFFFFFF >> shift) + 1 != bins:
        raise ValueError("counts does not have one place for every bin")
    signed_max, signed_min, unsigned_max = np.int32(-0x80000000), np.int32(0x7FFFFFFF), np.uint32(0)
    for start in range(0, bits.size, _BLOCK):
        block = bits[start : min(start + _BLOCK, bits.size)]
        signed = block.view(np.int32)
        for i in range(block.size):
            signed_max = max(signed_max, signed[i])
            signed_min = min(signed_min, signed[i])
            unsigned_max = max(unsigned_max, block[i])
        whole = block.size // ZERO_SLOTS * ZERO_SLOTS
        for i in range(0, whole, ZERO_SLOTS):
            for slot in range(ZERO_SLOTS):
                pattern = block[i + slot]
                index = np.uint32(bins + slot) if pattern & _MAGNITUDE == 0 else pattern >> shift
                counts[index] += _ONE
        for i in range(whole, block.size):
            index = np.uint32(bins) if block[i] & _MAGNITUDE == 0 else block[i] >> shift
            counts[index] += _ONE
    return signed_max, signed_min, unsigned_max


@numba.njit(nogil=True, cache=True)
def move_counts(recent: Counts, counts: npt.NDArray[np.int64], stop: int) -> None:
    """Add the uint32 counters of the first ``stop`` bins to the int64 ones and set them to zero."""
    for start in range(0, stop, _SCAN):
        end = min(start + _SCAN, stop)
        occupied = np.uint32(0)
        for i in range(start, end):  # most stretches are empty, and this loop is vectorized
            occupied |= recent[i]
        if occupied != 0:
            for i in range(start, end):
                counts[i] += recent[i]
                recent[i] = 0


@numba.njit(nogil=True, cache=True)
def occupied_bins(counts: npt.NDArray[np.int64], stop: int) -> npt.NDArray[np.uint32]:
    """Return those of the first ``stop`` bins that hold something, ascending."""
    found = 0
    for i in range(stop):
        found += counts[i] != 0
    bins = np.empty(found, np.uint32)
    found = 0
    for i in range(stop):
        if counts[i] != 0:
            bins[found] = i
            found += 1
    return bins


def count_bins(bits: Bits, counts: Counts) -> Extremes:
    """Add the bins of a tensor to ``counts`` and return the extremes of its bit patterns.

    Args:
        bits: uint32 ``[n]``, contiguous, n > 0: float32 values viewed as integers.
        counts: uint32 ``[SLOTS]``; changed in place. Zeros are counted in the slots behind the last bin.
    """
    return Extremes(*map(int, _count_bins(bits, counts, _SHIFT)))


def count_bins_numpy(bits: Bits, counts: Counts) -> Extremes:
    """Do what `count_bins` does, with the same counts in the bins, without compiled code."""
    zero = bits & _MAGNITUDE == 0
    counts[BINS] += np.uint32(np.count_nonzero(zero))
    occupied = np.bincount(bits[~zero] >> _SHIFT)
    counts[: occupied.size] += occupied.astype(np.uint32)
    signed = bits.view(np.int32)
    return Extremes(int(signed.max()), int(signed.min()), int(bits.max()))
