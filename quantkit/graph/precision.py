"""Converts half- and double-precision models to float32, the type that integer kernels and scales are based on."""

import numpy as np
import onnx_ir as ir

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
