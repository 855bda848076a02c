"""fp32 export: the corrections of an int8 model as an fp32 model, for a compiler that quantizes by itself.

Such a compiler sets ranges and rounds weights itself, so it gets a corrected int8 model as an fp32 model: with rescaled
channels and corrected biases, and with each weight that is not rounded to nearest set to the value of its integer. All
other weights, including the largest of each scale, are not changed, so the compiler finds the same scales and rounds to
the same integers.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.analysis.values import (
    ORIGIN,
    add_constant,
    array,
    node_name,
    operand,
    release,
    required,
)
from quantkit.graph.passes.clean import remove_unused
from quantkit.graph.qdq.plan import Layer, Plan
from quantkit.ptq.layers import BIASED

Vector = npt.NDArray[np.float64]

EPSILON = 1e-5


@dataclass(frozen=True)
class _Stored:
    """A constant of an int8 model: ``values`` are integers, scaled by ``scale`` along ``axis`` (None for one scale)."""

    values: Vector
    scale: Vector
    axis: int | None

    @property
    def step(self) -> Vector:
        """The scale, shaped to broadcast with the values."""
        if self.axis is None or self.scale.ndim == 0:
            return self.scale
        shape = [1] * self.values.ndim
        shape[self.axis] = -1
        return self.scale.reshape(shape)

    @property
    def real(self) -> Vector:
        """The real values of the integers."""
        return np.asarray(self.values * self.step)


def export_corrected_fp32(prepared: ir.Model, plan: Plan, int8: ir.Model, qmax: int) -> ir.Model:
    """Return an fp32 model with weights and biases that round to those of an int8 model.

    Args:
        prepared: the fp32 model of the plan; not modified.
        plan: plan of the int8 model.
        int8: int8 model with corrected weights and biases.
        qmax: largest magnitude of a weight's integer.
    """
    model = prepared.clone()
    floats = {node_name(node): node for node in model.graph}
    integers = {node_name(node): node for node in int8.graph}
    for layer in plan.layers:
        node, corrected = floats[layer.node], integers[layer.node]
        _set_weight(model.graph, node, corrected, layer, qmax)
        if node.op_type in BIASED:
            _set_bias(model.graph, node, corrected)
    remove_unused(model)
    return model


def restore_batch_norms(model: ir.Model) -> ir.Model:
    """Return a copy in which depthwise convolutions created from batch norms are batch norms again.

    ``y = w x + b`` is a BatchNormalization of scale w, offset b, mean 0 and variance ``1 - epsilon``, which float32
    divides by exactly 1. A compiler that keeps batch norms in float must not get convolutions instead.
    """
    model = model.clone()
    for node in list(model.graph):
        if node.metadata_props.get(ORIGIN) == "BatchNormalization":
            _restore(model.graph, node)
    remove_unused(model)
    return model


def _set_weight(graph: ir.Graph, node: ir.Node, corrected: ir.Node, layer: Layer, qmax: int) -> None:
    stored = _stored(required(corrected, 1))
    if stored is None:
        return
    weight = required(node, 1)
    original = np.asarray(array(weight), np.float64)
    nearest = np.clip(np.rint(original / stored.step), -qmax, qmax)
    changed = nearest != stored.values
    if changed.any():
        content = np.where(changed, stored.real, original).astype(np.float32)
        node.replace_input_with(1, add_constant(graph, f"{layer.node}.weight", content))
        release(weight)


def _set_bias(graph: ir.Graph, node: ir.Node, corrected: ir.Node) -> None:
    value = operand(corrected, 2)
    if value is None:
        return
    stored = _stored(value)
    content = np.asarray(array(value) if stored is None else stored.real, np.float32)
    bias = operand(node, 2)
    if bias is None and not content.any():
        return
    node.resize_inputs(3)
    node.replace_input_with(2, add_constant(graph, f"{node_name(node)}.bias", content))
    if bias is not None:
        release(bias)


def _stored(value: ir.Value) -> _Stored | None:
    dequantize = value.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    values, scale = array(required(dequantize, 0)), array(required(dequantize, 1))
    assert values is not None
    assert scale is not None
    axis = dequantize.attributes.get_int("axis", 1) if scale.ndim else None
    return _Stored(values.astype(np.float64), scale.astype(np.float64), axis)


def _restore(graph: ir.Graph, node: ir.Node) -> None:
    weight, bias = (np.asarray(array(required(node, index)), np.float32).reshape(-1) for index in (1, 2))
    name, old = node_name(node), list(node.inputs)[1:3]
    variance = np.full_like(weight, np.float32(1.0) - np.float32(EPSILON))
    constants = {"scale": weight, "offset": bias, "mean": np.zeros_like(weight), "variance": variance}
    node.resize_inputs(5)
    for index, (word, content) in enumerate(constants.items(), start=1):
        node.replace_input_with(index, add_constant(graph, f"{name}.{word}", content))
    for value in old:
        if value is not None:
            release(value)
    node.op_type = "BatchNormalization"
    node.attributes.clear()
    node.attributes.add(ir.AttrFloat32("epsilon", EPSILON))
    del node.metadata_props[ORIGIN]
