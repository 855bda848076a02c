"""Weights stored in another element type and cast, scaled or dequantized in the graph are constants at any size."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph.builder import FLOAT, Builder, Outcome, assert_int8
from onnx import TensorProto

from quantkit.errors import ModelError
from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import plan
from quantkit.targets import ORT


def cast(dtype):
    return lambda b, w: b.op("Cast", b.const(w, dtype), to=FLOAT)


def scaled(b, w):
    step = np.abs(w).max() / 127
    whole = b.op("Cast", b.const(np.rint(w / step), np.int8), to=FLOAT)
    return b.op("Mul", whole, b.const(step))


def shifted(b, w):
    step = np.abs(w).max() / 127
    whole = b.op("Cast", b.const(np.rint(w / step) + 128, np.uint8), to=FLOAT)
    return b.op("Mul", b.op("Sub", whole, b.const(128.0)), b.const(step))


def dequantized(b, w):
    steps = np.abs(w).reshape(len(w), -1).max(axis=1) / 127
    whole = np.rint(w / steps.reshape(-1, *[1] * (w.ndim - 1)))
    return b.op("DequantizeLinear", b.const(whole, np.int8), b.const(steps), b.const(np.zeros(len(w)), np.int8), axis=0)


def rounded(b, w):
    step, zero = b.const(np.abs(w).max() / 127), b.const(0, np.int8)
    return b.op("DequantizeLinear", b.op("QuantizeLinear", b.const(w), step, zero), step, zero)


def normalized(b, w):
    stored = b.const(w)
    norm = b.op("Sqrt", b.op("ReduceSum", b.op("Mul", stored, stored), b.const(range(1, w.ndim), np.int64)))
    return b.op("Div", stored, norm)


FORMS = {
    "float16": cast(np.float16),
    "bfloat16": cast(ml_dtypes.bfloat16),
    "float64": cast(np.float64),
    "int8 times a scale": scaled,
    "uint8 less a zero point": shifted,
    "DequantizeLinear per channel": dequantized,
    "QuantizeLinear and DequantizeLinear": rounded,
    "weight norm": normalized,
    "repeated": lambda b, w: b.op("Tile", b.const(w[: len(w) // 2]), b.const([2] + [1] * (w.ndim - 1), np.int64)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("channels", [16, 176], ids=["small", "above 262,144 weights"])
def test_stored_weights_become_int8(form, channels, tmp_path):
    b = Builder()
    first = b.op("Relu", b.conv("image", 3, channels, weight=form(b, b.weights(channels, 3, 3, 3)), strides=[4, 4]))
    second = b.op("Relu", b.conv(first, channels, channels, weight=form(b, b.weights(channels, channels, 3, 3))))
    flat = b.op("Flatten", b.op("GlobalAveragePool", second))
    result = b.op("Gemm", flat, form(b, b.weights(10, channels)), b.const(np.zeros(10)), transB=1)
    assert_int8(Outcome(b.model(result), tmp_path), ["Conv", "Conv", "Gemm"])


def test_stored_activations_dequantized_are_refused(tmp_path):
    b = Builder()
    step, zero = b.const(0.1), b.const(0, np.int8)
    x = b.op("DequantizeLinear", b.op("QuantizeLinear", "image", step, zero), step, zero)
    onnx.save(b.model(b.head(b.conv(x, 3, 8), 8)), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="is already quantized: node 'n0' is QuantizeLinear"):
        read_model(tmp_path / "model.onnx")


def mixed(b):
    """An fp32 convolution, then one with its batch norm in fp16, then an fp32 head."""
    x = b.op("Cast", b.op("Relu", b.conv("image", 3, 8)), to=TensorProto.FLOAT16)
    x = b.op("Conv", x, b.const(b.weights(8, 8, 3, 3), np.float16), pads=[1] * 4)
    return b.head(b.op("Cast", b.op("Relu", b.norm(x, 8, np.float16)), to=FLOAT), 8)


def test_stored_fp16_batch_norm_is_not_folded_into_fp32(tmp_path):
    b = Builder()
    onnx.save(b.model(mixed(b)), tmp_path / "model.onnx")
    prepared = prepare(read_model(tmp_path / "model.onnx")).model
    onnx.shape_inference.infer_shapes(ir.to_proto(prepared), check_type=True, strict_mode=True)


def test_stored_fp16_parts_keep_values(tmp_path):
    b = Builder()
    outcome = Outcome(b.model(mixed(b)), tmp_path)
    # onnxruntime itself rounds to half precision or not, by optimization level: 2^-11 is 66 dB below a value
    assert outcome.prepared_db > 55
    assert outcome.int8_db > 20
    rows = [row for row in outcome.plan.explain() if row.op_type == "Conv" and row.kind == "operator"]
    assert len(rows) == 2


def test_stored_whole_fp16_model_is_named_or_int8(tmp_path):
    b = Builder()
    x = b.op("Cast", "image", to=TensorProto.FLOAT16)
    x = b.op("Relu", b.op("Conv", x, b.const(b.weights(8, 3, 3, 3), np.float16)))
    result = b.op("Cast", b.op("Flatten", b.op("GlobalAveragePool", x)), to=FLOAT)
    onnx.save(b.model(result), tmp_path / "model.onnx")
    prepared = prepare(read_model(tmp_path / "model.onnx")).model
    if any(value.dtype == ir.DataType.FLOAT16 for node in prepared.graph for value in node.outputs):
        with pytest.raises(ModelError, match="Conv 'n1' computes float16, not float32; export the model in fp32"):
            plan(prepared, ORT)
    else:
        assert plan(prepared, ORT).layers
