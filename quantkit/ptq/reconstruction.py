"""Layer-wise reconstruction: corrects the layers of an int8 model one by one, each on its int8 inputs.

The weights are rounded for the smallest error of the layer's output, then the bias is shifted so that the mean matches
fp32.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.engine.segments import SegmentedRun
from quantkit.graph.analysis.values import array, node_name, required
from quantkit.graph.qdq.plan import Layer, Plan
from quantkit.graph.qdq.write import activation_parameters, write_qdq
from quantkit.numerics import QParams, Range
from quantkit.ptq.bias_correction import layer_shift
from quantkit.ptq.im2col import can_unfold, input_covariance
from quantkit.ptq.layers import BiasedLayer, Vector, biased_layers, no_shifts, set_bias, stored_names
from quantkit.ptq.weight_rounding import round_weights
from quantkit.types import Float32Array


def reconstruct(
    prepared: ir.Model,
    plan: Plan,
    ranges: Mapping[str, Range],
    images: Sequence[Float32Array],
    *,
    keep_largest: bool = False,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> ir.Model:
    """Return the int8 model of a plan with weights rounded for the smallest noise and corrected biases.

    Args:
        prepared: prepared fp32 model.
        plan: plan of the model.
        ranges: ranges of the observed tensors.
        images: a few dozen inputs of the calibration set, ``[N, C, H, W]``.
        keep_largest: round the largest weight of each scale to nearest, so that a compiler that computes scales from
            the largest weights finds the same scales.
        threads: number of images run in parallel.
        progress: called with the number of finished layers and of all layers.

    Raises:
        ModelError: the model cannot be run.
    """
    biased = {one.layer.node: one for one in biased_layers(plan)}
    int8 = write_qdq(prepared, plan, ranges, bias_shift=no_shifts(list(biased.values())))
    walk = _Walk(prepared, int8, activation_parameters(plan, ranges), plan, images, keep_largest, threads)
    for done, layer in enumerate(plan.layers, start=1):
        walk.round(layer, seed=done)
        if layer.node in biased:
            walk.correct(biased[layer.node])
        if progress is not None:
            progress(done, len(plan.layers))
    return int8


class _Walk:
    """Runs of the fp32 and the int8 model, which advance layer by layer."""

    def __init__(
        self,
        prepared: ir.Model,
        int8: ir.Model,
        parameters: Mapping[str, QParams],
        plan: Plan,
        images: Sequence[Float32Array],
        keep_largest: bool,
        threads: int,
    ) -> None:
        self._float = {node_name(node): node for node in prepared.graph}
        self._int8 = {node_name(node): node for node in int8.graph}
        self._stored = stored_names(int8)
        self._parameters, self._qmax, self._images = parameters, plan.target.weights.qmax, len(images)
        self._keep_largest, self._threads = keep_largest, threads
        self._float_run = SegmentedRun(prepared, images, threads=threads)
        self._int8_run = SegmentedRun(int8, images, threads=threads)

    def round(self, layer: Layer, seed: int) -> None:
        """Round a layer's weights, unless another layer shares them or `im2col` does not support the layer."""
        original, node = self._float[layer.node], self._int8[layer.node]
        weight = np.asarray(array(required(original, 1)), np.float64)
        dequantize = required(node, 1).producer()
        if dequantize is None or len(dequantize.outputs[0].uses()) > 1 or not can_unfold(original, weight.shape):
            return
        covariance = input_covariance(original, weight.shape, self._inputs(layer.input), self._images, seed)
        integers, scale = required(dequantize, 0), array(required(dequantize, 1))
        assert scale is not None
        rows = weight if layer.channel_axis == 0 else weight.T
        groups = original.attributes.get_int("group", 1)
        blocks = rows.reshape(groups, rows.shape[0] // groups, -1)
        step = np.broadcast_to(scale.astype(np.float64), (rows.shape[0],)).reshape(groups, -1)
        rounded = round_weights(blocks, covariance, step, qmax=self._qmax, threads=self._threads)
        if self._keep_largest:
            rounded = np.where(_largest(blocks, scale.size == 1), _nearest(blocks, step, self._qmax), rounded)
        rounded = rounded.reshape(rows.shape)
        stored = rounded if layer.channel_axis == 0 else rounded.T
        integers.const_value = ir.Tensor(np.ascontiguousarray(stored), name=integers.name)

    def correct(self, one: BiasedLayer) -> None:
        """Shift a layer's bias so that its mean output matches fp32, and move the cut after the layer."""
        name = self._stored.get(one.result, one.result)
        qparams = self._parameters[one.result] if one.result in self._stored else None
        self._float_run.advance([one.result])
        shift = layer_shift(self._float_run, self._int8_run, one, name, qparams)
        set_bias(self._int8[one.layer.node], one.bias + shift)
        self._int8_run.advance([name])

    def _inputs(self, tensor: str) -> Iterator[Float32Array]:
        """Yield a tensor of the int8 model for every image, in real units."""
        name = self._stored.get(tensor, tensor)
        for (value,) in self._int8_run.run([name]):
            if name == tensor:
                yield value.astype(np.float32)
            else:
                qparams = self._parameters[tensor]
                yield (value.astype(np.float32) - np.float32(qparams.zero_point)) * qparams.scale


def _largest(blocks: Vector, per_tensor: bool) -> npt.NDArray[np.bool_]:
    """Return which weights ``[groups, rows, columns]`` set the scale of their row, or of the tensor."""
    magnitude = np.abs(blocks)
    return np.asarray(magnitude == magnitude.max(axis=None if per_tensor else 2, keepdims=True))


def _nearest(blocks: Vector, step: Vector, qmax: int) -> npt.NDArray[np.int8]:
    return np.clip(np.rint(blocks / step[:, :, None]), -qmax, qmax).astype(np.int8)
