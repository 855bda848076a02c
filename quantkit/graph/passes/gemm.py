"""Rewrites Gemm to the form that integer kernels support: ``x W + bias`` without scaling or transposed input."""

import numpy as np
import onnx_ir as ir

from quantkit.graph.analysis.values import (
    array,
    is_op,
    node_name,
    operand,
    output_channels,
    set_constant,
)
from quantkit.graph.passes.fold_affine import is_row
from quantkit.graph.passes.node_pass import NodePass


class PlainGemmPass(NodePass):
    """Fold alpha and beta of a Gemm into constant weights and bias, and give the bias its full length.

    Not changed: a transposed first input, weights or bias that are computed or not float32, and a bias that is a
    matrix or a column.
    """

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Simplify a Gemm."""
        return is_op(node, "Gemm") and not node.attributes.get_int("transA", 0) and _simplify(graph, node)


def _simplify(graph: ir.Graph, node: ir.Node) -> bool:
    weight, bias = array(operand(node, 1)), array(operand(node, 2))
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
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
