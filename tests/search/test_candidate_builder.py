"""Recipes made: the same bits for the same recipe, and rescaled channels only where the function stays."""

import numpy as np
import pytest
from tune_models import builder_of, linear_model, mixed_model, model_of, photographs, small_images, unlike_channels

from quantkit.config.method import Mse
from quantkit.graph.qdq.plan import PlanOptions, plan
from quantkit.ptq.input_folding import LEVELS, SPAN
from quantkit.runs.cache import ResultCache
from quantkit.search.budget import FloatBudget
from quantkit.search.candidate_builder import PREVIEW_IMAGES, SAME_FUNCTION
from quantkit.search.deadline import OutOfTimeError
from quantkit.search.mixed_precision import MixedPrecision, float_share
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.search.trial_cache import TrialCache
from quantkit.sensitivity.measure import LayerScorer
from quantkit.stats.solve import solve_observed
from quantkit.targets import ORT, VACC

EQUALIZED = Recipe(method=Mse(), equalization=1.0, correction=WeightCorrection.ROUNDING)


@pytest.mark.parametrize("target", [ORT, VACC], ids=["ort", "vacc"])
def test_builder_equalized_recipe_is_nearer_to_fp32_than_plain(target) -> None:
    builder, selection = builder_of(unlike_channels(), target)
    plain, mended = (
        selection.closeness(builder.make(recipe).int8)
        for recipe in (Recipe(method=Mse(), correction=WeightCorrection.NONE), EQUALIZED)
    )
    assert mended.sqnr_db > plain.sqnr_db + 3.0
    assert mended.distance < plain.distance


@pytest.mark.parametrize("target", [ORT, VACC], ids=["ort", "vacc"])
def test_builder_outlier_image_leaves_levels_to_others(target) -> None:
    work, recipe = (
        [*small_images(32), 1000.0 * small_images(1)[0]],
        Recipe(method=Mse(), correction=WeightCorrection.NONE),
    )
    sqnr = []
    for keep in (True, False):
        builder, selection = builder_of(unlike_channels(), target, work=work, keep=keep)
        sqnr.append(selection.closeness(builder.make(recipe).int8).sqnr_db)
    assert sqnr[1] > sqnr[0] + 10.0


def test_builder_fp32_export_refuses_changed_function() -> None:
    """The Clip is never felt on the images worked on, and is on those that look at the result."""
    faint = [0.05 * image for image in small_images(24)]
    builder, selection = builder_of(
        mixed_model(limit=1.0), work=faint, others=[4.0 * image for image in small_images(24)]
    )
    model, _ = builder.ranged(EQUALIZED)
    assert selection.largest_change(model) <= SAME_FUNCTION


@pytest.mark.parametrize("target", [ORT, VACC], ids=["ort", "vacc"])
def test_builder_fp32_export_has_shifted_and_rescaled_channels(target) -> None:
    images = small_images(24)
    builder, selection = builder_of(linear_model(off=60.0), target, work=images)
    plain, shifted = (
        builder.make(
            Recipe(method=Mse(), correction=WeightCorrection.NONE, channel_shift=channel_shift, equalization=strength)
        )
        for channel_shift, strength in ((False, 0.0), (True, 0.5))
    )
    assert selection.closeness(shifted.int8).distance < selection.closeness(plain.int8).distance
    assert plain.corrected_fp32 is None
    assert (shifted.corrected_fp32 is not None) == (target is VACC)
    if shifted.corrected_fp32 is not None:
        assert selection.largest_change(shifted.corrected_fp32) <= SAME_FUNCTION


def test_builder_layers_go_to_float_within_budget_one_by_one(tmp_path) -> None:
    builder, selection = builder_of(mixed_model())
    cache, shape = TrialCache(ResultCache(tmp_path), {}), (1, 3, 12, 12)
    walk = MixedPrecision(builder, Recipe(method=Mse()), selection, FloatBudget(macs=50, layers=2), shape, cache)
    skipped, before = [], selection.closeness(builder.make(Recipe(method=Mse())).int8).distance
    while (recipe := walk.next()) is not None:
        skipped.append(recipe.skip)
        product = builder.make(recipe)
        assert float_share(builder.prepared, product.plan, (1, 3, 12, 12)) <= 0.5
    assert [len(one) for one in skipped] == list(range(1, len(skipped) + 1))
    assert 1 <= len(skipped) <= 2
    assert selection.closeness(product.int8).distance < before


