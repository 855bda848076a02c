"""The noise model: the gain from noise in each channel of each tensor to the scores, by backpropagating variances.

For white noise a layer has ``gain(i) = sum over o and taps of W[o, i, tap]^2 gain(o) / stride^2``, a ReLU passes the
share of positive values, a pool averages. Real noise is correlated and accumulates
more than that, so gains compare the channels of one tensor with each other, not tensors many layers apart.
"""

from collections.abc import Mapping
from math import prod

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.analysis.values import (
    array,
    is_constant,
    name_of,
    node_name,
    operand,
    required,
)
from quantkit.graph.qdq.plan import Plan
from quantkit.ptq.channel_groups import channels_of
from quantkit.ptq.channel_statistics import ChannelStatistics

Vector = npt.NDArray[np.float64]

_MOVING = frozenset({"Pad", "Slice", "Concat", "Split"})
_POOLS = frozenset({"AveragePool", "GlobalAveragePool"})


def noise_gains(model: ir.Model, statistics: Mapping[str, ChannelStatistics]) -> dict[str, Vector]:
    """Return, for every tensor with statistics, the gain of each channel from a value's variance to the scores'."""
    gains = {name: np.zeros(held.power.size) for name, held in statistics.items()}
    scores = name_of(model.graph.outputs[0])  # other outputs are not measured
    if scores in gains:
        gains[scores] += 1.0
    for node in reversed(list(model.graph)):
        found = [gains.get(name_of(value)) for value in node.outputs]
        result = found[0]
        if result is None and node.outputs[0].dtype == ir.DataType.FLOAT:
            result = np.ones(1)  # of unknown channels: counted as one of the scores
        if result is None:
            continue
        if node.op_type == "Split":
            result = np.concatenate([one for one in found if one is not None])
        for index, value in enumerate(node.inputs):
            if value is not None and not is_constant(value) and name_of(value) in gains:
                gains[name_of(value)] += _back(node, index, value, result, statistics)
    return gains


def relative_importance(model: ir.Model, statistics: Mapping[str, ChannelStatistics]) -> dict[str, Vector]:
    """Return the gains of each tensor's channels over that of the tensor's own signal: ``v / (v . power)``."""
    return {name: _relative(gain, statistics[name].power) for name, gain in noise_gains(model, statistics).items()}


def activation_costs(
    plan: Plan, importance: Mapping[str, Vector], statistics: Mapping[str, ChannelStatistics]
) -> dict[str, Vector]:
    """Return the cost of noise in each channel of each tensor: at the layers that read it, else by its importance.

    Exact zeros are rounded to zero, so the cost of a channel is multiplied by its share of other values.
    """
    nodes = {node_name(node): node for node in plan.placement.graph}
    costs: dict[str, Vector] = {}
    for layer in plan.layers:
        if {layer.input, layer.output} <= statistics.keys():
            node = nodes[layer.node]
            weights = layer_weights(node)
            if not is_by_channel(node, weights, importance[layer.input].size, importance[layer.output].size):
                continue
            squares = np.square(weights).sum(axis=2)
            costs[layer.input] = costs.get(layer.input, 0.0) + through_weights(node, importance[layer.output], squares)
    own = {name: held for name, held in importance.items() if name not in costs}
    return {name: cost * statistics[name].active for name, cost in (costs | own).items()}


def layer_weights(node: ir.Node) -> Vector:
    """Return a layer's weights as ``[out, in / groups, taps]``, also for a ConvTranspose without groups."""
    weight = np.asarray(array(required(node, 1)), np.float64)
    if node.op_type in ("Gemm", "MatMul"):
        by_output = weight if node.attributes.get_int("transB", 0) else weight.T
        return by_output[:, :, None]
    weight = weight.reshape(*weight.shape[:2], -1)
    if node.op_type == "ConvTranspose":
        groups = node.attributes.get_int("group", 1)
        blocks = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        return np.concatenate(list(blocks.transpose(0, 2, 1, 3)))
    return weight


def is_by_channel(node: ir.Node, weights: Vector, inputs: int, outputs: int) -> bool:
    """Return whether a layer maps this number of channels on axis 1 to this number; in transformers they are last."""
    return len(weights) == outputs and weights.shape[1] * node.attributes.get_int("group", 1) == inputs


def through_weights(node: ir.Node, per_output: Vector, squares: Vector) -> Vector:
    """Return ``sum over o of squares[o, i] * per_output[o]`` for every input channel, group by group."""
    groups = node.attributes.get_int("group", 1)
    per_input = np.einsum("goi,go->gi", squares.reshape(groups, -1, squares.shape[1]), per_output.reshape(groups, -1))
    return np.asarray(per_input.reshape(-1))


def _relative(gain: Vector, power: Vector) -> Vector:
    signal = float(gain @ power)
    return gain / signal if signal > 0.0 else np.zeros(gain.size)


def _back(
    node: ir.Node, index: int, value: ir.Value, result: Vector, statistics: Mapping[str, ChannelStatistics]
) -> Vector:
    own, after = statistics[name_of(value)], statistics.get(name_of(node.outputs[0]))
    density = 1.0 if after is None else after.size / own.size
    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and index == 0 and is_constant(operand(node, 1)):
        weights = layer_weights(node)
        strides = prod(node.attributes.get_ints("strides", (1,)))
        spread = strides if node.op_type == "Conv" else 1.0 / strides if node.op_type == "ConvTranspose" else 1.0
        if weights.shape[0] == result.size:
            back = through_weights(node, result, np.square(weights).sum(axis=2)) / spread
            return back if back.size == own.power.size else np.full(own.power.size, float(result.mean()))
    if node.op_type in ("Relu", "Clip") and index == 0 and after is not None:
        return result * after.active
    if node.op_type in _POOLS:
        return result * density**2 if node.op_type == "GlobalAveragePool" else _pooled(node, result)
    if node.op_type in _MOVING:
        return _moved_back(node, index, own.power.size, result) * (density if node.op_type == "Slice" else 1.0)
    if node.op_type == "MaxPool":
        return result * density
    if node.op_type in ("Flatten", "Reshape") and result.size % own.power.size == 0:
        return np.asarray(result.reshape(own.power.size, -1).mean(axis=1))
    return result if result.size == own.power.size else np.full(own.power.size, float(result.mean()))


def _pooled(node: ir.Node, result: Vector) -> Vector:
    kernel = prod(node.attributes.get_ints("kernel_shape", (1,)))
    return result / (kernel * prod(node.attributes.get_ints("strides", (1,))))


def _moved_back(node: ir.Node, index: int, channels: int, result: Vector) -> Vector:
    """Return the part of a result's channels that comes from an input."""
    start = 0
    if node.op_type == "Concat":
        start = sum(channels_of(before) or 0 for before in list(node.inputs)[:index])
    elif node.op_type == "Pad":
        pads = array(operand(node, 1))
        start = 0 if pads is None else max(int(pads.reshape(-1)[1]), 0)
    part = result[start : start + channels]
    return part if part.size == channels else np.full(channels, float(result.mean()))
