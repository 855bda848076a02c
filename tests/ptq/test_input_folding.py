"""Exact input: the same function, read from the levels of 8-bit images, which no quantizer rounds."""

import numpy as np
import pytest
from tune_models import (
    MEAN,
    SHAPES,
    STD,
    builder_of,
    model_of,
    photographs,
    small_images,
    small_model,
    values_of,
    weights,
)

from quantkit.config.method import Mse
from quantkit.engine.scores import scores_of
from quantkit.graph.qdq.plan import PlanOptions
from quantkit.numerics import Range
from quantkit.ptq.input_folding import LEVELS, Levels, levels_of, takes_levels, with_input_folding
from quantkit.ptq.layers import stored_names
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.targets import ORT, TENSORRT, VACC

OTHER_FIRST_LAYERS = {
    "without bias or padding": "a = Conv <strides = [2, 2]> (input, w1)",
    "read twice": "a0 = Conv <pads = [1, 1, 1, 1]> (input, w1, b1) i = Relu(input) i3 = Conv (i, wi) a = Add(a0, i3)",
    "padded by itself": 'a = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (input, w1, b1)',
}
TEXT = """
<ir_version: 8, opset_import: ["": 17]>
other (float[N, 3, 12, 12] input) => (float[N, 5] logits) {
    FIRST
    ar = Relu(a)
    g = GlobalAveragePool(ar)
    f = Flatten(g)
    logits = Gemm <transB = 1> (f, w4, b4)
}
"""


def other_model(first: str):
    text = TEXT.replace("FIRST", OTHER_FIRST_LAYERS[first])
    held = weights(np.random.default_rng(0), SHAPES | {"wi": (8, 3, 1, 1)})
    return model_of(text, {name: array for name, array in held.items() if f"{name}," in text or f"{name})" in text})


def test_levels_of_images_are_those_of_preprocessing() -> None:
    found = levels_of(photographs(8))
    assert found is not None
    np.testing.assert_allclose(found.lo, -MEAN / STD, rtol=1e-6)
    np.testing.assert_allclose(found.step, 1.0 / (255.0 * STD), rtol=1e-6)


def test_levels_of_images_on_no_levels_is_none() -> None:
    assert levels_of(small_images(8)) is None
    assert levels_of([]) is None
    assert levels_of([np.zeros((1, 3, 4, 4), np.float32)]) is None
    dark = [np.minimum(image, 0.0) for image in photographs(8)]
    assert levels_of(dark) is None, "without white nobody knows how far levels are apart"


@pytest.mark.parametrize("build", [small_model, lambda: other_model("without bias or padding")])
def test_with_input_folding_keeps_function(build) -> None:
    model, images = build(), photographs(4, seed=3)
    levels = levels_of(photographs(8))
    assert levels is not None
    assert takes_levels(model, ORT)
    exact = with_input_folding(model, levels)
    before, after = (scores_of(one, images, threads=1) for one in (model, exact))
    assert np.abs(after - before).max() <= 1e-5 * np.ptp(before)


def test_takes_levels_unfit_first_layer_or_target_is_false() -> None:
    assert not takes_levels(other_model("read twice"), ORT)
    assert not takes_levels(other_model("padded by itself"), ORT)
    assert not takes_levels(small_model(), VACC)
    assert not takes_levels(small_model(), TENSORRT), "symmetric integers end at 127"


def test_input_folding_needs_padding_zeros_within_the_levels() -> None:
    """Images of [1, 2] hold no zero: as an integer it would be 1."""
    shape = (1, 3, 1, 1)
    work, others = (
        [
            (1.0 + image * STD.reshape(shape) + MEAN.reshape(shape)).astype(np.float32)
            for image in photographs(24, seed=seed)
        ]
        for seed in (0, 5)
    )
    assert levels_of(work) is not None
    padded, _ = builder_of(small_model(), work=work, others=others)
    assert padded.levels is None
    plain, _ = builder_of(other_model("without bias or padding"), work=work, others=others)
    assert plain.levels is not None


def test_with_input_folding_first_layer_reads_levels() -> None:
    """Worked by hand: a black image is all zeros, a white one 255, and padding the level nearest to zero."""
    levels = Levels(-MEAN / STD, 1.0 / (255.0 * STD))
    model = with_input_folding(small_model(), levels)
    for level in (0, 17, 255):
        image = np.broadcast_to(((level / 255.0 - MEAN) / STD).reshape(1, 3, 1, 1), (1, 3, 12, 12)).astype(np.float32)
        held = values_of(model, [LEVELS], image)[LEVELS]
        assert held.shape == (1, 3, 14, 14)
        np.testing.assert_allclose(held[:, :, 1:-1, 1:-1], level, atol=1e-3)
        np.testing.assert_allclose(held[0, :, 0, 0], 255.0 * MEAN, atol=1e-3)


def test_with_input_folding_int8_model_has_exact_input() -> None:
    images, others = photographs(24), photographs(24, seed=5)
    builder, selection = builder_of(small_model(), ORT, work=images, others=others)
    assert builder.levels is not None
    recipe = Recipe(method=Mse(), correction=WeightCorrection.BIAS)
    plain, exact = (builder.make(one) for one in (recipe, recipe.changed(input_folding=True)))
    held = stored_names(exact.int8)[LEVELS]
    stored = values_of(exact.int8, [held], others[0])[held]
    levels = (others[0] * STD.reshape(1, 3, 1, 1) + MEAN.reshape(1, 3, 1, 1)) * 255.0
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored[:, :, 1:-1, 1:-1], np.rint(levels))
    assert selection.closeness(exact.int8).sqnr_db > 30.0
    assert exact.plan.layers[0].node == plain.plan.layers[0].node, "the first layer is still an integer layer"
    assert builder.ranged(recipe.changed(input_folding=True))[1][LEVELS] == Range(0.0, 255.0)
    assert builder_of(small_model(), VACC, work=images, others=others)[0].levels is None
    builder, _ = builder_of(small_model(), ORT, work=images, others=others)
    builder.options = PlanOptions(skip_convs=(1,))
    assert builder.levels is None, "one more convolution would shift the indices"
