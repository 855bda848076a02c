"""Removes unused nodes, initializers and optional outputs."""

import onnx_ir as ir

from quantkit.graph.analysis.values import graphs_within, is_op

# Operators with a first output that does not depend on the optional ones. `Attention` is not one of them: with a
# constant past it must have its present outputs, used or not.
_FREE_OUTPUTS = ("BatchNormalization", "Dropout", "MaxPool", "LayerNormalization")


def remove_unused(model: ir.Model) -> None:
    """Remove nodes and initializers that no output depends on, including those in subgraphs.

    Unused trailing optional outputs are removed only from BatchNormalization outside of training, Dropout, MaxPool and
    LayerNormalization. Inputs and outputs of the model are kept.
    """
    _sweep(model.graph)
    for function in model.functions.values():
        _sweep(function)


def _sweep(graph: ir.Graph | ir.Function) -> None:
    for node in reversed(graph):
        if not any(map(_is_read, node.outputs)):
            graph.remove(node, safe=True)
            continue
        _trim_outputs(node)
        for inner in graphs_within(node):
            _sweep(inner)
    if isinstance(graph, ir.Graph):
        for name, value in list(graph.initializers.items()):
            if not _is_read(value) and not value.is_graph_input():
                del graph.initializers[name]


def _trim_outputs(node: ir.Node) -> None:
    if is_op(node, *_FREE_OUTPUTS) and not node.attributes.get_int("training_mode"):
        count = len(node.outputs)
        while count > 1 and not _is_read(node.outputs[count - 1]):
            count -= 1
        node.resize_outputs(count)


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
