"""Bias correction: shift each layer's bias so that its mean output in int8 is that of the fp32 model.

Rounding weights and activations shifts the mean of every channel a little; a ReLU turns even unbiased noise into a
shift, and over fifty layers the shifts add up (Nagel et al., Data-Free Quantization Through Weight Equalization and
Bias Correction, ICCV 2019, section 4.2, which also corrects from data, one layer after the other). The means are
compared on the integers after the activation function, with all preceding layers already corrected; values beyond the
limits of a gate are clipped to them:

    drift[c] = mean over images of (mean(fp32[c]) - mean(int8[c]))
    shift[c] = drift[c] / share[c] * drift[c]^2 / (drift[c]^2 + CAUTION * variance[c] / images)

where share is the part of channel c that the activation function does not clip, and variance that of the differences
over
the images: a drift that is not significant on a few dozen images is corrected only slightly. Correcting all layers at
once would count each shift again in every following layer, and diverges.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import onnx_ir as ir

from quantkit.data.parallel import map_in_order
from quantkit.engine.scores import scores_of
from quantkit.engine.segments import SegmentedRun
from quantkit.engine.tap import TappedSession
from quantkit.evaluation.score_sqnr import sqnr_by_image_db
from quantkit.evaluation.selection import is_gain
from quantkit.graph.analysis.bounds import UNBOUNDED, Bounds
from quantkit.graph.analysis.values import name_of, node_name, required
from quantkit.graph.qdq.plan import Plan
from quantkit.graph.qdq.write import activation_parameters, write_qdq
from quantkit.numerics import QParams, Range
from quantkit.ptq.layers import (
    BiasedLayer,
    Numbers,
    Vector,
    biased_layers,
    by_channel,
    no_shifts,
    set_bias,
    stored_names,
)
from quantkit.types import Float32Array

# One of this number of images is held back to evaluate the correction; the others are used to estimate it. Where that
# were fewer than WELL_TESTED, it is every other one.
HELD_BACK, WELL_TESTED = 4, 8
# Two images to estimate a correction, and two to evaluate it.
LEAST_IMAGES = 4
# A correction is kept if it gains with this one-sided confidence: one standard error on many images, and more on few,
# where the error is itself uncertain.
CONFIDENCE = 0.84
# A channel with a larger share of clipped values has too few others to estimate a shift.
LEAST_SHARE = 0.05
# Half of a drift of sqrt(CAUTION) standard errors is corrected.
CAUTION = 3.0


@dataclass(frozen=True)
class BiasCorrection:
    """Shifts of the biases, and their measured effect.

    Attributes:
        shifts: float32 ``[output channels]`` to add to each bias, by the layer's output tensor; empty unless kept.
        before_db: SQNR of the uncorrected scores on the images held back, see `quantkit.evaluation.score_sqnr`.
        after_db: that of the corrected scores.
        images: number of images held back.
    """

    shifts: dict[str, Float32Array]
    before_db: float
    after_db: float
    images: int

    @property
    def kept(self) -> bool:
        """Whether the shifts are applied: True if they gain more than chance on the images held back."""
        return bool(self.shifts)


def correct_bias(
    prepared: ir.Model,
    plan: Plan,
    ranges: Mapping[str, Range],
    images: Sequence[Float32Array],
    *,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> BiasCorrection:
    """Estimate the shift of every layer's bias; keep the shifts if the scores gain SQNR on images held back.

    The gain is tested on the same images with and without the shifts, by Student's t test.

    Args:
        prepared: model from `quantkit.graph.prepare.prepare`.
        plan: plan of the model.
        ranges: ranges of the observed tensors.
        images: a few dozen inputs of the calibration set, at least `LEAST_IMAGES`, ``[N, C, H, W]``.
        threads: number of images run in parallel.
        progress: called with the number of finished layers and of all layers.

    Raises:
        ModelError: the model cannot be run.
    """
    step = HELD_BACK if len(images) >= HELD_BACK * WELL_TESTED else 2
    held_back = images[::step]
    others = _Some(images, [place for place in range(len(images)) if place % step])
    shifts = estimate_shifts(prepared, plan, ranges, others, threads=threads, progress=progress)
    reference = scores_of(prepared, held_back, threads=threads)
    plain = scores_of(write_qdq(prepared, plan, ranges), held_back, threads=threads)
    corrected = scores_of(write_qdq(prepared, plan, ranges, bias_shift=shifts), held_back, threads=threads)
    before, after = (sqnr_by_image_db(reference, scores) for scores in (plain, corrected))
    kept = shifts if is_gain(after - before, CONFIDENCE) else {}
    return BiasCorrection(kept, float(before.mean()), float(after.mean()), before.size)


class _Some(Sequence[Float32Array]):
    """Some images of a sequence, which may make each when it is asked for."""

    def __init__(self, images: Sequence[Float32Array], places: Sequence[int]) -> None:
        self._images, self._places = images, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Float32Array: ...
    @overload
    def __getitem__(self, place: slice) -> "_Some": ...
    def __getitem__(self, place: int | slice) -> "Float32Array | _Some":
        if isinstance(place, slice):
            return _Some(self._images, self._places[place])
        return self._images[self._places[place]]


def estimate_shifts(
    prepared: ir.Model,
    plan: Plan,
    ranges: Mapping[str, Range],
    images: Sequence[Float32Array],
    *,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Float32Array]:
    """Return the shift of every layer's bias, by the layer's output tensor; see `correct_bias` for the arguments."""
    layers = biased_layers(plan)
    int8 = write_qdq(prepared, plan, ranges, bias_shift=no_shifts(layers))
    parameters, stored = activation_parameters(plan, ranges), stored_names(int8)
    nodes = {node_name(node): node for node in int8.graph}
    expected = _float_means(prepared, layers, images, threads)
    int8_run = SegmentedRun(int8, images, threads=threads)
    shifts: dict[str, Float32Array] = {}
    for done, one in enumerate(layers, start=1):
        name = stored.get(one.result, one.result)
        qparams = parameters[one.result] if one.result in stored else None
        # The cut is after a pool or a sum between two layers: integer kernels are faster in one piece with the layer
        # before, and the result is computed once.
        int8_run.advance([name_of(required(nodes[one.layer.node], 0))])
        shifts[one.layer.output] = _shift_to(expected[one.result], int8_run, one, name, qparams)
        set_bias(nodes[one.layer.node], one.bias + shifts[one.layer.output])
        if progress is not None:
            progress(done, len(layers))
    return shifts


def layer_shift(
    float_run: SegmentedRun, int8_run: SegmentedRun, one: BiasedLayer, name: str, qparams: QParams | None
) -> Float32Array:
    """Return the shift of one layer's bias, float32 ``[output channels]``.

    Args:
        float_run: run of the fp32 model, cut after the layer.
        int8_run: run of the int8 model, cut before the layer.
        one: the layer.
        name: name of the layer's result in the int8 model.
        qparams: quantization parameters of the result, if it is stored as integers.
    """
    expected = _collected(_means_and_share(value, one) for (value,) in float_run.run([one.result]))
    return _shift_to(expected, int8_run, one, name, qparams)


def _shift_to(
    expected: tuple[Vector, Vector], int8_run: SegmentedRun, one: BiasedLayer, name: str, qparams: QParams | None
) -> Float32Array:
    """Return the shift of one layer's bias to the means expected; see `layer_shift`."""
    wanted, share = expected
    scale, zero_point = (1.0, 0.0) if qparams is None else (float(qparams.scale), float(qparams.zero_point))
    limits = Bounds(one.effective.lo / scale + zero_point, one.effective.hi / scale + zero_point)
    found = (_means(int8_run, name, limits) - zero_point) * scale
    return _shift(wanted - found, share).astype(np.float32)


