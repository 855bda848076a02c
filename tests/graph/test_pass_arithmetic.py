"""Subtraction, division and HardSwish in other words."""

import numpy as np
import pytest
from graph_runs import run, text_model

from quantkit.graph.passes.arithmetic import plain_arithmetic


def model_of(body, **constants):
    return text_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) {{ {body} }}""",
        **constants,
    )


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        ("y = Sub (x, c)", ["Add"]),
        ("y = Div (x, c)", ["Mul"]),
        ("y = HardSwish (x)", ["HardSigmoid", "Mul"]),
    ],
)
def test_arithmetic_pass_rewrites_to_same_values(body, ops, rng):
    constants = {"c": np.array([0.3, -2.0, 7.0], np.float32).reshape(3, 1, 1)} if "c" in body else {}
    model = model_of(body, **constants)
    x = (rng.normal(size=(2, 3, 4, 4)) * 5).astype(np.float32)
    before = run(model, x)
    plain_arithmetic(model)
    assert [node.op_type for node in model.graph] == ops
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_allclose(run(model, x), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("y = Sub (c, x)", {"c": np.float32(2)}),
        ("y = Div (c, x)", {"c": np.float32(2)}),
        ("y = Div (x, c)", {"c": np.array([1, 0, 1], np.float32).reshape(3, 1, 1)}),
        ("d = Div (x, c) y = Erf (d)", {"c": np.float32(2**0.5)}),
        ("y = Sub (x, x)", {}),
    ],
    ids=[
        "constant on the left of -",
        "constant on the left of /",
        "division by zero",
        "inside of a GELU",
        "no constant",
    ],
)
def test_arithmetic_pass_leaves_other_nodes_alone(body, constants):
    assert not plain_arithmetic(model_of(body, **constants))
