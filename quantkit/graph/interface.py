"""Conversion between a classifier's file and its core: float32 NCHW image input, scores ``[N, classes]`` as output.

`to_core` moves the file's signature into the graph: an NHWC model gets a transpose after a new NCHW input, a uint8
model takes integers stored as float32, and further inputs become constants. `from_core` restores the signature of the
file for a model created from the core.

If possible no operator is added: leading casts and transposes of the file become redundant, and constants between them
are reordered. So a model with its normalization in NHWC, as written by TensorFlow's exporters, is not larger than its
NCHW counterpart.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from quantkit.graph.analysis.values import add_constant, array, dims, forget_names, is_op, name_of, unused_name
from quantkit.graph.image_input import TO_NCHW, TO_NHWC, ImageInput
from quantkit.graph.precision import to_float32
from quantkit.graph.score_output import OutputInfo
from quantkit.graph.signature import Signature

_MATRIX = "quantkit.scores"
_RESHAPING = ("Squeeze", "Unsqueeze", "Reshape", "Flatten", "Identity")


def to_core(model: ir.Model, signature: Signature) -> ir.Model:
    """Return a copy of a model with a float32 NCHW image as input and the scores ``[N, classes]`` as first output.

    Other outputs follow in their order. A model that has this form is returned unchanged.

    Args:
        model: as read from its file.
        signature: its signature, from `quantkit.graph.signature.read_signature`.
    """
    if signature.is_plain:
        return model
    core = model.clone()
    if core.functions:  # inlined, because they are called with other types
        InlinePass()(core)
    graph = core.graph
    forget_names(graph)
    if signature.converted:
        to_float32(core, frozenset(ir.DataType[_TYPE_NAMES[name]] for name in signature.converted))
    for name in signature.fixed:
        _fix(graph, name, signature)
    image = next(value for value in graph.inputs if value.name == signature.image.name)
    if signature.image.dtype.is_integer():
        read_floats(graph, image, signature.image.dtype)
    if signature.image.layout == "NHWC":
        read_nchw(graph, image)
    if not signature.scores.is_matrix:
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(core)
    # Inputs with a default value are treated as constants.
    graph.inputs[:] = [image, *(value for value in graph.inputs if value is not image)]
    scores = next(value for value in graph.outputs if value.name == signature.scores.name)
    others = [value for value in graph.outputs if value is not scores]
    graph.outputs[:] = [scores if signature.scores.is_matrix else _matrix(graph, scores, signature), *others]
    return core


def from_core(model: ir.Model, signature: Signature) -> ir.Model:
    """Return a copy of a model created from the core, with the inputs and outputs of the file.

    Args:
        model: model with the inputs and outputs of `to_core`, such as an int8 model.
        signature: signature of the file.
    """
    if signature.is_plain:
        return model
    copy = model.clone()
    graph = copy.graph
    forget_names(graph)
    scores, *others = list(graph.outputs)
    if not signature.scores.is_matrix:
        scores = _unmatrix(graph, scores, signature)
    rest = iter(others)
    made = [scores if one.name == signature.scores.name else next(rest) for one in signature.outputs]
    graph.outputs[:] = [_typed(graph, value, one) for value, one in zip(made, signature.outputs, strict=True)]
    image = next(value for value in graph.inputs if value.name == signature.image.name)
    entry = _entry(graph, image, signature.image)
    fed = {value.name: value for value in (entry, *graph.inputs) if value is not image}
    for one in signature.inputs:
        if one.name not in fed:
            fed[one.name] = _input(one)
    graph.inputs[:] = [fed[one.name] for one in signature.inputs]
    return copy


_TYPE_NAMES = {"float16": "FLOAT16", "bfloat16": "BFLOAT16", "float64": "DOUBLE"}


def _fix(graph: ir.Graph, name: str, signature: Signature) -> None:
    value = next(one for one in graph.inputs if one.name == name)
    graph.inputs[:] = [one for one in graph.inputs if one is not value]
    content = signature.fixed[name]
    if content.dtype.name in signature.converted:
        content = content.astype(np.float32)
    value.name = unused_name(graph, f"{name}.fixed")  # the input keeps its name in written models
    value.const_value = ir.Tensor(content, name=value.name)
    value.shape, value.dtype = ir.Shape(content.shape), value.const_value.dtype
    graph.register_initializer(value)


def _matrix(graph: ir.Graph, scores: ir.Value, signature: Signature) -> ir.Value:
    """Return the scores as ``[N, classes]``: before a final reshape of the file, or after an appended Reshape.

    Without extra axes in between, per-channel passes reach the last layer.
    """
    name = name_of(scores)
    if (before := _before_reshaping(graph, scores, signature)) is not None:
        return before
    if signature.scores.classes is None:
        node = ir.node("Flatten", [scores], {"axis": 1}, name=unused_name(graph, _MATRIX))
    else:
        shape = add_constant(graph, f"{name}.shape", np.array([-1, signature.scores.classes], np.int64))
        node = ir.node("Reshape", [scores, shape], name=unused_name(graph, _MATRIX))
    return _described(graph, node, f"{name}.matrix", signature)


def _before_reshaping(graph: ir.Graph, scores: ir.Value, signature: Signature) -> ir.Value | None:
    """Return the scores ``[N, classes]`` that the file's last operators only reshape; None if there are none."""
    classes = signature.scores.classes
    if classes is None or _sizes(signature) is None:
        return None
    value = scores
    while (node := value.producer()) is not None and is_op(node, *_RESHAPING):
        source = node.inputs[0]
        if source is None or source.producer() is None or source.is_graph_output():
            return None
        value, shape = source, dims(source)
        if shape is not None and len(shape) == 2 and shape[1] == classes:
            return value
        if shape is not None and len(shape) == 4 and shape[1:] == (classes, 1, 1):
            flat = ir.node("Flatten", [value], {"axis": 1}, name=unused_name(graph, _MATRIX))
            return _described(graph, flat, f"{name_of(value)}.matrix", signature)
    return None


