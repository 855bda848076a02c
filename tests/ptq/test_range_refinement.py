"""Refined ranges: an end moves where the scores gain by it, also on other images, and stays elsewhere."""

import numpy as np
import pytest
from quantizers import fake_quantize
from tune_models import builder_of, model_of, planned, small_images, small_model, values_of, weights

from quantkit.config.method import MinMax
from quantkit.engine.prefix_sharing import PrefixSharedRuns
from quantkit.engine.scores import scores_of
from quantkit.evaluation.score_sqnr import score_sqnr_db
from quantkit.graph.qdq.write import activation_parameters
from quantkit.numerics import Range
from quantkit.ptq import range_refinement as refine
from quantkit.ptq.range_refinement import LEAST_FACTOR, refine_ranges, rounded
from quantkit.search import candidate_builder as candidate_builder
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.targets import ORT, TENSORRT

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


def chain(text: str = CHAIN, *, unread: float = 1.0, **changed: np.ndarray):
    """Return a network whose channel 0 is as many times as large as it was, and where that is not 1, read by nobody."""
    held = weights(np.random.default_rng(0), CHAIN_SHAPES | ({"w3": (8, 16, 1, 1)} if "w3" in text else {})) | changed
    if unread != 1.0:
        held["w1"][0] *= unread
        held["w2"][:, 0] = 0.0
        if "w3" in held:
            held["w3"][:, [0, 8]] = 0.0
    return model_of(text, held)


def noise_db(model, plan, ranges, images) -> float:
    """Return the SQNR of the scores with all tensors rounded, as onnxruntime computes them."""
    variant = rounded(model, plan, activation_parameters(plan, ranges))
    return score_sqnr_db(*(scores_of(one, images, threads=2) for one in (model, variant)))


def readers(model, tensor: str) -> set[str]:
    return {
        use.node.op_type for node in model.graph for one in node.outputs if one.name == tensor for use in one.uses()
    }


def test_rounded_tensor_equals_quantizer() -> None:
    model, images = small_model(), small_images(4)
    plan, ranges = planned(model, images)
    parameters = activation_parameters(plan, {name: Range(0.7 * r.lo, 0.7 * r.hi) for name, r in ranges.items()})
    for tensor in ("ar", "e"):
        copy = rounded(model, plan, {tensor: parameters[tensor]})
        (held,) = values_of(model, [tensor], images[0]).values()
        (given,) = values_of(copy, [f"{tensor}.Mul"], images[0]).values()
        np.testing.assert_array_equal(given, fake_quantize(held, parameters[tensor]))
        assert readers(copy, tensor) == {"Div"}
    before, after = (scores_of(one, images, threads=1) for one in (model, copy))
    assert not np.array_equal(before, after)


def test_rounded_tensor_is_not_read_by_float_operators() -> None:
    text = CHAIN.replace("g = GlobalAveragePool(br)", "n = Sigmoid(ar) m = Mul(br, n) g = GlobalAveragePool(m)")
    model, images = chain(text), small_images(4)
    for target, left in ((TENSORRT, {"Sigmoid", "Div"}), (ORT, {"Div"})):
        plan, ranges = planned(model, images, target)
        copy = rounded(model, plan, {"ar": activation_parameters(plan, ranges)["ar"]})
        assert readers(copy, "ar") == left, target.name


def test_refine_ranges_unread_channel_does_not_set_range() -> None:
    model, images, others = chain(unread=30.0), small_images(32), small_images(32, seed=7)
    plan, ranges = planned(model, images)
    refined = refine_ranges(model, plan, ranges, images, threads=2)
    assert LEAST_FACTOR * ranges["ar"].hi <= refined["ar"].hi < 0.3 * ranges["ar"].hi
    assert noise_db(model, plan, refined, others) > noise_db(model, plan, ranges, others) + 6.0


def test_refine_ranges_values_cut_by_relu_behind_sum_are_not_kept() -> None:
    low = np.full((8, 8, 1, 1), -1.0, np.float32)
    low[::2] = np.abs(weights(np.random.default_rng(3))["w3"][::2])
    model, images, others = small_model(w3=low), small_images(32), small_images(32, seed=7)
    plan, ranges = planned(model, images)
    refined = refine_ranges(model, plan, ranges, images, threads=2)
    assert refined["e"].lo > 0.7 * ranges["e"].lo, "the sum is below zero there, whatever is added"
    assert refined["e"].hi >= 0.8 * ranges["e"].hi
    only = ranges | {"e": refined["e"]}
    assert noise_db(model, plan, only, others) > noise_db(model, plan, ranges, others)


def test_refine_ranges_symmetric_stay_symmetric() -> None:
    model, images = chain(unread=30.0), small_images(32)
    plan, ranges = planned(model, images, TENSORRT)
    refined = refine_ranges(model, plan, ranges, images, threads=2)
    for name, one in refined.items():
        if ranges[name].lo and ranges[name].hi:
            assert one.lo / ranges[name].lo == pytest.approx(one.hi / ranges[name].hi)
    assert refined["ar"].hi < 0.3 * ranges["ar"].hi


def test_refine_ranges_shared_range_stays() -> None:
    model, images = chain(SHARED, unread=30.0), small_images(16)
    plan, ranges = planned(model, images)
    assert sum("ar" in group.observed for group in plan.groups) == 2, "it is read by itself and within a concatenation"
    assert refine_ranges(model, plan, ranges, images, threads=2)["ar"] == ranges["ar"]


