"""Infers element types and shapes by ONNX, onnxruntime and operator schemas.

ONNX infers types for the operators it defines, for some of them only if all sizes are known. A convolution of unknown
element type cannot be quantized, so an unknown type affects all layers after it. onnxruntime, which knows its own
operators, infers the rest; if it cannot load the model, the types follow from the constraints of the schemas: a Conv
with float32 weights computes float32.
"""

import logging
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from quantkit.graph.open_unoptimized import open_unoptimized

# Initializers up to this size are passed to onnxruntime, because shapes may depend on them; larger ones become inputs.
_SHAPE_BYTES = 1024

# Names of unknown sizes by ONNX's inference: unk__0, unk__1, ...
_GENERATED = "unk__"

# Types by onnxruntime: "tensor(float)".
_ELEMENT_TYPES = {
    "float": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "double": ir.DataType.DOUBLE,
    "bool": ir.DataType.BOOL,
    "string": ir.DataType.STRING,
} | {f"{sign}int{bits}": ir.DataType[f"{sign}int{bits}".upper()] for sign in ("", "u") for bits in (8, 16, 32, 64)}


def infer_types(model: ir.Model) -> None:
    """Infer types and shapes by ONNX; if some are unknown, by onnxruntime and by the operators' schemas.

    Types and shapes declared by the model are kept if they cannot be inferred. Subgraphs are not changed.
    """
    _ask_onnx(model)
    if any(_unknown(model.graph)):
        by_runtime = _ask_onnxruntime(model)
        if _follow_schemas(model) or by_runtime:
            _ask_onnx(model)


def _unknown(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield values of unknown type, and float32 tensors of unknown rank; sequences are skipped."""
    for node in graph:
        for value in node.outputs:
            if value.name and (value.type is None or (value.dtype is ir.DataType.FLOAT and value.shape is None)):
                yield value


def _ask_onnx(model: ir.Model) -> None:
    """Apply the types and shapes that ONNX infers for the values of the main graph."""
    try:
        proto = _without_weights(model)
        _forget_generated_sizes(proto)
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True).graph
    except Exception as error:  # onnx raises several classes, some without a common base
        logging.getLogger(__name__).debug("onnx infers no types: %s", error)
        return
    types = {entry.name: entry.type for entry in [*inferred.value_info, *inferred.output]}
    for node in model.graph:
        for value in node.outputs:
            if (found := types.get(value.name or "")) is not None:
                value.type = ir.serde.deserialize_type_proto_for_type(found) or value.type
                shape = ir.serde.deserialize_type_proto_for_shape(found)
                value.shape = value.shape if shape is None else shape


def _forget_generated_sizes(proto: onnx.ModelProto) -> None:
    """Clear generated size names of an earlier inference, because ONNX keeps them even if it could infer more.

    For example, a Pad with computed amounts hides the batch size of all nodes after it.
    """
    for entry in proto.graph.value_info:
        for size in entry.type.tensor_type.shape.dim:
            if size.dim_param.startswith(_GENERATED):
                size.Clear()


def _ask_onnxruntime(model: ir.Model) -> bool:
    """Apply the types and shapes that onnxruntime infers to values without."""
    asked = {str(value.name): value for value in _unknown(model.graph)}
    try:
        proto = _without_weights(model)
        present = {value.name for value in proto.graph.output}
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked if name not in present)
        session = open_unoptimized(proto)
    except Exception as error:  # the exception classes of onnxruntime derive directly from Exception
        logging.getLogger(__name__).debug("onnxruntime infers no types: %s", error)
        return False
    modified = False
    for entry in session.get_outputs():
        value = asked.get(entry.name)
        element = _ELEMENT_TYPES.get(entry.type.removeprefix("tensor(").removesuffix(")"))
        if value is None or element is None or not entry.type.startswith("tensor("):
            continue
        value.type = ir.TensorType(element)
        if value.shape is None and entry.shape:  # onnxruntime returns [] for scalars and for unknown ranks
            value.shape = ir.Shape(entry.shape)
        modified = True
    return modified


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """Serialize a model with its large initializers as inputs: types do not depend on their content."""
    copy = model.clone()
    for name, value in list(copy.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _SHAPE_BYTES:
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(list(tensor.shape.numpy()))
            del copy.graph.initializers[name]
            value.const_value = None
            if not value.is_graph_input():
                copy.graph.inputs.append(value)
    return ir.serde.serialize_model(copy)


def _follow_schemas(model: ir.Model) -> bool:
    """Propagate types between values with the same type variable in an operator's schema, until nothing changes."""
    nodes = [
        node for node in model.graph if any(value.type is None for value in [*node.inputs, *node.outputs] if value)
    ]
    modified, changed = False, True
    while changed:
        changed = False
        for node in nodes:
            changed |= _bind(node, model.opset_imports.get(node.domain, 1))
        modified |= changed
    return modified


def _bind(node: ir.Node, opset: int) -> bool:
    """Propagate known element types within one node to the values of the same type variable."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return False
    variables = {constraint.type_param_str for constraint in schema.type_constraints}
    members: dict[str, list[ir.Value]] = {}
    for formal, values in ((schema.inputs, node.inputs), (schema.outputs, node.outputs)):
        for index, value in enumerate(values):
            if value is None or not formal:
                continue
            parameter = formal[min(index, len(formal) - 1)]
            mixed = (
                parameter.option == onnx.defs.OpSchema.FormalParameterOption.Variadic and not parameter.is_homogeneous
            )
            if parameter.type_str in variables and not mixed:
                members.setdefault(parameter.type_str, []).append(value)
    changed = False
    for values in members.values():
        known = next((value.type for value in values if isinstance(value.type, ir.TensorType)), None)
        for value in values if known is not None else ():
            if value.type is None:
                value.type = known
                changed = True
    return changed
