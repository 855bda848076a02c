"""Shape arithmetic that depends on nothing but a dynamic batch size."""

import numpy as np
import pytest
from graph_runs import run, text_model

from quantkit.graph.passes.shapes import constant_shapes


def model_of(body, out, dims="N, 8, 4, 4", **constants):
    return text_model(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[{dims}] x) => (float[{out}] y) {{ {body} }}""",
        **{name: np.array(value, np.int64) for name, value in constants.items()},
    )


def reshape_constant(model):
    (node,) = [node for node in model.graph if node.op_type == "Reshape"]
    constant = node.inputs[1].const_value
    return None if constant is None else constant.numpy().tolist()


FLATTEN = """s = Shape (x) n = Gather (s, zero) u = Unsqueeze (n, axis) f = Concat <axis = 0> (u, minus)
  y = Reshape (x, f)"""
SHUFFLE = """s = Shape <start = 0, end = 1> (x) f = Concat <axis = 0> (s, rest) y = Reshape (x, f)"""
STEPPED = """s = Shape (x) a = Slice (s, zero1, one1, zero1, one1) f = Concat <axis = 0> (a, minus)
  y = Reshape (x, f)"""
SLICED = """s = Shape (x) a = Slice (s, zero1, one1) f = Concat <axis = 0> (a, minus) y = Reshape (x, f)"""


@pytest.mark.parametrize(
    ("body", "out", "constants", "expected"),
    [
        (FLATTEN, "N, M", {"zero": 0, "axis": [0], "minus": [-1]}, [0, -1]),
        (SHUFFLE, "N, 2, 4, 4, 4", {"rest": [2, 4, 4, 4]}, [0, 2, 4, 4, 4]),
        (SLICED, "N, M", {"zero1": [0], "one1": [1], "minus": [-1]}, [0, -1]),
        (STEPPED, "N, M", {"zero1": [0], "one1": [1], "minus": [-1]}, [0, -1]),
    ],
    ids=["flatten by view(x.size(0), -1)", "channel shuffle", "leading sizes by Slice", "Slice with steps"],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_constant_shapes_pass_batch_size_is_repeated(body, out, constants, expected, batch, rng):
    model = model_of(body, out, **constants)
    x = rng.normal(size=(batch, 8, 4, 4)).astype(np.float32)
    before = run(model, x)
    constant_shapes(model)
    assert reshape_constant(model) == expected
    np.testing.assert_array_equal(run(model, x), before)


def test_constant_shapes_pass_multiple_of_batch_becomes_minus_one(rng):
    """Attention in torch puts batch and heads on one axis."""
    body = """s = Shape (x) n = Gather (s, zero) h = Mul (n, heads) u = Unsqueeze (h, axis)
      f = Concat <axis = 0> (first, u, last) y = Reshape (x, f)"""
    model = model_of(body, "8, M, 4", zero=0, heads=4, axis=[0], first=[8], last=[4])
    x = rng.normal(size=(3, 8, 4, 4)).astype(np.float32)
    before = run(model, x)
    constant_shapes(model)
    assert reshape_constant(model) == [8, -1, 4]
    np.testing.assert_array_equal(run(model, x), before)


def test_constant_shapes_pass_batch_in_other_place_becomes_minus_one(rng):
    body = "s = Shape <start = 0, end = 1> (x) f = Concat <axis = 0> (head, s) y = Reshape (x, f)"
    model = model_of(body, "128, N", head=[128])
    x = rng.normal(size=(3, 8, 4, 4)).astype(np.float32)
    before = run(model, x)
    constant_shapes(model)
    assert reshape_constant(model) == [128, -1]
    np.testing.assert_array_equal(run(model, x), before)


def test_constant_shapes_pass_fixed_sizes_become_constants():
    body = "s = Shape <start = 1> (x) p = ReduceProd <keepdims = 1> (s) f = Concat <axis = 0> (p, p) y = Expand (x, s)"
    model = model_of(body, "N, 8, 4, 4")
    modified = constant_shapes(model)
    assert modified
    assert "Shape" not in [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("body", "dims", "out"),
    [
        ("s = Shape (x) y = Reshape (x, s)", "N, 8, H, W", "N, 8, H, W"),
        ("s = Shape (x) f = Concat <axis = 0> (s) y = Reshape <allowzero = 1> (x, f)", "N, 8, 4, 4", "N, 8, 4, 4"),
        (
            "s = Shape <start = 0, end = 1> (x) f = Concat <axis = 0> (minus, s) y = Reshape (x, f)",
            "N, 8, 4, 4",
            "M, N",
        ),
    ],
    ids=["two unknown sizes", "zeros allowed", "the batch size moved beside a -1"],
)
def test_constant_shapes_pass_leaves_other_nodes_alone(body, dims, out):
    model = model_of(body, out, dims, **({"minus": [-1]} if "minus" in body else {}))
    constant_shapes(model)
    assert reshape_constant(model) is None
