"""What TensorRT asks of a quantized model, looked at before an engine is built for minutes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from quantkit.errors import DeviceError

_QDQ = ("QuantizeLinear", "DequantizeLinear")


def check_quantized(model: Path | bytes, where: object) -> bool:
    """Return whether a model has QDQ nodes, which must be int8 with zero points of 0: TensorRT knows no others.

    Weights and biases are symmetric in the files of all tools; the activations decide. A zero point that is computed is
    left to TensorRT to refuse.

    Raises:
        DeviceError: it has others.
    """
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model, load_external_data=False)
    nodes = [node for node in proto.graph.node if node.op_type in _QDQ]
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    others = {_named(node) for node in nodes if not _is_symmetric(node, stored)}
    if others:
        raise DeviceError(
            f"TensorRT runs int8 with zero points of 0 only, and {len(others)} of the model's are others",
            where=where,
            fix="quantize it with --target tensorrt",
        )
    return bool(nodes)


def _named(node: onnx.NodeProto) -> str:
    """Return the zero point's name, which several nodes may share, or the node's output where it has none."""
    return str(node.input[2] if _has_zero_point(node) else node.output[0])


def _has_zero_point(node: onnx.NodeProto) -> bool:
    return len(node.input) > 2 and node.input[2] != ""


def _is_symmetric(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> bool:
    """Return whether a zero point is 0 and signed; without one, what is written is uint8."""
    if not _has_zero_point(node):
        return node.op_type == "DequantizeLinear"
    tensor = stored.get(node.input[2])
    if tensor is None:
        return True
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.INT32)
    values = numpy_helper.to_array(tensor)
    return bool(np.issubdtype(values.dtype, np.signedinteger)) and not values.any()
