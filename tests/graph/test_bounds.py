"""What no reader of a value feels, and that integers may saturate there."""

import math

import numpy as np
import pytest
from graph_runs import minmax_ranges, quantize, run, sqnr_db, text_model

from quantkit.graph.bounds import SIGMOID_REACH, UNBOUNDED, Bounds, felt_bounds
from quantkit.graph.plan import plan
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq import activation_parameters
from quantkit.targets import ORT

RNG = np.random.default_rng(3)
GATED = """<ir_version: 8, opset_import: ["" : 18]>
g (float[N, 3, 8, 8] image) => (float[N, 5, 8, 8] result) {{
  a = Conv (image, w, b0)
  {middle}
  result = Conv (b, v)
}}"""
CASES = {
    "hard swish": ("b = HardSwish (a)", Bounds(-3.0)),
    "swish": ("s = Sigmoid (a)  b = Mul (a, s)", Bounds(-SIGMOID_REACH)),
    "its operands the other way round": ("s = Sigmoid (a)  b = Mul (s, a)", Bounds(-SIGMOID_REACH)),
    "hard gate": ("b = HardSigmoid <alpha = 0.25, beta = 0.25> (a)", Bounds(-1.0, 3.0)),
    "gate": ("b = Sigmoid (a)", Bounds(-SIGMOID_REACH, SIGMOID_REACH)),
    "falling gate": ("b = HardSigmoid <alpha = -0.2> (a)", UNBOUNDED),
    "gate never shut": ("b = HardSigmoid <beta = 1.5> (a)", UNBOUNDED),
    "another reader": ("s = Sigmoid (a)  p = Mul (a, s)  b = Add (p, a)", UNBOUNDED),
    "gate of something else": ("r = Relu (a)  s = Sigmoid (r)  b = Mul (a, s)", UNBOUNDED),
    "no gate": ("b = Mul (a, a)", UNBOUNDED),
}


def gated(middle: str, first_bias: float = 0.0):
    weights = {"w": RNG.normal(size=(4, 3, 1, 1)), "v": RNG.normal(size=(5, 4, 1, 1)), "b0": [first_bias, 0, 0, 0]}
    return text_model(GATED.format(middle=middle), **{name: np.float32(one) for name, one in weights.items()})


@pytest.mark.parametrize("case", CASES)
def test_what_readers_tell_apart(case) -> None:
    middle, wanted = CASES[case]
    graph = prepare(gated(middle)).model.graph
    found = felt_bounds(graph[0].outputs[0])
    assert (found.lo, found.hi) == pytest.approx((wanted.lo, wanted.hi))


def test_the_scores_are_felt_whole() -> None:
    model = text_model("""<ir_version: 8, opset_import: ["" : 18]>
    g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) { y = Relu (x)  z = Sigmoid (y) }""")
    assert felt_bounds(model.graph[0].outputs[0]) == UNBOUNDED


def test_a_sigmoid_rounds_to_its_limits_there() -> None:
    assert 255.0 / (1.0 + math.exp(SIGMOID_REACH)) == pytest.approx(1.0 / 3.0)


@pytest.mark.parametrize("case", ["hard swish", "swish", "hard gate", "gate"])
def test_integers_do_not_reach_where_nothing_is_felt(case) -> None:
    """Inputs far below the limit take levels from the others unless the range ends at the limit."""
    middle, wanted = CASES[case]
    model = gated(middle)
    x = RNG.normal(size=(8, 3, 8, 8)).astype(np.float32) * np.float32(2.0)
    x[0] *= 30.0
    prepared = prepare(model).model
    made = plan(prepared, ORT)
    parameters = activation_parameters(made, minmax_ranges(prepared, made.observed, x))["a"]
    ends = [float(parameters.scale) * (end - int(parameters.zero_point)) for end in (0, 255)]
    assert ends[0] == pytest.approx(wanted.lo, abs=float(parameters.scale))
    assert math.isinf(wanted.hi) or ends[1] == pytest.approx(wanted.hi, abs=float(parameters.scale))


def test_what_saturates_unfelt_costs_nothing() -> None:
    """A channel that the hard swish shuts takes no levels from the others."""
    x = RNG.normal(size=(8, 3, 8, 8)).astype(np.float32)
    for bias in (-4.0, -400.0):
        model = gated("b = HardSwish (a)", bias)
        assert sqnr_db(run(model, x), run(quantize(model, x)[0], x)) > 30.0
