"""Converts the opset to the range in which onnxruntime runs int8 models.

Old opsets are raised to the first one with per-channel quantization. An opset newer than onnxruntime's kernels for
QuantizeLinear and DequantizeLinear is lowered to the newest one with these kernels, if the operators of the model did
not change in between.
"""

import functools

import onnx
import onnx_ir as ir
from onnx import version_converter

from quantkit.errors import ModelError
from quantkit.graph.analysis.values import is_op
from quantkit.graph.open_unoptimized import open_unoptimized

# DequantizeLinear has an axis since opset 13: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
PER_CHANNEL_OPSET = 13
# The IR version of opset 13. Older ones require every initializer among the graph's inputs.
MINIMUM_IR_VERSION = 7
# Tensors above this size bypass the converter, which copies the model several times.
_KEPT_BYTES = 1024


# The first opset with LayerNormalization; onnxruntime supports the same operator in older opsets, too.
LAYER_NORM_OPSET = 17
# Operators that onnxruntime supports in ONNX's domain, though ONNX does not define them, or not in old opsets.
OF_ONNXRUNTIME = frozenset(
    {
        "LayerNormalization",
        "SimplifiedLayerNormalization",
        "Affine",
        "Crop",
        "DynamicSlice",
        "GivenTensorFill",
        "ImageScaler",
        "ParametricSoftplus",
        "ScaledTanh",
    }
)
# The first opset in which Resize states how it computes coordinates, and the last without Upsample.
_COORDINATES_OPSET = 11
# Metadata key of a converted nearest Resize that rounds positions up on axes that it shrinks, until scales are known.
MAY_SHRINK = "quantkit.may_shrink"
# Before this opset the scale and bias of a GroupNormalization were those of groups, not of channels.
_GROUP_NORM_OPSET = 21
# All supported versions of onnxruntime have integer kernels up to this opset.
_RUNS_EVERYWHERE = 21
_ELSEWHERE = "com.microsoft"
_LAYER_NORMS = {("", "LayerNormalization"), (_ELSEWHERE, "SkipLayerNormalization")}


def fit_opset(model: ir.Model) -> None:
    """Convert a model below `PER_CHANNEL_OPSET` with ONNX's own version converter, and lower one that is too new.

    Names of nodes and tensors are kept, except those of replaced operators (Upsample by Resize).

    Raises:
        ModelError: an operator of the model has no conversion.
    """
    model.ir_version = max(model.ir_version, MINIMUM_IR_VERSION)
    opset = model.opset_imports.get("", PER_CHANNEL_OPSET)
    norms = any((node.domain, node.op_type) in _LAYER_NORMS for node in model.graph.all_nodes())
    least = LAYER_NORM_OPSET if norms else PER_CHANNEL_OPSET
    if opset < least:
        _raise(model, opset, least)
    elif opset > _RUNS_EVERYWHERE and opset > newest_int8_opset():
        _lower(model, opset)


def foreign_nodes(model: ir.Model) -> list[ir.Node]:
    """Return the nodes in ONNX's domain that ONNX does not define in the model's opset, but onnxruntime runs.

    GroupNormalization of opset 18 to 20 was withdrawn by ONNX.
    """
    opset = model.opset_imports.get("", 1)
    return [
        node
        for node in model.graph.all_nodes()
        if node.domain == ""
        and (
            (node.op_type in OF_ONNXRUNTIME and not _defined(node.op_type, opset))
            or (node.op_type == "GroupNormalization" and opset < _GROUP_NORM_OPSET)
        )
    ]


def _defined(op_type: str, opset: int) -> bool:
    try:
        return bool(onnx.defs.get_schema(op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return False


class ForeignDomain:
    """Context manager that moves nodes not defined by ONNX to another domain, which its tools ignore."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._nodes = foreign_nodes(model)
        self._imported = _ELSEWHERE in model.opset_imports

    def __enter__(self) -> None:
        for node in self._nodes:
            node.domain = _ELSEWHERE
        if self._nodes:
            self._model.opset_imports.setdefault(_ELSEWHERE, 1)

    def __exit__(self, *exception: object) -> None:
        for node in self._nodes:
            node.domain = ""
        if self._nodes and not self._imported:
            del self._model.opset_imports[_ELSEWHERE]


def _raise(model: ir.Model, opset: int, least: int) -> None:
    weights = _detach_weights(model)
    foreign = {node.outputs[0].name for node in foreign_nodes(model)}
    try:
        with ForeignDomain(model):
            converted = version_converter.convert_version(ir.to_proto(model), least)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"cannot raise the model from opset {opset} to {least} ({error})",
            fix=f"export it with opset {least} or later",
        ) from error
    upgraded = ir.from_proto(converted)
    for name, tensor in weights.items():
        upgraded.graph.initializers[name].const_value = tensor
    for node in upgraded.graph.all_nodes():
        if node.outputs[0].name in foreign:
            node.domain = ""
        if opset < _COORDINATES_OPSET and is_op(node, "Resize"):
            _keep_coordinates(node, opset)
    model.graph = upgraded.graph


def _keep_coordinates(node: ir.Node, opset: int) -> None:
    """Let a converted Upsample or Resize read the pixels that it read before the opset with coordinate modes.

    The converter leaves the defaults of later opsets. onnxruntime divides positions by the scale, and rounds them down.
    """
    node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
    if node.attributes.get_string("mode", "nearest") == "nearest":
        node.attributes.add(ir.AttrString("nearest_mode", "floor"))
        if opset == _COORDINATES_OPSET - 1:  # the only one with a Resize, which also shrinks
            node.metadata_props[MAY_SHRINK] = "true"


def _lower(model: ir.Model, opset: int) -> None:
    """Set a model's opset to the newest one with integer kernels, if this changes no operator.

    Raises:
        ModelError: it would change an operator.
    """
    newest = newest_int8_opset()
    changed = sorted({node.op_type for node in model.graph.all_nodes() if _changed(node, newest, opset)})
    if changed:
        raise ModelError(
            f"has opset {opset}, and the installed onnxruntime has integer kernels up to {newest}",
            where=", ".join(changed),
            fix=f"export it with opset {newest} or older",
        )
    model.opset_imports[""] = newest


def _changed(node: ir.Node, newest: int, opset: int) -> bool:
    if node.domain != "":
        return False
    since = onnx.defs.get_schema(node.op_type, opset, "").since_version if _defined(node.op_type, opset) else 0
    return since > newest


@functools.cache
def newest_int8_opset() -> int:
    """Return the newest opset with QuantizeLinear and DequantizeLinear kernels in the installed onnxruntime."""
    for opset in range(onnx.defs.onnx_opset_version(), PER_CHANNEL_OPSET, -1):
        if _runs_int8(opset):
            return opset
    return PER_CHANNEL_OPSET


def _runs_int8(opset: int) -> bool:
    text = f"""<ir_version: 8, opset_import: ["": {opset}]>
    int8 (float[1] x) => (float[1] y) <float scale = {{1.0}}, uint8 zero = {{0}}> {{
        q = QuantizeLinear(x, scale, zero)
        y = DequantizeLinear(q, scale, zero)
    }}"""
    try:
        open_unoptimized(onnx.parser.parse_model(text))
    except Exception:  # the exception classes of onnxruntime derive directly from Exception
        return False
    return True


def _detach_weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Replace every large initializer by a reference without content, and return the originals."""
    weights = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _KEPT_BYTES:
            weights[name] = tensor
            value.const_value = ir.ExternalTensor(
                "detached", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
    return weights