def _sizes(signature: Signature) -> list[int] | None:
    """Return the shape of the scores in the file for a Reshape, None if more than one size is free."""
    info = next(one for one in signature.outputs if one.name == signature.scores.name)
    if info.shape is None:
        return None
    sizes = [size if isinstance(size, int) else -1 for size in info.shape]
    return sizes if sizes.count(-1) <= 1 else None


def _described(graph: ir.Graph, node: ir.Node, name: str, signature: Signature) -> ir.Value:
    """Append a node with the scores ``[N, classes]`` and return its output."""
    result = node.outputs[0]
    result.name = unused_name(graph, name)
    batch, classes = signature.image.batch, signature.scores.classes
    result.shape = ir.Shape([batch if batch else "N", classes if classes else "classes"])
    result.type = ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    return result


def _unmatrix(graph: ir.Graph, matrix: ir.Value, signature: Signature) -> ir.Value:
    """Return the scores in the shape of the file: before the Reshape that `_matrix` appended, or reshaped back."""
    node = matrix.producer()
    if is_op(node, "Reshape", "Flatten") and node is not None and (node.name or "").startswith(_MATRIX):
        source = node.inputs[0]
        if source is not None and source.name == signature.scores.name and not matrix.uses():
            graph.outputs[:] = [value for value in graph.outputs if value is not matrix]
            operands = [value for value in node.inputs[1:] if value is not None]
            graph.remove(node, safe=True)
            for value in operands:
                if value.is_initializer() and not value.uses():
                    del graph.initializers[name_of(value)]
            return source
    sizes = _sizes(signature)
    if sizes is None:
        return matrix
    info = next(one for one in signature.outputs if one.name == signature.scores.name)
    return _renamed(graph, _reshaped(graph, matrix, sizes, info.shape), signature.scores.name)


def _reshaped(graph: ir.Graph, value: ir.Value, sizes: Sequence[int], shape: ir.Shape | None) -> ir.Value:
    wanted = add_constant(graph, f"{name_of(value)}.shape", np.array(sizes, np.int64))
    node = ir.node("Reshape", [value, wanted], name=unused_name(graph, f"{name_of(value)}.Reshape"))
    node.outputs[0].name = unused_name(graph, f"{name_of(value)}.reshaped")
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), shape
    graph.append(node)
    return node.outputs[0]


def _renamed(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """Rename a value; another value with that name gets a new one."""
    for node in graph:
        for other in node.outputs:
            if other.name == name and other is not value:
                other.name = unused_name(graph, f"{name}.inner")
    value.name = name
    return value


def _typed(graph: ir.Graph, value: ir.Value, info: OutputInfo) -> ir.Value:
    """Return an output with the element type of the file."""
    if info.dtype is None or value.dtype is None or value.dtype == info.dtype:
        return value
    node = ir.node("Cast", [value], {"to": info.dtype}, name=unused_name(graph, f"{info.name}.Cast"))
    result = node.outputs[0]
    result.type, result.shape = ir.TensorType(info.dtype), value.shape
    result.name = unused_name(graph, f"{info.name}.cast")
    graph.append(node)
    return _renamed(graph, result, info.name)


def _input(info: OutputInfo) -> ir.Value:
    value = ir.Value(name=info.name, shape=info.shape)
    if info.dtype is not None:
        value.type = ir.TensorType(info.dtype)
    return value


def _entry(graph: ir.Graph, image: ir.Value, described: ImageInput) -> ir.Value:
    """Insert a new input with the file's type and layout before the image, and return it."""
    wants_cast, wants_order = described.dtype is not ir.DataType.FLOAT, described.layout == "NHWC"
    if not (wants_cast or wants_order):
        return image
    name = name_of(image)
    shape = None if image.shape is None else list(image.shape)
    outer = [shape[place] for place in TO_NHWC] if shape is not None and wants_order else shape
    entry = ir.Value(name=name, type=ir.TensorType(described.dtype), shape=None if outer is None else ir.Shape(outer))
    readers = [use for use in image.uses() if not _takes_entry(graph, use.node, entry, described)]
    value, nodes = entry, []
    if wants_cast:
        nodes.append(ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{name}.to_float32"))
        value = nodes[-1].outputs[0]
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), entry.shape
    if wants_order:
        nodes.append(ir.node("Transpose", [value], {"perm": list(TO_NCHW)}, name=f"{name}.to_nchw"))
        value = nodes[-1].outputs[0]
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), image.shape
    for node in nodes:
        node.outputs[0].name = unused_name(graph, f"{name}.image")
    for use in readers:
        use.node.replace_input_with(use.idx, value)
    graph.inputs[:] = [one for one in graph.inputs if one is not image]
    if readers:
        graph.insert_before(graph[0], nodes)
    graph.inputs.insert(0, entry)
    return entry


def _takes_entry(graph: ir.Graph, node: ir.Node, entry: ir.Value, described: ImageInput) -> bool:
    """Remove a node that converts back to the file's type or layout; its consumers read the new input."""
    leads_back = (
        is_op(node, "Transpose")
        and described.dtype is ir.DataType.FLOAT
        and node.attributes.get_ints("perm") == TO_NHWC
    ) or (is_op(node, "Cast") and described.layout == "NCHW" and node.attributes["to"].as_int() == described.dtype)
    if not leads_back or node.outputs[0].is_graph_output():
        return False
    node.outputs[0].replace_all_uses_with(entry)
    graph.remove(node, safe=True)
    return True


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
