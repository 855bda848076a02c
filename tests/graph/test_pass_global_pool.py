"""Means and maxima over all positions by the names of their integer kernels."""

import numpy as np
import pytest
from graph_runs import run, text_model

from quantkit.graph.passes.spatial import global_pool

X = np.random.default_rng(9).normal(size=(2, 3, 5, 6)).astype(np.float32)


def model_of(body, opset, out, **constants):
    return text_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[N, 3, 5, 6] x) => (float[{out}] y) {{ {body} }}""",
        **constants,
    )


@pytest.mark.parametrize(
    ("body", "opset", "out", "ops"),
    [
        ("y = ReduceMean <axes = [2, 3]> (x)", 17, "N, 3, 1, 1", ["GlobalAveragePool"]),
        ("y = ReduceMean <axes = [-1, -2], keepdims = 0> (x)", 17, "N, 3", ["GlobalAveragePool", "Flatten"]),
        ("y = ReduceMean <keepdims = 0> (x, axes)", 18, "N, 3", ["GlobalAveragePool", "Flatten"]),
        ("y = GlobalMaxPool (x)", 17, "N, 3, 1, 1", ["ReduceMax"]),
        ("y = GlobalMaxPool (x)", 20, "N, 3, 1, 1", ["ReduceMax"]),
    ],
)
def test_global_pool_pass_rewrites_to_same_values(body, opset, out, ops):
    constants = {"axes": np.array([2, 3], np.int64)} if "axes)" in body else {}
    model = model_of(body, opset, out, **constants)
    before = run(model, X)
    global_pool(model)
    assert [node.op_type for node in model.graph] == ops
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_allclose(run(model, X), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "out"),
    [
        ("y = ReduceMean <axes = [1]> (x)", "N, 1, 5, 6"),
        ("y = ReduceMean <axes = [2]> (x)", "N, 3, 1, 6"),
        ("y = ReduceMean <axes = [1, 2, 3]> (x)", "N, 1, 1, 1"),
        ("y = ReduceMean (x)", "1, 1, 1, 1"),
    ],
    ids=["channels", "rows only", "channels too", "everything"],
)
def test_global_pool_pass_leaves_other_axes_alone(body, out):
    assert not global_pool(model_of(body, 17, out))
