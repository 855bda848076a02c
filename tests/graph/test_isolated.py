"""Each integer layer alone: what it reads, what it is compared with, and which layers are left out."""

import numpy as np
import onnx_ir as ir
import pytest
from graph_runs import quantize, run, tensors_of, text_model

from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.isolated import local_graph
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.numerics import Range
from quantkit.targets import ORT, TARGETS, TENSORRT, VACC

TWO_LAYERS = """
<ir_version: 8, opset_import: ["": 17]>
two (float[1, 1, 1, 2] x) => (float[1, 1, 1, 2] y) {
    h = Conv(x, half)
    y = Conv(h, twice)
}
"""
RESIDUAL = """
<ir_version: 8, opset_import: ["": 17]>
residual (float[1, 3, 8, 8] x) => (float[1, 4] logits) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    ar = Relu(a)
    b = Conv <pads = [1, 1, 1, 1]> (ar, w2)
    s = Add(b, ar)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (s)
    c = Conv(p, w3)
    g = GlobalAveragePool(c)
    f = Flatten(g)
    logits = Gemm <transB = 1> (f, w4)
}
"""


@pytest.fixture
def residual(rng: np.random.Generator) -> ir.Model:
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (8, 8, 1, 1), "w4": (4, 8)}
    return text_model(RESIDUAL, **{name: rng.normal(0, 0.4, shape).astype("f") for name, shape in shapes.items()})


def test_isolated_layer_reads_float_tensor_and_rounds_its_result() -> None:
    # By hand, with scales 0.25, 0.08 and 0.3 for x, h and y; both weights are exact in int8.
    #   x = 1.1, 0.3      is read as 1.0, 0.25; halved 0.5, 0.125 = 6.25, 1.56 steps of 0.08, rounded 0.48, 0.16
    #   h = 0.55, 0.15    is read as 0.56, 0.16 (not as the 0.48, 0.16 of the int8 model); doubled 1.12, 0.32 = 3.73,
    #                     1.07 steps of 0.3, rounded 1.2, 0.3
    weights = {"half": np.asarray([[[[0.5]]]], np.float32), "twice": np.asarray([[[[2.0]]]], np.float32)}
    prepared = prepare(text_model(TWO_LAYERS, **weights)).model
    steps = {"x": 0.25, "h": 0.08, "y": 0.3}
    ranges = {name: Range(0.0, 255 * step) for name, step in steps.items()}
    local = local_graph(prepared, write_qdq(prepared, plan(prepared, ORT), ranges))
    assert [(layer.tensor, layer.op_type) for layer in local.layers] == [("h", "Conv"), ("y", "Conv")]
    assert [float(layer.qparams.scale) for layer in local.layers] == pytest.approx([0.08, 0.3])
    names = [name for layer in local.layers for name in (layer.tensor, layer.alone)]
    h, h_alone, y, y_alone = tensors_of(
        local.model, names, np.asarray([1.1, 0.3], np.float32).reshape(1, 1, 1, 2)
    ).values()
    np.testing.assert_allclose(h.ravel(), [0.55, 0.15], rtol=1e-6)
    np.testing.assert_allclose(h_alone.ravel(), [0.48, 0.16], rtol=1e-6)
    np.testing.assert_allclose(y.ravel(), [1.1, 0.3], rtol=1e-6)
    np.testing.assert_allclose(y_alone.ravel(), [1.2, 0.3], rtol=1e-6)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_isolated_first_layer_equals_that_of_int8_model(residual: ir.Model, rng: np.random.Generator, target) -> None:
    x = rng.normal(0, 1, (1, 3, 8, 8)).astype("f")
    int8, _, prepared = quantize(residual, x, target=target)
    local = local_graph(prepared, int8)
    alone = tensors_of(local.model, [layer.alone for layer in local.layers], x)
    first = local.layers[0]
    # It reads the image in both, and what it gives is rounded, as its readers read it.
    graph_names = {value.name for node in int8.graph for value in node.outputs}
    rounded = f"{first.tensor}.dequantized" if f"{first.tensor}.dequantized" in graph_names else first.tensor
    np.testing.assert_array_equal(alone[first.alone], tensors_of(int8, [rounded], x)[rounded])
    # The float side of the joint graph computes what the float graph computes.
    np.testing.assert_allclose(run(local.model, x), run(prepared, x), rtol=1e-5)


