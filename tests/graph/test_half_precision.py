"""Half precision by casts: every tensor that is handed on is a half, and nothing else has changed."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
from models import tiny_model

from quantkit.graph.model import read_model
from quantkit.graph.precision import half_model
from quantkit.graph.prepare import prepare

# Each result is a single product, so that its float32 value has no order of summation to depend on.
PRODUCTS = """
<ir_version: 8, opset_import: ["": 17]>
products (float[N, 1] x) => (float[N, 1] y) {
    a = Gemm (x, v)
    r = Relu(a)
    y = Gemm (r, w)
}
"""


def run(model: ir.Model, **feeds: np.ndarray) -> np.ndarray:
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    return ort.InferenceSession(proto.SerializeToString()).run(None, feeds)[0]


def products(v: float, w: float) -> ir.Model:
    proto = onnx.parser.parse_model(PRODUCTS)
    for name, value in (("v", v), ("w", w)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([[value]], np.float32), name))
    return prepare(ir.from_proto(proto)).model


def half(values: npt.ArrayLike) -> np.ndarray:
    return np.asarray(values).astype(np.float16).astype(np.float32)


def test_half_model_rounds_input_weights_and_results() -> None:
    x = np.random.default_rng(0).standard_normal((1000, 1)).astype(np.float32)
    v, w = np.float32(0.7182818), np.float32(-1.4142135)
    expected = half(np.maximum(half(half(x) * half(v)), 0)) * half(w)
    assert np.array_equal(run(half_model(products(float(v), float(w))), x=x), expected)
    assert not np.array_equal(run(products(float(v), float(w)), x=x), expected)


def test_half_model_exact_halves_keep_their_bits() -> None:
    x = np.arange(-8, 9, dtype=np.float32)[:, None]
    model = products(0.5, -3.0)
    assert np.array_equal(run(half_model(model), x=x), run(model, x=x))


def test_half_model_too_large_becomes_infinite() -> None:
    x = np.array([[300.0], [2.0]], np.float32)
    assert np.array_equal(run(half_model(products(300.0, 1.0)), x=x), np.array([[np.inf], [600.0]], np.float32))
    assert np.array_equal(run(half_model(products(1e5, 1.0)), x=x), np.array([[np.inf], [np.inf]], np.float32))


def test_half_model_of_convolutions_moves_by_rounding_and_leaves_original(tmp_path: Path) -> None:
    model = prepare(read_model(tiny_model(tmp_path / "tiny.onnx"))).model
    before = ir.serde.serialize_model(model).SerializeToString()
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    exact, rounded = run(model, input=x), run(half_model(model), input=x)
    assert 0.0 < np.abs(exact - rounded).max() < 10 * 2.0**-11 * np.abs(exact).max()
    assert ir.serde.serialize_model(model).SerializeToString() == before
