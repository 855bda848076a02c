"""Equalization and channel shifting of degenerate graphs: nothing to change is reported as such, without a warning."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tune_models import builder_of, linear_model, model_of, small_images, small_model, weights

from quantkit.config.method import MinMax
from quantkit.engine.scores import scores_of
from quantkit.graph.qdq.plan import plan
from quantkit.ptq.channel_groups import PINNED, find_channel_groups
from quantkit.ptq.channel_shift import shift_channels
from quantkit.ptq.channel_statistics import ChannelStatistics, channel_statistics
from quantkit.ptq.equalization import EqualizationNoise, equalize
from quantkit.ptq.noise_model import noise_gains
from quantkit.search.recipe import Recipe
from quantkit.targets import ORT, VACC

HEAD = """<ir_version: 8, opset_import: ["": 17]>
    net (float[N, 3, 12, 12] input) => (float[N, 5] logits) <float zero = {0.0}, float six = {6.0}> {"""
TAIL = """ g = GlobalAveragePool(y) f = Flatten(g) logits = Gemm <transB = 1> (f, wf, bf) }"""
# Every body gives y with 5 channels.
BODIES = {
    "one layer": ("y = Conv (input, w1)", {"w1": (5, 3, 1, 1)}),
    "no activations": ("a = Conv (input, w1) y = Conv (a, w2)", {"w1": (4, 3, 1, 1), "w2": (5, 4, 1, 1)}),
    "pinned by sigmoids": (
        "a = Conv (input, w1) s = Sigmoid (a) b = Conv (s, w2) y = Sigmoid (b)",
        {"w1": (4, 3, 1, 1), "w2": (5, 4, 1, 1)},
    ),
    "capped everywhere": (
        "a = Conv (input, w1) s = Clip (a, zero, six) b = Conv (s, w2) y = Clip (b, zero, six)",
        {"w1": (4, 3, 1, 1), "w2": (5, 4, 1, 1)},
    ),
    "dead layer": (
        "a = Conv (input, w1) s = Relu (a) y = Conv (s, w2)",
        {"w1": (4, 3, 1, 1), "w2": (5, 4, 1, 1)},
    ),
}


def degenerate(body: str, seed: int, scale: float, head_scale: float = 1.0):
    text, shapes = BODIES[body]
    held = weights(np.random.default_rng(seed), shapes | {"wf": (5, 5), "bf": (5,)})
    held["w1"] = (held["w1"] * scale).astype(np.float32)
    held["wf"] = (held["wf"] * head_scale).astype(np.float32)
    if body == "dead layer":
        held["w1"] = -np.abs(held["w1"]) * 0.0
    return model_of(HEAD + text + TAIL, held)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(BODIES)),
    st.integers(0, 1000),
    st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e3]),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([ORT, ORT.with_options(per_channel=False), VACC]),
)
def test_degenerate_models_have_finite_objectives_and_keep_their_function(body, seed, scale, head, target) -> None:
    model, images = degenerate(body, seed, scale, head), small_images(4)
    made, statistics = plan(model, target), channel_statistics(model, images, threads=1)
    groups = find_channel_groups(model)
    with np.errstate(all="raise", under="ignore"):
        value, gradient = EqualizationNoise(model, made, groups, statistics)(np.zeros(groups.count))
        equalized, shifted = equalize(model, made, statistics), shift_channels(model, made, statistics)
    assert not np.isnan(value)
    assert np.isfinite(gradient).all()
    reference = scores_of(model, images, threads=1)
    tolerance = 1e-5 * max(1.0, float(np.ptp(reference)))
    for other in [*([] if equalized is None else [equalized.apply(model)]), *([] if shifted is None else [shifted])]:
        assert np.abs(scores_of(other, images, threads=1) - reference).max() <= tolerance
    if equalized is not None:
        assert np.isfinite(equalized.factors).all()
        assert equalized.factors[PINNED] == 1.0
        assert equalized.predicted_db > 0.0


@pytest.mark.parametrize("body", ["one layer", "pinned by sigmoids"])
def test_equalize_without_free_channels_returns_none(body) -> None:
    model = degenerate(body, 0, 1.0)
    groups = find_channel_groups(model)
    free = {name for name, classes in groups.classes.items() if (classes != PINNED).any()}
    if body == "pinned by sigmoids":
        assert not free & {"a", "s", "b"}
    statistics = channel_statistics(model, small_images(4), threads=1)
    only_sigmoids = equalize(model, plan(model, ORT), statistics)
    assert only_sigmoids is None or free


def test_equalize_capped_channels_kept_are_no_obstacle_to_the_others() -> None:
    """A bottleneck between two clipped tensors: its channels are rescaled, those of the Clips stay."""
    body = "a = Conv (input, w1) s = Clip (a, zero, six) b = Conv (s, w2) c = Conv (b, w3) y = Clip (c, zero, six)"
    held = weights(
        np.random.default_rng(0),
        {"w1": (4, 3, 1, 1), "w2": (6, 4, 1, 1), "w3": (5, 6, 1, 1), "wf": (5, 5), "bf": (5,)},
    )
    factors = np.asarray([1, 30, 1, 1 / 30, 10, 1], np.float32).reshape(-1, 1, 1, 1)
    held["w2"], held["w3"] = held["w2"] * factors, held["w3"] / factors.reshape(1, -1, 1, 1)
    model = model_of(HEAD + body + TAIL, {name: one.astype(np.float32) for name, one in held.items()})
    statistics = channel_statistics(model, small_images(8), threads=1)
    found = equalize(model, plan(model, ORT), statistics, keep_capped=True)
    assert found is not None
    assert found.predicted_db > 3.0
    for tensor in ("a", "s", "c", "y"):
        np.testing.assert_array_equal(found.factors[found.groups.classes[tensor]], 1.0)


def test_effective_recipe_leaves_out_rewrites_that_change_nothing() -> None:
    builder, _ = builder_of(small_model())
    wanted = Recipe(method=MinMax(), channel_shift=True, input_folding=True)
    assert builder.effective(wanted) == Recipe(method=MinMax())
    builder, _ = builder_of(degenerate("pinned by sigmoids", 0, 1.0, head_scale=0.0))
    wanted = Recipe(method=MinMax(), channel_shift=True, equalization=1.0)
    assert builder.effective(wanted) == Recipe(method=MinMax()), "the scores are constant"
    builder, _ = builder_of(linear_model(off=60.0))
    assert builder.effective(Recipe(method=MinMax(), channel_shift=True)).channel_shift


def test_noise_reaches_the_scores_through_tensors_of_unknown_channels() -> None:
    """A Reshape of computed sizes hides the channels: what it reads counts as the scores do, and not for nothing."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 3, 12, 12] input, int64[2] sizes) => (float[N, 5] logits) {
            a = Conv (input, w1)
            r = Relu (a)
            g = GlobalAveragePool (r)
            f = Reshape (g, sizes)
            logits = Gemm <transB = 1> (f, wf)
        }"""
    model = model_of(text, weights(np.random.default_rng(0), {"w1": (4, 3, 1, 1), "wf": (5, 4)}))
    ones = ChannelStatistics(np.zeros(4), np.ones(4), np.ones(4), np.ones(4), 1)
    names = [value.name for node in model.graph for value in node.outputs if value.name != "f"]
    statistics = {name: ones for name in names if name != "logits"}
    gains = noise_gains(model, statistics)
    assert all((gains[name] > 0.0).all() for name in ("a", "r", "g"))


def test_prepare_reshape_behind_a_computed_pad_keeps_the_batch_and_the_channels() -> None:
    """Until a computed Pad, as of TensorFlow, is folded, inference does not know the batch size behind it."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 3, 12, 12] input) => (float[N, 5] logits)
            <int64[4] half = {0, 0, 0, 1}, int64[4] rest = {0, 0, 0, 1}, int64[1] all = {-1}, int64 first = {0}> {
            pads = Concat <axis = 0> (half, rest)
            p = Pad (input, pads)
            a = Conv (p, w1)
            r = Relu (a)
            g = GlobalAveragePool (r)
            shape = Shape (input)
            batch = Gather <axis = 0> (shape, first)
            axes = Constant <value_ints = [0]> ()
            batch1 = Unsqueeze (batch, axes)
            sizes = Concat <axis = 0> (batch1, all)
            f = Reshape (g, sizes)
            logits = Gemm <transB = 1> (f, wf)
        }"""
    model = model_of(text, weights(np.random.default_rng(0), {"w1": (4, 3, 1, 1), "wf": (5, 4)}))
    reshape = next(node for node in model.graph if node.op_type in ("Reshape", "Flatten"))
    assert reshape.outputs[0].shape is not None
    assert [str(size) for size in reshape.outputs[0].shape] == ["N", "4"]
    groups = find_channel_groups(model)
    assert (groups.classes["a"] != PINNED).all()
    assert scores_of(model, small_images(2), threads=1).shape == (2, 5)