@pytest.mark.parametrize(
    ("target", "tensors"),
    [
        # onnxruntime rounds every result but the class scores.
        (ORT, {"ar": True, "b": True, "s": True, "c": True, "g": True, "logits": False}),
        # TensorRT adds in the accumulators of the convolution before.
        (TENSORRT, {"ar": True, "b": False, "s": True, "c": True, "g": True, "logits": False}),
        # Relay rounds where a convolution reads: the sum and the pool are float operators.
        (VACC, {"ar": True, "b": False, "c": False, "logits": False}),
    ],
    ids=["ort", "tensorrt", "vacc"],
)
def test_isolated_layers_are_named_by_result_without_moved_values(
    residual: ir.Model, rng: np.random.Generator, target, tensors: dict[str, bool]
) -> None:
    int8, _, prepared = quantize(residual, rng.normal(0, 1, (1, 3, 8, 8)).astype("f"), target=target)
    assert {layer.tensor: layer.qparams is not None for layer in local_graph(prepared, int8).layers} == tensors


def test_isolated_symmetric_integers_are_clipped_as_in_model() -> None:
    text = TWO_LAYERS.replace("[1, 1, 1, 2]", "[1, 1, 1, 4]")
    prepared = prepare(
        text_model(text, half=np.asarray([[[[0.5]]]], np.float32), twice=np.asarray([[[[2.0]]]], np.float32))
    ).model
    # VACC's step is 1/128 of the threshold and its integers end at 127: -1 is read as -127/128, and not as -1.
    ranges = {"x": Range(-1.0, 1.0), "h": Range(-8.0, 8.0)}
    local = local_graph(prepared, write_qdq(prepared, plan(prepared, VACC), ranges))
    x = np.asarray([-1.0, -0.5, 0.5, 1.0], np.float32).reshape(1, 1, 1, 4)
    layer = local.layers[0]
    made = tensors_of(local.model, [layer.alone], x)[layer.alone].ravel()
    assert made[0] == -made[3]
    np.testing.assert_allclose(
        made, np.asarray([-8, -4, 4, 8], np.float32) / 16, atol=1e-6
    )  # 0.496 is 7.94 steps of 1/16


def test_isolated_rescaled_tensor_does_not_lend_its_scale(rng: np.random.Generator) -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    scaled (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {
        a = Conv(x, w1)
        t = Mul(a, three)
        b = Conv(t, w2)
        c = Conv(a, w2)
        s = Add(b, c)
        y = Softmax(s)
    }
    """
    weights = {name: rng.normal(0, 1, (2, 2, 1, 1)).astype("f") for name in ("w1", "w2")}
    x = rng.normal(0, 1, (1, 2, 4, 4)).astype("f")
    int8, _, prepared = quantize(text_model(text, **weights, three=np.float32(3.0)), x)
    local = local_graph(prepared, int8)
    values = tensors_of(local.model, [name for layer in local.layers for name in (layer.tensor, layer.alone)], x)
    assert {layer.tensor for layer in local.layers} == {
        "a",
        "b",
        "c",
    }  # softmax and the sum that only it reads are float
    for layer in local.layers:
        step = float(layer.qparams.scale)
        assert np.abs(values[layer.tensor] - values[layer.alone]).max() < 3 * step


def test_isolated_moved_integers_are_followed_to_float_tensor(rng: np.random.Generator) -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    padded (float[1, 2, 4, 4] x) => (float[1, 2, 6, 6] y) {
        a = Conv(x, w)
        p = Pad(a, pads, one)
        y = Conv(p, w)
    }
    """
    weights = {"w": rng.normal(0, 1, (2, 2, 1, 1)).astype("f"), "pads": np.asarray([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}
    x = rng.normal(0, 1, (1, 2, 4, 4)).astype("f")
    int8, _, prepared = quantize(text_model(text, **weights, one=np.float32(0.0)), x)
    local = local_graph(prepared, int8)
    assert [layer.tensor for layer in local.layers] == ["a", "y"]
    layer = local.layers[1]
    values = tensors_of(local.model, [layer.tensor, layer.alone], x)
    assert np.abs(values[layer.tensor] - values[layer.alone]).max() < 3 * float(layer.qparams.scale)


def test_isolated_model_of_other_names_or_opset_has_no_layers(residual: ir.Model, rng: np.random.Generator) -> None:
    int8, _, prepared = quantize(residual, rng.normal(0, 1, (1, 3, 8, 8)).astype("f"))
    other = int8.clone()
    other.opset_imports[""] = 21
    assert local_graph(prepared, other).layers == ()
    for node in int8.graph:
        for value in node.outputs:
            value.name = f"tensor_of_another_tool_{value.name}"
    assert local_graph(prepared, int8).layers == ()


def test_isolated_leaves_both_models_unchanged(residual: ir.Model, rng: np.random.Generator) -> None:
    int8, _, prepared = quantize(residual, rng.normal(0, 1, (1, 3, 8, 8)).astype("f"))
    before = [ir.to_proto(model).SerializeToString(deterministic=True) for model in (prepared, int8)]
    local_graph(prepared, int8)
    assert [ir.to_proto(model).SerializeToString(deterministic=True) for model in (prepared, int8)] == before
