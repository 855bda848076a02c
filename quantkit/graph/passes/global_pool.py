"""Rewrites pools, spatial means and maxima to the forms with integer kernels."""

import numpy as np
import onnx_ir as ir

from quantkit.graph.analysis.values import (
    add_constant,
    array,
    is_op,
    operand,
    pads,
    rank,
    required,
    unused_name,
)
from quantkit.graph.passes.node_pass import NodePass


class GlobalPoolPass(NodePass):
    """ReduceMean over exactly the spatial axes becomes GlobalAveragePool; GlobalMaxPool becomes ReduceMax.

    ``count_include_pad`` is removed from an AveragePool without padding, because if its size is rounded up, the integer
    kernel of onnxruntime would count what is beyond the input.
    Not changed: means over other or computed axes, inputs of unknown rank, and element types other than float32, for
    which these operators may have no kernels.
    """

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Rewrite a pool."""
        if node.outputs[0].dtype is not ir.DataType.FLOAT:
            return False
        if is_op(node, "ReduceMean") and _reduces_space(node):
            _to_average_pool(graph, node)
            return True
        if is_op(node, "GlobalMaxPool") and (rank(operand(node, 0)) or 0) >= 3:
            _to_reduce_max(graph, node)
            return True
        if is_op(node, "AveragePool") and node.attributes.get_int("count_include_pad") and not pads(node):
            del node.attributes["count_include_pad"]
            return True
        return False


def _reduces_space(node: ir.Node) -> bool:
    dimensions = rank(operand(node, 0)) or 0
    axes = node.attributes.get_ints("axes")
    if axes is None:
        given = array(operand(node, 1))
        axes = None if given is None else tuple(int(axis) for axis in given.reshape(-1).astype(np.int64))
    if axes is None or dimensions < 3:
        return False
    return sorted(axis % dimensions for axis in axes) == list(range(2, dimensions))


def _to_average_pool(graph: ir.Graph, node: ir.Node) -> None:
    keep = node.attributes.get_int("keepdims", 1)
    node.resize_inputs(1)
    node.op_type = "GlobalAveragePool"
    node.attributes.clear()
    if keep:
        return
    result = node.outputs[0]
    flat = ir.node("Flatten", [result], {"axis": 1}, name=f"{node.name}.flatten")
    flat.outputs[0].type, flat.outputs[0].shape = result.type, result.shape
    result.replace_all_uses_with(flat.outputs[0], replace_graph_outputs=True)
    flat.replace_input_with(0, result)
    name, result.shape = result.name, None
    result.name = unused_name(graph, f"{name}.pooled")
    flat.outputs[0].name = name
    graph.insert_after(node, flat)


def _to_reduce_max(graph: ir.Graph, node: ir.Node) -> None:
    axes = np.arange(2, rank(required(node, 0)) or 0, dtype=np.int64)
    node.op_type = "ReduceMax"
    if graph.opset_imports.get("", 0) >= 18:
        node.resize_inputs(2)
        node.replace_input_with(1, add_constant(graph, f"{node.name}.axes", axes))
    else:
        node.attributes.add(ir.AttrInt64s("axes", [int(axis) for axis in axes]))
    node.attributes.add(ir.AttrInt64("keepdims", 1))
