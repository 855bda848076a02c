"""Refined ranges: an end moves where the scores gain by it, also on other images, and stays elsewhere."""

import numpy as np
import pytest
from test_workbench import bench_of
from tune_models import model_of, planned, small_images, small_model, values_of, weights

from quantkit.config.method import MinMax
from quantkit.graph.qdq import activation_parameters
from quantkit.numerics import Range, fake_quantize
from quantkit.run.scores import score_sqnr_db, scores_of
from quantkit.targets import ORT, TENSORRT
from quantkit.tuning.recipe import Mending, Recipe
from quantkit.tuning.refine import LEAST_FACTOR, refine_ranges, rounded

CHAIN = """
<ir_version: 8, opset_import: ["": 17]>
chain (float[N, 3, 12, 12] input) => (float[N, 5] logits) {
    a = Conv <pads = [1, 1, 1, 1]> (input, w1, b1)
    ar = Relu(a)
    b = Conv (ar, w2)
    br = Relu(b)
    g = GlobalAveragePool(br)
    f = Flatten(g)
    logits = Gemm <transB = 1> (f, w4, b4)
}
"""
CHAIN_SHAPES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 1, 1), "w4": (5, 8), "b4": (5,)}
SHARED = CHAIN.replace(
    "b = Conv (ar, w2)", "c = Concat <axis = 1> (ar, ar) b0 = Conv (c, w3) b1r = Conv (ar, w2) b = Add (b0, b1r)"
)


def chain(text: str = CHAIN, *, unread: float = 1.0):
    """Return a network whose channel 0 is as many times as large as it was, and where that is not 1, read by nobody."""
    held = weights(np.random.default_rng(0), CHAIN_SHAPES | ({"w3": (8, 16, 1, 1)} if "w3" in text else {}))
    if unread != 1.0:
        held["w1"][0] *= unread
        held["w2"][:, 0] = 0.0
    return model_of(text, held)


def noise_db(model, plan, ranges, images) -> float:
    """Return the SQNR of the scores with all tensors rounded, as onnxruntime computes them."""
    variant = rounded(model, activation_parameters(plan, ranges))
    return score_sqnr_db(*(scores_of(one, images, threads=2) for one in (model, variant)))


def test_a_tensor_is_rounded_as_the_quantizer_does() -> None:
    model, images = small_model(), small_images(4)
    plan, ranges = planned(model, images)
    parameters = activation_parameters(plan, {name: Range(0.7 * r.lo, 0.7 * r.hi) for name, r in ranges.items()})
    for tensor in ("ar", "e"):
        copy = rounded(model, {tensor: parameters[tensor]})
        held, given = (
            values_of(one, [name], images[0])[name] for one, name in ((model, tensor), (copy, f"{tensor}.Mul"))
        )
        np.testing.assert_array_equal(given, fake_quantize(held, parameters[tensor]))
        assert not any(
            use.node.op_type == "Conv"
            for node in copy.graph
            for use in node.outputs[0].uses()
            if node.outputs[0].name == tensor
        )
    assert not np.array_equal(*(scores_of(one, images, threads=1) for one in (model, copy)))


def test_what_nothing_weighs_does_not_set_the_range() -> None:
    model, images, others = chain(unread=30.0), small_images(32), small_images(32, seed=7)
    plan, ranges = planned(model, images)
    refined = refine_ranges(model, plan, ranges, images, threads=2)
    assert LEAST_FACTOR * ranges["ar"].hi <= refined["ar"].hi < 0.3 * ranges["ar"].hi
    assert noise_db(model, plan, refined, others) > noise_db(model, plan, ranges, others) + 6.0


def test_what_a_relu_behind_a_sum_cuts_off_is_not_kept() -> None:
    low = np.full((8, 8, 1, 1), -1.0, np.float32)
    low[::2] = np.abs(weights(np.random.default_rng(3))["w3"][::2])
    model, images, others = small_model(w3=low), small_images(32), small_images(32, seed=7)
    plan, ranges = planned(model, images)
    refined = refine_ranges(model, plan, ranges, images, threads=2)
    assert refined["e"].lo > 0.7 * ranges["e"].lo, "the sum is below zero there, whatever is added"
    assert refined["e"].hi >= 0.8 * ranges["e"].hi
    only = ranges | {"e": refined["e"]}
    assert noise_db(model, plan, only, others) > noise_db(model, plan, ranges, others)


def test_symmetric_ranges_stay_symmetric() -> None:
    model, images = chain(unread=30.0), small_images(32)
    plan, ranges = planned(model, images, TENSORRT)
    refined = refine_ranges(model, plan, ranges, images, threads=2)
    for name, one in refined.items():
        assert one.threshold == max(-one.lo, one.hi)
        if ranges[name].lo and ranges[name].hi:
            assert one.lo / ranges[name].lo == pytest.approx(one.hi / ranges[name].hi)
    assert refined["ar"].hi < 0.3 * ranges["ar"].hi


def test_a_range_that_others_follow_from_stays() -> None:
    model, images = chain(SHARED, unread=30.0), small_images(16)
    plan, ranges = planned(model, images)
    assert sum("ar" in group.observed for group in plan.groups) == 2, "it is read by itself and within a concatenation"
    assert refine_ranges(model, plan, ranges, images, threads=2)["ar"] == ranges["ar"]


def test_a_range_is_moved_only_beyond_chance() -> None:
    model, images = chain(), small_images(32)
    plan, ranges = planned(model, images)
    sound = refine_ranges(model, plan, ranges, images, threads=2)
    again = refine_ranges(model, plan, sound, small_images(32, seed=9), threads=2)
    for name in ranges:
        assert 0.8 <= again[name].hi / sound[name].hi <= 1.1 if sound[name].hi else again[name].hi == 0.0


def test_neither_threads_nor_the_original_ranges_are_touched() -> None:
    model, images = chain(unread=10.0), small_images(16)
    plan, ranges = planned(model, images)
    kept, told = dict(ranges), []
    one = refine_ranges(model, plan, ranges, images, threads=1, progress=lambda done, total: told.append((done, total)))
    assert one == refine_ranges(model, plan, ranges, images, threads=2)
    assert ranges == kept
    assert told[-1][0] == told[-1][1] == len(told)


def test_a_recipe_is_refined_once_for_all_that_is_done_to_its_weights() -> None:
    bench, choosing = bench_of(chain(unread=30.0), ORT)
    recipe = Recipe(method=MinMax(), mending=Mending.BIAS)
    plain, refined = (choosing.closeness(bench.make(one).int8) for one in (recipe, recipe.changed(refined=True)))
    assert refined.distance < 0.5 * plain.distance
    found = bench.ranged(recipe.changed(refined=True))[1]
    assert found["ar"].hi < bench.ranged(recipe)[1]["ar"].hi
    widened = recipe.changed(refined=True, mending=Mending.ROUNDING, skip=(bench.prepared.graph[-1].name,))
    assert bench.ranged(widened)[1] == found
