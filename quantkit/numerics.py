"""Quantization parameters and the quantizer, as defined in `docs/numerics.md`."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.types import FloatArray, IntArray

# Increased whenever the same model, images and options give other numbers; cached results are then recomputed.
NUMERIC_VERSION = 5
# The smallest scale: a normal float32, so that kernels that flush denormals to zero do not divide by zero.
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Range:
    """A closed interval of real numbers that contains zero.

    Attributes:
        lo: lower end, finite, at most 0.
        hi: upper end, finite, at least 0.

    Example:
        >>> import quantkit
        >>> quantkit.Range(-1.0, 3.0).threshold
        3.0
    """

    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lo) and np.isfinite(self.hi) and self.lo <= 0.0 <= self.hi):
            raise ValueError(f"a range needs finite ends with lo <= 0 <= hi, not [{self.lo}, {self.hi}]")

    @property
    def threshold(self) -> float:
        """The larger magnitude of the two ends."""
        return max(-self.lo, self.hi)

    @classmethod
    def around(cls, lo: float, hi: float) -> "Range":
        """Return the smallest range that contains ``lo``, ``hi`` and zero."""
        return cls(min(float(lo), 0.0), max(float(hi), 0.0))


@dataclass(frozen=True)
class QParams:
    """Scale and zero point with their integer range: ``x = scale * (q - zero_point)``.

    Invariants: ``scale`` is finite, positive and a normal float32; ``qmin <= zero_point <= qmax``; with an ``axis``,
    scale and zero_point are vectors of that axis' length, without one they are 0-dimensional.

    Attributes:
        scale: float32, ``[]`` or ``[channels]``, real units per step.
        zero_point: ``dtype``, the same shape.
        qmin: least integer used (for symmetric int8 this is -127, not the type's -128).
        qmax: greatest integer used.
        dtype: the integer type stored.
        axis: ONNX axis of the channels, None for per-tensor parameters.
    """

    scale: npt.NDArray[np.float32]
    zero_point: IntArray
    qmin: int
    qmax: int
    dtype: np.dtype[np.integer]
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.scale.dtype != np.float32 or self.scale.shape != self.zero_point.shape:
            raise ValueError("scale must be float32 and have the shape of zero_point")
        if self.scale.ndim != (0 if self.axis is None else 1):
            raise ValueError("scale is a scalar per tensor, a vector per channel")
        if not (np.isfinite(self.scale).all() and (self.scale >= np.float32(SMALLEST_SCALE)).all()):
            raise ValueError("scale must be finite and a normal positive float32")
        if not ((self.zero_point >= self.qmin).all() and (self.zero_point <= self.qmax).all()):
            raise ValueError("zero_point must lie in [qmin, qmax]")


def affine_qparams(range_: Range, *, qmin: int, qmax: int, dtype: type[np.integer] | str) -> QParams:
    """Return parameters that map ``[lo, hi]`` to ``[qmin, qmax]``.

    ``scale = (hi - lo) / (qmax - qmin)``, ``zero_point = round(qmin - lo / scale)``, half to even. A range too small
    for a normal float32 scale is treated as [0, 0]: scale 1, and zero maps to the integer nearest zero.
    """
    steps = qmax - qmin
    scale = (range_.hi - range_.lo) / steps
    if scale < SMALLEST_SCALE:
        scale, zero = 1.0, min(max(0, qmin), qmax)
    else:
        scale = float(np.float32(scale))
        zero = int(min(max(np.rint(qmin - range_.lo / scale), qmin), qmax))
    kind: np.dtype[np.integer] = np.dtype(dtype)
    return QParams(np.asarray(scale, np.float32), np.asarray(zero, kind), qmin, qmax, kind)


def symmetric_scale(
    threshold: FloatArray | float, *, divisor: float, power_of_two: bool = False
) -> npt.NDArray[np.float32]:
    """Return ``threshold / divisor`` as float32, elementwise; 1 where the result is not a normal float32.

    Args:
        threshold: magnitudes, any shape.
        divisor: 127 for onnxruntime and TensorRT, 128 for Relay and so VACC.
        power_of_two: round the threshold up to a power of two first (Relay's ``weight_scale: power2``).
    """
    value = np.asarray(threshold, np.float64)
    if power_of_two:
        with np.errstate(divide="ignore"):
            value = np.where(value > 0, np.exp2(np.ceil(np.log2(np.where(value > 0, value, 1.0)))), 0.0)
    scale = value / divisor
    return np.where(scale < SMALLEST_SCALE, 1.0, scale).astype(np.float32)


def symmetric_qparams(
    threshold: FloatArray | float,
    *,
    divisor: float = 127.0,
    qmin: int = -127,
    qmax: int = 127,
    dtype: type[np.integer] | str = np.int8,
    axis: int | None = None,
    power_of_two: bool = False,
) -> QParams:
    """Return symmetric parameters, zero point 0, for a threshold or one threshold per channel."""
    kind: np.dtype[np.integer] = np.dtype(dtype)
    scale = symmetric_scale(threshold, divisor=divisor, power_of_two=power_of_two)
    return QParams(scale, np.zeros(scale.shape, kind), qmin, qmax, kind, axis)


def quantize(x: FloatArray, qparams: QParams) -> IntArray:
    """``clip(round(x / scale) + zero_point, qmin, qmax)``, rounding half to even, clipped before the cast.

    The division is done in float32, as in ONNX QuantizeLinear. The caller must reject NaN.
    """
    scale, zero = _along_axis(qparams, np.ndim(x))
    with np.errstate(over="ignore"):  # an overflow of float32 becomes infinite, and is clipped
        steps = np.rint(np.asarray(x, np.float32) / scale)
    clipped: FloatArray = np.clip(steps + zero, qparams.qmin, qparams.qmax)
    return clipped.astype(qparams.dtype)


def dequantize(q: IntArray, qparams: QParams) -> npt.NDArray[np.float32]:
    """``scale * (q - zero_point)`` in float32."""
    scale, zero = _along_axis(qparams, np.ndim(q))
    return ((np.asarray(q, np.int32) - zero.astype(np.int32)).astype(np.float32) * scale).astype(np.float32)


def _along_axis(qparams: QParams, ndim: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    scale, zero = qparams.scale, qparams.zero_point.astype(np.float32)
    if qparams.axis is None:
        return scale, zero
    shape = [1] * ndim
    shape[qparams.axis] = scale.size
    return scale.reshape(shape), zero.reshape(shape)
