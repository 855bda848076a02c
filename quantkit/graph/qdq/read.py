"""Reads the quantization parameters of an int8 model."""

import numpy as np
import onnx_ir as ir

from quantkit.graph.analysis.values import array, is_constant, is_op, name_of, operand, required
from quantkit.numerics import QParams

# Suffixes of `quantkit.graph.qdq.write.write_qdq`: for the float value if the rounded one has the plain name, for the
# rounded value if the float one has it, and for the value clipped to the integers of a scheme.
FLOAT = ".float"
DEQUANTIZED = ".dequantized"
CLIPPED = ".clipped"


def activation_qparams(model: ir.Model) -> dict[str, QParams]:
    """Return the parameters of every activation quantized with one scale, by tensor name.

    The names are those of inputs of QuantizeLinear and outputs of DequantizeLinear; which of them exist in the float
    model depends on the tool that wrote the model.
    """
    found: dict[str, QParams] = {}
    for node in model.graph:
        if node.op_type != "QuantizeLinear" or is_constant(operand(node, 0)):
            continue
        qparams = node_qparams(node)
        if qparams is None:
            continue
        found[name_of(rounded_value(node))] = qparams
        for use in node.outputs[0].uses():
            if use.node.op_type == "DequantizeLinear":
                found[name_of(use.node.outputs[0])] = node_qparams(use.node) or qparams
    return found


def seen_by_readers(model: ir.Model) -> dict[str, str]:
    """Return the dequantized value of every float value that only QuantizeLinear reads.

    Other tools keep the float model's name for the value before rounding, which may also lack an activation function
    that the rounding replaces (a Relu, if zero is the smallest integer). The following layers read the dequantized
    value. Keys and values are names; graph outputs and values also read in float are left out.
    """
    found: dict[str, str] = {}
    for node in model.graph:
        if node.op_type != "QuantizeLinear" or is_constant(operand(node, 0)):
            continue
        value = rounded_value(node)
        between = required(node, 0).producer() if value is not required(node, 0) else None
        readers = {use.node for use in value.uses()}
        if value.is_graph_output() or any(one is not between and one.op_type != "QuantizeLinear" for one in readers):
            continue
        for use in node.outputs[0].uses():
            if use.node.op_type == "DequantizeLinear":
                found.setdefault(name_of(value), name_of(use.node.outputs[0]))
    return found


def node_qparams(node: ir.Node) -> QParams | None:
    """Return the parameters of a QuantizeLinear or DequantizeLinear with one scale and integer type, else None."""
    scale, zero = array(operand(node, 1)), array(operand(node, 2))
    if scale is None or zero is None or scale.size != 1 or zero.dtype.kind not in "iu":
        return None
    kind: np.dtype[np.integer] = np.dtype(zero.dtype.name)
    limits = np.iinfo(kind)
    scalar = zero.reshape(()).astype(kind)
    return QParams(scale.reshape(()).astype(np.float32), scalar, int(limits.min), int(limits.max), kind)


def rounded_value(quantizer: ir.Node) -> ir.Value:
    """Return the value that a QuantizeLinear rounds, before the Clip that belongs to the quantizer."""
    value = required(quantizer, 0)
    clip = value.producer()
    return required(clip, 0) if clip is not None and clips_for_quantizer(clip) else value


def clips_for_quantizer(node: ir.Node) -> bool:
    """Return whether a node is the Clip that limits a value to the integers of a scheme."""
    return is_op(node, "Clip") and name_of(node.outputs[0]).endswith(CLIPPED)
