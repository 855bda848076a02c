"""Element types and shapes of every value, whoever knows them.

ONNX infers them for the operators it defines, and for some of those only where all sizes are known. What it leaves open
hides every layer behind it: a convolution whose element type is unknown cannot be quantized. So onnxruntime, which
knows its own operators, is asked for the rest; and where a model cannot be loaded at all, the types follow from the
constraints of the schemas: a Conv with float32 weights computes float32.
"""

import logging
from collections.abc import Iterator

import onnx
import onnx_ir as ir
import onnxruntime as ort

# Initializers up to this size go to onnxruntime with their content, which shapes may depend on; larger ones are fed.
_SHAPE_BYTES = 1024

# ONNX's inference names the sizes that it does not know: unk__0, unk__1, ...
_GENERATED = "unk__"

# Types and shapes as onnxruntime writes them: "tensor(float)".
_ELEMENT_TYPES = {
    "float": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "double": ir.DataType.DOUBLE,
    "bool": ir.DataType.BOOL,
    "string": ir.DataType.STRING,
} | {f"{sign}int{bits}": ir.DataType[f"{sign}int{bits}".upper()] for sign in ("", "u") for bits in (8, 16, 32, 64)}


class InferTypesPass(ir.passes.InPlacePass):
    """Infer types and shapes by ONNX, then by onnxruntime and by the operators' schemas where some are unknown.

    Types and shapes that the model declares are kept where nothing better is known. Graphs within nodes stay as they
    are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Infer the types of the main graph."""
        modified = _ask_onnx(model)
        if any(_unknown(model.graph)):
            by_runtime = _ask_onnxruntime(model)
            by_schema = _follow_schemas(model)
            if by_runtime or by_schema:
                modified = True
                _ask_onnx(model)
        return ir.passes.PassResult(model, modified)


def _unknown(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values of no known type, and the float32 tensors of unknown rank; sequences have neither."""
    for node in graph:
        for value in node.outputs:
            if value.name and (value.type is None or (value.dtype is ir.DataType.FLOAT and value.shape is None)):
                yield value


def _ask_onnx(model: ir.Model) -> bool:
    """Take the types and shapes that ONNX infers for the values of the main graph."""
    try:
        proto = _without_weights(model)
        _forget_generated_sizes(proto)
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True).graph
    except Exception as error:  # onnx raises several classes, some without a common base
        logging.getLogger(__name__).debug("onnx infers no types: %s", error)
        return False
    types = {entry.name: entry.type for entry in [*inferred.value_info, *inferred.output]}
    modified = False
    for node in model.graph:
        for value in node.outputs:
            if (found := types.get(value.name or "")) is None:
                continue
            kind, shape = (
                ir.serde.deserialize_type_proto_for_type(found),
                ir.serde.deserialize_type_proto_for_shape(found),
            )
            if kind is not None and kind != value.type:
                value.type, modified = kind, True
            if shape is not None and shape != value.shape:
                value.shape, modified = shape, True
    return modified


def _forget_generated_sizes(proto: onnx.ModelProto) -> None:
    """Clear sizes that an earlier inference named itself: ONNX keeps what it finds, also where it now knows better.

    A Pad whose amounts are still computed, for example, hides the batch size of everything behind it.
    """
    for entry in proto.graph.value_info:
        for size in entry.type.tensor_type.shape.dim:
            if size.dim_param.startswith(_GENERATED):
                size.Clear()


def _ask_onnxruntime(model: ir.Model) -> bool:
    """Take the types and shapes that onnxruntime infers for values that have none."""
    asked = {str(value.name): value for value in _unknown(model.graph)}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        proto = _without_weights(model)
        present = {value.name for value in proto.graph.output}
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked if name not in present)
        session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception alone
        logging.getLogger(__name__).debug("onnxruntime infers no types: %s", error)
        return False
    modified = False
    for entry in session.get_outputs():
        value = asked.get(entry.name)
        element = _ELEMENT_TYPES.get(entry.type.removeprefix("tensor(").removesuffix(")"))
        if value is None or element is None or not entry.type.startswith("tensor("):
            continue
        value.type = ir.TensorType(element)
        if value.shape is None and entry.shape:  # onnxruntime gives [] for a scalar and for an unknown rank alike
            value.shape = ir.Shape(entry.shape)
        modified = True
    return modified


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """Serialize a model with its large initializers among the inputs: types need no content."""
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
    """Give each value the type of another one that the operator's schema binds it to, until nothing changes."""
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
    """Spread known element types within one node over the values of the same type variable."""
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
