"""Remove what nothing reads, without touching what an operator needs its unread outputs for."""

import onnx_ir as ir

from quantkit.graph.analysis.values import graphs_within, is_op

# Operators that compute the same first output whether or not the optional ones are there. `Attention` is none of them:
# with a constant past it must have its present outputs, read or not.
_FREE_OUTPUTS = ("BatchNormalization", "Dropout", "MaxPool", "LayerNormalization")


class RemoveUnusedPass(ir.passes.InPlacePass):
    """Remove nodes and initializers that no output depends on, in graphs within nodes too.

    Trailing optional outputs that nothing reads are removed from BatchNormalization outside of training, Dropout,
    MaxPool and LayerNormalization alone; every other node keeps its outputs. Inputs and outputs of the model stay.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Sweep the model from its outputs."""
        modified = _sweep(model.graph)
        for function in model.functions.values():
            modified |= _sweep(function)
        return ir.passes.PassResult(model, modified)


def _sweep(graph: ir.Graph | ir.Function) -> bool:
    modified = False
    for node in reversed(graph):
        if not any(map(_is_read, node.outputs)):
            graph.remove(node, safe=True)
            modified = True
            continue
        modified |= _trim_outputs(node)
        for inner in graphs_within(node):
            modified |= _sweep(inner)
    if isinstance(graph, ir.Graph):
        for name, value in list(graph.initializers.items()):
            if not _is_read(value) and not value.is_graph_input():
                del graph.initializers[name]
                modified = True
    return modified


def _trim_outputs(node: ir.Node) -> bool:
    training = node.attributes.get("training_mode")
    if not is_op(node, *_FREE_OUTPUTS) or (training is not None and training.as_int() != 0):
        return False
    count = len(node.outputs)
    while count > 1 and not _is_read(node.outputs[count - 1]):
        count -= 1
    if count == len(node.outputs):
        return False
    node.resize_outputs(count)
    return True


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
