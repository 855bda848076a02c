"""Writes weights, biases and constant operands as integers."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.analysis.ops import Role
from quantkit.graph.analysis.values import add_constant, array, is_constant, name_of, release, required
from quantkit.graph.qdq.edit import Edit
from quantkit.graph.qdq.placement import activations
from quantkit.graph.qdq.plan import Layer
from quantkit.graph.qdq.weights import QuantizedWeight, WeightIntegers, quantize_bias, quantize_weight
from quantkit.notes import Note, NoteKind
from quantkit.numerics import Range, quantize
from quantkit.types import FloatArray


def write_layers(edit: Edit, shifts: Mapping[str, FloatArray], known: WeightIntegers | None = None) -> None:
    """Store the weights of every layer as int8, and its bias in the type of the target.

    Layers that share a weight with equal parameters share its integers.

    Args:
        edit: the graph under construction.
        shifts: float ``[output channels]`` to add to a bias, by the layer's output tensor.
        known: integers of other models of the plan.

    Raises:
        ModelError: a weight or bias is not finite.
    """
    stored: dict[tuple[str, int, bytes], ir.Value] = {}
    for layer in edit.plan.layers:
        node = edit.nodes[layer.node]
        bias = _bias(layer, node, shifts)
        quantized = _quantize(edit, layer, node, bias, known)
        release(required(node, 1))
        key = (layer.weight, layer.channel_axis, quantized.qparams.scale.tobytes())
        if key not in stored:
            qparams = quantized.qparams
            stored[key] = edit.dequantized_constant(
                edit.values[layer.weight],
                layer.weight,
                quantized.values,
                qparams.scale,
                qparams.zero_point,
                qparams.axis,
            )
        node.replace_input_with(1, stored[key])
        if bias is not None:
            _store_bias(edit, layer, node, bias, quantized.bias_scale)


def write_constant_operands(edit: Edit) -> None:
    """Store the constant operands of integer sums, products and concatenations as integers with their own range."""
    placement = edit.plan.placement
    for name, planned in edit.planned_nodes.items():
        role = placement.roles[planned]
        if planned not in placement.integer or role in (Role.LAYER, Role.RESCALE):
            continue
        for index, value in enumerate(activations(planned, role)):
            if is_constant(value):
                node = edit.nodes[name]
                node.replace_input_with(index, _constant_operand(edit, name_of(value), _finite(value), node))


def scalar_operand(edit: Edit, name: str, number: float, before: ir.Node) -> ir.Value:
    """Store a new number as an integer with its own range, and return the dequantized value."""
    return _constant_operand(edit, name, np.asarray(number, np.float32), before)


def _constant_operand(edit: Edit, name: str, content: npt.NDArray[np.float32], before: ir.Node) -> ir.Value:
    spread = Range.around(float(content.min(initial=0.0)), float(content.max(initial=0.0)))
    qparams = edit.plan.target.activations.qparams(spread)
    integers = quantize(content, qparams)
    return edit.dequantized_constant(None, name, integers, qparams.scale, qparams.zero_point, before=before)


def _bias(layer: Layer, node: ir.Node, shifts: Mapping[str, FloatArray]) -> npt.NDArray[np.float32] | None:
    bias = None if layer.bias is None else _finite(required(node, 2))
    if layer.output not in shifts:
        return bias
    shift = np.asarray(shifts[layer.output], np.float32)
    return shift if bias is None else np.asarray(bias + shift, np.float32)


def _quantize(
    edit: Edit, layer: Layer, node: ir.Node, bias: FloatArray | None, known: WeightIntegers | None
) -> QuantizedWeight:
    quantized = quantize_weight(
        _finite(required(node, 1)),
        bias if edit.plan.target.integer_bias else None,
        scheme=edit.plan.target.weights,
        axis=layer.channel_axis,
        groups=layer.groups,
        input_scale=float(edit.parameters[layer.input].scale),
        name=layer.weight,
        known=known,
    )
    if quantized.widened:
        count = len(quantized.widened)
        channels = "one channel" if count == 1 else f"{count} channels"
        text = f"{layer.node}: weight scale of {channels} widened to fit the bias into int32"
        edit.notes.append(Note(text, NoteKind.WIDENED, number=count))
    return quantized


def _store_bias(
    edit: Edit, layer: Layer, node: ir.Node, bias: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]
) -> None:
    name = layer.bias or f"{layer.node}.bias"
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    if edit.plan.target.integer_bias:
        vector = np.broadcast_to(scale, bias.shape).astype(np.float32)
        stored = edit.dequantized_constant(None, name, quantize_bias(bias, vector), vector, axis=0, before=node)
    else:
        stored = add_constant(edit.graph, f"{name}.float", bias)
    node.replace_input_with(2, stored)


def _finite(value: ir.Value) -> npt.NDArray[np.float32]:
    content = array(value)
    if content is None or not np.isfinite(content.min(initial=0.0)) or not np.isfinite(content.max(initial=0.0)):
        raise ModelError(
            f"the weight {value.name!r} contains NaN or infinity", fix="repair or export the checkpoint again"
        )
    return content.astype(np.float32, copy=False)
