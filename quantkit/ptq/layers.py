"""Layers of an int8 model with a bias that can be corrected."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.analysis.bounds import UNBOUNDED, Bounds, clip_bounds, effective_bounds
from quantkit.graph.analysis.values import array, name_of, node_name, operand, required, set_constant, sole_consumer
from quantkit.graph.qdq.plan import Layer, Plan
from quantkit.graph.qdq.weights import quantize_bias

Array = npt.NDArray[np.generic]
Numbers = npt.NDArray[np.floating | np.integer]
Vector = npt.NDArray[np.float64]

# Suffix of the integers of a tensor, the output of QuantizeLinear.
QUANTIZED = ".quantized"
# The operators with a bias; MatMul has none.
BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})


@dataclass(frozen=True)
class BiasedLayer:
    """A layer with a bias, or without one that can be added.

    Attributes:
        layer: the layer in the plan.
        result: its output, after its activation function.
        passing: interval that the activation function does not change.
        effective: interval to which the result can be clipped without an effect on its consumers.
        bias: float64 ``[output channels]`` of the fp32 model, zeros if it has none.
    """

    layer: Layer
    result: str
    passing: Bounds
    effective: Bounds
    bias: Vector


def biased_layers(plan: Plan) -> list[BiasedLayer]:
    """Return the integer layers with a bias that can be corrected, in graph order."""
    nodes = {node_name(node): node for node in plan.placement.graph}
    return [_biased(layer, nodes[layer.node], plan) for layer in plan.layers if layer.op_type in BIASED]


def _biased(layer: Layer, node: ir.Node, plan: Plan) -> BiasedLayer:
    result, passing = node.outputs[0], UNBOUNDED
    while (reader := sole_consumer(result)) is not None and (limits := clip_bounds(reader)) is not None:
        passing = Bounds(max(passing.lo, limits.lo), min(passing.hi, limits.hi))
        result = reader.outputs[0]
    weight, bias = array(required(node, 1)), array(operand(node, 2))
    assert weight is not None
    channels = weight.shape[layer.channel_axis] * layer.groups
    own = np.zeros(channels) if bias is None else bias.astype(np.float64)
    effective = effective_bounds(result, plan.placement.quantized)
    return BiasedLayer(layer, name_of(result), passing, effective, own)


def no_shifts(layers: Sequence[BiasedLayer]) -> dict[str, npt.NDArray[np.float32]]:
    """Return a zero shift for every layer, so that `write_qdq` writes a bias that `set_bias` can change."""
    return {one.layer.output: np.zeros(one.bias.shape, np.float32) for one in layers}


def set_bias(node: ir.Node, bias: Vector) -> None:
    """Store a bias in a layer of an int8 model, in the type that the model uses."""
    value = required(node, 2)
    producer = value.producer()
    if producer is None:
        value.const_value = ir.Tensor(bias.astype(np.float32), name=value.name)
        return
    integers, scale = required(producer, 0), array(required(producer, 1))
    assert scale is not None
    integers.const_value = ir.Tensor(quantize_bias(bias, scale.astype(np.float32)), name=integers.name)


def stored_names(int8: ir.Model) -> dict[str, str]:
    """Return the values with the integers of activations in an int8 model, by tensor of the fp32 model."""
    stored: dict[str, str] = {}
    for node in int8.graph:
        if node.op_type == "QuantizeLinear":
            integers = node.outputs[0]
            # Values that are only moved as integers (by a Pad or Slice) are not dequantized under their name.
            stored[name_of(integers).removesuffix(QUANTIZED)] = name_of(integers)
            readers = [use.node for use in integers.uses() if use.node.op_type == "DequantizeLinear"]
            for value in [required(node, 0), *(reader.outputs[0] for reader in readers)]:
                stored[name_of(value)] = name_of(integers)
    return stored


def by_channel(value: Numbers) -> Numbers:
    """Return a layer's result ``[N, C, ...]`` as ``[C, values]``."""
    channels: Numbers = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
    return channels


def add_to_bias(graph: ir.Graph, node: ir.Node, change: npt.NDArray[np.float64], name: str) -> None:
    """Add to the bias of a float layer; a layer without one gets it, under this name."""
    bias = array(operand(node, 2))
    content = change if bias is None else bias.astype(np.float64).reshape(-1) + change
    set_constant(graph, node, 2, content, name)
