"""The inner loop of a pass: counts the bins of a tensor, and finds its extremes.

`count_bins` is compiled (`quantkit.kernels`) and releases the GIL; `count_bins_numpy` computes the same integers
without compiled code.

Counting is bound by one store per value, so only latency can be saved. While a block is counted the next one is
prefetched into the cache, and so are the counters before a tensor is counted: with some hundred kilobytes of counters
per tensor, and the inference in between, they are no longer cached from the previous image.

On processors with AVX-512 the bins of nonzero values are first moved together in vector registers, where a block has
many zeros: then zeros, half of the values after a ReLU, need no store.
"""

from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from quantkit.kernels import Address, inlined, kernel
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

_ONE = np.uint32(1)
_MAGNITUDE = np.uint32(0x7FFFFFFF)


# Whether the processor moves the bins of nonzero values together in a few instructions.
COMPRESS = bool(llvm.get_host_cpu_features().get("avx512f"))
# Values that are moved together before they are counted.
_STRETCH = 256
# Values at the start of a block that decide whether it has enough zeros, one in eight, for this to be faster.
_SAMPLE = 64


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


def _fetch(array: Any, index: int) -> None:
    """Prefetch the cache line of ``array[index]``, which may be beyond the end; in compiled code (see `_names`)."""


def _compress(bits: Bits, start: int, shift: np.uint32, bins: Bits, found: int) -> int:
    """Append the bins of those of `_LINE` values that are not zero, and return how many there are then.

    ``bins`` needs room for `_LINE` more. In compiled code it takes a few vector instructions (see `_names`).
    """
    for i in range(start, start + _LINE):
        if bits[i] & _MAGNITUDE != 0:
            bins[found] = bits[i] >> shift
            found += 1
    return found


def _names() -> dict[str, Any]:
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    @intrinsic
    def fetch(_: Any, pointer: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
            function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
            address = builder.bitcast(builder.gep(*arguments[:1], arguments[1:]), byte)
            builder.call(function, [address, flag(0), flag(3), flag(1)])  # to be read, kept near, data
            return context.get_dummy_value()

        return types.void(pointer, types.intp), generate

    @intrinsic
    def compress(_: Any, bits: Any, start: Any, shift: Any, bins: Any, found: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            bits, start, shift, bins, found = arguments
            word = ir.IntType(32)
            vector, mask = ir.VectorType(word, _LINE), ir.VectorType(ir.IntType(1), _LINE)

            def splat(value: Any) -> Any:
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, word(0))
                return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(word, _LINE), [0] * _LINE))

            place = builder.bitcast(builder.gep(bits, [start]), vector.as_pointer())
            values = builder.load(place, align=4)
            magnitudes = builder.and_(values, ir.Constant(vector, [int(_MAGNITUDE)] * _LINE))
            kept = builder.icmp_unsigned("!=", magnitudes, ir.Constant(vector, [0] * _LINE))
            kind = ir.FunctionType(vector, [vector, mask, vector])
            function = ir.Function(builder.module, kind, f"llvm.experimental.vector.compress.v{_LINE}i32")
            shifted = builder.lshr(values, splat(shift))
            packed = builder.call(function, [shifted, kept, ir.Constant(vector, ir.Undefined)])
            builder.store(packed, builder.bitcast(builder.gep(bins, [found]), vector.as_pointer()), align=4)
            number = builder.ctpop(builder.bitcast(kept, ir.IntType(_LINE)))
            return builder.add(found, builder.zext(number, found.type))

        return types.intp(bits, types.intp, types.uint32, bins, types.intp), generate

    return {"_fetch": fetch, "_compress": compress}


@inlined
def _compress_all(bits: Bits, start: int, stop: int, shift: np.uint32, bins: Bits) -> int:
    """Write the bins of the values in [start, stop) that are not zero, and return their number."""
    found = 0
    for i in range(start, stop, _LINE):
        _fetch(bits, i + _BLOCK)
        found = _compress(bits, i, shift, bins, found)
    return found


