"""Removes what has no effect at inference or is unused, and completes optional attributes."""

import onnx_ir as ir

from quantkit.graph.analysis.values import array, dims, graphs_within, is_op, operand, required, take_over
from quantkit.graph.passes.node_pass import each_node


@each_node("Identity", "Dropout", "Pad", "Cast")
def remove_no_ops(graph: ir.Graph, node: ir.Node) -> bool:
    """Remove Identity, Dropout outside of training, an empty Pad and a Cast to the same type.

    Not changed: a Dropout with a used mask, or with a training mode that is on or not constant; nodes inside conditions
    and loops, because a subgraph must not return an outer value; and nodes between an input, a constant or another
    output of the graph and one of its outputs.
    """
    if not _does_nothing(node):
        return False
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


def write_kernel_shapes(model: ir.Model) -> None:
    """Write ``kernel_shape`` on every Conv and ConvTranspose.

    The attribute is optional in ONNX, and torch's dynamo exporter omits it; parsers of TensorRT before version 10 need
    it. Not changed: weights of unknown shape.
    """
    for node in model.graph.all_nodes():
        shape = dims(operand(node, 1)) if is_op(node, "Conv", "ConvTranspose") else None
        if shape is not None and None not in shape and "kernel_shape" not in node.attributes:
            node.attributes.add(ir.AttrInt64s("kernel_shape", [size for size in shape[2:] if size is not None]))
