"""Gives every node and value a unique name, and every free size of the inputs one."""

import itertools

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from quantkit.graph.analysis.values import forget_names, unused_name

# Suffixes that the int8 model appends to the names of tensors (see `quantkit.graph.qdq.read`).
_SUFFIXES = (".float", ".quantized", ".dequantized", ".clipped")


def name_nodes(model: ir.Model) -> None:
    """Name each unnamed node after its first output, then make all names unique; unique names are kept.

    The names depend on the graph alone, so patterns and statistics keyed by them remain valid.
    """
    for node in model.graph.all_nodes():
        if not node.name and node.outputs and node.outputs[0].name:
            node.name = node.outputs[0].name
    NameFixPass()(model)
    _free_suffixes(model.graph)
    forget_names(model.graph)


def _free_suffixes(graph: ir.Graph) -> None:
    """Rename values with names that the int8 model assigns to other values; inputs and outputs keep theirs."""
    forget_names(graph)
    values = {str(value.name): value for node in graph for value in node.outputs}
    names = values.keys() | {str(value.name) for value in graph.inputs}
    for name, value in values.items():
        stem = next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)
        if stem != name and stem in names and not value.is_graph_output():
            value.name = unused_name(graph, f"{name}_")


def name_sizes(model: ir.Model) -> None:
    """Name the free sizes of the inputs: shape inference carries names on, and equal sizes are found by them."""
    shapes = [(value, list(value.shape)) for value in model.graph.inputs if value.shape is not None]
    taken = {str(size) for _, shape in shapes for size in shape}
    names = (name for index in itertools.count() if (name := f"dim_{index}") not in taken)
    for value, shape in shapes:
        if any(_is_nameless(size) for size in shape):
            value.shape = ir.Shape([next(names) if _is_nameless(size) else size for size in shape])


def _is_nameless(size: int | ir.SymbolicDim) -> bool:
    return isinstance(size, ir.SymbolicDim) and size.value is None
