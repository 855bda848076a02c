"""The inner loop of a pass: counts the bins of a tensor, and finds its extremes.

`count_bins` is compiled by numba, releases the GIL, and caches its compiled code between runs; `count_bins_numpy`
computes the same integers without numba.

Counting is bound by one store per value, so only latency can be saved. While a block is counted the next one is
prefetched into the cache, and so are the counters before a tensor is counted: with some hundred kilobytes of counters
per tensor, and the inference in between, they are no longer cached from the previous image.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir as llvm
from numba.core import types
from numba.extending import intrinsic

from quantkit.stats.bins import BINS, MANTISSA_BITS, SHIFT

Counts = npt.NDArray[np.uint32]
Bits = npt.NDArray[np.uint32]

# Half of the outputs of a ReLU are zeros. If they were counted in one bin, every increment would wait for the previous
# one (a store-to-load stall), so they are distributed over ZERO_SLOTS slots after the last bin.
ZERO_SLOTS = 8
SLOTS = BINS + ZERO_SLOTS

# The extremes are found block by block, just before the block is counted, while it is in the first-level cache.
_BLOCK = 2048
# Values or counters per cache line of 64 bytes; on processors with other lines only the speed differs.
_LINE = 16
# Range of counters below a tensor's largest magnitude to prefetch; smaller values are rare.
_NEAR = 12 << MANTISSA_BITS
# Number of bins per block when counters are moved.
_SCAN = 256

_SHIFT = np.uint32(SHIFT)
_ONE = np.uint32(1)
_MAGNITUDE = np.uint32(0x7FFFFFFF)


class Extremes(NamedTuple):
    """Extremes of the bit patterns of a tensor, which determine its extremes as numbers.

    Attributes:
        signed_max: largest pattern as int32: the largest value unless all are negative.
        signed_min: smallest pattern as int32: the negative value nearest zero, or the smallest non-negative one.
        unsigned_max: largest pattern as uint32: the most negative value, if any is negative.
    """

    signed_max: int
    signed_min: int
    unsigned_max: int


def _generate_fetch(_: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, flag = llvm.IntType(8).as_pointer(), llvm.IntType(32)
        kind = llvm.FunctionType(llvm.VoidType(), [byte, flag, flag, flag])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(function, [address, flag(0), flag(3), flag(1)])  # to be read, kept near, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


# Prefetches the cache line of ``array[index]``, which may be beyond the end.
_fetch: Any = intrinsic(_generate_fetch)


@numba.njit(nogil=True, cache=True)
def _count_bins(
    bits: Bits, counts: Counts, shift: np.uint32, positive_top: int, negative_top: int
) -> tuple[np.int32, np.int32, np.uint32]:
    # The number of bins follows from the arguments: compiled code is cached between runs, and with a constant of
    # another module that has changed it would write beyond the end of ``counts``.
    bins = counts.size - ZERO_SLOTS
    if (0xFFFFFFFF >> shift) + 1 != bins:
        raise ValueError("counts must have one slot for every bin")
    for i in range(max(positive_top - _NEAR, 0), positive_top + 1, _LINE):
        _fetch(counts, i)
    for i in range(max(negative_top - _NEAR, bins // 2), negative_top + 1, _LINE):
        _fetch(counts, i)
    signed_max, signed_min, unsigned_max = np.int32(-0x80000000), np.int32(0x7FFFFFFF), np.uint32(0)
    for start in range(0, bits.size, _BLOCK):
        block = bits[start : min(start + _BLOCK, bits.size)]
        signed = block.view(np.int32)
        for i in range(block.size):
            signed_max = max(signed_max, signed[i])
            signed_min = min(signed_min, signed[i])
            unsigned_max = max(unsigned_max, block[i])
        whole = block.size // _LINE * _LINE
        for i in range(0, whole, _LINE):
            _fetch(bits, start + _BLOCK + i)
            for j in range(_LINE):
                pattern = block[i + j]
                index = np.uint32(bins + j % ZERO_SLOTS) if pattern & _MAGNITUDE == 0 else pattern >> shift
                counts[index] += _ONE
        for i in range(whole, block.size):
            index = np.uint32(bins) if block[i] & _MAGNITUDE == 0 else block[i] >> shift
            counts[index] += _ONE
    return signed_max, signed_min, unsigned_max


@numba.njit(nogil=True, cache=True)
def _move_stretch(recent: Counts, counts: npt.NDArray[np.int64], end: int) -> int:
    start = max(end - _SCAN, 0)
    occupied = np.uint32(0)
    for i in range(start, end):  # most stretches are empty, and this loop is vectorized
        occupied |= recent[i]
    moved = 0
    if occupied != 0:
        for i in range(start, end):
            moved += recent[i]
            counts[i] += recent[i]
            recent[i] = 0
    return moved


@numba.njit(nogil=True, cache=True)
def move_counts(
    recent: Counts,
    positive: npt.NDArray[np.int64],
    negative: npt.NDArray[np.int64],
    positive_stop: int,
    negative_stop: int,
    total: int,
) -> tuple[int, int]:
    """Add the uint32 counters of bins to the int64 counters of each sign, and set them to zero.

    Counters are moved from the largest magnitude down until all counts are moved: lower bins were never occupied, and
    reading them would allocate memory.

    Args:
        recent: the counters of all bins.
        positive: the counters of positive values.
        negative: the counters of negative values.
        positive_stop: end of the occupied positive bins.
        negative_stop: end of the occupied negative bins.
        total: the sum of ``recent``.

    Returns:
        The counts moved to each sign.
    """
    signs = positive.size
    moved_positive, moved_negative = 0, 0
    while moved_positive + moved_negative < total and max(positive_stop, negative_stop) > 0:
        moved_positive += _move_stretch(recent[:signs], positive, positive_stop)
        moved_negative += _move_stretch(recent[signs:], negative, negative_stop)
        positive_stop -= _SCAN
        negative_stop -= _SCAN
    return moved_positive, moved_negative


@numba.njit(nogil=True, cache=True)
def occupied_bins(counts: npt.NDArray[np.int64], stop: int, total: int) -> npt.NDArray[np.uint32]:
    """Return the occupied bins among the first ``stop``, ascending; their counts sum to ``total``."""
    first, left, found = stop, total, 0
    while first > 0 and left > 0:
        first -= 1
        left -= counts[first]
        found += counts[first] != 0
    bins = np.empty(found, np.uint32)
    found = 0
    for i in range(first, stop):
        if counts[i] != 0:
            bins[found] = i
            found += 1
    return bins


def count_bins(bits: Bits, counts: Counts, tops: tuple[int, int]) -> Extremes:
    """Add the bins of a tensor to ``counts`` and return the extremes of its bit patterns.

    Args:
        bits: uint32 ``[n]``, contiguous, n > 0: float32 values viewed as integers.
        counts: uint32 ``[SLOTS]``; updated in place. Zeros are counted in the slots after the last bin.
        tops: the bins of the largest positive and the most negative value expected, 0 for none; affects only speed.
    """
    return Extremes(*map(int, _count_bins(bits, counts, _SHIFT, *tops)))


def count_bins_numpy(bits: Bits, counts: Counts, tops: tuple[int, int]) -> Extremes:
    """Compute the same counts as `count_bins`, without compiled code."""
    zero = bits & _MAGNITUDE == 0
    counts[BINS] += np.uint32(np.count_nonzero(zero))
    occupied = np.bincount(bits[~zero] >> _SHIFT)
    counts[: occupied.size] += occupied.astype(np.uint32)
    signed = bits.view(np.int32)
    return Extremes(int(signed.max()), int(signed.min()), int(bits.max()))
