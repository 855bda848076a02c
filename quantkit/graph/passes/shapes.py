"""Folds shape arithmetic (Shape, Gather, Concat, ...) with a dynamic batch size into constants."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from quantkit.graph.analysis.values import (
    add_constant,
    array,
    is_constant,
    is_op,
    operand,
    rank,
    replace_by_constant,
    required,
)

# One entry of a shape: a number, the name of a dynamic size, or None if unknown.
Size = int | str | None


def constant_shapes(model: ir.Model) -> bool:
    """Replace shape arithmetic by constants.

    1. Any integer vector of Shape, Gather, Slice, Squeeze, Unsqueeze, Concat and Cast with only fixed entries.
    2. The shape of a Reshape with one entry that is not fixed: that entry becomes 0 where it repeats the size of the
       reshaped tensor in the same place, else -1.

    Not changed: vectors with two unknown sizes, and a Reshape with ``allowzero``.
    """
    known: dict[ir.Value, list[Size]] = {}
    modified = False
    for node in list(model.graph):
        sizes = _sizes_of(node, known) if rank(node.outputs[0]) in (0, 1) else None
        if sizes is not None:
            known[node.outputs[0]] = sizes
            modified |= _replace_by_constant(model.graph, node, sizes)
        elif is_op(node, "Reshape"):
            modified |= _fix_reshape(model.graph, node, known)
    return modified


def _read(value: ir.Value | None, known: dict[ir.Value, list[Size]]) -> list[Size] | None:
    if value is None:
        return None
    if value in known:
        return known[value]
    content = array(value) if is_constant(value) else None
    if content is None or content.dtype.kind != "i" or content.ndim > 1:
        return None
    return [int(entry) for entry in content.reshape(-1)]


def _integers(value: ir.Value | None, known: dict[ir.Value, list[Size]]) -> list[int] | None:
    sizes = _read(value, known)
    return (
        None
        if sizes is None or any(not isinstance(size, int) for size in sizes)
        else [int(size or 0) for size in sizes]
    )


def _sizes_of(node: ir.Node, known: dict[ir.Value, list[Size]]) -> list[Size] | None:
    """Return the entries of the integer vector (or scalar) that a node computes, None for everything else."""
    if is_op(node, "Shape"):
        return _shape(node)
    if is_op(node, "Squeeze", "Unsqueeze", "Identity"):
        return _read(operand(node, 0), known)
    if is_op(node, "Cast"):
        integer = node.attributes.get_int("to", 0) in (ir.DataType.INT64, ir.DataType.INT32)
        return _read(operand(node, 0), known) if integer else None
    if is_op(node, "Concat"):
        parts = [_read(value, known) for value in node.inputs]
        return None if any(part is None for part in parts) else [size for part in parts for size in part or []]
    if is_op(node, "Gather"):
        source, indices = _read(operand(node, 0), known), _integers(operand(node, 1), known)
        if source is None or indices is None or any(not -len(source) <= index < len(source) for index in indices):
            return None
        return [source[index] for index in indices]
    if is_op(node, "Slice"):
        return _slice(node, known)
    return _unknown(node)


def _unknown(node: ir.Node) -> list[Size] | None:
    """Return unknown entries for the integer vector of a node, None if it computes anything else."""
    result = node.outputs[0]
    if result.dtype != ir.DataType.INT64 or result.shape is None:
        return None
    count = result.shape[0] if len(result.shape) else 1
    return [None] * count if isinstance(count, int) else None


def _shape(node: ir.Node) -> list[Size] | None:
    shape = required(node, 0).shape
    if shape is None:
        return None
    sizes: list[Size] = [size if isinstance(size, int) else size.value for size in shape]
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes))
    return sizes[start:end]


def _slice(node: ir.Node, known: dict[ir.Value, list[Size]]) -> list[Size] | None:
    source = _read(operand(node, 0), known)
    bounds = [_integers(operand(node, index), known) for index in (1, 2)]
    steps = [1] if operand(node, 4) is None else _integers(operand(node, 4), known)
    if source is None or any(one is None or len(one) != 1 for one in (*bounds, steps)):
        return None
    start, end, step = (one[0] for one in (*bounds, steps) if one is not None)
    return source[start:end:step] if step > 0 else None


def _replace_by_constant(graph: ir.Graph, node: ir.Node, sizes: Sequence[Size]) -> bool:
    result = node.outputs[0]
    if (
        result.is_graph_output()
        or result.dtype != ir.DataType.INT64
        or any(not isinstance(size, int) for size in sizes)
    ):
        return False
    if result.shape is None:
        return False
    content = np.array(sizes, np.int64).reshape([len(sizes)] if len(result.shape) else [])
    replace_by_constant(graph, node, content)
    return True


def _fix_reshape(graph: ir.Graph, node: ir.Node, known: dict[ir.Value, list[Size]]) -> bool:
    shape = required(node, 1)
    sizes = _read(shape, known)
    if sizes is None or is_constant(shape) or node.attributes.get_int("allowzero"):
        return False
    unknown = [index for index, size in enumerate(sizes) if not isinstance(size, int)]
    if len(unknown) != 1:
        return False
    index = unknown[0]
    source = required(node, 0).shape
    repeated = source is not None and index < len(source) and not isinstance(source[index], int)
    same = repeated and source is not None and sizes[index] is not None and str(source[index]) == sizes[index]
    if not same and -1 in sizes:
        return False
    fixed = [size if isinstance(size, int) else (0 if same else -1) for size in sizes]
    node.replace_input_with(1, add_constant(graph, f"{node.name}.shape", np.array(fixed, np.int64)))
    return True
