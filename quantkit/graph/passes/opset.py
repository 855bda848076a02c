"""Raise old opsets to the first one that knows quantization per channel."""

import onnx
import onnx_ir as ir
from onnx import version_converter

from quantkit.errors import ModelError

# DequantizeLinear has an axis since opset 13: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
PER_CHANNEL_OPSET = 13
# The IR version that came with opset 13. Older ones want every initializer among the graph's inputs.
MINIMUM_IR_VERSION = 7
# Tensors above this size do not travel through the converter, which copies the whole model several times.
_KEPT_BYTES = 1024


class UpgradeOpsetPass(ir.passes.InPlacePass):
    """Convert a model below `PER_CHANNEL_OPSET` with ONNX's own version converter; leave every other model alone.

    Names of nodes and tensors survive, except those of operators that were themselves replaced (Upsample by Resize).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Upgrade the model's opset and IR version.

        Raises:
            ModelError: an operator of the model has no conversion.
        """
        modified = model.ir_version < MINIMUM_IR_VERSION
        model.ir_version = max(model.ir_version, MINIMUM_IR_VERSION)
        opset = model.opset_imports.get("", PER_CHANNEL_OPSET)
        if opset >= PER_CHANNEL_OPSET:
            return ir.passes.PassResult(model, modified)
        weights = _detach_weights(model)
        try:
            converted = version_converter.convert_version(ir.to_proto(model), PER_CHANNEL_OPSET)
        except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelError(
                f"cannot raise the model from opset {opset} to {PER_CHANNEL_OPSET} ({error})",
                fix=f"export it with opset {PER_CHANNEL_OPSET} or later",
            ) from error
        upgraded = ir.from_proto(converted)
        for name, tensor in weights.items():
            upgraded.graph.initializers[name].const_value = tensor
        model.graph = upgraded.graph
        return ir.passes.PassResult(model, True)


def _detach_weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Put a reference without content in the place of every large initializer, and return what stood there."""
    weights = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _KEPT_BYTES:
            weights[name] = tensor
            value.const_value = ir.ExternalTensor(
                "detached", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
    return weights
