"""Folds zero padding into convolutions."""

import numpy as np
import onnx_ir as ir

from quantkit.graph.analysis.values import (
    array,
    is_op,
    operand,
    rank,
    required,
)
from quantkit.graph.passes.node_pass import NodePass


class FoldPadPass(NodePass):
    """Move a Pad with zeros along the spatial axes into the pads of every following Conv or AveragePool.

    Not changed: other values and modes, cropping (negative pads), padded channels and weights, outputs with other
    consumers, convolutions with automatic padding, and average pools that already pad or round their size up.
    """

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Fold a Pad."""
        return is_op(node, "Pad") and _fold(graph, node)


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    extra, result = _spatial_zeros(node), node.outputs[0]
    uses = list(result.uses())
    padded = all(use.idx == 0 and _takes_pads(use.node) for use in uses)
    if extra is None or not uses or result.is_graph_output() or not padded:
        return False
    for reader, _ in uses:
        spatial = len(extra) // 2
        own = reader.attributes.get_ints("pads") or (0,) * (2 * spatial)
        reader.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, extra, strict=True)])
        if reader.op_type == "AveragePool":
            reader.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    result.replace_all_uses_with(required(node, 0))
    graph.remove(node, safe=True)
    return True


def _spatial_zeros(node: ir.Node) -> list[int] | None:
    """Return begins and ends of the spatial axes, None if the node pads other axes or values."""
    dimensions = rank(operand(node, 0))
    pads, filling, axes = (array(operand(node, index)) for index in (1, 2, 3))
    if dimensions is None or pads is None or node.attributes.get_string("mode", "constant") != "constant":
        return None
    if operand(node, 2) is not None and (filling is None or np.any(filling)):
        return None
    if operand(node, 3) is not None and axes is None:
        return None
    chosen = range(dimensions) if axes is None else [int(axis) % dimensions for axis in axes]
    begin, end = [0] * dimensions, [0] * dimensions
    for position, axis in enumerate(chosen):
        begin[axis], end[axis] = int(pads[position]), int(pads[position + len(chosen)])
    if any(begin[:2]) or any(end[:2]) or min(begin + end) < 0:
        return None
    return begin[2:] + end[2:]


def _takes_pads(node: ir.Node) -> bool:
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return False
    if is_op(node, "AveragePool"):
        return not any(node.attributes.get_ints("pads") or ()) and not node.attributes.get_int("ceil_mode", 0)
    return is_op(node, "Conv")
