"""Linear layers over the last axis become Gemm."""

import numpy as np
import pytest
from graph_runs import run, text_model

from quantkit.graph.passes.linear import linear_to_gemm

RNG = np.random.default_rng(6)


def f32(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def model_of(body, dims, out, **constants):
    return text_model(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[{dims}] x) => (float[{out}] y) {{ {body} }}""",
        **constants,
    )


def check(model, x, ops):
    before = run(model, x)
    linear_to_gemm(model)
    assert [node.op_type for node in model.graph] == ops
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-5)
    return model


def test_linear_pass_rows_of_matrix_become_gemm():
    check(model_of("m = MatMul (x, w) y = Add (m, b)", "N, 5", "N, 3", w=f32(5, 3), b=f32(3)), f32(4, 5), ["Gemm"])


@pytest.mark.parametrize("body", ["m = MatMul (x, w) y = Add (m, b)", "m = MatMul (x, w) y = Add (b, m)"])
def test_linear_pass_tokens_become_gemm(body):
    model = model_of(body, "N, 7, 5", "N, 7, 3", w=f32(5, 3), b=f32(3))
    check(model, f32(2, 7, 5), ["Reshape", "Gemm", "Reshape"])


def test_linear_pass_two_dynamic_sizes_are_read_from_input():
    model = model_of("m = MatMul (x, w) y = Add (m, b)", "N, T, 5", "N, T, 3", w=f32(5, 3), b=f32(3))
    rewritten = check(model, f32(2, 9, 5), ["Reshape", "Shape", "Slice", "Concat", "Gemm", "Reshape"])
    assert run(rewritten, f32(3, 4, 5)).shape == (3, 4, 3)


def test_linear_pass_layer_scale_behind_transpose_is_folded():
    body = "m = MatMul (x, w) a = Add (m, b) t = Transpose <perm = [0, 3, 1, 2]> (a) y = Mul (t, gamma)"
    model = model_of(body, "N, 4, 4, 5", "N, 3, 4, 4", w=f32(5, 3), b=f32(3), gamma=f32(3, 1, 1))
    check(model, f32(2, 4, 4, 5), ["Reshape", "Gemm", "Reshape", "Transpose"])


def test_linear_pass_scale_between_product_and_bias_is_folded():
    model = model_of("m = MatMul (x, w) s = Mul (m, c) y = Add (s, b)", "N, 5", "N, 3", w=f32(5, 3), c=f32(1), b=f32(3))
    check(model, f32(4, 5), ["Gemm"])


LEFT_ALONE = {
    "no bias": ("y = MatMul (x, w)", "N, 7, 5", "N, 7, 3", {"w": f32(5, 3)}),
    "a bias for each token": (
        "m = MatMul (x, w) y = Add (m, b)",
        "N, 7, 5",
        "N, 7, 3",
        {"w": f32(5, 3), "b": f32(7, 1)},
    ),
    "a stack of matrices": (
        "m = MatMul (x, w) y = Add (m, b)",
        "N, 2, 7, 5",
        "N, 2, 7, 3",
        {"w": f32(2, 5, 3), "b": f32(3)},
    ),
    "a constant on the left": ("m = MatMul (w, x) y = Add (m, b)", "5, 4", "3, 4", {"w": f32(3, 5), "b": f32(4)}),
    "the product is read twice": (
        "m = MatMul (x, w) a = Add (m, b) y = Mul (a, m)",
        "N, 5",
        "N, 3",
        {"w": f32(5, 3), "b": f32(3)},
    ),
}


@pytest.mark.parametrize(("body", "dims", "out", "constants"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_linear_pass_leaves_other_nodes_alone(body, dims, out, constants):
    assert not linear_to_gemm(model_of(body, dims, out, **constants))
