"""Centering: the same function in other biases, and tensors of signed values that span less."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad
from tune_models import minmax_ranges, model_of, small_images, small_model, values_of, weights

from quantkit.engine.scores import score_sqnr_db, scores_of
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.ptq.channel_shift import Objective, best_channel_shifts, center
from quantkit.ptq.channel_statistics import channel_statistics
from quantkit.ptq.shift_groups import movable, moved
from quantkit.targets import ORT, VACC

# Bottlenecks as in MobileNetV2 and ShuffleNet: 1 x 1 convolutions without activation, summed, joined, pooled; a layer
# that reads one of them with padding, a gate, a group convolution without bias, and one flattened with its positions.
LINEAR = """
<ir_version: 8, opset_import: ["": 17]>
linear (float[N, 3, 12, 12] input) => (float[N, 5] logits) {
    a = Conv (input, w1, b1)
    b = Conv <strides = [2, 2]> (a, w2)
    c = Conv <strides = [2, 2]> (a, w3, b3)
    s = Add(b, c)
    m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (s)
    t = Concat <axis = 1> (m, c)
    e = Conv <group = 2> (t, w4)
    er = Relu(e)
    g = Conv (t, w5, b5)
    p = Conv <pads = [1, 1, 1, 1]> (g, w6, b6)
    q = AveragePool <kernel_shape = [3, 3], strides = [3, 3]> (p)
    u = Conv (er, w7, b7)
    gate = Sigmoid(u)
    v = Mul(p, gate)
    w = AveragePool <kernel_shape = [3, 3], strides = [3, 3]> (v)
    x = Conv (w, w8, b8)
    y = Add(x, q)
    f = Flatten(x)
    logits = Gemm <transB = 1> (f, w9, b9)
    unread = Relu(y)
}
"""
SHAPES = {
    "w1": (4, 3, 1, 1),
    "b1": (4,),
    "w2": (6, 4, 1, 1),
    "w3": (6, 4, 1, 1),
    "b3": (6,),
    "w4": (8, 6, 1, 1),
    "w5": (4, 12, 1, 1),
    "b5": (4,),
    "w6": (6, 4, 3, 3),
    "b6": (6,),
    "w7": (6, 8, 1, 1),
    "b7": (6,),
    "w8": (6, 6, 1, 1),
    "b8": (6,),
    "w9": (5, 24),
    "b9": (5,),
}


def linear_model(seed: int = 0, off: float = 0.0):
    """Return the network above, prepared; with its movable channels moved that far off, one way or the other."""
    rng = np.random.default_rng(seed)
    model = model_of(LINEAR, weights(rng, SHAPES))
    found = movable(model)
    return moved(model, found, off * rng.choice([-1.0, 1.0], found.free.size)) if off else model


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_moves_keep_the_function(seed) -> None:
    model, images = linear_model(seed % 5), small_images(4)
    found = movable(model)
    moves = np.random.default_rng(seed).normal(0.0, 3.0, found.free.size)
    before, after = (scores_of(one, images, threads=1) for one in (model, moved(model, found, moves)))
    assert np.abs(after - before).max() <= 1e-5 * max(1.0, float(np.ptp(before)))


def test_moves_arrive_where_the_tensors_show_them() -> None:
    model, images = linear_model(), small_images(2)
    found = movable(model)
    moves = np.random.default_rng(3).normal(0.0, 1.0, found.free.size)
    other = moved(model, found, moves)
    names = ["a", "b", "c", "s", "m", "t", "x", "g", "e", "logits"]
    before, after = (values_of(one, names, images[0]) for one in (model, other))
    for name in names:
        offsets = found.offsets(name, moves).reshape(-1, *[1] * (before[name].ndim - 2))
        np.testing.assert_allclose(after[name], before[name] - offsets, atol=2e-5, err_msg=name)


def test_what_a_padded_layer_an_activation_or_nobody_puts_back_stays() -> None:
    model = linear_model()
    found = movable(model)
    names = [name for name, first in found.first.items() if found.free[first]]
    assert sorted(names) == sorted(node.name for node in model.graph if node.outputs[0].name in "abcx"), (
        "e, u and p are read by an activation, a gate or a product, g by a layer that pads, logits by nobody"
    )


def test_a_network_of_activations_has_nothing_to_move() -> None:
    model = small_model()
    assert not movable(model).free.any()
    assert center(model, plan(model, ORT), small_images(4), threads=1) is None


def test_the_derivative_of_the_objective_is_that_of_differences() -> None:
    model, images = linear_model(off=2.0), small_images(6)
    found, statistics = movable(model), channel_statistics(model, images, threads=1)
    at = np.random.default_rng(5).uniform(-0.5, 0.5, found.free.size)
    for target in (ORT, VACC):
        objective = Objective(model, plan(model, target), found, statistics)
        error = check_grad(lambda x, f=objective: f(x)[0], lambda x, f=objective: f(x)[1], at)
        assert error < 1e-5 * max(1.0, np.linalg.norm(objective(at)[1]))


def test_a_tensor_alone_comes_to_span_what_its_widest_channel_does() -> None:
    model, images = linear_model(off=4.0), small_images(24)
    found, statistics = movable(model), channel_statistics(model, images, threads=1)
    moves = best_channel_shifts(model, plan(model, ORT), found, statistics)
    before, offsets = statistics["x"], found.offsets("x", moves)
    lo, hi = before.lo - offsets, before.hi - offsets
    widest = float((before.hi - before.lo).max())
    assert hi.max() - lo.min() < 1.05 * widest
    assert before.hi.max() - before.lo.min() > 1.2 * widest, "there was something to win"


@pytest.mark.parametrize("target", [ORT, VACC], ids=["ort", "vacc"])
def test_channels_off_zero_lose_less(target) -> None:
    images, others = small_images(24), small_images(48, seed=8)
    model = linear_model(off=60.0)
    found = center(model, plan(model, target), images, threads=2)
    assert found is not None
    reference = scores_of(model, others, threads=2)

    def sqnr(one) -> float:
        made = plan(one, target)
        return score_sqnr_db(
            reference, scores_of(write_qdq(one, made, minmax_ranges(one, made.observed, images)), others, threads=2)
        )

    assert sqnr(found) > sqnr(model) + 6.0
    assert sqnr(found) > sqnr(linear_model()) - 0.5, "all that was lost is won back"
