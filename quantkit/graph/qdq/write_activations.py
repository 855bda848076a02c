"""Writes QuantizeLinear and DequantizeLinear of activations."""

import numpy as np
import onnx_ir as ir

from quantkit.graph.analysis import ops
from quantkit.graph.analysis.ops import Role
from quantkit.graph.analysis.values import (
    add_constant,
    insert_after,
    name_of,
    node_name,
    required,
    take_over,
    unused_name,
)
from quantkit.graph.qdq.edit import Edit
from quantkit.graph.qdq.sharing import RangeGroup
from quantkit.graph.qdq.write_constants import scalar_operand


def drop_absorbed(edit: Edit) -> None:
    """Remove the activation functions that saturation replaces."""
    for name in edit.plan.absorbed:
        node = edit.nodes[name]
        source, label = required(node, 0), name_of(node.outputs[0])
        take_over(edit.graph, source, node)
        edit.values[label] = source


def round_activations(edit: Edit) -> None:
    """Quantize and dequantize every quantized tensor, in graph order.

    The dequantized value has the name of the tensor; the float value keeps it if it is also read, or is a graph input
    or output.
    """
    scales = _Scales(edit)
    placement = edit.plan.placement
    group_of = {
        tensor: (group, gain)
        for group in edit.plan.groups
        for tensor, gain in zip(group.tensors, group.gains, strict=True)
    }
    for tensor, planned in edit.planned_values.items():
        if tensor not in group_of:
            continue
        group, gain = group_of[tensor]
        maker = planned.producer()
        role = placement.roles[maker] if maker is not None and maker in placement.integer else Role.FLOAT
        if maker is not None and role is Role.RESCALE:
            _rescale(edit, tensor, maker, scales.of(group, gain))
        elif maker is not None and role is Role.PASS and _written_on_integers(edit, maker):
            _move_integers(edit, tensor, maker, scales.of(group, gain))
        else:
            step = _saturating_sum(edit, maker) if maker is not None and role in (Role.UNARY, Role.ACTIVATION) else 1.0
            _round(edit, tensor, scales.of(group, gain / step), scales.of(group, gain))


