"""A batch norm that no layer precedes becomes a depthwise convolution."""

import numpy as np
import pytest
from graph_runs import optimized_ops, quantize, run, sqnr_db, text_model

from quantkit.graph.analysis.values import ORIGIN
from quantkit.graph.passes.fold_affine import batch_norm_to_conv

RNG = np.random.default_rng(1)


def f32(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def norm(channels):
    variance = RNG.uniform(0.1, 2.0, channels).astype(np.float32)
    return {"gamma": f32(channels), "beta": f32(channels), "mean": f32(channels), "var": variance}


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_batchnorm_conv_pass_any_rank_keeps_values(spatial):
    sizes = ", ".join(["5"] * spatial)
    model = text_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 6, {sizes}] x) => (float[N, 6, {sizes}] y) {{
          y = BatchNormalization <epsilon = 1e-3> (x, gamma, beta, mean, var)
        }}""",
        **norm(6),
    )
    x = f32(2, 6, *[5] * spatial)
    before = run(model, x)
    modified = batch_norm_to_conv(model)
    assert modified
    (node,) = model.graph
    assert (node.op_type, node.name, node.outputs[0].name) == ("Conv", "y", "y")
    assert node.metadata_props[ORIGIN] == "BatchNormalization"
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("known", [True, False], ids=["rank 2", "unknown rank"])
def test_batchnorm_conv_pass_without_spatial_axes_leaves_alone(known):
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 6] x) => (float[N, 6] y) { y = BatchNormalization (x, gamma, beta, mean, var) }""",
        **norm(6),
    )
    if not known:
        model.graph.inputs[0].shape = None
    assert not batch_norm_to_conv(model)


# Two middle blocks of an iResNet (arXiv:2004.04989): the residual sum is normalized, then goes through a ReLU.
IRESNET = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, 16, 16] x) => (float[N, 10] logits) {
  s0 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w0)
  n1 = BatchNormalization (s0, gamma, beta, mean, var)
  r1 = Relu (n1)
  c1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r1, w1)
  s1 = Add (c1, s0)
  n2 = BatchNormalization (s1, gamma, beta, mean, var)
  r2 = Relu (n2)
  c2 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r2, w2)
  s2 = Add (c2, s1)
  n3 = BatchNormalization (s2, gamma, beta, mean, var)
  r3 = Relu (n3)
  p = GlobalAveragePool (r3)
  f = Flatten (p)
  logits = Gemm <transB = 1> (f, wf, bf)
}"""


def iresnet():
    weights = {"w0": f32(8, 3, 3, 3), "w1": f32(8, 8, 3, 3) * 0.2, "w2": f32(8, 8, 3, 3) * 0.2}
    return text_model(IRESNET, **weights, wf=f32(10, 8), bf=f32(10), **norm(8))


def test_batchnorm_conv_pass_iresnet_blocks_stay_integer(tmp_path):
    """Each block's batch norm and ReLU run inside one integer convolution."""
    model, x = iresnet(), f32(8, 3, 16, 16)
    int8, plan, _ = quantize(model, x)
    left = optimized_ops(int8, tmp_path)
    assert left["QLinearConv"] == 6
    assert left["BatchNormalization"] == left["Relu"] == left["Conv"] == left["Add"] == 0
    assert left["DequantizeLinear"] == 0
    assert sqnr_db(run(model, x), run(int8, x)) > 30
    assert {row.how for row in plan.explain() if row.op_type == "Relu" and row.kind == "operator"} == {"absorbed"}


def test_batchnorm_conv_pass_depthwise_weights_are_exact():
    """Its int8 value is 127 or -127, whatever the gamma: only the activations are rounded."""
    int8, _, _ = quantize(iresnet(), f32(8, 3, 16, 16))
    stored = [
        value.const_value.numpy()
        for name, value in int8.graph.initializers.items()
        if name.endswith("weight.quantized") and value.const_value.shape[1] == 1
    ]
    assert len(stored) == 3
    assert all((np.abs(weights) == 127).all() for weights in stored)


# The block behind a start block, as the authors' code has it: convolution and shortcut read one ReLU.
RECTIFIED_SHORTCUT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, 16, 16] x) => (float[N, 10] logits) {
  a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w0)
  b = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w3)
  s0 = Add (a, b)
  r0 = Relu (s0)
  c1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r0, w1)
  s1 = Add (c1, r0)
  n2 = BatchNormalization (s1, gamma, beta, mean, var)
  r2 = Relu (n2)
  p = GlobalAveragePool (r2)
  f = Flatten (p)
  logits = Gemm <transB = 1> (f, wf, bf)
}"""


def test_batchnorm_conv_pass_rectified_shortcut_adds_no_operator(tmp_path):
    weights = {"w0": f32(8, 3, 3, 3), "w3": f32(8, 3, 3, 3), "w1": f32(8, 8, 3, 3) * 0.2}
    model, x = text_model(RECTIFIED_SHORTCUT, **weights, wf=f32(10, 8), bf=f32(10), **norm(8)), f32(8, 3, 16, 16)
    int8, plan, _ = quantize(model, x)
    left = optimized_ops(int8, tmp_path)
    assert (left["QLinearAdd"], left["Relu"], left["QuantizeLinear"], left["DequantizeLinear"]) == (2, 0, 1, 0)
    assert {row.how for row in plan.explain() if row.op_type == "Relu" and row.kind == "operator"} == {"absorbed"}
    assert sqnr_db(run(model, x), run(int8, x)) > 30
