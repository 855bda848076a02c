"""A layer left in float runs in float: onnxruntime does not quantize it behind our back."""

import numpy as np
import pytest
from graph_runs import minmax_ranges, optimized_ops, run, text_model
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.block_ort_requantization import _exact_steps
from quantkit.graph.qdq.plan import PlanOptions, plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.targets import ORT, TENSORRT, VACC

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N, 3, 8, 8] input) => (float[N, 4] y) {{
    a = Conv (input, w1, b1)
    ar = Relu (a)
    p = MaxPool <kernel_shape = [2, 2]> (ar)
    m = {layer}
    mr = Relu (m)
    c = Conv (mr, w3, b3)
    g = GlobalAveragePool (c)
    f = Flatten (g)
    y = Gemm <transB = 1> (f, w4, b4)
}}
"""
SHAPES = {
    "w1": (8, 3, 3, 3),
    "b1": (8,),
    "w2": (8, 8, 3, 3),
    "b2": (8,),
    "w3": (6, 8, 1, 1),
    "b3": (6,),
    "w4": (4, 6),
    "b4": (4,),
}
LAYERS = {
    "Conv": "Conv <pads = [1, 1, 1, 1]> (p, w2, b2)",
    "Conv without bias": "Conv <pads = [1, 1, 1, 1]> (p, w2)",
    "ConvTranspose": "ConvTranspose <pads = [1, 1, 1, 1]> (p, w2, b2)",
    "ConvTranspose without bias": "ConvTranspose <pads = [1, 1, 1, 1]> (p, w2)",
}
FLOAT_LAYERS = {"Conv", "FusedConv", "ConvTranspose"}


@pytest.fixture(params=LAYERS)
def model(request):
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in SHAPES.items()}
    return prepare(text_model(TEXT.format(layer=LAYERS[request.param]), **weights)).model


@pytest.fixture
def x():
    return np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)


def skipping(model, x, target):
    """Return the int8 model with the layer in the middle left in float."""
    made = plan(model, target, PlanOptions(skip=(model.graph[3].name,)))
    return write_qdq(model, made, minmax_ranges(model, made.observed, x))


@pytest.mark.parametrize("target", [ORT, VACC], ids=lambda target: target.name)
def test_block_requantization_skipped_layer_runs_in_float(model, x, target, tmp_path) -> None:
    int8 = skipping(model, x, target)
    assert sum(count for op, count in optimized_ops(int8, tmp_path).items() if op in FLOAT_LAYERS) >= 1
    # Unoptimized, the graph runs as it is written; a weight rounded to int8 would move the scores by far more.
    np.testing.assert_allclose(run(int8, x), run(int8, x, optimize=False), atol=0.02)


def test_block_requantization_keeps_bias_values(model, x) -> None:
    int8 = skipping(model, x, ORT)
    layer = next(node for node in int8.graph if node.name == model.graph[3].name)
    steps, scale = (layer.inputs[2].producer().inputs[index].const_value.numpy() for index in (0, 1))
    planned = model.graph[3].inputs
    expected = planned[2].const_value.numpy() if len(planned) > 2 else np.zeros(8, np.float32)
    np.testing.assert_array_equal(steps.astype(np.float32) * scale, expected)


def test_block_requantization_tensorrt_gets_float_biases(model, x) -> None:
    int8 = skipping(model, x, TENSORRT)
    layer = next(node for node in int8.graph if node.name == model.graph[3].name)
    assert all(value.producer() is None for value in list(layer.inputs)[1:])


def test_block_requantization_layer_among_floats_is_left_alone(model, x) -> None:
    others = [node.name for node in model.graph if node.op_type in ("Conv", "ConvTranspose")]
    made = plan(model, ORT, PlanOptions(skip=tuple(others)))
    int8 = write_qdq(model, made, minmax_ranges(model, made.observed, x))
    layers = [node for node in int8.graph if node.name in others]
    assert all(value.producer() is None for layer in layers for value in list(layer.inputs)[1:])


@given(hnp.arrays(np.float32, 7, elements=st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)))
def test_block_requantization_steps_of_powers_of_two_hold_any_float(bias) -> None:
    steps, scale = _exact_steps(bias)
    small = np.abs(bias) < 2.0**-100  # the scale would be no normal number
    np.testing.assert_array_equal((steps.astype(np.float32) * scale)[~small], bias[~small])
    np.testing.assert_allclose(steps * scale.astype(np.float64), bias, atol=2.0**-126)
    assert (np.abs(steps.astype(np.int64)) <= 2**24).all()
