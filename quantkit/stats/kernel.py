"""The inner loop of a pass: count the bins of one tensor, and find its extremes.

`count_bins` is compiled by numba, releases the GIL, and keeps its compiled code between runs; `count_bins_numpy`
gives the same integers without it.

Counting is bound by its stores, one a value; what can be saved is waiting. While a block is counted the next one is
fetched into the cache, and so are the counters before a tensor is begun: with some hundred kilobytes of counters a
tensor, and a model's own work in between, they have left it since the last image.
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

# Zeros are half of what a ReLU gives. Counting them all in one bin makes every increment wait for the one before
# (a store-to-load stall), so they go round ZERO_SLOTS places behind the last bin.
ZERO_SLOTS = 8
SLOTS = BINS + ZERO_SLOTS

# The extremes are found block by block, just before the block is counted, while it lies in the first-level cache.
_BLOCK = 2048
# Values or counters in a line of the cache, 64 bytes on the processors this runs on; elsewhere only speed suffers.
_LINE = 16
# How far below a tensor's greatest magnitude its counters are fetched ahead; smaller values are few.
_NEAR = 12 << MANTISSA_BITS
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


# Has a cache line read in the meantime: the one that holds ``array[index]``, which may lie beyond the end.
_fetch: Any = intrinsic(_generate_fetch)


@numba.njit(nogil=True, cache=True)
def _count_bins(
    bits: Bits, counts: Counts, shift: np.uint32, positive_top: int, negative_top: int
) -> tuple[np.int32, np.int32, np.uint32]:
    # The number of bins comes in with the arguments: compiled code is kept between runs, and a constant of another
    # module that changed since would have it write behind the end of ``counts``.
    bins = counts.size - ZERO_SLOTS
    if (0xFFFFFFFF >> shift) + 1 != bins:
        raise ValueError("counts does not have one place for every bin")
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
    """Add the uint32 counters of bins to the int64 ones of either sign and set them to zero.

    It goes from the greatest magnitude down until it has moved all there is: what lies below was never occupied, and
    is memory that the system would have to supply only to find it empty.

    Args:
        recent: the counters of all bins.
        positive: those of the bins of positive values.
        negative: those of the bins of negative values.
        positive_stop: behind which of the positive ones none is occupied.
        negative_stop: likewise, of the negative ones.
        total: the sum of ``recent``.

    Returns:
        How many were moved to either.
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
    """Return those of the first ``stop`` bins that hold something, ascending; all of them together hold ``total``."""
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
        counts: uint32 ``[SLOTS]``; changed in place. Zeros are counted in the slots behind the last bin.
        tops: the bins of the greatest positive and the most negative value expected, 0 where there is none; for speed
            alone.
    """
    return Extremes(*map(int, _count_bins(bits, counts, _SHIFT, *tops)))


def count_bins_numpy(bits: Bits, counts: Counts, tops: tuple[int, int]) -> Extremes:
    """Do what `count_bins` does, with the same counts in the bins, without compiled code."""
    zero = bits & _MAGNITUDE == 0
    counts[BINS] += np.uint32(np.count_nonzero(zero))
    occupied = np.bincount(bits[~zero] >> _SHIFT)
    counts[: occupied.size] += occupied.astype(np.uint32)
    signed = bits.view(np.int32)
    return Extremes(int(signed.max()), int(signed.min()), int(bits.max()))
