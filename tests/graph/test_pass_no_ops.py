"""What does nothing at inference, and what only looks like it."""

import numpy as np
import pytest
from graph_runs import run, text_model

from quantkit.graph.passes.clean import remove_no_ops

X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


def model_of(body, **constants):
    return text_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, M] y) {{ {body} }}""",
        **constants,
    )


ZEROS = {"pads": np.zeros(4, np.int64)}
RATIO = {"ratio": np.float32(0.5)}
NO_OPS = {
    "identity": ("r = Relu (x) i = Identity (r) y = Neg (i)", {}, ["Relu", "Neg"]),
    "at the output": ("r = Relu (x) y = Identity (r)", {}, ["Relu"]),
    "at the input": ("i = Identity (x) y = Neg (i)", {}, ["Neg"]),
    "dropout": ("r = Relu (x) y = Dropout (r)", {}, ["Relu"]),
    "dropout with ratio": ("r = Relu (x) y = Dropout (r, ratio)", RATIO, ["Relu"]),
    "dropout not training": ("r = Relu (x) y = Dropout (r, ratio, off)", RATIO | {"off": np.array(False)}, ["Relu"]),
    "unread mask": ("r = Relu (x) y, mask = Dropout (r)", {}, ["Relu"]),
    "no padding": ("p = Pad (x, pads) y = Relu (p)", ZEROS, ["Relu"]),
    "cast to itself": ("r = Cast <to = 1> (x) y = Relu (r)", {}, ["Relu"]),
}


@pytest.mark.parametrize(("body", "constants", "ops"), NO_OPS.values(), ids=NO_OPS)
def test_no_ops_pass_removes_nodes_without_effect(body, constants, ops):
    model = model_of(body, **constants)
    before = run(model, X)
    modified = remove_no_ops(model)
    assert modified
    assert [node.op_type for node in model.graph] == ops
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_array_equal(run(model, X), before)


LEFT_ALONE = {
    "training": ("y = Dropout (x, ratio, on)", RATIO | {"on": np.array(True)}),
    "mask is read": ("d, mask = Dropout (x) f = Cast <to = 1> (mask) y = Add (d, f)", {}),
    "padding": ("y = Pad (x, pads)", {"pads": np.array([0, 1, 0, 0], np.int64)}),
    "cast to another type and back": ("i = Cast <to = 7> (x) y = Cast <to = 1> (i)", {}),
    "the whole model": ("y = Identity (x)", {}),
    "inside of a condition": (
        """y = If (yes) <then_branch = a () => (float[N, 4] t) { t = Identity (x) },
                         else_branch = b () => (float[N, 4] e) { e = Neg (x) }>""",
        {"yes": np.array(True)},
    ),
}


@pytest.mark.parametrize(("body", "constants"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_no_ops_pass_leaves_other_nodes_alone(body, constants):
    assert not remove_no_ops(model_of(body, **constants))