class _Scales:
    """The scale and zero point of each group as constants of the graph, one pair per gain."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit
        self._stored: dict[tuple[str, float], tuple[ir.Value, ir.Value]] = {}
        self._zero_points: dict[str, ir.Value] = {}

    def of(self, group: RangeGroup, gain: float) -> tuple[ir.Value, ir.Value]:
        name = group.tensors[group.gains.index(1.0)]
        if (name, gain) not in self._stored:
            qparams = self._edit.parameters[name]
            if name not in self._zero_points:
                self._zero_points[name] = add_constant(self._edit.graph, f"{name}.zero_point", qparams.zero_point)
            scale = qparams.scale if gain == 1.0 else np.asarray(qparams.scale * gain, np.float32)
            self._stored[name, gain] = (add_constant(self._edit.graph, f"{name}.scale", scale), self._zero_points[name])
        return self._stored[name, gain]


Constants = tuple[ir.Value, ir.Value]


def _round(edit: Edit, tensor: str, into: Constants, out_of: Constants) -> None:
    """Insert QuantizeLinear and DequantizeLinear after a value, and let its consumers read the result."""
    value, planned = edit.values[tensor], edit.planned_values[tensor]
    integers_only = edit.plan.placement.exists_as_integers_only(planned)
    readers = [use for use in value.uses() if integers_only or _reads_integers(edit, use.node, planned)]
    producer = value.producer()
    clips = _clip(edit, value, tensor)
    rounded = edit.new_node(
        "QuantizeLinear",
        [clips[-1].outputs[0] if clips else value, *into],
        tensor,
        unused_name(edit.graph, f"{tensor}.quantized"),
    )
    rounded.outputs[0].type, rounded.outputs[0].shape = _integer_type(edit), value.shape
    keeps_name = producer is None or (
        not integers_only and (value.is_graph_output() or len(readers) < len(value.uses()))
    )
    restored = _dequantize(
        edit, tensor, rounded.outputs[0], out_of, value, f"{tensor}.dequantized" if keeps_name else tensor
    )
    for use in readers:
        use.node.replace_input_with(use.idx, restored.outputs[0])
    if integers_only and value.is_graph_output():
        outputs = edit.graph.outputs
        outputs[:] = [restored.outputs[0] if output is value else output for output in outputs]
    if not keeps_name:
        value.name = unused_name(edit.graph, f"{tensor}.float")
        restored.outputs[0].name = tensor
    insert_after(edit.graph, producer, [*clips, rounded, restored])
    edit.rounded[tensor] = rounded.outputs[0]


def _rescale(edit: Edit, tensor: str, maker: ir.Node, out_of: Constants) -> None:
    """Replace a multiplication by a constant: the same integers, dequantized with a scale times that constant."""
    node, value = edit.nodes[node_name(maker)], edit.values[tensor]
    source = next(name for name in (name_of(read) for read in maker.inputs if read is not None) if name in edit.rounded)
    restored = _dequantize(edit, tensor, edit.rounded[source], out_of, value, f"{tensor}.dequantized")
    edit.graph.insert_after(node, restored)
    take_over(edit.graph, restored.outputs[0], node)
    edit.values[tensor], edit.rounded[tensor] = restored.outputs[0], edit.rounded[source]


def _move_integers(edit: Edit, tensor: str, maker: ir.Node, out_of: Constants) -> None:
    """Apply a node that only moves values to the integers, and dequantize its result."""
    node, value = edit.nodes[node_name(maker)], edit.values[tensor]
    source = edit.rounded[name_of(required(maker, 0))]
    if node.inputs[0] is not source:
        node.replace_input_with(0, source)
        if node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "constant":
            if len(node.inputs) < 3:
                node.resize_inputs(3)
            node.replace_input_with(2, out_of[1])
        for output in node.outputs:
            output.type = _integer_type(edit)
    restored = _dequantize(edit, tensor, value, out_of, value, tensor)
    restored.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    value.replace_all_uses_with(restored.outputs[0], replace_graph_outputs=True)
    restored.replace_input_with(0, value)
    value.name, restored.outputs[0].name = unused_name(edit.graph, f"{tensor}.quantized"), tensor
    edit.graph.insert_after(node, restored)
    edit.rounded[tensor] = value


def _saturating_sum(edit: Edit, maker: ir.Node) -> float:
    """Replace a function that is linear between two limits by a sum with a constant that the quantizer saturates.

    ``HardSigmoid(x) = clip(alpha x + beta, 0, 1) = alpha clip(x + beta / alpha, 0, 1 / alpha)``, so the integers of the
    sum, dequantized with a scale times alpha, are those of the function. A Relu or Clip is the sum with zero.

    Returns:
        The factor between the scale that quantizes the sum and the scale that dequantizes it.
    """
    if maker.op_type not in (*ops.SATURATING, *ops.ACTIVATIONS):
        return 1.0
    node, alpha, beta = edit.nodes[node_name(maker)], 1.0, 0.0
    if maker.op_type == "HardSigmoid":
        alpha, beta = maker.attributes.get_float("alpha", 0.2), maker.attributes.get_float("beta", 0.5)
    addend = scalar_operand(edit, f"{node_name(maker)}.addend", beta / alpha, node)
    node.op_type = "Add"
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(1, addend)
    return alpha


def _written_on_integers(edit: Edit, maker: ir.Node) -> bool:
    return edit.plan.target.integer_outputs and maker.op_type in ops.WRITTEN_ON_INTEGERS


def _reads_integers(edit: Edit, reader: ir.Node, planned: ir.Value) -> bool:
    node = edit.planned_nodes.get(reader.name or "")
    return node is not None and edit.plan.placement.reads_integers(node, planned)


def _dequantize(
    edit: Edit, tensor: str, integers: ir.Value, constants: Constants, like: ir.Value, output: str
) -> ir.Node:
    if output != tensor:
        output = unused_name(edit.graph, output)
    restored = edit.new_node("DequantizeLinear", [integers, *constants], tensor, output)
    restored.outputs[0].type, restored.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), like.shape
    return restored


def _clip(edit: Edit, value: ir.Value, tensor: str) -> list[ir.Node]:
    """Return a Clip to qmin, if qmin is greater than the smallest integer of its type."""
    qparams = edit.parameters[tensor]
    bounds = edit.plan.placement.bounds_of(edit.planned_values[tensor])
    if qparams.qmin <= np.iinfo(qparams.dtype).min or bounds.lo >= 0:
        return []
    least = add_constant(edit.graph, f"{tensor}.least", np.asarray(qparams.qmin * qparams.scale, np.float32))
    clip = edit.new_node("Clip", [value, least], tensor, unused_name(edit.graph, f"{tensor}.clipped"))
    clip.outputs[0].type, clip.outputs[0].shape = value.type, value.shape
    return [clip]


def _integer_type(edit: Edit) -> ir.TensorType:
    return ir.TensorType(ir.DataType[edit.plan.target.activations.dtype.upper()])
