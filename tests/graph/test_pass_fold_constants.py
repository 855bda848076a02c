"""What does not depend on the input is computed before the model runs."""

import numpy as np
import onnx_ir as ir
import pytest
from graph_runs import run, text_model

from quantkit.errors import ModelError
from quantkit.graph.passes.fold_constants import fold_constants


def test_fold_constants_pass_folds_chain_in_one_walk(rng):
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, 3] y) {
          t = Transpose <perm = [1, 0]> (w)
          s = Mul (t, half)
          y = MatMul (x, s)
        }""",
        w=rng.normal(size=(3, 4)).astype(np.float32),
        half=np.float32(0.5),
    )
    x = rng.normal(size=(2, 4)).astype(np.float32)
    before = run(model, x)
    fold_constants(model)
    assert [node.op_type for node in model.graph] == ["MatMul"]
    assert "s" in model.graph.initializers
    np.testing.assert_array_equal(run(model, x), before)


@pytest.mark.parametrize(
    "body",
    [
        "y = Add (x, c)",
        "r = RandomNormalLike (c) y = Add (x, r)",
        "b = Expand (c, big) y = Add (x, b)",
    ],
    ids=["reads the input", "random", "grows beyond its operands"],
)
def test_fold_constants_pass_leaves_other_nodes_alone(body):
    shape = "[N, 600, 600]" if "big" in body else "[N, 1]"
    constants = {"c": np.ones((1, 1), np.float32)}
    if "big" in body:
        constants["big"] = np.array([1, 600, 600], np.int64)
    model = text_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float{shape} x) => (float{shape} y) {{ {body} }}""",
        **constants,
    )
    assert not fold_constants(model)


def test_fold_constants_pass_node_that_cannot_run_is_named():
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, 4] y) {
          t = Reshape (c, shape)
          y = Add (x, t)
        }""",
        c=np.ones((1, 4), np.float32),
        shape=np.array([1, 4], np.int64),
    )
    model.graph.initializers["shape"].const_value = ir.tensor(np.array([7, 7], np.int64))
    with pytest.raises(ModelError, match=r"the constant node 't' \(Reshape\) cannot be computed"):
        fold_constants(model)
