"""Gemm without alpha, beta and abbreviated biases."""

import numpy as np
import pytest
from graph_runs import run, text_model

from quantkit.graph.passes.linear import plain_gemm

RNG = np.random.default_rng(7)


def f32(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def model_of(attributes, inputs, **constants):
    return text_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[4, 5] x) => (float[A, B] y) {{ y = Gemm <{attributes}> ({inputs}) }}""",
        **constants,
    )


@pytest.mark.parametrize(
    ("attributes", "inputs", "constants"),
    [
        ("alpha = 0.5", "x, w", {"w": f32(5, 3)}),
        ("alpha = 2.0, beta = -0.25, transB = 1", "x, w, b", {"w": f32(3, 5), "b": f32(3)}),
        ("transB = 1", "x, w, b", {"w": f32(3, 5), "b": f32(1)}),
        ("transB = 0", "x, w, b", {"w": f32(5, 3), "b": f32(1, 3)}),
    ],
    ids=["alpha", "alpha and beta", "one number for all", "a row"],
)
def test_gemm_pass_simplifies_to_same_values(attributes, inputs, constants):
    model = model_of(attributes, inputs, **constants)
    x = f32(4, 5)
    before = run(model, x)
    plain_gemm(model)
    (node,) = model.graph
    assert not {"alpha", "beta"} & set(node.attributes)
    if "b" in constants:
        assert node.inputs[2].const_value.shape == (3,)
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "inputs", "constants"),
    [
        ("transB = 1", "x, w, b", {"w": f32(3, 5), "b": f32(3)}),
        ("transA = 1, alpha = 2.0", "x, w", {"w": f32(4, 3)}),
        ("alpha = 2.0", "x, w, b", {"w": f32(5, 3), "b": f32(4, 3)}),
        ("alpha = 2.0, transB = 1", "w, x", {"w": f32(3, 5)}),
    ],
    ids=["plain already", "transposed input", "a whole matrix added", "computed weights"],
)
def test_gemm_pass_leaves_other_nodes_alone(attributes, inputs, constants):
    assert not plain_gemm(model_of(attributes, inputs, **constants))
