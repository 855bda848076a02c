"""Quantization of weights and biases; weight scales are widened if a bias would overflow int32."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from quantkit.numerics import SMALLEST_SCALE, QParams, quantize
from quantkit.targets import WeightScheme
from quantkit.types import FloatArray, IntArray

# |bias| is limited to 2^30 steps, which leaves the same range of the accumulator for the sum of products:
# 2^30 / (255 * 127) = 33,156 products of the largest magnitude.
BIAS_LIMIT = 2.0**30
# If all weights of a channel are zero, its scale is for the bias alone: float32 resolves 2^24 steps.
BIAS_STEPS_OF_DEAD_CHANNEL = 2.0**24
BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class QuantizedWeight:
    """Quantized weights of a layer, and the scale of its accumulators.

    Attributes:
        values: int8, with the shape of the weights.
        qparams: quantization parameters of the weights.
        bias_scale: float32 ``[output channels]`` or ``[]``: real units per step of the accumulator.
        widened: output channels (only 0 for per tensor) with a weight scale that was enlarged to fit the bias.
    """

    values: IntArray
    qparams: QParams
    bias_scale: npt.NDArray[np.float32]
    widened: tuple[int, ...]


class WeightIntegers:
    """The integers of weights by their scales: models of a plan that differ only in ranges share them."""

    def __init__(self) -> None:
        self._thresholds: dict[tuple[str, int | None], npt.NDArray[np.float64]] = {}
        self._integers: dict[tuple[str, int | None, bytes], IntArray] = {}

    def thresholds(self, name: str, weight: FloatArray, axis: int | None) -> npt.NDArray[np.float64]:
        """Return `weight_thresholds` of a weight tensor."""
        if (name, axis) not in self._thresholds:
            self._thresholds[name, axis] = weight_thresholds(weight, axis)
        return self._thresholds[name, axis]

    def quantized(self, name: str, weight: FloatArray, qparams: QParams) -> IntArray:
        """Return the integers of a weight tensor, not to be modified."""
        key = (name, qparams.axis, qparams.scale.tobytes())
        if key not in self._integers:
            self._integers[key] = _in_blocks(weight, qparams)
        return self._integers[key]


def weight_thresholds(weight: FloatArray, axis: int | None) -> npt.NDArray[np.float64]:
    """Return ``max |w|``, a single value or, with an axis, one per channel."""
    if axis is None:
        return np.asarray(max(float(weight.max(initial=0.0)), -float(weight.min(initial=0.0))), np.float64)
    others = tuple(index for index in range(weight.ndim) if index != axis)
    magnitude = np.maximum(weight.max(axis=others, initial=0.0), -weight.min(axis=others, initial=0.0))
    return np.asarray(magnitude, np.float64)


def quantize_weight(
    weight: FloatArray,
    bias: FloatArray | None,
    *,
    scheme: WeightScheme,
    axis: int,
    groups: int,
    input_scale: float,
    name: str = "",
    known: WeightIntegers | None = None,
) -> QuantizedWeight:
    """Quantize the weights of a layer so that its bias fits the accumulator.

    ``|bias| / (input_scale * weight_scale)`` must stay within `BIAS_LIMIT`; a smaller weight scale is widened to that.
    The output range of such a channel is at least as large as its bias, so the lost precision is far below one step of
    its output.

    Args:
        weight: float32.
        bias: float32 ``[output channels]``, or None.
        scheme: scheme of the target's weights.
        axis: axis of the output channels.
        groups: groups of a ConvTranspose; the channels of ``axis`` repeat for each group.
        input_scale: scale of the input activation.
        name: of the weight tensor in ``known``.
        known: integers of a plan's weights, extended by those of this one.
    """
    channel_axis = axis if scheme.per_channel else None
    known = known or WeightIntegers()
    thresholds = known.thresholds(name, weight, channel_axis)
    qparams = scheme.qparams(thresholds, channel_axis)
    magnitude = _bias_magnitude(bias, channel_axis is None, groups, qparams.scale.shape)
    scale = _fitting_scale(qparams.scale, thresholds, magnitude, input_scale)
    widened = np.flatnonzero((scale > qparams.scale) & (thresholds >= SMALLEST_SCALE))
    qparams = replace(qparams, scale=scale)
    accumulator = (np.float64(input_scale) * scale.astype(np.float64)).astype(np.float32)
    bias_scale = accumulator if channel_axis is None else np.tile(accumulator, groups)
    values = known.quantized(name, weight, qparams)
    return QuantizedWeight(values, qparams, bias_scale, tuple(int(index) for index in widened))


def quantize_bias(bias: FloatArray, scale: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Return ``round(bias / scale)`` as int32, half to even; the scale comes from `quantize_weight`."""
    steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    limits = np.iinfo(np.int32)
    return np.clip(steps, limits.min, limits.max).astype(np.int32)


def _in_blocks(weight: FloatArray, qparams: QParams) -> IntArray:
    """Quantize a few rows at a time, to keep intermediate float arrays small."""
    result = np.empty(weight.shape, qparams.dtype)
    rows = max(1, BLOCK_ELEMENTS // max(1, weight.size // max(1, len(weight))))
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        own = qparams
        if qparams.axis == 0:
            own = replace(qparams, scale=qparams.scale[part], zero_point=qparams.zero_point[part])
        result[part] = quantize(weight[part], own)
    return result


def _bias_magnitude(
    bias: FloatArray | None, per_tensor: bool, groups: int, shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    if bias is None:
        return np.zeros(shape)
    magnitude = np.abs(bias.astype(np.float64))
    if per_tensor:
        return np.asarray(magnitude.max(initial=0.0))
    return np.asarray(magnitude.reshape(groups, -1).max(axis=0))


def _fitting_scale(
    scale: npt.NDArray[np.float32],
    thresholds: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64],
    input_scale: float,
) -> npt.NDArray[np.float32]:
    dead = thresholds < SMALLEST_SCALE
    wanted = np.where(dead & (bias > 0), bias / (input_scale * BIAS_STEPS_OF_DEAD_CHANNEL), scale)
    least = np.maximum(bias / (input_scale * BIAS_LIMIT), SMALLEST_SCALE / min(input_scale, 1.0))
    # One ulp upwards, so that rounding to float32 does not fall below the limit.
    fitting = np.where(wanted < least, np.nextafter(least.astype(np.float32), np.float32(np.inf)), wanted)
    return np.asarray(fitting, np.float32)
