"""Rewrites arithmetic operators to those with integer kernels.

GELU is ``0.5 x (1 + erf(x / sqrt 2))`` (Hendrycks and Gimpel 2016, arXiv:1606.08415). Exporters multiply the three
factors in any order; onnxruntime fuses ``(x * (1 + erf(...))) * 0.5``. Halving is exact in floating point, so all
orders are bit-identical.
"""

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
    sole_consumer,
    unused_name,
)
from quantkit.graph.passes.node_pass import each_node

# Between this number and its reciprocal, the reciprocal is a normal float32.
_LEAST_DIVISOR = 2.0**-126


@each_node("Sub", "Div", "Max", "Min", "HardSwish")
def plain_arithmetic(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace subtraction and division by a constant with a sum or product, and HardSwish with its definition.

    ``x - c`` becomes ``x + (-c)``, ``x / c`` becomes ``x * (1 / c)``, ``HardSwish(x)`` becomes
    ``x * HardSigmoid(x)`` with alpha 1/6 and beta 1/2 (its definition in ONNX), ``Max(x, c)`` and ``Min(x, c)`` with
    a number become a Clip.
    Not changed: a constant on the left of ``-`` or ``/``, integers, divisors without a float32 reciprocal (zero,
    denormals), and the division inside a GELU, which onnxruntime fuses in the form that exporters write.
    """
    match node.op_type:
        case "Sub" | "Div":
            return _to_sum_or_product(graph, node)
        case "HardSwish":
            return _split_hard_swish(graph, node)
        case _:
            return _to_clip(graph, node)


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


@each_node("Mul")
def order_gelu(graph: ir.Graph, outer: ir.Node) -> bool:
    """Multiply the factors of each GELU in the order that onnxruntime fuses.

    Not changed: products of other factors (a number other than 0.5, ``erf`` of another value than ``x``), inner
    products with other consumers, and products that already have this order.
    """
    for place, value in enumerate(outer.inputs):
        inner = None if value is None else value.producer()
        if inner is None or value is None or not is_op(inner, "Mul") or sole_consumer(value) is not outer:
            continue
        factors = [factor for factor in (*inner.inputs, outer.inputs[1 - place]) if factor is not None]
        half = next((factor for factor in factors if _is_number(factor, 0.5)), None)
        others = [factor for factor in factors if factor is not half]
        if half is None or half is outer.inputs[1 - place] or len(others) != 2:
            continue
        if _is_one_plus_erf_of(others[0], others[1]) or _is_one_plus_erf_of(others[1], others[0]):
            for index in (0, 1):
                inner.replace_input_with(index, others[index])
            outer.replace_input_with(place, value)
            outer.replace_input_with(1 - place, half)
            graph.remove(inner)
            graph.insert_before(outer, inner)
            value.name = unused_name(graph, f"{outer.outputs[0].name}.twice")
            return True
    return False


def _is_one_plus_erf_of(value: ir.Value, source: ir.Value) -> bool:
    total = value.producer()
    if total is None or not is_op(total, "Add"):
        return False
    one = any(operand is not None and _is_number(operand, 1.0) for operand in total.inputs)
    error = next((operand.producer() for operand in total.inputs if operand is not None and operand.producer()), None)
    if not one or error is None or not is_op(error, "Erf") or error.inputs[0] is None:
        return False
    scaled = error.inputs[0].producer()
    return scaled is not None and is_op(scaled, "Div", "Mul") and source in scaled.inputs


def _is_number(value: ir.Value, number: float) -> bool:
    if value.shape is not None and len(value.shape) > 1:
        return False
    content = array(value)
    return content is not None and content.size == 1 and float(content.reshape(-1)[0]) == number