@kernel("void", "uint32*", "int64", "uint32*", "int64", "uint32", "int64", "int64", "uint32*", "int64*", names=_names)
def _count_bins(
    bits: Bits,
    size: int,
    counts: Counts,
    bins: int,
    shift: np.uint32,
    positive_top: int,
    negative_top: int,
    scratch: Bits,
    extremes: npt.NDArray[np.int64],
) -> None:
    """Count the bins and write the `Extremes`; ``scratch`` has room for `_STRETCH` + `_LINE` bins."""
    for i in range(max(positive_top - _NEAR, 0), positive_top + 1, _LINE):
        _fetch(counts, i)
    for i in range(max(negative_top - _NEAR, bins // 2), negative_top + 1, _LINE):
        _fetch(counts, i)
    signed_max, signed_min, unsigned_max = np.int32(-0x80000000), np.int32(0x7FFFFFFF), np.uint32(0)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        for i in range(start, stop):
            signed_max = max(signed_max, np.int32(bits[i]))
            signed_min = min(signed_min, np.int32(bits[i]))
            unsigned_max = max(unsigned_max, bits[i])
        whole = start + (stop - start) // _LINE * _LINE
        sparse = False
        if COMPRESS and whole - start >= _SAMPLE:
            sparse = _compress_all(bits, start, start + _SAMPLE, shift, scratch) <= _SAMPLE - _SAMPLE // 8
        for stretch in range(start, whole if sparse else start, _STRETCH):
            end = min(stretch + _STRETCH, whole)
            found = _compress_all(bits, stretch, end, shift, scratch)
            counts[bins] += np.uint32(end - stretch - found)
            for i in range(found):
                counts[scratch[i]] += _ONE
        for i in range(whole if sparse else start, whole, _LINE):
            _fetch(bits, i + _BLOCK)
            for j in range(_LINE):
                pattern = bits[i + j]
                index = np.uint32(bins + j % ZERO_SLOTS) if pattern & _MAGNITUDE == 0 else pattern >> shift
                counts[index] += _ONE
        for i in range(whole, stop):
            index = np.uint32(bins) if bits[i] & _MAGNITUDE == 0 else bits[i] >> shift
            counts[index] += _ONE
    extremes[0], extremes[1], extremes[2] = signed_max, signed_min, unsigned_max


@inlined
def _move_stretch(recent: Counts, first: int, counts: npt.NDArray[np.int64], end: int) -> int:
    """Move up to `_SCAN` counters that end at ``end`` of those that begin at ``first``."""
    start = max(end - _SCAN, 0)
    occupied = np.uint32(0)
    for i in range(start, end):  # most stretches are empty, and this loop is vectorized
        occupied |= recent[first + i]
    moved = 0
    if occupied != 0:
        for i in range(start, end):
            moved += recent[first + i]
            counts[i] += recent[first + i]
            recent[first + i] = np.uint32(0)
    return moved


@kernel("void", "uint32*", "int64*", "int64*", "int64", "int64", "int64", "int64", "int64*")
def _move_counts(
    recent: Counts,
    positive: npt.NDArray[np.int64],
    negative: npt.NDArray[np.int64],
    signs: int,
    positive_stop: int,
    negative_stop: int,
    total: int,
    moved: npt.NDArray[np.int64],
) -> None:
    while moved[0] + moved[1] < total and max(positive_stop, negative_stop) > 0:
        moved[0] += _move_stretch(recent, 0, positive, positive_stop)
        moved[1] += _move_stretch(recent, signs, negative, negative_stop)
        positive_stop -= _SCAN
        negative_stop -= _SCAN


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
    moved = np.zeros(2, np.int64)
    _move_counts(recent, positive, negative, positive.size, positive_stop, negative_stop, total, moved)
    return int(moved[0]), int(moved[1])


@kernel("int64", "int64*", "int64", "int64", "int64*")
def _first_occupied(counts: npt.NDArray[np.int64], stop: int, total: int, found: npt.NDArray[np.int64]) -> int:
    """Return the first of the bins before ``stop`` whose counts sum to ``total``, and add the number occupied."""
    first, left = stop, total
    while first > 0 and left > 0:
        first -= 1
        left -= counts[first]
        found[0] += counts[first] != 0
    return first


@kernel("void", "int64*", "int64", "int64", "uint32*")
def _list_occupied(counts: npt.NDArray[np.int64], first: int, stop: int, bins: npt.NDArray[np.uint32]) -> None:
    found = 0
    for i in range(first, stop):
        if counts[i] != 0:
            bins[found] = np.uint32(i)
            found += 1


def occupied_bins(counts: npt.NDArray[np.int64], stop: int, total: int) -> npt.NDArray[np.uint32]:
    """Return the occupied bins among the first ``stop``, ascending; their counts sum to ``total``."""
    found = np.zeros(1, np.int64)
    first = _first_occupied(counts, stop, total, found)
    bins = np.empty(int(found[0]), np.uint32)
    _list_occupied(counts, first, stop, bins)
    return bins


class Counters:
    """The counters of one tensor's bins.

    Attributes:
        counts: uint32 ``[SLOTS]``. Zeros are counted in the slots after the last bin.
    """

    def __init__(self, counts: Counts) -> None:
        if counts.shape != (SLOTS,):
            raise ValueError("counts must have one slot for every bin")
        self.counts = counts
        self._counts, self._extremes = Address(counts), Address(np.empty(3, np.int64))
        self._scratch = Address(np.empty(_STRETCH + _LINE, np.uint32))

    def count(self, bits: Bits, tops: tuple[int, int]) -> Extremes:
        """Do what `count_bins` does."""
        _count_bins(bits, bits.size, self._counts, BINS, SHIFT, *tops, self._scratch, self._extremes)
        return Extremes(*self._extremes.array.tolist())


def count_bins(bits: Bits, counters: Counters, tops: tuple[int, int]) -> Extremes:
    """Count the bins of a tensor and return the extremes of its bit patterns.

    Args:
        bits: uint32 ``[n]``, contiguous, n > 0: float32 values viewed as integers.
        counters: updated in place, by one thread at a time.
        tops: the bins of the largest positive and the most negative value expected, 0 for none; affects only speed.
    """
    return counters.count(bits, tops)


def count_bins_numpy(bits: Bits, counters: Counters, tops: tuple[int, int]) -> Extremes:
    """Compute the same counts as `count_bins`, without compiled code."""
    counts = counters.counts
    zero = bits & _MAGNITUDE == 0
    counts[BINS] += np.uint32(np.count_nonzero(zero))
    occupied = np.bincount(bits[~zero] >> np.uint32(SHIFT))
    counts[: occupied.size] += occupied.astype(np.uint32)
    signed = bits.view(np.int32)
    return Extremes(int(signed.max()), int(signed.min()), int(bits.max()))
