"""Batch norms and per-channel constants folded into the layer before them."""

import numpy as np
import pytest
from graph_runs import run, text_model

from quantkit.errors import ModelError
from quantkit.graph.passes.fold_affine import fold_affine

RNG = np.random.default_rng(0)


def f32(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def norm(channels, **overrides):
    """Statistics with negative gammas, as real checkpoints have them."""
    values = {
        "gamma": f32(channels),
        "beta": f32(channels),
        "mean": f32(channels),
        "var": RNG.uniform(0.1, 2.0, channels).astype(np.float32),
    }
    return values | overrides


CONV_BN = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4, 6, 6] x) => (float[N, 8, 6, 6] y) {
  c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = GROUP> (x, w, b)
  y = BatchNormalization <epsilon = 1e-3> (c, gamma, beta, mean, var)
}"""


@pytest.mark.parametrize("group", [1, 2, 4])
def test_fold_affine_pass_folds_batch_norm_into_conv(group):
    weights = norm(8) | {"w": f32(8, 4 // group, 3, 3), "b": f32(8)}
    model = text_model(
        CONV_BN.replace("GROUP", str(group)).replace("float[N, 8, 6, 6] y)", "float[N, 8, 6, 6] y)"), **weights
    )
    x = f32(2, 4, 6, 6)
    before = run(model, x)
    modified = fold_affine(model)
    assert modified
    assert [node.op_type for node in model.graph] == ["Conv"]
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-5)


def test_fold_affine_pass_small_variance_and_dead_channels_keep_values():
    weights = norm(8, gamma=np.array([0, 1, -1, 1e-20, 1, 1, 1, 1], np.float32), var=np.full(8, 1e-9, np.float32))
    model = text_model(CONV_BN.replace("GROUP", "1"), **weights, w=f32(8, 4, 3, 3), b=f32(8))
    x = f32(2, 4, 6, 6)
    before = run(model, x)
    fold_affine(model)
    np.testing.assert_allclose(run(model, x), before, rtol=1e-4, atol=1e-4)


def test_fold_affine_pass_impossible_variance_names_node_and_channel():
    variance = np.array([1, 1, -3, 1, 1, 1, 1, 1], np.float32)
    model = text_model(CONV_BN.replace("GROUP", "1"), **norm(8, var=variance), w=f32(8, 4, 3, 3), b=f32(8))
    with pytest.raises(ModelError, match=r"batch norm 'y' has variance -3.0 in channel 2"):
        fold_affine(model)


@pytest.mark.parametrize("group", [1, 2])
def test_fold_affine_pass_folds_batch_norm_into_transposed_conv(group):
    model = text_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4, 5, 5] x) => (float[N, 6, 10, 10] y) {{
          c = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2], group = {group}> (x, w)
          y = BatchNormalization (c, gamma, beta, mean, var)
        }}""",
        w=f32(4, 6 // group, 2, 2),
        **norm(6),
    )
    x = f32(2, 4, 5, 5)
    before = run(model, x)
    fold_affine(model)
    assert [node.op_type for node in model.graph] == ["ConvTranspose"]
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trans", [0, 1])
def test_fold_affine_pass_folds_batch_norm_into_gemm(trans):
    model = text_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 5] x) => (float[N, 3] y) {{
          c = Gemm <transB = {trans}> (x, w, b)
          y = BatchNormalization (c, gamma, beta, mean, var)
        }}""",
        w=f32(3, 5) if trans else f32(5, 3),
        b=f32(3),
        **norm(3),
    )
    x = f32(4, 5)
    before = run(model, x)
    fold_affine(model)
    assert [node.op_type for node in model.graph] == ["Gemm"]
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-5)


def test_fold_affine_pass_folds_separate_scales_and_shifts():
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4, 6, 6] x) => (float[N, 8, 6, 6] y) {
          c = Conv <kernel_shape = [1, 1]> (x, w)
          d = Add (c, m)
          e = Mul (d, s)
          f = Mul (g0, e)
          y = Add (f, b)
        }""",
        w=f32(8, 4, 1, 1),
        m=f32(8, 1, 1),
        s=np.float32(2.0),
        g0=f32(1, 8, 1, 1),
        b=f32(8, 1, 1),
    )
    x = f32(2, 4, 6, 6)
    before = run(model, x)
    fold_affine(model)
    assert [node.op_type for node in model.graph] == ["Conv"]
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-5)


def test_fold_affine_pass_shared_weights_are_copied():
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] z) {
          c = Conv <kernel_shape = [1, 1]> (x, w)
          y = BatchNormalization (c, gamma, beta, mean, var)
          z = Conv <kernel_shape = [1, 1]> (x, w)
        }""",
        w=f32(4, 4, 1, 1),
        **norm(4),
    )
    x = f32(2, 4, 6, 6)
    before = [run(model, x)]
    original = model.graph.initializers["w"].const_value.numpy().copy()
    fold_affine(model)
    np.testing.assert_allclose(run(model, x), before[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), original)


LEFT_ALONE = {
    "the conv is read elsewhere": """c = Conv <kernel_shape = [1, 1]> (x, w)
          n = BatchNormalization (c, gamma, beta, mean, var)
          y = Add (c, n)""",
    "an activation lies between": """c = Conv <kernel_shape = [1, 1]> (x, w)
          r = Relu (c)
          y = BatchNormalization (r, gamma, beta, mean, var)""",
    "the weights are computed": """k = Mul (w, mean4)
          c = Conv <kernel_shape = [1, 1]> (x, k)
          y = BatchNormalization (c, gamma, beta, mean, var)""",
    "the constant varies within the channel": """c = Conv <kernel_shape = [1, 1]> (x, w)
          y = Add (c, plane)""",
    "another function of a constant": """c = Conv <kernel_shape = [1, 1]> (x, w)
          y = Max (gamma4, c)""",
}


@pytest.mark.parametrize("body", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_fold_affine_pass_leaves_other_nodes_alone(body):
    pool = norm(4) | {"w": f32(4, 4, 1, 1), "mean4": f32(4, 1, 1, 1), "plane": f32(6, 6), "gamma4": f32(4, 1, 1)}
    used = {name: value for name, value in pool.items() if f"{name})" in body or f"{name}," in body}
    model = text_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) {{
          {body}
        }}""",
        **used,
    )
    before = [node.op_type for node in model.graph]
    modified = fold_affine(model)
    assert not modified
    assert [node.op_type for node in model.graph] == before


def test_fold_affine_pass_conv_that_is_output_is_left_alone():
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] c, float[N, 4, 6, 6] y) {
          c = Conv <kernel_shape = [1, 1]> (x, w)
          y = BatchNormalization (c, gamma, beta, mean, var)
        }""",
        w=f32(4, 4, 1, 1),
        **norm(4),
    )
    assert not fold_affine(model)