def moved_ends(images, unread: float = 1.0) -> int:
    model = chain(unread=unread)
    plan, ranges = planned(model, images)
    refined = refine_ranges(model, plan, ranges, images, threads=2)
    return sum((one.lo != ranges[name].lo) + (one.hi != ranges[name].hi) for name, one in refined.items())


def test_refine_ranges_moves_only_beyond_chance(monkeypatch) -> None:
    sets = [small_images(12, seed=seed) for seed in range(6)]
    careful = sum(moved_ends(images) for images in sets)
    monkeypatch.setattr(refine, "CERTAINTY", -1e9)
    assert careful < sum(moved_ends(images) for images in sets)


def test_refine_ranges_move_must_earn_its_share(monkeypatch) -> None:
    assert moved_ends(small_images(32), unread=30.0) > 0
    monkeypatch.setattr(refine, "EARNED", 0.01)
    assert moved_ends(small_images(32), unread=30.0) == 0


def test_refine_ranges_too_narrow_is_widened() -> None:
    model, images = chain(), small_images(32)
    plan, ranges = planned(model, images)
    narrow = ranges | {"ar": Range(0.0, 0.6 * ranges["ar"].hi)}
    assert refine_ranges(model, plan, narrow, images, threads=2)["ar"].hi == pytest.approx(1.1 * narrow["ar"].hi)


def test_refine_ranges_small_share_of_noise_stays(monkeypatch) -> None:
    model, images = chain(unread=30.0), small_images(16)
    plan, ranges = planned(model, images)
    monkeypatch.setattr(refine, "LEAST_SHARE", 10.0)
    assert refine_ranges(model, plan, ranges, images, threads=2) == ranges


def test_refine_ranges_mean_change_counts_only_without_correction() -> None:
    """Channel 0 is 20 for every image and read linearly, so cutting it changes all scores alike."""
    linear = CHAIN.replace("br = Relu(b)", "").replace("(br)", "(b)")
    still = weights(np.random.default_rng(0), CHAIN_SHAPES)
    still["w1"][0], still["b1"][0] = 0.0, 20.0
    model, images = chain(linear, w1=still["w1"], b1=still["b1"]), small_images(32)
    plan, ranges = planned(model, images)
    corrected, plain = (
        refine_ranges(model, plan, ranges, images, corrected=one, threads=2)["ar"].hi for one in (True, False)
    )
    assert corrected < 0.7 * ranges["ar"].hi
    assert plain > 0.95 * ranges["ar"].hi


def test_refine_ranges_softmax_output_equals_that_of_logits() -> None:
    ending = CHAIN.replace(
        "logits = Gemm <transB = 1> (f, w4, b4)", "l = Gemm <transB = 1> (f, w4, b4) logits = Softmax(l)"
    )
    found = []
    for text in (CHAIN, ending):
        model, images = chain(text, unread=30.0), small_images(32)
        plan, ranges = planned(model, images)
        found.append(refine_ranges(model, plan, ranges, images, threads=2)["ar"].hi / ranges["ar"].hi)
    assert found[1] == pytest.approx(found[0])


def test_refine_ranges_any_threads_give_same_ranges_and_keep_originals() -> None:
    model, images = chain(unread=10.0), small_images(16)
    plan, ranges = planned(model, images)
    kept, told = dict(ranges), []
    one = refine_ranges(model, plan, ranges, images, threads=1, progress=lambda done, total: told.append((done, total)))
    assert one == refine_ranges(model, plan, ranges, images, threads=2)
    assert ranges == kept
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == len(set(told)) - 1 > 0


def test_refine_ranges_runs_once_for_all_weight_corrections(monkeypatch) -> None:
    calls = []

    def counted(*args, corrected: bool, **options):
        calls.append(corrected)
        return refine_ranges(*args, corrected=corrected, **options)

    monkeypatch.setattr(candidate_builder, "refine_ranges", counted)
    builder, selection = builder_of(chain(unread=30.0), ORT)
    recipe = Recipe(method=MinMax(), correction=WeightCorrection.BIAS)
    plain, refined = (selection.closeness(builder.make(one).int8) for one in (recipe, recipe.changed(refined=True)))
    assert refined.distance < 0.6 * plain.distance
    found = builder.ranged(recipe.changed(refined=True))[1]
    assert found["ar"].hi < builder.ranged(recipe)[1]["ar"].hi
    widened = recipe.changed(
        refined=True, correction=WeightCorrection.ROUNDING, skip=(builder.prepared.graph[-1].name,)
    )
    assert builder.ranged(widened)[1] == found
    assert calls == [True]
    builder.ranged(recipe.changed(refined=True, correction=WeightCorrection.NONE))
    builder.ranged(recipe.changed(refined=True, per_channel=False))
    assert calls == [True, False, True]


def test_refine_ranges_hopeless_moves_run_first_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = chain(unread=30.0), small_images(32)
    plan, ranges = planned(model, images)
    runs: list[int] = []
    plain = PrefixSharedRuns.scores

    def counted(self, variant, **options):
        runs.append(len(self._images))
        return plain(self, variant, **options)

    monkeypatch.setattr(PrefixSharedRuns, "scores", counted)
    monkeypatch.setattr(refine, "PROBED", 12)
    found, counts = [], []
    for hopeless in (refine.HOPELESS, np.inf):
        monkeypatch.setattr(refine, "HOPELESS", hopeless)
        runs.clear()
        found.append(refine_ranges(model, plan, ranges, images, threads=1))
        counts.append((runs.count(12), runs.count(20)))
    assert found[0] == found[1]
    assert counts[0][0] == counts[1][0] == counts[1][1] > counts[0][1]
