"""The inner loop of a pass: counts the bins of a tensor, and finds its extremes.

`count_bins` is compiled (`quantkit.kernels`) and releases the GIL; `count_bins_numpy` computes the same integers
without compiled code.

A processor stores to one cache line per clock cycle, so counting takes at least one cycle per value that is not zero.
Everything else is arranged to run beside these stores:

- A thread counts all tensors in one table of uint32, which stays in the cache, and adds it to the int64 counts of the
  tensor afterwards, in order. Counts of its own, some hundred kilobytes per tensor, would have to be fetched again for
  every image, in no order.
- On processors with AVX-512 the bins of values that are not zero are moved together in vector registers, and extremes
  are found there: zeros, half of the values after a ReLU, need no store. The bins of a stretch are counted after those
  of the next one are written, because bins whose stores are pending are slow to read.
- Values and counts are prefetched.
"""

import mmap
import threading
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from quantkit.kernels import address, inlined, kernel
from quantkit.stats.bins import BINS, MANTISSA_BITS, SHIFT, SIGN_BIN

Bits = npt.NDArray[np.uint32]
Integers = npt.NDArray[np.int64]

# Half of the outputs of a ReLU are zeros. If they were counted in one bin, every increment would wait for the previous
# one (a store-to-load stall), so they are distributed over several slots after the last bin.
_ZERO_SLOTS = 8
# Values per cache line of 64 bytes; on processors with other lines only the speed differs.
_LINE = 16
# Values that are prefetched ahead.
_AHEAD = 2048
# Counts to prefetch: those of the bins below a tensor's largest magnitude, since smaller values are rare, and how many
# cache lines of each sign at a time.
_NEAR = 12 << MANTISSA_BITS
_LINES_PER_STRETCH = 4
# Without AVX-512, extremes are found block by block, just before a block is counted, while it is in the first cache.
_BLOCK = 2048
# Number of bins per block when counts are moved.
_SCAN = 256
# Size of the state of counts, see `Counts`.
_STATE = 5
# Values that uint32 counts hold at least, together with those of the largest tensor.
_CAPACITY = 1 << 31

# Whether the processor moves the bins of nonzero values together in a few instructions.
COMPRESS = bool(llvm.get_host_cpu_features().get("avx512f"))
# Values that are moved together before they are counted, and the room for their bins.
_STRETCH = 256
_ROOM = _STRETCH + _LINE

_ONE = np.uint32(1)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_SIGN = np.uint32(0x80000000)
_INT32_MIN, _INT32_MAX = np.int32(-0x80000000), np.int32(0x7FFFFFFF)


def _fetch(array: Any, index: int) -> None:
    """Prefetch the cache line of ``array[index]``, which may be beyond the end; in compiled code (see `_names`)."""


def _compress(bits: Bits, start: int, stop: int, bins: Bits, first: int, lanes: Bits) -> int:
    """Write the bins of nonzero values at ``bins[first:]``, update `_lanes`, and return the end of these bins.

    The number of values, ``stop - start``, is a multiple of `_LINE`. See `_names`.
    """
    raise NotImplementedError


