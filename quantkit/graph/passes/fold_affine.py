"""Folds batch norms and per-channel constants into the preceding layer.

A batch norm at inference is affine in each channel: ``y = a x + b`` with ``a = gamma / sqrt(var + eps)`` and
``b = beta - a mean`` (Ioffe and Szegedy 2015, arXiv:1502.03167; the ONNX operator BatchNormalization). After a layer
``x = W z + c`` the result is ``y = (a W) z + (a c + b)``: the same layer with other weights.

A batch norm without a preceding layer (after a residual sum or a concatenation: iResNet, DenseNet, ResNet v2) is a
depthwise 1 x 1 convolution with weight ``a`` and bias ``b``. A single weight per channel is exact in int8 (it is the
channel's largest), and a ReLU after it fuses as after any convolution.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.analysis.values import (
    ORIGIN,
    add_constant,
    array,
    dims,
    is_op,
    node_name,
    operand,
    output_channels,
    rank,
    required,
    set_constant,
    sole_consumer,
    take_over,
)
from quantkit.graph.passes.node_pass import each_node
from quantkit.types import Float64Array


@dataclass(frozen=True)
class Affine:
    """``y = scale * source + shift`` in each channel (axis 1).

    Attributes:
        source: the scaled value.
        scale: ``[channels]`` or ``[1]``.
        shift: the same shape.
    """

    source: ir.Value
    scale: Float64Array
    shift: Float64Array


@each_node("BatchNormalization", "Mul", "Add")
def fold_affine(graph: ir.Graph, node: ir.Node) -> bool:
    """Fold BatchNormalization and Mul, Add by a per-channel constant into a Conv, ConvTranspose or Gemm.

    Not changed: nodes after a layer with other consumers, a graph output or computed weights; nodes that do not follow
    a layer; constants that vary within a channel; and types other than float32.
    """
    affine = affine_of(node)
    layer = None if affine is None else affine.source.producer()
    if affine is None or layer is None or sole_consumer(affine.source) is not node:
        return False
    if not (_foldable(layer) and _fold(graph, layer, affine)):
        return False
    take_over(graph, affine.source, node)
    return True


def affine_of(node: ir.Node) -> Affine | None:
    """Return the per-channel affine function of a node, None if it has none with constant coefficients.

    Raises:
        ModelError: the variance plus epsilon of a batch norm is not positive.
    """
    if node.inputs and node.inputs[0] is not None and node.inputs[0].dtype not in (ir.DataType.FLOAT, None):
        return None
    if is_op(node, "BatchNormalization"):
        return _batch_norm(node)
    if not is_op(node, "Mul", "Add"):
        return None
    left, right = required(node, 0), required(node, 1)
    source, constant = (left, array(right)) if array(left) is None else (right, array(left))
    channels = (dims(source) or ())[1:2]
    vector = None if constant is None else along_axis(constant, 1, rank(source) or 0, channels[0] if channels else None)
    if vector is None:
        return None
    if node.op_type == "Mul":
        return Affine(source, vector, np.zeros_like(vector))
    return Affine(source, np.ones_like(vector), vector)


def _batch_norm(node: ir.Node) -> Affine | None:
    if node.attributes.get_int("training_mode", 0) or any(value.uses() for value in node.outputs[1:]):
        return None
    parameters = [array(operand(node, index)) for index in range(1, 5)]
    if any(parameter is None or parameter.dtype != np.float32 for parameter in parameters):
        return None
    gamma, beta, mean, variance = (np.asarray(parameter, np.float64) for parameter in parameters)
    spread = variance + node.attributes.get_float("epsilon", 1e-5)
    if (spread <= 0).any():
        channel = int(np.argmax(spread <= 0))
        raise ModelError(
            f"the batch norm {node_name(node)!r} has variance {variance[channel]} in channel {channel}",
            fix="export the checkpoint again: a variance cannot be negative",
        )
    scale = gamma / np.sqrt(spread)
    return Affine(required(node, 0), scale, beta - scale * mean)


def along_axis(constant: npt.NDArray[np.generic], axis: int, dimensions: int, size: int | None) -> Float64Array | None:
    """Return a broadcast constant as one number per position of an axis, or one for all; None if it is neither.

    Args:
        constant: the constant.
        axis: the axis.
        dimensions: number of axes of the other operand, 0 if unknown.
        size: size of the axis, None if unknown.
    """
    if constant.dtype != np.float32 or constant.ndim > dimensions:
        return None
    if constant.size != 1:
        full = (1,) * (dimensions - constant.ndim) + constant.shape
        if axis >= dimensions or constant.size != full[axis] or size not in (full[axis], None):
            return None
    return constant.astype(np.float64).reshape(-1)


def _foldable(layer: ir.Node) -> bool:
    if not is_op(layer, "Conv", "ConvTranspose", "Gemm") or not _is_float32(operand(layer, 1)):
        return False
    bias = operand(layer, 2)
    if is_op(layer, "Gemm"):
        plain = not layer.attributes.get_int("transA", 0) and layer.attributes.get_float("beta", 1.0) == 1.0
        if not plain or layer.attributes.get_float("alpha", 1.0) != 1.0:
            return False
    return bias is None or _is_float32(bias)


def _is_float32(value: ir.Value | None) -> bool:
    content = array(value)
    return content is not None and content.dtype == np.float32


def _fold(graph: ir.Graph, layer: ir.Node, affine: Affine) -> bool:
    weight = np.asarray(array(required(layer, 1)), np.float64)
    channels = output_channels(layer, weight)
    if affine.scale.size not in (1, channels):
        return False
    scale, shift = (np.broadcast_to(vector, (channels,)) for vector in (affine.scale, affine.shift))
    stored = array(operand(layer, 2))
    bias = np.zeros(channels) if stored is None else np.asarray(stored, np.float64)
    if not is_row(bias, channels):
        return False
    set_constant(graph, layer, 1, _scale_outputs(layer, weight, scale), f"{node_name(layer)}.weight")
    set_constant(
        graph, layer, 2, np.broadcast_to(bias.reshape(-1) * scale + shift, (channels,)), f"{node_name(layer)}.bias"
    )
    return True


def is_row(bias: npt.NDArray[np.generic], columns: int) -> bool:
    """Return whether a bias adds the same number to all rows of a column; ``[rows, 1]`` does not, whatever its size."""
    return bias.size in (1, columns) and (bias.ndim < 2 or bias.shape[0] == 1)


def _scale_outputs(layer: ir.Node, weight: Float64Array, scale: Float64Array) -> Float64Array:
    """Multiply the weights of each output channel; a ConvTranspose stores them as [in, out / group, ...]."""
    if is_op(layer, "ConvTranspose"):
        group = layer.attributes.get_int("group", 1)
        grouped = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
        per_group = scale.reshape(group, 1, weight.shape[1], *([1] * (weight.ndim - 2)))
        return (grouped * per_group).reshape(weight.shape)
    if is_op(layer, "Gemm") and not layer.attributes.get_int("transB", 0):
        return weight * scale
    return weight * scale.reshape(-1, *([1] * (weight.ndim - 1)))


@each_node("BatchNormalization")
def batch_norm_to_conv(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace each remaining BatchNormalization over [N, C, ...] by a depthwise Conv.

    The new node keeps the name and output of the old one, and has the metadata `ORIGIN`.
    Not changed: inputs of unknown rank or rank below 3, and statistics that are not constant.
    """
    affine = affine_of(node) if (rank(node.inputs[0]) or 0) >= 3 else None
    if affine is None:
        return False
    spatial = (rank(affine.source) or 0) - 2
    channels = affine.scale.size
    weight = affine.scale.astype(np.float32).reshape(channels, 1, *([1] * spatial))
    name = node_name(node)
    node.resize_inputs(1)
    node.resize_outputs(1)
    inputs = [
        affine.source,
        add_constant(graph, f"{name}.weight", weight),
        add_constant(graph, f"{name}.bias", affine.shift.astype(np.float32)),
    ]
    node.resize_inputs(3)
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    node.op_type = "Conv"
    node.attributes.clear()
    node.attributes.add(ir.AttrInt64("group", channels))
    node.attributes.add(ir.AttrInt64s("kernel_shape", [1] * spatial))
    node.metadata_props[ORIGIN] = "BatchNormalization"
    return True
