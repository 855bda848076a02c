"""Converts models between precisions: to float32 for integer kernels, or rounded to IEEE half precision.

Constants, the input, and the result of every computing operator are rounded to half precision and back. So an operator
reads half-precision values, accumulates in float32, and returns half-precision values, like accelerators with fp16
storage. onnxruntime's CPU provider has few half-precision kernels; these casts round exactly and run everywhere.
"""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.analysis import ops
from quantkit.graph.analysis.values import forget_names, name_of, unused_name

# Attributes that name an element type.
_TYPE_ATTRIBUTES = frozenset({"to", "dtype"})


def to_float32(model: ir.Model, types: frozenset[ir.DataType]) -> None:
    """Convert all tensors of the given floating-point types to float32, in place.

    float16 and bfloat16 are converted exactly; float64 is rounded, and values beyond float32 are clipped to its largest
    finite value.

    Args:
        model: the model to modify, without functions.
        types: the types to convert.
    """
    for graph in model.graphs():
        for value in graph.inputs:
            _retype(value, types)
        for value in list(graph.initializers.values()):
            _retype(value, types)
            if value.const_value is not None and value.const_value.dtype in types:
                value.const_value = _converted(value.const_value)
        for node in graph:
            _convert_attributes(node, types)
            for value in node.outputs:
                _retype(value, types)


def _retype(value: ir.Value, types: frozenset[ir.DataType]) -> None:
    if value.type is not None and value.dtype in types:
        value.dtype = ir.DataType.FLOAT


def _convert_attributes(node: ir.Node, types: frozenset[ir.DataType]) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in types:
            node.attributes[name] = ir.AttrTensor(name, _converted(attribute.as_tensor()))
        elif name in _TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT and attribute.as_int() in types:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))


def _converted(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    limits = np.finfo(np.float32)
    content = np.asarray(tensor.numpy())
    if tensor.dtype is ir.DataType.DOUBLE:
        finite = np.isfinite(content)
        content = np.where(finite, np.clip(content, limits.min, limits.max), content)
    return ir.Tensor(content.astype(np.float32), name=tensor.name)


def half_model(prepared_model: ir.Model) -> ir.Model:
    """Return a copy of a prepared model in which every float tensor is rounded to half precision.

    Values beyond 65504, including weights, become infinite, as on the device.

    Args:
        prepared_model: from `quantkit.graph.prepare.prepare`; not modified.
    """
    model = prepared_model.clone()
    graph = model.graph
    forget_names(graph)
    for constant in graph.initializers.values():
        parameter = all(use.node.op_type in ops.PASS_THROUGH for use in constant.uses())  # such as scales of Resize
        if constant.dtype is ir.DataType.FLOAT and constant.const_value is not None and not parameter:
            constant.const_value = ir.Tensor(_rounded(constant.const_value.numpy()), name=constant.name)
    first = next(iter(graph), None)
    for value in graph.inputs:
        if value.dtype is ir.DataType.FLOAT and first is not None:
            _round(graph, value, before=first)
    for node in list(graph):
        if node.op_type in ops.PASS_THROUGH or node.op_type == "Cast":
            continue
        for value in node.outputs:
            if value.dtype is ir.DataType.FLOAT and value.uses():
                _round(graph, value, after=node)
    return model


def _rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def _round(graph: ir.Graph, value: ir.Value, *, before: ir.Node | None = None, after: ir.Node | None = None) -> None:
    """Insert casts to half and back between a value and its consumers; graph outputs are not changed."""
    readers = list(value.uses())
    name = name_of(value)
    to_half = ir.node("Cast", [value], {"to": ir.DataType.FLOAT16}, name=unused_name(graph, f"{name}.to_half"))
    back = ir.node(
        "Cast", [to_half.outputs[0]], {"to": ir.DataType.FLOAT}, name=unused_name(graph, f"{name}.from_half")
    )
    for node, dtype, part in ((to_half, ir.DataType.FLOAT16, "half"), (back, ir.DataType.FLOAT, "rounded")):
        node.outputs[0].name = unused_name(graph, f"{name}.{part}")
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(dtype), value.shape
    for user, index in readers:
        user.replace_input_with(index, back.outputs[0])
    if after is not None:
        graph.insert_after(after, [to_half, back])
    elif before is not None:
        graph.insert_before(before, [to_half, back])
