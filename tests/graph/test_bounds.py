"""What no reader of a value feels, and that integers may saturate there."""

import math

import numpy as np
import pytest
from graph_runs import minmax_ranges, quantize, run, sqnr_db, text_model

from quantkit.graph.analysis.bounds import SIGMOID_REACH, UNBOUNDED, Bounds, effective_bounds, value_bounds
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.write import activation_parameters
from quantkit.targets import ORT, VACC

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
    rng = np.random.default_rng(3)
    weights = {"w": rng.normal(size=(4, 3, 1, 1)), "v": rng.normal(size=(5, 4, 1, 1)), "b0": [first_bias, 0, 0, 0]}
    return text_model(
        GATED.format(middle=middle), **{name: np.asarray(one, np.float32) for name, one in weights.items()}
    )


@pytest.mark.parametrize("case", CASES)
def test_effective_bounds_are_what_readers_tell_apart(case) -> None:
    middle, wanted = CASES[case]
    graph = prepare(gated(middle)).model.graph
    found = effective_bounds(graph[0].outputs[0], {value for node in graph for value in node.outputs})
    assert (found.lo, found.hi) == pytest.approx((wanted.lo, wanted.hi))


def test_effective_bounds_of_scores_are_unbounded() -> None:
    model = text_model("""<ir_version: 8, opset_import: ["" : 18]>
    g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) { y = Relu (x)  z = Sigmoid (y) }""")
    assert effective_bounds(model.graph[0].outputs[0], set(model.graph[0].outputs)) == UNBOUNDED


def test_effective_bounds_of_float_sigmoid_are_unbounded_and_of_hard_swish_not() -> None:
    assert (
        effective_bounds(prepare(gated("s = Sigmoid (a)  b = Mul (a, s)")).model.graph[0].outputs[0], set())
        == UNBOUNDED
    )
    assert effective_bounds(prepare(gated("b = HardSwish (a)")).model.graph[0].outputs[0], set()).lo == pytest.approx(
        -3.0
    )


@pytest.mark.parametrize("target", [ORT, VACC], ids=["ort", "vacc"])
def test_effective_bounds_sigmoid_of_scores_keeps_their_order(target, rng) -> None:
    """Scores near 1 differ by less than a step of 1/255, but nothing rounds them, so all they come from is felt."""
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 8, 8] image) => (float[N, 5, 1, 1] scores) {
          a = Conv (image, w)  p = GlobalAveragePool (a)  c = Conv (p, v, b)  scores = Sigmoid (c)
        }""",
        w=rng.normal(size=(4, 3, 1, 1)).astype(np.float32),
        v=rng.normal(size=(5, 4, 1, 1)).astype(np.float32),
        b=np.asarray([7, 8, 9, 10, 11], np.float32),
    )
    x = rng.normal(size=(16, 3, 8, 8)).astype(np.float32)
    assert (run(quantize(model, x, target=target)[0], x).argmax(1) == run(model, x).argmax(1)).all()


@pytest.mark.parametrize("constant", [0.0, -3.0, 7.0])
def test_value_bounds_pad_is_widened_by_its_constant(constant: float) -> None:
    graph = text_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 8, 8] image) => (float[N, 3, 10, 10] y) { a = Sigmoid (image)  y = Pad (a, pads, filling) }""",
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        filling=np.float32(constant),
    ).graph
    assert value_bounds(graph)[graph[1].outputs[0]] == Bounds(min(0.0, constant), max(1.0, constant))


def test_effective_bounds_sigmoid_reach_is_a_third_of_a_step() -> None:
    """To within a third of a step, also where its range is the least there is, [0, 1/2]."""
    assert 2.0 * 255.0 / (1.0 + math.exp(SIGMOID_REACH)) == pytest.approx(1.0 / 3.0)


@pytest.mark.parametrize("case", ["hard swish", "swish", "hard gate", "gate"])
def test_effective_bounds_limit_the_range_of_integers(case, rng) -> None:
    """Inputs far below the limit take levels from the others unless the range ends at the limit."""
    middle, wanted = CASES[case]
    model = gated(middle)
    x = rng.normal(size=(8, 3, 8, 8)).astype(np.float32) * np.float32(2.0)
    x[0] *= 30.0
    prepared = prepare(model).model
    made = plan(prepared, ORT)
    parameters = activation_parameters(made, minmax_ranges(prepared, made.observed, x))["a"]
    ends = [float(parameters.scale) * (end - int(parameters.zero_point)) for end in (0, 255)]
    assert ends[0] == pytest.approx(wanted.lo, abs=float(parameters.scale))
    assert math.isinf(wanted.hi) or ends[1] == pytest.approx(wanted.hi, abs=float(parameters.scale))


def test_effective_bounds_saturated_channel_costs_no_accuracy(rng) -> None:
    """A channel that the hard swish shuts takes no levels from the others."""
    x = rng.normal(size=(8, 3, 8, 8)).astype(np.float32)
    for bias in (-4.0, -400.0):
        model = gated("b = HardSwish (a)", bias)
        assert sqnr_db(run(model, x), run(quantize(model, x)[0], x)) > 30.0
