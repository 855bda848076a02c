"""Rewrites Gemm to the form that integer kernels support: ``x W + bias`` without scaling or transposed input."""

import numpy as np
import onnx_ir as ir

from quantkit.graph.analysis.values import array, attribute_float, attribute_int, is_op, node_name, operand
from quantkit.graph.passes.fold_affine import is_row, set_constant


class PlainGemmPass(ir.passes.InPlacePass):
    """Fold alpha and beta of a Gemm into constant weights and bias, and give the bias its full length.

    Not changed: a transposed first input, weights or bias that are computed or not float32, and a bias that is a
    matrix or a column.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Simplify the Gemm nodes of the model's main graph."""
        modified = False
        for node in list(model.graph):
            if is_op(node, "Gemm") and not attribute_int(node, "transA", 0):
                modified |= _simplify(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _simplify(graph: ir.Graph, node: ir.Node) -> bool:
    weight, bias = array(operand(node, 1)), array(operand(node, 2))
    alpha, beta = attribute_float(node, "alpha", 1.0), attribute_float(node, "beta", 1.0)
    if weight is None or weight.dtype != np.float32 or (operand(node, 2) is not None and bias is None):
        return False
    outputs = int(weight.shape[0] if attribute_int(node, "transB", 0) else weight.shape[1])
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