def _shift(differences: Vector, share: Vector) -> Vector:
    """Return the shift of each channel from the differences of its means, ``[images, channels]``."""
    drift = differences.mean(axis=0)
    uncertainty = CAUTION * differences.var(axis=0) / len(differences)
    learned = (share > LEAST_SHARE) & (drift != 0.0)
    trust = np.where(learned, drift**2 / np.where(learned, drift**2 + uncertainty, 1.0), 0.0)
    return np.asarray(trust * drift / np.where(learned, share, 1.0))


def _float_means(
    prepared: ir.Model, layers: Sequence[BiasedLayer], images: Sequence[Float32Array], threads: int
) -> dict[str, tuple[Vector, Vector]]:
    """Return the means and share of every layer's result in the fp32 model.

    They do not depend on the shifts, so one pass gives all of them, and no tensor outlives its image.
    """
    by_result = {one.result: one for one in layers}
    tapped = TappedSession(prepared, list(by_result), ordered=True)

    def of_image(image: Float32Array) -> dict[str, tuple[Vector, Vector]]:
        return {name: _means_and_share(value, by_result[name]) for name, value in tapped.tensors(image)}

    found = list(map_in_order(of_image, images, threads))
    return {name: _collected(image[name] for image in found) for name in by_result}


def _collected(found: Iterable[tuple[Vector, Vector]]) -> tuple[Vector, Vector]:
    """Return each channel's means, image by image, and its share over all images."""
    means, shares = zip(*found, strict=True)
    return np.array(means), np.mean(shares, axis=0)


def _means_and_share(value: Numbers, one: BiasedLayer) -> tuple[Vector, Vector]:
    """Return each channel's mean in one image, and the share of it strictly within the activation's limits."""
    channels, limits = by_channel(value), one.passing.intersection(one.effective)
    passed = channels > limits.lo
    if limits.hi < np.inf:
        passed &= channels < limits.hi
    means = _within(channels, one.effective).mean(axis=1, dtype=np.float64)
    # np.count_nonzero along an axis converts to int64 first, which takes three times as long.
    return means, passed.view(np.uint8).sum(axis=1, dtype=np.uint32) / channels.shape[1]


def _means(run: SegmentedRun, name: str, limits: Bounds) -> Vector:
    """Return each channel's means, image by image, of the stored integers, or of floats if there are none."""
    return np.array([_within(by_channel(value), limits).mean(axis=1, dtype=np.float64) for (value,) in run.run([name])])


def _within(channels: Numbers, limits: Bounds) -> Numbers:
    if np.issubdtype(channels.dtype, np.integer):
        every = np.iinfo(channels.dtype.name)  # np.clip would convert all of them to float64
        limits = UNBOUNDED if limits.lo <= every.min and limits.hi >= every.max else limits
    return channels if limits == UNBOUNDED else np.clip(channels, limits.lo, limits.hi)
