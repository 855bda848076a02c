"""Reorders GELU to the form that onnxruntime fuses.

GELU is ``0.5 x (1 + erf(x / sqrt 2))`` (Hendrycks and Gimpel 2016, arXiv:1606.08415). Exporters multiply the three
factors in any order; onnxruntime fuses ``(x * (1 + erf(...))) * 0.5``. Halving is exact in floating point, so all
orders are bit-identical.
"""

import onnx_ir as ir

from quantkit.graph.analysis.values import array, is_op, sole_consumer, unused_name
from quantkit.graph.passes.node_pass import each_node


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