def test_layers_in_float_are_measured_once_across_interruptions(tmp_path, monkeypatch) -> None:
    """Interrupted after some layers, the walk goes on with the others; then it is all in the cache."""
    builder, selection = builder_of(mixed_model())
    budget, shape = FloatBudget(macs=50, layers=2), (1, 3, 12, 12)
    measured: list[str] = []
    scores = LayerScorer.scores

    def counted(self, layer):
        if len(measured) == 2:
            measured.append("stopped")
            raise OutOfTimeError
        measured.append(layer.node)
        return scores(self, layer)

    monkeypatch.setattr(LayerScorer, "scores", counted)

    def walked(folder: str, *, fresh: bool = False) -> list[Recipe | None]:
        cache = TrialCache(ResultCache(tmp_path / folder), {}, fresh=fresh)
        walk = MixedPrecision(builder, Recipe(method=Mse()), selection, budget, shape, cache)
        return [walk.next() for _ in range(3)]

    with pytest.raises(OutOfTimeError):
        walked("cut")
    found = walked("cut")
    assert len(set(measured)) == len(measured), "no layer is measured twice"
    measured[:] = ["one", "two", "three"]
    assert walked("whole") == found
    count = len(measured)
    monkeypatch.setattr(builder, "ranged", None)  # everything is known: nothing is built
    monkeypatch.setattr(selection, "closeness", None)
    assert walked("whole") == found
    assert len(measured) == count
    with pytest.raises(TypeError):
        walked("whole", fresh=True)


def test_float_share_is_that_of_multiply_adds() -> None:
    model = unlike_channels()
    layers = [node.name for node in model.graph if node.op_type in ("Conv", "Gemm")]
    products = np.array([8 * 27 * 36, 8 * 9 * 36, 64 * 36, 40])
    skipping = plan(model, ORT, PlanOptions(skip=(layers[0],)))
    assert float_share(model, skipping, (1, 3, 12, 12)) == pytest.approx(products[0] / products.sum())
    assert float_share(model, plan(model, ORT), (1, 3, 12, 12)) == 0.0


def test_float_share_leaves_out_integer_product_of_activations() -> None:
    ones = np.ones((4, 4, 1, 1), np.float32)
    model = model_of(
        """<ir_version: 8, opset_import: ["" : 17]>
            g (float[N, 3, 4, 4] input) => (float[N, 4, 4, 4] scores) {
              a = Conv (input, wa)
              b = Conv (input, wb)
              m = MatMul (a, b)
              scores = Conv (m, wc)
            }""",
        dict(zip(("wa", "wb", "wc"), (ones[:, :3], ones[:, :3], ones), strict=True)),
    )
    products = {"a": 4 * 3 * 16, "b": 4 * 3 * 16, "m": 4 * 4 * 16, "scores": 4 * 4 * 16}
    assert float_share(model, plan(model, ORT), (1, 3, 4, 4)) == 0.0
    kept = plan(model, ORT, PlanOptions(skip=("m",)))
    assert float_share(model, kept, (1, 3, 4, 4)) == pytest.approx(products["m"] / sum(products.values()))


def test_observations_of_a_preview_are_continued_with_the_same_statistics() -> None:
    images = small_images(PREVIEW_IMAGES + 30)
    builder, _ = builder_of(unlike_channels(), work=images)
    seen: list[int] = []
    observe = builder.observe

    def counted(model, images=None, before=None):
        found = observe(model, images, before)
        seen.append(len(found.extremes) - (0 if before is None else len(before.extremes)))
        return found

    builder.observe = counted
    builder.preview(EQUALIZED)
    model, ranges = builder.ranged(EQUALIZED)
    assert seen == [PREVIEW_IMAGES, 30]
    whole = observe(model)
    again = builder._base(EQUALIZED).observed
    np.testing.assert_array_equal(again.extremes, whole.extremes)
    assert ranges == solve_observed(whole, EQUALIZED.method, ORT)


def test_observations_of_folded_input_are_those_of_the_network_without() -> None:
    builder, _ = builder_of(linear_model(), work=photographs(24), others=photographs(24, seed=5))
    folded = EQUALIZED.changed(input_folding=True)
    builder.make(EQUALIZED)
    builder.observe = None  # not called again
    ranges = builder.ranged(folded)[1]
    assert ranges.pop(LEVELS) == SPAN
    assert ranges == builder.ranged(EQUALIZED)[1]
