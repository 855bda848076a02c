"""What an int8 model says of itself: the quantization parameters of its tensors."""

import numpy as np
import onnx_ir as ir

from quantkit.graph.values import array, is_constant, name_of
from quantkit.numerics import QParams


def activation_qparams(model: ir.Model) -> dict[str, QParams]:
    """Return the parameters of every activation that goes through QuantizeLinear with one scale, by tensor name.

    The names are those of the values that QuantizeLinear reads and that DequantizeLinear gives: which of them the
    float model has too depends on the tool that wrote the model.
    """
    found: dict[str, QParams] = {}
    for node in model.graph:
        if node.op_type != "QuantizeLinear" or len(node.inputs) < 3:
            continue
        value, scale, zero = node.inputs[0], node.inputs[1], node.inputs[2]
        if value is None or scale is None or zero is None or is_constant(value):
            continue
        scales, zeros = array(scale), array(zero)
        if scales is None or zeros is None or scales.size != 1:
            continue
        qparams = _qparams(scales, zeros)
        found[name_of(value)] = qparams
        for use in node.outputs[0].uses():
            if use.node.op_type == "DequantizeLinear":
                found[name_of(use.node.outputs[0])] = qparams
    return found


def _qparams(scale: np.ndarray, zero: np.ndarray) -> QParams:
    limits = np.iinfo(zero.dtype)
    return QParams(scale.reshape(()).astype(np.float32), zero.reshape(()), int(limits.min), int(limits.max), zero.dtype)
