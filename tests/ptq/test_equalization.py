"""Equalization: the same function in other weights, and less noise where channels are unlike."""

import numpy as np
import pytest
from gradients import gradient_error
from hypothesis import given, settings
from hypothesis import strategies as st
from tune_models import (
    minmax_ranges,
    mixed_model,
    model_of,
    small_images,
    small_model,
    unlike_channels,
    values_of,
    weights,
)

from quantkit.engine.scores import scores_of
from quantkit.evaluation.score_sqnr import score_sqnr_db
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.ptq.channel_groups import PINNED, find_channel_groups
from quantkit.ptq.channel_statistics import channel_statistics
from quantkit.ptq.equalization import EqualizationNoise, equalize
from quantkit.ptq.noise_model import noise_gains
from quantkit.ptq.rescale import rescaled
from quantkit.targets import ORT, VACC

PER_TENSOR = ORT.with_options(per_channel=False)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([small_model, mixed_model]))
def test_rescaled_by_any_factors_keeps_function(seed, build) -> None:
    model, images = build(seed % 7), small_images(4)
    ties = find_channel_groups(model)
    factors = np.exp(np.random.default_rng(seed).uniform(-2, 2, ties.count))
    factors[PINNED] = 1.0
    before, after = (scores_of(one, images, threads=1) for one in (model, rescaled(model, ties, factors)))
    assert np.abs(after - before).max() <= 1e-5 * np.ptp(before)


TEXT = """
<ir_version: 8, opset_import: ["": 17]>
agraph (float[N, 3, 8, 8] input) => (float[N, 5] logits) {{
    a = Conv (input, w1)  {middle}  c = Conv (b, w2)
    g = GlobalAveragePool(c)  logits = Flatten(g)
}}
"""
REGION = 'coordinate_transformation_mode = "tf_crop_and_resize", extrapolation_value = 7.0'


@pytest.mark.parametrize(
    "middle",
    [
        "s = Conv (input, w3)  b = PRelu(a, s)",
        f"""roi = Constant <value_floats = [0.0, 0.0, -0.5, -0.5, 1.0, 1.0, 1.5, 1.5]> ()
        sizes = Constant <value_ints = [1, 4, 12, 12]> ()  b = Resize <{REGION}> (a, roi, , sizes)""",
    ],
    ids=["computed slopes", "region beyond the input"],
)
def test_find_channel_groups_operator_with_own_value_is_pinned(middle) -> None:
    shapes = {"w1": (4, 3, 1, 1), "w2": (5, 4, 1, 1), "w3": (4, 3, 1, 1)}
    model = model_of(TEXT.format(middle=middle), weights(np.random.default_rng(0), shapes))
    ties = find_channel_groups(model)
    assert (ties.classes["b"] == PINNED).all()
    factors = np.where(np.arange(ties.count) == PINNED, 1.0, 4.0)
    images = [image[:, :, :8, :8] for image in small_images(2)]
    before, after = (scores_of(one, images, threads=1) for one in (model, rescaled(model, ties, factors)))
    assert np.abs(after - before).max() <= 1e-5 * np.ptp(before)


def test_find_channel_groups_of_mixed_network_are_free_where_homogeneous() -> None:
    ties = find_channel_groups(mixed_model())
    free = {name for name, classes in ties.classes.items() if (classes != PINNED).any()}
    assert free == {"a", "ar", "b", "bc", "c", "p"} | {"d", "dp", "t", "tm", "s", "sr", "m", "g", "f"}
    assert (ties.classes["e"] == PINNED).all(), "a sigmoid is not homogeneous"
    assert (ties.classes["logits"] == PINNED).all()
    assert (ties.classes["ar"] == ties.classes["c"][:4]).all()
    assert (ties.classes["dp"][2:10] == ties.classes["d"]).all()


def test_equalization_noise_gradient_equals_differences() -> None:
    rng, images = np.random.default_rng(5), small_images(6)
    for model in (small_model(), mixed_model()):
        ties, statistics = find_channel_groups(model), channel_statistics(model, images, threads=1)
        for target in (ORT, PER_TENSOR, VACC):
            objective = EqualizationNoise(model, plan(model, target), ties, statistics)
            at = rng.uniform(-0.5, 0.5, ties.count)
            assert gradient_error(objective, at) < 1e-5


@pytest.mark.parametrize("target", [ORT, PER_TENSOR, VACC], ids=["ort", "per tensor", "vacc"])
def test_equalize_unlike_channels_lose_less(target) -> None:
    model, images, others = unlike_channels(), small_images(32), small_images(48, seed=8)
    found = equalize(model, plan(model, target), channel_statistics(model, images, threads=2))
    equal = found.apply(model)
    reference = scores_of(model, others, threads=2)
    before, after = (
        score_sqnr_db(
            reference, scores_of(write_qdq(one, made, minmax_ranges(one, made.observed, images)), others, threads=2)
        )
        for one in (model, equal)
        for made in [plan(one, target)]
    )
    assert found.predicted_db > 1.0
    assert after > before + 1.0


def test_equalize_strength_of_zero_changes_nothing() -> None:
    model, images = unlike_channels(), small_images(8)
    found = equalize(model, plan(model, ORT), channel_statistics(model, images, threads=1))
    for name, one in found.apply(model, 0.0).graph.initializers.items():
        np.testing.assert_array_equal(one.const_value.numpy(), model.graph.initializers[name].const_value.numpy())


def test_equalize_unreached_limit_stays_unreached() -> None:
    model, images = mixed_model(limit=2.0), small_images(16)
    statistics = channel_statistics(model, images, threads=1)
    equal = equalize(model, plan(model, PER_TENSOR), statistics).apply(model)
    after = channel_statistics(equal, images, threads=1)
    effective = statistics["b"].hi >= 2.0
    assert (after["b"].hi[~effective] < 2.0).all()
    before, moved = (scores_of(one, images, threads=1) for one in (model, equal))
    assert np.abs(moved - before).max() <= 1e-5 * np.ptp(before)


def test_channel_statistics_equal_numpy() -> None:
    model, images = small_model(), small_images(5)
    found = channel_statistics(model, images, threads=2)["sr"]
    values = (
        np.stack([values_of(model, ["sr"], image)["sr"][0] for image in images]).transpose(1, 0, 2, 3).reshape(8, -1)
    )
    np.testing.assert_allclose(found.hi, values.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.lo, values.min(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.power, np.square(values.astype(np.float64)).mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.active, (values != 0).mean(axis=1), rtol=1e-6)


def test_importance_counts_scores_only() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    two (float[N, 3, 4, 4] x) => (float[N, 2] logits, float[N, 4, 4, 4] maps) {
        a = Conv (x, w1)
        maps = Relu(a)
        g = GlobalAveragePool(maps)
        f = Flatten(g)
        logits = Gemm (f, w2)
    }
    """
    rng = np.random.default_rng(0)
    head = np.concatenate([rng.normal(size=(2, 2)), np.zeros((2, 2))])  # the last two channels reach no score
    model = model_of(text, {"w1": rng.normal(size=(4, 3, 1, 1)).astype(np.float32), "w2": head.astype(np.float32)})
    images = [rng.normal(size=(1, 3, 4, 4)).astype(np.float32) for _ in range(4)]
    gains = noise_gains(model, channel_statistics(model, images, threads=1))["maps"]
    assert (gains[:2] > 0).all()
    assert (gains[2:] == 0).all()
