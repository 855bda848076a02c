"""GELU in the order that onnxruntime fuses, bit for bit the same."""

import numpy as np
import pytest
from graph_runs import optimized_ops, run, text_model

from quantkit.graph.passes.arithmetic import order_gelu

ERF = "d = Div (x, root) e = Erf (d) t = Add (e, one)"
ORDERS = {
    "x (0.5 (1 + erf))": f"{ERF} h = Mul (half, t) y = Mul (x, h)",
    "(0.5 x) (1 + erf)": f"h = Mul (x, half) {ERF} y = Mul (h, t)",
}


def model_of(body, **others):
    constants = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)} | others
    return text_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 8] x) => (float[N, 8] y) {{ {body} }}""",
        **constants,
    )


@pytest.mark.parametrize("body", ORDERS.values(), ids=ORDERS)
def test_gelu_pass_reorders_to_same_values(body, tmp_path, rng):
    model = model_of(body)
    x = (rng.normal(size=(16, 8)) * 3).astype(np.float32)
    before = run(model, x, optimize=False)
    modified = order_gelu(model)
    assert modified
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_array_equal(run(model, x, optimize=False), before)
    assert optimized_ops(model, tmp_path) == {"Gelu": 1}


LEFT_ALONE = {
    "in order already": f"{ERF} h = Mul (x, t) y = Mul (h, half)",
    "half of another number": f"{ERF} h = Mul (one, t) y = Mul (x, h)",
    "erf of something else": f"a = Abs (x) {ERF.replace('(x', '(a')} h = Mul (half, t) y = Mul (x, h)",
    "the halved input is read elsewhere": f"h = Mul (x, half) {ERF} g0 = Mul (h, t) y = Add (g0, h)",
}


@pytest.mark.parametrize("body", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_gelu_pass_leaves_other_nodes_alone(body):
    assert not order_gelu(model_of(body))