def _names() -> dict[str, Any]:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    variable: Any = cgutils.alloca_once_value
    word = ir.IntType(32)
    vector, mask = ir.VectorType(word, _LINE), ir.VectorType(ir.IntType(1), _LINE)

    def all_lanes(value: int) -> Any:
        return ir.Constant(vector, [value] * _LINE)

    def vector_at(builder: Any, pointer: Any, index: Any) -> Any:
        return builder.bitcast(builder.gep(pointer, [index]), vector.as_pointer())

    @intrinsic
    def fetch(_: Any, pointer: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            byte = ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
            function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
            place = builder.bitcast(builder.gep(*arguments[:1], arguments[1:]), byte)
            builder.call(function, [place, word(0), word(3), word(1)])  # to be read, kept near, data
            return context.get_dummy_value()

        return types.void(pointer, types.intp), generate

    @intrinsic
    def compress(_: Any, bits: Any, start: Any, stop: Any, bins: Any, first: Any, lanes: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            bits, start, stop, bins, first, lanes = arguments
            index = first.type
            compressed = ir.FunctionType(vector, [vector, mask, vector])
            pack = ir.Function(builder.module, compressed, f"llvm.experimental.vector.compress.v{_LINE}i32")
            end = variable(builder, first)
            places = [vector_at(builder, lanes, index(lane * _LINE)) for lane in range(3)]
            extremes = [variable(builder, builder.load(place, align=4)) for place in places]
            compare = (builder.icmp_signed, ">"), (builder.icmp_signed, "<"), (builder.icmp_unsigned, ">")
            with cgutils.for_range_slice(builder, start, stop, index(_LINE), index) as (i, _):
                values = builder.load(vector_at(builder, bits, i), align=4)
                for slot, (function, operator) in zip(extremes, compare, strict=True):
                    one = builder.load(slot)
                    builder.store(builder.select(function(operator, values, one), values, one), slot)
                kept = builder.icmp_unsigned("!=", builder.and_(values, all_lanes(int(_MAGNITUDE))), all_lanes(0))
                shifted = builder.lshr(values, all_lanes(SHIFT))
                packed = builder.call(pack, [shifted, kept, ir.Constant(vector, ir.Undefined)])
                found = builder.load(end)
                builder.store(packed, vector_at(builder, bins, found), align=4)
                number = builder.zext(builder.ctpop(builder.bitcast(kept, ir.IntType(_LINE))), index)
                builder.store(builder.add(found, number), end)
            for slot, place in zip(extremes, places, strict=True):
                builder.store(builder.load(slot), place, align=4)
            return builder.load(end)

        return types.intp(bits, types.intp, types.intp, bins, types.intp, bits), generate

    return {"_fetch": fetch, "_compress": compress}


@inlined
def _count_listed(bins: Bits, first: int, stop: int, table: Bits) -> None:
    """Count the bins in ``bins[first:stop]``."""
    for i in range(first, stop):
        table[bins[i]] += _ONE


@inlined
def _count_compressed(
    bits: Bits, stop: int, table: Bits, bins: Bits, lanes: Bits, counts: Bits, state: Integers
) -> int:
    """Count the bins of nonzero values, update ``lanes``, and return how many values there are of these.

    The number of values is a multiple of `_LINE`. The ``counts`` that these will be added to are prefetched.
    """
    positive, negative = state[3], max(state[4], SIGN_BIN)
    positive_stop, negative_stop = max(positive - _NEAR, 0), max(negative - _NEAR, SIGN_BIN)
    total, waiting, waiting_stop = 0, 0, 0
    for start in range(0, stop, _STRETCH):
        first = start // _STRETCH % 2 * _ROOM
        end = _compress(bits, start, min(start + _STRETCH, stop), bins, first, lanes)
        for i in range(start + _AHEAD, start + _AHEAD + _STRETCH, _LINE):
            _fetch(bits, i)
        for _ in range(_LINES_PER_STRETCH):
            if positive > positive_stop:
                positive -= _LINE
                _fetch(counts, positive)
            if negative > negative_stop:
                negative -= _LINE
                _fetch(counts, negative)
        _count_listed(bins, waiting, waiting_stop, table)
        total += end - first
        waiting, waiting_stop = first, end
    _count_listed(bins, waiting, waiting_stop, table)
    return total


@inlined
def _count_each(bits: Bits, first: int, stop: int, table: Bits, lanes: Bits) -> None:
    """Count the bins of values, zeros after the last bin, and update the first of each of the ``lanes``."""
    signed_max, signed_min, unsigned_max = np.int32(lanes[0]), np.int32(lanes[_LINE]), lanes[2 * _LINE]
    for start in range(first, stop, _BLOCK):
        end = min(start + _BLOCK, stop)
        for i in range(start, end):
            signed_max = max(signed_max, np.int32(bits[i]))
            signed_min = min(signed_min, np.int32(bits[i]))
            unsigned_max = max(unsigned_max, bits[i])
        for i in range(start, end - _LINE + 1, _LINE):
            _fetch(bits, i + _AHEAD)
            for j in range(_LINE):
                pattern = bits[i + j]
                index = np.uint32(BINS + j % _ZERO_SLOTS) if pattern & _MAGNITUDE == 0 else pattern >> np.uint32(SHIFT)
                table[index] += _ONE
        for i in range(end - (end - start) % _LINE, end):
            index = np.uint32(BINS) if bits[i] & _MAGNITUDE == 0 else bits[i] >> np.uint32(SHIFT)
            table[index] += _ONE
    lanes[0], lanes[_LINE], lanes[2 * _LINE] = np.uint32(signed_max), np.uint32(signed_min), unsigned_max


@inlined
def _move_block(source: Any, counts: Any, start: int, stop: int) -> int:
    """Move the counts of bins in [start, stop), and return their sum."""
    occupied = source[start]
    for i in range(start, stop):  # most blocks are empty, and this loop is vectorized
        occupied |= source[i]
    moved = 0
    if occupied != 0:
        for i in range(start, stop):
            moved += source[i]
            counts[i] += source[i]
            source[i] = 0
    return moved


@inlined
def _move(source: Any, counts: Any, state: Integers, positive: int, negative: int, left: int) -> None:
    """Move ``left`` counts of nonzero values, and update the state of their new place; see `Counts`.

    Counts are moved from the largest magnitudes down, because lower bins were never occupied, and reading them would
    allocate memory: ``positive`` and ``negative`` are the ends of the bins that are occupied.
    """
    positive, negative = (positive + _SCAN - 1) // _SCAN * _SCAN, (negative + _SCAN - 1) // _SCAN * _SCAN
    state[3], state[4] = max(state[3], positive), max(state[4], negative)
    while left > 0 and (positive > 0 or negative > SIGN_BIN):
        if positive > 0:
            moved = _move_block(source, counts, positive - _SCAN, positive)
            positive, left, state[0] = positive - _SCAN, left - moved, state[0] + moved
        if negative > SIGN_BIN:
            moved = _move_block(source, counts, negative - _SCAN, negative)
            negative, left, state[1] = negative - _SCAN, left - moved, state[1] + moved


@kernel("void", "uint32*", "uint32*", "uint32*", "uint32*", "int64*", "uint32*", "uint32*", "int64", names=_names)
def _count_bins(
    table: Bits, bins: Bits, lanes: Bits, counts: Bits, state: Integers, ends: Bits, bits: Bits, size: int
) -> None:
    for i in range(_LINE):
        lanes[i], lanes[_LINE + i], lanes[2 * _LINE + i] = _SIGN, _MAGNITUDE, np.uint32(0)
    whole = size // _LINE * _LINE if COMPRESS else 0
    zeros = whole
    if COMPRESS:
        zeros -= _count_compressed(bits, whole, table, bins, lanes, counts, state)
    _count_each(bits, whole, size, table, lanes)
    for i in range(BINS, BINS + _ZERO_SLOTS):
        zeros += table[i]
        table[i] = 0
    signed_max, signed_min, unsigned_max = np.int32(lanes[0]), np.int32(lanes[_LINE]), lanes[2 * _LINE]
    for i in range(1, _LINE):
        signed_max = max(signed_max, np.int32(lanes[i]))
        signed_min = min(signed_min, np.int32(lanes[_LINE + i]))
        unsigned_max = max(unsigned_max, lanes[2 * _LINE + i])
    positive = (signed_max >> SHIFT) + 1 if signed_max >= 0 else 0
    negative = (unsigned_max >> SHIFT) + 1 if unsigned_max >= _SIGN else SIGN_BIN
    _move(table, counts, state, positive, negative, size - zeros)
    state[2] += zeros
    # As bit patterns, the smallest value is the largest of the negative ones, or the smallest if none is negative.
    ends[0] = unsigned_max if unsigned_max >= _SIGN else np.uint32(signed_min)
    ends[1] = np.uint32(signed_max) if signed_max >= 0 else np.uint32(signed_min)


@kernel("void", "uint32*", "int64*", "int64*", "int64*")
def _move_counts(source: Bits, source_state: Integers, counts: Integers, state: Integers) -> None:
    _move(source, counts, state, source_state[3], source_state[4], source_state[0] + source_state[1])
    state[2] += source_state[2]
    for i in range(_STATE):
        source_state[i] = 0


@kernel("int64", "int64*", "int64", "int64", "int64", "int64*")
def _first_occupied(counts: Integers, first: int, stop: int, total: int, found: Integers) -> int:
    """Return the first of the bins before ``stop`` whose counts sum to ``total``, and add the number occupied."""
    left = total
    while stop > first and left > 0:
        stop -= 1
        left -= counts[stop]
        found[0] += counts[stop] != 0
    return stop


@kernel("void", "int64*", "int64", "int64", "uint32*")
def _list_occupied(counts: Integers, first: int, stop: int, bins: Bits) -> None:
    found = 0
    for i in range(first, stop):
        if counts[i] != 0:
            bins[found] = np.uint32(i)
            found += 1


def _mapped_zeros(size: int, dtype: type[np.uint32] | type[np.int64]) -> npt.NDArray[Any]:
    """Return zeros that allocate memory only for occupied bins.

    The memory is mapped from the system, because `numpy.zeros` may reuse memory and clear all of it.
    """
    size_bytes = size * np.dtype(dtype).itemsize
    if not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(size, dtype)
    return np.frombuffer(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype)


class _Workspace(threading.local):
    """What a thread counts in; the table is zero between calls."""

    def __init__(self) -> None:
        table = _mapped_zeros(BINS + _ZERO_SLOTS, np.uint32)
        self._arrays = table, np.empty(2 * _ROOM, np.uint32), np.empty(3 * _LINE, np.uint32)
        self.addresses = tuple(map(address, self._arrays))


_workspace = _Workspace()


class Counts:
    """Counts by bin, without zeros, which would extend every search for occupied bins to the first one.

    Attributes:
        by_bin: uint32 or int64 ``[BINS]``.
        state: int64 ``[5]``: number of positive values, of negative ones, and of zeros, and the ends of the bins that
            can be occupied by positive and by negative values.
    """

    def __init__(self, dtype: type[np.uint32] | type[np.int64]) -> None:
        self.by_bin, self.state = _mapped_zeros(BINS, dtype), np.zeros(_STATE, np.int64)

    def add(self, bins: Bits, counts: Integers, zeros: int) -> None:
        """Add counts of ascending bins, the first of which includes zeros; to int64 counts."""
        split = int(np.searchsorted(bins, SIGN_BIN))
        self.by_bin[bins] += counts
        self.by_bin[0] -= zeros
        self.state[:3] += (int(counts[:split].sum()) - zeros, int(counts[split:].sum()), zeros)
        for sign, part in ((3, bins[:split]), (4, bins[split:])):
            if part.size:
                self.state[sign] = max(self.state[sign], int(part[-1]) + 1)

    def occupied(self) -> Bits:
        """Return the occupied bins, ascending; of int64 counts."""
        parts = []
        for first, total, stop in zip((0, SIGN_BIN), self.state[:2].tolist(), self.state[3:].tolist(), strict=True):
            found = np.zeros(1, np.int64)
            start = _first_occupied(self.by_bin, first, stop, total, found)
            parts.append(np.empty(int(found[0]), np.uint32))
            _list_occupied(self.by_bin, start, stop, parts[-1])
        return np.concatenate(parts)

    def clear(self) -> None:
        """Set all counts to zero, without reading those that never were anything else; of int64 counts."""
        self.by_bin[self.occupied()] = 0
        self.state[:] = 0


class Counters:
    """The counts of one tensor.

    Attributes:
        recent: uint32 counts, which are updated faster.
        earlier: int64 counts.
    """

    def __init__(self) -> None:
        self.recent, self.earlier, self._room = Counts(np.uint32), Counts(np.int64), _CAPACITY
        self._ends = np.zeros(2, np.float32)
        self._addresses = tuple(map(address, (self.recent.by_bin, self.recent.state, self._ends)))

    def count(self, values: npt.NDArray[np.float32]) -> tuple[float, float]:
        """Do what `count_bins` does."""
        if values.size > self._room:
            self.move(self)
        self._room -= values.size
        _count_bins.at(*_workspace.addresses, *self._addresses, address(values), values.size)
        lo, hi = self._ends.tolist()
        return lo, hi

    def move(self, to: "Counters") -> None:
        """Move the recent counts to the earlier ones of ``to``, which may be these counters."""
        _move_counts(self.recent.by_bin, self.recent.state, to.earlier.by_bin, to.earlier.state)
        self._room = _CAPACITY


def count_bins(values: npt.NDArray[np.float32], counters: Counters) -> tuple[float, float]:
    """Count the bins of a tensor and return its smallest and its largest value, unspecified if any is NaN.

    Args:
        values: float32 ``[n]``, contiguous, n > 0.
        counters: their recent counts are updated, by one thread at a time.
    """
    return counters.count(values)


def count_bins_numpy(values: npt.NDArray[np.float32], counters: Counters) -> tuple[float, float]:
    """Compute the same counts as `count_bins`, without compiled code."""
    counts = np.bincount(values[values != 0].view(np.uint32) >> np.uint32(SHIFT))
    bins = np.flatnonzero(counts).astype(np.uint32)
    counters.earlier.add(bins, counts[bins], 0)
    counters.earlier.state[2] += np.count_nonzero(values == 0)
    return float(values.min()), float(values.max())
