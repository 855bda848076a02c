"""Detects whether 8-bit products saturate on this processor, by running a product.

x86 processors without VNNI add the products of uint8 and int8 in pairs in 16 bits, so 255 * 127 + 255 * 127 becomes
32,767 (the instruction VPMADDUBSW). onnxruntime's kernels use it there; with 7-bit weights no pair can saturate.
"""

import functools

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

# Products per sum, more than the width of any kernel, so that pairs are added in any packing.
_TERMS = 256


@functools.cache
def products_saturate() -> bool:
    """Return whether onnxruntime's integer kernels saturate for 8-bit weights on this processor."""
    activations = np.full((4, _TERMS), 255, np.uint8)
    weights = np.full((_TERMS, 16), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "saturation",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, activations.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (4, 16))],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    sums = session.run(None, {"x": activations})[0]
    return bool((sums != 255 * 127 * _TERMS).any())
