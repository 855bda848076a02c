"""Rewrites arithmetic operators to those with integer kernels."""

import numpy as np
import onnx_ir as ir

from quantkit.graph.analysis.values import (
    add_constant,
    array,
    is_op,
    node_name,
    operand,
    rank,
    required,
    unused_name,
)
from quantkit.graph.passes.node_pass import NodePass

# Between this number and its reciprocal, the reciprocal is a normal float32.
_LEAST_DIVISOR = 2.0**-126


class PlainArithmeticPass(NodePass):
    """Replace subtraction and division by a constant with a sum or product, and HardSwish with its definition.

    ``x - c`` becomes ``x + (-c)``, ``x / c`` becomes ``x * (1 / c)``, ``HardSwish(x)`` becomes
    ``x * HardSigmoid(x)`` with alpha 1/6 and beta 1/2 (its definition in ONNX), ``Max(x, c)`` and ``Min(x, c)`` with
    a number become a Clip.
    Not changed: a constant on the left of ``-`` or ``/``, integers, divisors without a float32 reciprocal (zero,
    denormals), and the division inside a GELU, which onnxruntime fuses in the form that exporters write.
    """

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Rewrite an arithmetic operator."""
        if is_op(node, "Sub", "Div"):
            return _to_sum_or_product(graph, node)
        if is_op(node, "Max", "Min"):
            return _to_clip(graph, node)
        return is_op(node, "HardSwish") and _split_hard_swish(graph, node)


def _to_sum_or_product(graph: ir.Graph, node: ir.Node) -> bool:
    constant = array(operand(node, 1))
    if constant is None or constant.dtype != np.float32 or array(operand(node, 0)) is not None:
        return False
    if node.op_type == "Div":
        size = np.abs(constant)
        invertible = ((size > _LEAST_DIVISOR) & (size < 1.0 / _LEAST_DIVISOR)).all()
        if not invertible or any(is_op(use.node, "Erf") for use in node.outputs[0].uses()):
            return False
        op_type, opposite = "Mul", 1.0 / constant.astype(np.float64)
    else:
        op_type, opposite = "Add", np.negative(constant, dtype=np.float64)
    node.replace_input_with(1, add_constant(graph, f"{node_name(node)}.constant", opposite.astype(np.float32)))
    node.op_type = op_type
    return True


def _to_clip(graph: ir.Graph, node: ir.Node) -> bool:
    if len(node.inputs) != 2 or node.outputs[0].dtype is not ir.DataType.FLOAT:
        return False
    for index in (0, 1):
        limit, source = array(operand(node, index)), operand(node, 1 - index)
        if limit is None or limit.size != 1 or source is None or array(source) is not None:
            continue
        if np.isnan(limit).any() or limit.ndim > (rank(source) or 0):
            continue
        number = add_constant(graph, f"{node_name(node)}.limit", limit.reshape(()).astype(np.float32))
        node.resize_inputs(3 if node.op_type == "Min" else 2)
        node.replace_input_with(0, source)
        node.replace_input_with(1, number if node.op_type == "Max" else None)
        if node.op_type == "Min":
            node.replace_input_with(2, number)
        node.op_type = "Clip"
        return True
    return False


def _split_hard_swish(graph: ir.Graph, node: ir.Node) -> bool:
    if node.outputs[0].dtype is not ir.DataType.FLOAT:
        return False
    source, name = required(node, 0), node_name(node)
    gate = ir.node(
        "HardSigmoid",
        [source],
        {"alpha": node.attributes.get_float("alpha", 1.0 / 6.0), "beta": node.attributes.get_float("beta", 0.5)},
        name=f"{name}.gate",
    )
    gate.outputs[0].name = unused_name(graph, f"{node.outputs[0].name}.gate")
    graph.insert_before(node, gate)
    node.op_type = "Mul"
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(1, gate.outputs[0])
    return True
