"""Queries on a node or value, and small edits that the passes share."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.errors import ModelError

# Metadata key of a node with the operator of the original model that it replaces.
ORIGIN = "quantkit.origin"
# Metadata key of a graph with its used names, so that a new name needs no walk over all nodes.
_NAMES = "quantkit.names"


def array(value: ir.Value | None) -> npt.NDArray[np.generic] | None:
    """Return the constant of a value as a numpy array; None if it is computed, missing or an input."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def release(value: ir.Value) -> None:
    """Release the memory of a constant that is mapped from a file until it is read again."""
    if isinstance(value.const_value, ir.ExternalTensor):
        value.const_value.release()


def is_constant(value: ir.Value | None) -> bool:
    """Return whether a value is constant, without reading it."""
    return value is not None and not value.is_graph_input() and ir.convenience.get_const_tensor(value) is not None


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input of a node; None if it is omitted."""
    return node.inputs[index] if index < len(node.inputs) else None


def required(node: ir.Node, index: int) -> ir.Value:
    """Return a required input of a node.

    Raises:
        ModelError: the input is missing.
    """
    value = operand(node, index)
    if value is None:
        raise ModelError(f"node {node.name!r} ({node.op_type}) lacks input {index}")
    return value


def name_of(value: ir.Value) -> str:
    """Return the name of a value; every value of a prepared model has one."""
    if value.name is None:
        raise ModelError("a value of the model has no name", fix="prepare the model first")
    return value.name


def node_name(node: ir.Node) -> str:
    """Return the name of a node; every node of a prepared model has one."""
    if not node.name:
        raise ModelError(f"a {node.op_type} node of the model has no name", fix="prepare the model first")
    return node.name


def dtype_name(dtype: ir.DataType) -> str:
    """Return the numpy name of an element type: ``float32``, ``uint8``."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Return whether a node is one of these operators of the standard ONNX domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


def rank(value: ir.Value | None) -> int | None:
    """Return the number of dimensions, None if unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def dims(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Return the shape with None for each free size; None if the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def reads(node: ir.Node) -> list[ir.Value]:
    """Return the values that a node reads: its inputs, and outer values used in its subgraphs (If, Loop, Scan)."""
    found = [value for value in node.inputs if value is not None]
    for graph in graphs_within(node):
        inner = [*(value for one in graph for value in reads(one)), *graph.outputs]
        found += [value for value in inner if value.graph is not graph]
    return found


def graphs_within(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the subgraphs of a node (If, Loop, Scan)."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def padding_constant(node: ir.Node) -> float | None:
    """Return the fill value of a Pad, None if it is computed."""
    if operand(node, 2) is None:
        return 0.0
    content = array(operand(node, 2))
    return None if content is None or content.size != 1 else float(content.reshape(-1)[0])


def pads(node: ir.Node) -> bool:
    """Return whether a convolution or pool may pad its input."""
    automatic = node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return automatic or any(node.attributes.get_ints("pads") or ())


def crops(node: ir.Node) -> bool:
    """Return whether a Resize reads a region, which may extend beyond its input and is then filled with a number."""
    return node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"


def output_channels(layer: ir.Node, weight: npt.NDArray[np.generic]) -> int:
    """Return the number of output channels of a Conv, ConvTranspose or Gemm with these weights."""
    if is_op(layer, "ConvTranspose"):
        return int(weight.shape[1]) * layer.attributes.get_int("group", 1)
    if is_op(layer, "Gemm") and not layer.attributes.get_int("transB", 0):
        return int(weight.shape[1])
    return int(weight.shape[0])


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """Return the only consumer of a value; None for several, one in a subgraph, and a graph output."""
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1 or uses[0].node.graph is not value.graph:
        return None
    return uses[0].node


def take_over(graph: ir.Graph, value: ir.Value, node: ir.Node) -> None:
    """Remove a node with one output and replace that output by a value, which takes over its name."""
    output = node.outputs[0]
    name = output.name
    output.name = f"{name}.replaced"
    output.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    value.name = name


def add_constant(graph: ir.Graph, name: str, content: npt.NDArray[np.generic]) -> ir.Value:
    """Register a new initializer under an unused name, and return it."""
    return _register(graph, unused_name(graph, name), content)


def set_constant(graph: ir.Graph, layer: ir.Node, index: int, content: npt.NDArray[np.float64], name: str) -> None:
    """Replace a constant input by float32 values; the name is kept if no other node reads the initializer."""
    old = operand(layer, index)
    values = content.astype(np.float32)
    if old is not None and old.is_initializer() and sole_consumer(old) is layer:
        old.const_value = ir.Tensor(values, name=old.name)
        old.shape = ir.Shape(values.shape)
        return
    if index >= len(layer.inputs):
        layer.resize_inputs(index + 1)
    layer.replace_input_with(index, add_constant(graph, name if old is None else f"{old.name}.{name}", values))


def replace_by_constant(graph: ir.Graph, node: ir.Node, content: npt.NDArray[np.generic]) -> None:
    """Replace a node with one output by an initializer with the output's name."""
    old = node.outputs[0]
    name = name_of(old)
    old.name = f"{name}.replaced"
    old.replace_all_uses_with(_register(graph, name, content))
    graph.remove(node, safe=True)


def _register(graph: ir.Graph, name: str, content: npt.NDArray[np.generic]) -> ir.Value:
    # ascontiguousarray would turn a scalar into a vector.
    tensor = ir.Tensor(np.ascontiguousarray(content) if content.ndim else content, name=name)
    value = ir.Value(name=name, shape=ir.Shape(content.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def insert_after(graph: ir.Graph, producer: ir.Node | None, nodes: Sequence[ir.Node]) -> None:
    """Insert nodes after a producer, or at the beginning of the graph if the producer is None."""
    if producer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)


def unused_name(graph: ir.Graph, name: str) -> str:
    """Return ``name``, with a number appended if the graph already uses it for a value, and mark it as used."""
    if _NAMES not in graph.meta:
        graph.meta[_NAMES] = _names_in_use(graph)
    taken: set[str | None] = graph.meta[_NAMES]
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free


def forget_names(graph: ir.Graph) -> None:
    """Make `unused_name` scan the graph again, after names were assigned in another way."""
    graph.meta.pop(_NAMES, None)


def _names_in_use(graph: ir.Graph) -> set[str | None]:
    """Return the names of all values, including subgraphs: a name there must not shadow an outer one."""
    taken = {value.name for node in graph.all_nodes() for value in node.outputs}
    for inner in (graph, *graph.subgraphs()):
        taken |= set(inner.initializers) | {value.name for value in inner.inputs}
    return taken
