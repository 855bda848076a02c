"""Drift of the tensors of an integer model from those of the float model, accumulated batch by batch.

Accumulators contain only sums per channel, so memory does not grow with the number of images. The sums are exact
(`ExactSum`) over terms computed image by image, so the result is independent of batch size and order.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.errors import ModelError, NumericError
from quantkit.evaluation.drift_kernel import COLUMNS, Grid, ImageTerms, image_terms
from quantkit.evaluation.exact_sum import ExactSum
from quantkit.numerics import QParams
from quantkit.records import plain
from quantkit.types import Float64Array, FloatArray, Int64Array


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorDrift:
    """Drift of a tensor between two models.

    Written with ``x`` for the reference, ``y`` for the candidate and ``e = y - x``.

    Attributes:
        name: ONNX name of the tensor.
        op_type: operator that computes it, empty if unknown.
        elements: number of compared values.
        images: number of images.
        image_share: largest share of ``sum e^2`` by a single image; 0 without error.
        sqnr_db: ``10 log10(sum x^2 / sum e^2)``; infinite without error, minus infinity for an error on zeros.
        worst_channel: the channel with the lowest SQNR, None for a tensor without channels.
        worst_channel_sqnr_db: SQNR of that channel; it may be low even if the tensor has 40 dB.
        max_err: largest ``|e|``.
        max_err_steps: the same in steps of the tensor's scale, None if the tensor is not quantized.
        cosine: ``sum x y / sqrt(sum x^2 sum y^2)``; 1 if both are all zero, 0 if one is.
        clipped: share of ``x`` outside the range of the integers by more than half a step; None as above.
        range_used: share of the integers between the smallest and the largest that occur; None as above.
        levels_used: number of distinct integers that occur; None as above.
        collapsed: ``x`` varies and ``y`` does not.
        channel_sqnr_db: float64 ``[channels]``, SQNR of each channel.
        channel_bias: float64 ``[channels]``, mean of ``e``, in real units.
        scale: real units per step, None if the tensor is not quantized.
    """

    name: str
    op_type: str
    elements: int
    images: int
    image_share: float
    sqnr_db: float
    worst_channel: int | None
    worst_channel_sqnr_db: float
    max_err: float
    max_err_steps: float | None
    cosine: float
    clipped: float | None
    range_used: float | None
    levels_used: int | None
    collapsed: bool
    channel_sqnr_db: Float64Array = field(repr=False)
    channel_bias: Float64Array = field(repr=False)
    scale: float | None

    @property
    def worst_bias(self) -> float:
        """The mean error with the largest magnitude among the channels, in real units, with its sign."""
        return float(self.channel_bias[np.argmax(np.abs(self.channel_bias))])

    def to_json(self) -> dict[str, Any]:
        """Return JSON values without the per-channel vectors; an infinite SQNR is null, and `max_err` has its sign."""
        vectors = ("channel_sqnr_db", "channel_bias", "scale")
        return {name: plain(value) for name, value in vars(self).items() if name not in vectors} | {
            "worst_bias": self.worst_bias,
            "worst_bias_steps": None if self.scale is None else self.worst_bias / self.scale,
        }


class DriftAccumulator:
    """Compares one tensor of two models over any number of images.

    `measure` does the work and is thread-safe; `add` accumulates its results in one thread.

    Args:
        name: ONNX name of the tensor.
        op_type: operator that computes it.
        qparams: per-tensor parameters in the integer model; None if the tensor stays in float.
        axis: axis of the channels; a tensor without that axis is treated as one channel.
    """

    def __init__(self, name: str, *, op_type: str = "", qparams: QParams | None = None, axis: int = 1) -> None:
        if qparams is not None and qparams.axis is not None:
            raise ValueError(f"{name}: activations have one scale per tensor")
        self.name = name
        self.op_type = op_type
        self.axis = axis
        self._grid = None if qparams is None else _grid(qparams)
        self._sums: ExactSum | None = None
        self._channels = 0
        self._elements = self._images = 0
        self._most_noise = 0.0
        self._clipped = 0
        self._max_err = 0.0
        self._x_ends, self._y_ends = _NO_ENDS, _NO_ENDS
        self._levels: Int64Array = np.zeros(0 if self._grid is None else self._grid.levels, np.int64)

    def measure(self, reference: FloatArray, candidate: FloatArray) -> list[ImageTerms]:
        """Return the terms of a batch of the tensor from both models, image by image, without adding them.

        Values are in real units (dequantized), with images along axis 0, and are compared as float32.

        Raises:
            ModelError: the two have different shapes.
            NumericError: a value is NaN or infinite.
        """
        if reference.shape != candidate.shape or reference.ndim == 0:
            raise ModelError(
                f"the models give shapes {list(reference.shape)} and {list(candidate.shape)}", where=self.name
            )
        if reference.size == 0:
            return []
        terms = [
            image_terms(self._by_channel(x), self._by_channel(y), self._grid)
            for x, y in zip(reference, candidate, strict=True)
        ]
        if not all(np.isfinite(image.sums).all() for image in terms):
            raise NumericError("the tensor contains NaN or infinity", where=self.name)
        return terms

    def add(self, terms: Iterable[ImageTerms]) -> None:
        """Add terms that `measure` of an accumulator of the same tensor returned; the order does not matter.

        Raises:
            ModelError: the tensor had another number of channels before.
        """
        for image in terms:
            channels = image.sums.shape[0]
            if self._sums is None:
                self._sums, self._channels = ExactSum(image.sums.size), channels
            if channels != self._channels:
                raise ModelError(f"the tensor had {self._channels} channels and now has {channels}", where=self.name)
            self._sums.add(image.sums.reshape(1, -1))
            self._elements += image.elements
            self._images += 1
            self._most_noise = max(self._most_noise, math.fsum(image.sums[:, _NOISE]))
            self._clipped += image.clipped
            self._levels += image.levels
            self._max_err = max(self._max_err, image.max_err)
            self._x_ends, self._y_ends = _wider(self._x_ends, image.x_ends), _wider(self._y_ends, image.y_ends)

    def result(self) -> TensorDrift:
        """Return the drift over all added terms.

        Raises:
            ModelError: no terms were added.
        """
        if self._sums is None:
            raise ModelError("no values to compare", where=self.name)
        sums = dict(zip(COLUMNS, self._sums.value().reshape(self._channels, -1).T, strict=True))
        # Sums over channels: few terms, each rounded once, added in a fixed order.
        totals = {column: math.fsum(values) for column, values in sums.items()}
        channel_sqnr = _sqnr_db(sums["xx"], sums["ee"])
        worst = int(np.argmin(channel_sqnr))
        scale = None if self._grid is None else self._grid.scale
        used = np.flatnonzero(self._levels)
        return TensorDrift(
            name=self.name,
            op_type=self.op_type,
            elements=self._elements,
            images=self._images,
            image_share=self._most_noise / totals["ee"] if totals["ee"] > 0.0 else 0.0,
            sqnr_db=float(_sqnr_db(np.asarray(totals["xx"]), np.asarray(totals["ee"]))),
            worst_channel=worst if self._channels > 1 else None,
            worst_channel_sqnr_db=float(channel_sqnr[worst]),
            max_err=self._max_err,
            max_err_steps=None if scale is None else self._max_err / scale,
            cosine=_cosine(totals["xy"], totals["xx"], totals["yy"]),
            clipped=None if scale is None else self._clipped / self._elements,
            range_used=None if scale is None else float(used[-1] - used[0] + 1) / self._levels.size,
            levels_used=None if scale is None else used.size,
            collapsed=self._x_ends[0] < self._x_ends[1] and self._y_ends[0] == self._y_ends[1],
            channel_sqnr_db=channel_sqnr,
            channel_bias=sums["e"] * (self._channels / self._elements),
            scale=scale,
        )

    def _by_channel(self, image: FloatArray) -> npt.NDArray[np.float32]:
        """Return one image as float32 ``[channels, elements]``; its channel axis is one less than the tensor's."""
        if image.ndim < self.axis or self.axis == 0:
            return np.ascontiguousarray(image, np.float32).reshape(1, -1)
        channels = image.shape[self.axis - 1]
        return np.ascontiguousarray(np.moveaxis(image, self.axis - 1, 0), np.float32).reshape(channels, -1)


_NOISE = COLUMNS.index("ee")
_NO_ENDS = (math.inf, -math.inf)


def _wider(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return min(a[0], b[0]), max(a[1], b[1])


def _grid(qparams: QParams) -> Grid:
    return Grid(float(qparams.scale), int(qparams.zero_point), qparams.qmin, qparams.qmax)


def _sqnr_db(signal: Float64Array, noise: Float64Array) -> Float64Array:
    """``10 log10(signal / noise)``: infinite without noise, minus infinity for noise without signal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Float64Array = 10.0 * (np.log10(signal) - np.log10(noise))
    return np.where(noise == 0.0, np.inf, ratio)


def _cosine(xy: float, xx: float, yy: float) -> float:
    if xx == 0.0 and yy == 0.0:
        return 1.0
    if xx == 0.0 or yy == 0.0:
        return 0.0
    return min(max(xy / (math.sqrt(xx) * math.sqrt(yy)), -1.0), 1.0)
