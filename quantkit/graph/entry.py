"""Converts the image input of a core model: integer pixels to float32, and NHWC to NCHW.

If possible no operator is added: leading casts and transposes of the file become redundant, and constants between them
are reordered. So a model with its normalization in NHWC, as written by TensorFlow's exporters, is not larger than its
NCHW counterpart.
"""

import onnx_ir as ir

from quantkit.graph.analysis.values import add_constant, array, is_op, name_of, unused_name
from quantkit.graph.image_input import TO_NCHW, TO_NHWC

# Operators that move or select values of any type.
_MOVING = frozenset(
    {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Gather", "Concat"}
)
_UNARY = frozenset({"Cast", "Identity", "Relu", "Clip", "Sqrt", "Neg", "Abs"})
_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})


def read_floats(graph: ir.Graph, image: ir.Value, dtype: ir.DataType) -> None:
    """Change an integer image input to float32 with integer values.

    If all consumers move the values and then cast them to float32, only the types change; else a Cast is inserted.

    Args:
        graph: graph to modify.
        image: its image input.
        dtype: element type of the input in the file.
    """
    image.dtype = ir.DataType.FLOAT
    moved = _moved_and_cast(image)
    if moved is not None:
        for value in moved:
            if value.type is not None:
                value.dtype = ir.DataType.FLOAT
        return
    _insert_after(graph, image, ir.node("Cast", [image], {"to": dtype}), dtype, image.shape)


def read_nchw(graph: ir.Graph, image: ir.Value) -> None:
    """Change an NHWC image input to NCHW.

    If all consumers up to a transpose to NCHW are element-wise with constants, the transposes are removed and the
    constants are reordered; else a Transpose is inserted.

    Args:
        graph: graph to modify.
        image: its image input with NHWC shape.
    """
    outer = image.shape
    if _reordered(image):
        _reorder(graph, image)
        return
    image.shape = _shape_in_order(outer)
    assert image.dtype is not None
    _insert_after(graph, image, ir.node("Transpose", [image], {"perm": list(TO_NHWC)}), image.dtype, outer)


def _insert_after(graph: ir.Graph, image: ir.Value, node: ir.Node, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    """Insert a node between the image and its consumers."""
    readers = [use for use in image.uses() if use.node is not node]
    node.name = unused_name(graph, f"{name_of(image)}.as_in_file")
    result = node.outputs[0]
    result.name, result.type, result.shape = node.name, ir.TensorType(dtype), shape
    for use in readers:
        use.node.replace_input_with(use.idx, result)
    graph.insert_before(graph[0], node)


def _moved_and_cast(image: ir.Value) -> set[ir.Value] | None:
    """Return the values with the image's integers, moved; None if one has a consumer other than a Cast."""
    found = {image}
    pending = [image]
    mixing: list[ir.Node] = []
    while pending:
        value = pending.pop()
        if value.is_graph_output():
            return None
        for use in value.uses():
            node = use.node
            if is_op(node, "Cast"):
                if node.attributes["to"].as_int() != ir.DataType.FLOAT:
                    return None
                continue
            if not (node.domain == "" and node.op_type in _MOVING and (use.idx == 0 or node.op_type == "Concat")):
                return None
            if node.op_type == "Concat":
                mixing.append(node)
            fresh = [result for result in node.outputs if result not in found]
            found.update(fresh)
            pending.extend(fresh)
    whole = all(value in found for node in mixing for value in node.inputs)
    return found if whole else None


def _reordered(value: ir.Value) -> bool:
    """Return whether all consumers of an NHWC value support a change of the axis order."""
    return not value.is_graph_output() and all(_passes(use.node, use.idx) for use in value.uses())


def _passes(node: ir.Node, place: int) -> bool:
    if node.domain != "" or len(node.outputs) != 1:
        return False
    if node.op_type == "Transpose":
        return node.attributes.get_ints("perm") == TO_NCHW and not node.outputs[0].is_graph_output()
    if node.op_type in _UNARY:
        return place == 0 and _reordered(node.outputs[0])
    if node.op_type in _BINARY:
        other = node.inputs[1 - place]
        content = array(other)
        return content is not None and content.ndim <= len(TO_NCHW) and _reordered(node.outputs[0])
    return False


def _reorder(graph: ir.Graph, value: ir.Value) -> None:
    value.shape = _shape_in_order(value.shape)
    for use in list(value.uses()):
        node = use.node
        if node.op_type == "Transpose":
            node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
            graph.remove(node, safe=True)
            continue
        if node.op_type in _BINARY:
            other = node.inputs[1 - use.idx]
            content = array(other)
            if other is not None and content is not None and content.size > 1:
                ordered = content.reshape((1,) * (4 - content.ndim) + content.shape).transpose(TO_NCHW)
                node.replace_input_with(1 - use.idx, add_constant(graph, f"{name_of(other)}.nchw", ordered))
        _reorder(graph, node.outputs[0])


def _shape_in_order(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None or len(shape) != 4 else ir.Shape([shape[place] for place in TO_NCHW])
