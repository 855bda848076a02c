"""Removes nodes without an effect at inference."""

import onnx_ir as ir

from quantkit.graph.analysis.values import array, is_op, operand, required, take_over
from quantkit.graph.passes.node_pass import NodePass


class RemoveNoOpsPass(NodePass):
    """Remove Identity, Dropout outside of training, an empty Pad and a Cast to the same type.

    Not changed: a Dropout with a used mask, or with a training mode that is on or not constant; nodes inside conditions
    and loops, because a subgraph must not return an outer value; and nodes between an input, a constant or another
    output of the graph and one of its outputs.
    """

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Remove a node."""
        return _does_nothing(node) and _remove(graph, node)


def _does_nothing(node: ir.Node) -> bool:
    if is_op(node, "Identity"):
        return True
    if is_op(node, "Dropout"):
        mask_read = len(node.outputs) > 1 and (bool(node.outputs[1].uses()) or node.outputs[1].is_graph_output())
        mode = operand(node, 2)
        training = array(mode)
        return not mask_read and (mode is None or (training is not None and not bool(training)))
    if is_op(node, "Pad"):
        pads = array(operand(node, 1))
        return pads is not None and not pads.any()
    if is_op(node, "Cast"):
        source = operand(node, 0)
        return source is not None and source.dtype is not None and source.dtype == node.attributes.get_int("to", 0)
    return False


def _remove(graph: ir.Graph, node: ir.Node) -> bool:
    source, result = required(node, 0), node.outputs[0]
    if not result.is_graph_output():
        if source.shape is None:
            source.shape = result.shape
        result.replace_all_uses_with(source)
        graph.remove(node, safe=True)
        return True
    if source.is_graph_input() or source.is_initializer() or source.is_graph_output() or source.producer() is None:
        return False
    take_over(graph, source, node)
    return True
