"""Detects whether 8-bit products saturate on this processor, by running a product.

x86 processors without VNNI add the products of uint8 and int8 in pairs in 16 bits, so 255 * 127 + 255 * 127 becomes
32,767 (the instruction VPMADDUBSW). onnxruntime's kernels use it there; with 7-bit weights no pair can saturate.
"""

import functools

import numpy as np
import onnx
import onnxruntime as ort

# Products per sum, more than the width of any kernel, so that pairs are added in any packing.
_TERMS = 256


@functools.cache
def products_saturate() -> bool:
    """Return whether onnxruntime's integer kernels saturate for 8-bit weights on this processor."""
    text = f"""<ir_version: 8, opset_import: ["": 13]>
    saturation (uint8[4, {_TERMS}] x) => (int32[4, 16] y) {{ y = MatMulInteger(x, w) }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full((_TERMS, 16), 127, np.int8), "w"))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    sums = session.run(None, {"x": np.full((4, _TERMS), 255, np.uint8)})[0]
    return bool((sums != 255 * 127 * _TERMS).any())
