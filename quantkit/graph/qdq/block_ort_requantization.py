"""Prevents onnxruntime from quantizing layers that stay in float.

Since 1.21 onnxruntime stores the weights of a Conv, ConvTranspose or Gemm between DequantizeLinear and QuantizeLinear
as int8 with one scale per tensor, and runs an integer kernel: a layer left in float because int8 is too inaccurate
would get the coarsest int8 (onnxruntime/core/optimizer/qdq_transformer/weight_bias_quantization.cc). A bias that is not
a constant prevents this. So such a layer gets its bias from a DequantizeLinear of int32 with power-of-two scales, which
is bit-identical.
"""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.analysis.ops import ACTIVATIONS, PASS_THROUGH
from quantkit.graph.analysis.values import array, is_op, node_name, operand, output_channels, required, sole_consumer
from quantkit.graph.qdq.edit import Edit
from quantkit.numerics import SMALLEST_SCALE

_QUANTIZED_BY_ORT = ("Conv", "ConvTranspose", "Gemm")
# A float32 has 24 significant bits, so this number of steps represents its magnitude exactly.
_STEPS_BITS = 24


def keep_float(edit: Edit) -> None:
    """Protect every layer with float weights that onnxruntime would quantize.

    Layers of targets that require float biases, such as TensorRT, are not changed.
    """
    if not edit.plan.target.integer_bias:
        return
    for node in list(edit.graph):
        if is_op(node, *_QUANTIZED_BY_ORT) and _between_integers(node):
            _protect(edit, node)


def _between_integers(node: ir.Node) -> bool:
    """Return whether a layer is between integers, with at most moves or clips in between."""
    value: ir.Value | None = operand(node, 0)
    maker = None if value is None else value.producer()
    while maker is not None and is_op(maker, *PASS_THROUGH):
        value = operand(maker, 0)
        maker = None if value is None else value.producer()
    reader = sole_consumer(node.outputs[0])
    while reader is not None and is_op(reader, *ACTIVATIONS, *PASS_THROUGH):
        reader = sole_consumer(reader.outputs[0])
    return is_op(maker, "DequantizeLinear") and is_op(reader, "QuantizeLinear")


def _protect(edit: Edit, node: ir.Node) -> None:
    weight, bias = array(required(node, 1)), array(operand(node, 2))
    is_float = required(node, 1).producer() is None and weight is not None and weight.dtype == np.float32
    if weight is None or not is_float or (bias is not None and bias.ndim != 1):
        return  # onnxruntime does not quantize these
    held = np.zeros(output_channels(node, weight), np.float32) if bias is None else bias.astype(np.float32)
    steps, scale = _exact_steps(held)
    name = str(required(node, 2).name) if bias is not None else f"{node_name(node)}.bias"
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, edit.dequantized_constant(None, name, steps, scale, axis=0, before=node))


def _exact_steps(bias: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return int32 steps and a power-of-two scale for each value with an exact product, except for denormals."""
    exponent = np.frexp(bias)[1] - _STEPS_BITS
    scale = np.maximum(np.ldexp(np.float32(1.0), exponent), np.float32(SMALLEST_SCALE)).astype(np.float32)
    scale[bias == 0.0] = 1.0
    return np.rint(bias.astype(np.float64) / scale).astype(np.int32), scale
