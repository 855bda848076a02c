"""Determines the role of a node, and why it cannot be integer."""

import onnx_ir as ir

from quantkit.graph.analysis import ops
from quantkit.graph.analysis.bounds import clip_bounds
from quantkit.graph.analysis.ops import Role
from quantkit.graph.analysis.values import (
    ORIGIN,
    array,
    crops,
    dims,
    is_constant,
    operand,
    padding_constant,
    rank,
)
from quantkit.targets import Target


def role_of(node: ir.Node, target: Target) -> tuple[Role, str]:
    """Return the role of a node for a target, and for `Role.FLOAT` the reason."""
    if node.domain != "":
        return Role.FLOAT, f"operator of the domain {node.domain!r}, unknown to quantkit"
    if reason := _other_types(node):
        return Role.FLOAT, reason
    if node.op_type in ops.LAYERS:
        return _layer_role(node, target)
    if not target.integer_sums:
        return Role.FLOAT, f"the target {target.name!r} keeps it in float: only inputs of layers are quantized"
    if node.op_type in ops.ELEMENTWISE:
        return _elementwise_role(node, target)
    if node.op_type == "Concat":
        return Role.CONCAT, ""
    if node.op_type in ops.UNARY | ops.SATURATING:
        return _unary_role(node, target)
    if node.op_type in ops.ACTIVATIONS:
        return (Role.ACTIVATION, "") if clip_bounds(node) else (Role.FLOAT, "its limits are computed")
    if node.op_type in ops.PASS_THROUGH:
        return _pass_role(node, target)
    return Role.FLOAT, ops.FLOAT_REASONS.get(node.op_type, ops.NO_INTEGER_KERNEL)


def _other_types(node: ir.Node) -> str:
    """Return why the outputs of a node are not float32 tensors, empty if they are."""
    if len(node.outputs) > 1 and node.op_type == "MaxPool":
        return "its indices are used too"
    results = [value for value in node.outputs if value.name]
    if any(isinstance(value.type, ir.SequenceType | ir.OptionalType) for value in results):
        return "its result is a sequence or an optional, not a tensor"
    kinds = [value.dtype for value in results]
    if None in kinds:
        return "the element type of its result is unknown"
    other = next((kind for kind in kinds if kind is not ir.DataType.FLOAT), None)
    return "" if other is None else f"computes {str(other).lower()}, not float32"


def _layer_role(node: ir.Node, target: Target) -> tuple[Role, str]:
    weight, bias = operand(node, 1), operand(node, 2)
    if node.op_type == "MatMul" and not is_constant(weight):
        if is_constant(operand(node, 0)):
            return Role.FLOAT, "its left operand is a constant"
        return (
            (Role.ACTIVATION_MATMUL, "")
            if target.integer_sums
            else (Role.FLOAT, f"{target.name} quantizes layers with weights")
        )
    if not is_constant(weight):
        return Role.FLOAT, "its weights are computed, not constant"
    if bias is not None and not is_constant(bias):
        return Role.FLOAT, "its bias is computed, not constant"
    if ORIGIN in node.metadata_props and not target.integer_sums:
        return Role.FLOAT, f"the target {target.name!r} keeps a batch norm without a preceding layer in float"
    if node.op_type in ops.GEMMS and not target.quantize_gemm:
        return Role.FLOAT, f"the target {target.name!r} leaves fully connected layers in float"
    shape = dims(weight) or ()
    if node.op_type == "MatMul" and len(shape) != 2:
        return Role.FLOAT, "its constant operand is not a matrix"
    if node.op_type == "Gemm" and (node.attributes.get_int("transA") or not _is_vector(bias)):
        return Role.FLOAT, "its input is transposed or its bias is not a vector"
    return Role.LAYER, ""


def _is_vector(bias: ir.Value | None) -> bool:
    return bias is None or len(dims(bias) or ()) == 1


def _elementwise_role(node: ir.Node, target: Target) -> tuple[Role, str]:
    constants = [array(value) for value in node.inputs]
    if all(constant is not None for constant in constants):
        return Role.FLOAT, "both operands are constant"
    if node.op_type == "Mul" and _scales_by_number(node):
        return (Role.RESCALE, "") if target.integer_outputs else (Role.FLOAT, f"{target.name} fuses it")
    return Role.ELEMENTWISE, ""


def _scales_by_number(node: ir.Node) -> bool:
    """Return whether a product is an activation times one positive number, in the shape of the activation."""
    for index in (0, 1):
        constant, most = array(operand(node, index)), rank(operand(node, 1 - index)) or 0
        if constant is not None and constant.size == 1 and constant.ndim <= most:
            return float(constant.reshape(-1)[0]) > 0.0
    return False


def _unary_role(node: ir.Node, target: Target) -> tuple[Role, str]:
    if not target.integer_outputs and node.op_type not in ops.UNARY_WITHOUT_TABLE:
        return Role.FLOAT, f"{target.name} computes it in float"
    if reason := average_fault(node):
        return Role.FLOAT, f"{reason}; {ops.NO_INTEGER_KERNEL}"
    if node.op_type in ops.SATURATING and target.activations.symmetric:
        return Role.FLOAT, "symmetric integers do not saturate at its limits"
    if node.op_type == "HardSigmoid" and node.attributes.get_float("alpha", 0.2) <= 0.0:
        return Role.FLOAT, "it is not increasing"
    return Role.UNARY, ""


def average_fault(node: ir.Node) -> str:
    """Return why onnxruntime's integer kernel cannot compute an AveragePool, empty if it can or for other operators."""
    if node.op_type != "AveragePool":
        return ""
    if any(step != 1 for step in node.attributes.get_ints("dilations") or ()):
        return "it has dilations"
    # The integer kernel would count what is beyond the padding, too.
    counts = node.attributes.get_int("ceil_mode", 0) and node.attributes.get_int("count_include_pad", 0)
    return "it counts the padding and rounds its size up" if counts else ""


def _pass_role(node: ir.Node, target: Target) -> tuple[Role, str]:
    if is_constant(operand(node, 0)):
        return Role.FLOAT, "its input is a constant"
    if node.op_type == "Resize" and crops(node):
        return Role.FLOAT, "it fills what is outside of its input; " + ops.NO_INTEGER_KERNEL
    if node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest":
        return Role.FLOAT, "it interpolates; " + ops.NO_INTEGER_KERNEL
    if node.op_type == "Resize" and node.attributes.get_ints("axes") is not None:
        return Role.FLOAT, "it resizes selected axes only; " + ops.NO_INTEGER_KERNEL
    if node.op_type == "Resize" and node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return Role.FLOAT, "its sizes depend on the aspect ratio; " + ops.NO_INTEGER_KERNEL
    if node.op_type == "Pad" and not _pads_zeros(node):
        return Role.FLOAT, "it pads with a value other than zero"
    if node.op_type == "SpaceToDepth" and not target.integer_outputs:
        return Role.FLOAT, f"{target.name} computes it in float"
    return Role.PASS, ""


def _pads_zeros(node: ir.Node) -> bool:
    return node.attributes.get_string("mode", "constant") != "constant" or padding_constant(node) == 0.0
