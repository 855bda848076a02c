"""Rewrites linear layers over the last axis as Gemm, and Gemm to the form with an integer kernel.

Transformers apply ``x W + b`` to tensors of any rank; exporters write MatMul and Add. Only onnxruntime's integer kernel
of Gemm supports an int32 bias, and MatMul followed by a float Add would be fused into a float Gemm. A Gemm between two
Reshapes computes the same product over all rows. Integer kernels support ``x W + bias`` without scaling or transposed
input.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.analysis.values import (
    add_constant,
    array,
    dims,
    is_constant,
    is_op,
    node_name,
    operand,
    output_channels,
    rank,
    required,
    set_constant,
    sole_consumer,
    take_over,
    unused_name,
)
from quantkit.graph.passes.fold_affine import along_axis, is_row
from quantkit.graph.passes.node_pass import each_node


@each_node("MatMul")
def linear_to_gemm(graph: ir.Graph, node: ir.Node) -> bool:
    """Convert MatMul by a constant matrix, with following per-feature additions and multiplications, to Gemm.

    Constants after Transposes are included (the layer scale of ConvNeXt).
    Not changed: a MatMul with nothing to fold, because its integer kernel needs no bias; operands of unknown rank;
    constants that vary along any other axis; types other than float32.
    """
    value, dimensions = operand(node, 1), rank(operand(node, 0))
    if dimensions is None or dimensions < 2 or not is_constant(value) or is_constant(operand(node, 0)):
        return False
    weight = np.asarray(array(value)) if rank(value) == 2 else None
    if weight is None or weight.dtype != np.float32:
        return False
    tail = _tail_of(node, weight.shape[1], dimensions)
    if not tail.nodes:
        return False
    if (tail.scale != 1.0).any():
        weight = (weight * tail.scale).astype(np.float32)
        node.replace_input_with(1, add_constant(graph, f"{node_name(node)}.weight", weight))
    for folded in tail.nodes:
        source = next(value for value in folded.inputs if value is not None and not is_constant(value))
        take_over(graph, source, folded)
    bias = add_constant(graph, f"{node_name(node)}.bias", tail.shift.astype(np.float32))
    node.op_type = "Gemm"
    node.resize_inputs(3)
    node.replace_input_with(2, bias)
    if dimensions > 2:
        _over_rows(graph, node, weight.shape)
    return True


@dataclass
class _Tail:
    """The per-feature function after a MatMul, ``scale * (x W) + shift``, and its nodes."""

    scale: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]
    nodes: list[ir.Node] = field(default_factory=list)


def _tail_of(node: ir.Node, features: int, dimensions: int) -> _Tail:
    tail = _Tail(np.ones(features), np.zeros(features))
    value, axis = node.outputs[0], dimensions - 1
    while (reader := sole_consumer(value)) is not None:
        if is_op(reader, "Transpose"):
            order = reader.attributes.get_ints("perm") or tuple(reversed(range(dimensions)))
            axis = order.index(axis)
        elif is_op(reader, "Add", "Mul"):
            constant = next((array(other) for other in reader.inputs if other is not value), None)
            vector = None if constant is None else along_axis(constant, axis, dimensions, features)
            if vector is None:
                break
            if reader.op_type == "Mul":
                tail.scale, tail.shift = tail.scale * vector, tail.shift * vector
            else:
                tail.shift = tail.shift + vector
            tail.nodes.append(reader)
        else:
            break
        value = reader.outputs[0]
    return tail


def _over_rows(graph: ir.Graph, node: ir.Node, weight_shape: tuple[int, ...]) -> None:
    """Insert a Gemm between a Reshape to rows and a Reshape back, which keeps the name of the result."""
    source, result, name = required(node, 0), node.outputs[0], node_name(node)
    final = result.name
    to_rows = add_constant(graph, f"{name}.rows_shape", np.array([-1, weight_shape[0]], np.int64))
    rows = ir.node("Reshape", [source, to_rows], name=f"{name}.to_rows")
    rows.outputs[0].name = unused_name(graph, f"{name}.rows")
    rows.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    node.replace_input_with(0, rows.outputs[0])
    shape_nodes, shape = _shape_back(graph, name, source, result, weight_shape[1])
    back = ir.node("Reshape", [result, shape], name=f"{name}.from_rows")
    back.outputs[0].type, back.outputs[0].shape = result.type, result.shape
    result.replace_all_uses_with(back.outputs[0], replace_graph_outputs=True)
    back.replace_input_with(0, result)
    result.name, result.shape = unused_name(graph, f"{final}.rows"), None
    back.outputs[0].name = final
    graph.insert_before(node, [rows, *shape_nodes])
    graph.insert_after(node, back)


def _shape_back(
    graph: ir.Graph, name: str, source: ir.Value, result: ir.Value, features: int
) -> tuple[list[ir.Node], ir.Value]:
    leading = list(dims(source) or ())[:-1]
    if leading.count(None) <= 1:
        sizes = [-1 if size is None else size for size in leading] + [features]
        return [], add_constant(graph, f"{name}.shape", np.array(sizes, np.int64))
    shape = ir.node("Shape", [source], name=f"{name}.source_shape")
    ends = [
        add_constant(graph, f"{name}.{what}", np.array([end], np.int64)) for what, end in (("start", 0), ("end", -1))
    ]
    cut = ir.node("Slice", [shape.outputs[0], *ends], name=f"{name}.leading_shape")
    last = add_constant(graph, f"{name}.features", np.array([features], np.int64))
    joined = ir.node("Concat", [cut.outputs[0], last], {"axis": 0}, name=f"{name}.result_shape")
    for new in (shape, cut, joined):
        new.outputs[0].name = unused_name(graph, f"{new.name}")
        new.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    return [shape, cut, joined], joined.outputs[0]


@each_node("Gemm")
def plain_gemm(graph: ir.Graph, node: ir.Node) -> bool:
    """Fold alpha and beta of a Gemm into constant weights and bias, and give the bias its full length.

    Not changed: a transposed first input, weights or bias that are computed or not float32, and a bias that is a
    matrix or a column.
    """
    weight, bias = array(operand(node, 1)), array(operand(node, 2))
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    if node.attributes.get_int("transA", 0):
        return False
    if weight is None or weight.dtype != np.float32 or (operand(node, 2) is not None and bias is None):
        return False
    outputs = output_channels(node, weight)
    if bias is not None and not is_row(bias, outputs):
        return False
    full = bias is None or bias.shape == (outputs,)
    if alpha == beta == 1.0 and full:
        return False
    if alpha != 1.0:
        set_constant(graph, node, 1, alpha * weight.astype(np.float64), f"{node_name(node)}.weight")
    if bias is not None and not (beta == 1.0 and full):
        vector = np.broadcast_to(bias.astype(np.float64).reshape(-1), (outputs,))
        set_constant(graph, node, 2, beta * vector, f"{node_name(node)}.bias")
    for name in ("alpha", "beta"):
        node.attributes.pop(name, None)
    return True
