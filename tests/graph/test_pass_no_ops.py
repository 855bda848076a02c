"""What does nothing at inference, and what only looks like it."""

import numpy as np
import pytest
from graph_runs import text_model

from quantkit.graph.passes.no_ops import DropNoOpsPass


def ops_after(body, **constants):
    model = text_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, M] y) {{ {body} }}""",
        **constants,
    )
    return [node.op_type for node in DropNoOpsPass()(model).model.graph]


ZEROS = {"pads": np.zeros(4, np.int64)}


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("y = Dropout (x)", {}),
        ("y = Dropout (x, ratio)", {"ratio": np.float32(0.5)}),
        ("y = Dropout (x, ratio, off)", {"ratio": np.float32(0.5), "off": np.array(False)}),
        ("y, mask = Dropout (x)", {}),
        ("y = Pad (x, pads)", ZEROS),
        ("y = Cast <to = 1> (x)", {}),
    ],
    ids=["dropout", "with ratio", "not training", "unread mask", "no padding", "cast to itself"],
)
def test_becomes_identity(body, constants):
    assert ops_after(body, **constants) == ["Identity"]


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("y = Dropout (x, ratio, on)", {"ratio": np.float32(0.5), "on": np.array(True)}),
        ("d, mask = Dropout (x) f = Cast <to = 1> (mask) y = Add (d, f)", {}),
        ("y = Pad (x, pads)", {"pads": np.array([0, 1, 0, 0], np.int64)}),
        ("i = Cast <to = 7> (x) y = Cast <to = 1> (i)", {}),
    ],
    ids=["training", "mask is read", "padding", "cast to another type and back"],
)
def test_left_alone(body, constants):
    assert "Identity" not in ops_after(body, **constants)
