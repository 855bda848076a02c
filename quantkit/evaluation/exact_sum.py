"""Exact sums of float64, independent of the order of the terms."""

import math

import numpy as np
import numpy.typing as npt

# Limb k counts units of 2^(32 k). A float64 spans at most three limbs, and 2^31 terms of a limb fit an int64.
_LIMB_BITS = 32


class ExactSum:
    """Exact sums of columns: the float64 terms are added as integers in limbs of 32 bits (Kulisch's accumulator).

    Integer addition is associative, so the result does not depend on the order; it is rounded to float64 once at the
    end. Memory is one int64 vector per limb in use, seldom more than four.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._limbs: dict[int, npt.NDArray[np.int64]] = {}

    def add(self, terms: npt.NDArray[np.float64]) -> None:
        """Add finite terms, ``[rows, columns]``, to the sum of each column."""
        left = terms
        peak = float(np.abs(left).max(initial=0.0))
        while peak > 0.0:
            limb = (math.frexp(peak)[1] - 1) // _LIMB_BITS
            pieces = np.trunc(np.ldexp(left, -_LIMB_BITS * limb))
            counts = pieces.astype(np.int64).sum(axis=0)
            self._limbs[limb] = self._limbs[limb] + counts if limb in self._limbs else counts
            left = left - np.ldexp(pieces, _LIMB_BITS * limb)
            peak = float(np.abs(left).max(initial=0.0))

    def value(self) -> npt.NDArray[np.float64]:
        """Return the sums, float64 ``[columns]``, each the nearest float64 to the exact sum."""
        if not self._limbs:
            return np.zeros(self._columns)
        lowest = min(self._limbs)
        totals = [0] * self._columns
        for limb, counts in self._limbs.items():
            shift = _LIMB_BITS * (limb - lowest)
            totals = [total + (count << shift) for total, count in zip(totals, counts.tolist(), strict=True)]
        return np.asarray([_scaled(total, _LIMB_BITS * lowest) for total in totals])


def _scaled(integer: int, exponent: int) -> float:
    """Return ``integer * 2^exponent`` rounded once."""
    return float(integer << exponent) if exponent >= 0 else integer / (1 << -exponent)
