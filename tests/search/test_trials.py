"""Trials: which recipes of a stage are worth making, by their previews."""

from types import SimpleNamespace

import pytest
from progress_log import ProgressLog
from tune_models import builder_of, linear_model, small_model, unlike_channels

from quantkit.config.method import Kl, MinMax, Mse, Percentile
from quantkit.evaluation.selection import Closeness
from quantkit.runs.cache import ResultCache
from quantkit.search.budget import FloatBudget
from quantkit.search.deadline import Deadline
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.search.stages import Trial
from quantkit.search.trial_cache import Screened, TrialCache
from quantkit.search.trials import FINALISTS, Trials

START = Recipe(method=MinMax())


def best(recipe: Recipe = START) -> Trial:
    closeness = Closeness(kl=1.0, expected_kl=1.0, sqnr_db=20.0, agreement=0.9)
    return Trial(stage="default", recipe=recipe, closeness=closeness, float_macs=0.0, seconds=1.0)


def trials_of(model, tmp_path, log: ProgressLog | None = None) -> Trials:
    builder, selection = builder_of(model)
    subject = SimpleNamespace(builder=builder, selection=selection)
    cache = TrialCache(ResultCache(tmp_path / "cache"), {})
    return Trials(subject, None, cache, FloatBudget(), Deadline(None), log or ProgressLog())  # type: ignore[arg-type]


def test_shortlist_recipes_that_change_nothing_are_left_out(tmp_path) -> None:
    trials = trials_of(small_model(), tmp_path)
    same = [
        START,
        START.changed(channel_shift=True),
        START.changed(input_folding=True),
        START.changed(method=Percentile(fraction=1.0)),
    ]
    assert trials.shortlist(best(), same, 1.0) == []


def test_shortlist_recipes_with_equal_models_are_made_once(tmp_path) -> None:
    trials = trials_of(unlike_channels(), tmp_path)
    equal = [START.changed(equalization=1.0), START.changed(equalization=1.0, channel_shift=True)]
    assert trials.shortlist(best(), equal, 1.0) == equal[:1], "this network has no channel to shift"


def test_shortlist_keeps_the_nearest_and_drops_those_further_than_the_best(tmp_path) -> None:
    trials = trials_of(unlike_channels(), tmp_path)
    poor = START.changed(method=Percentile(fraction=0.6))
    good = [START.changed(equalization=strength, method=Mse()) for strength in (0.5, 1.0)]
    kept = trials.shortlist(best(), [poor, *good], 1.0)
    assert poor not in kept
    assert 1 <= len(kept) <= FINALISTS
    distances = {one.recipe: one.distance for one in trials.screened}
    assert kept[0] == min(good, key=lambda recipe: distances[recipe])
    assert distances[kept[0]] < distances[START] < distances[poor]


def test_shortlist_a_shift_that_helps_is_kept(tmp_path) -> None:
    trials = trials_of(linear_model(off=60.0), tmp_path)
    assert trials.shortlist(best(), [START.changed(channel_shift=True)], 1.0) == [START.changed(channel_shift=True)]


def test_shortlist_rounding_is_compared_among_itself(tmp_path) -> None:
    trials = trials_of(unlike_channels(), tmp_path)
    rounded = START.changed(correction=WeightCorrection.ROUNDING)
    assert trials.shortlist(best(), [rounded], 1.0) == [rounded]


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_shortlist_a_stage_must_earn_its_share(tmp_path, share) -> None:
    trials = trials_of(unlike_channels(), tmp_path)
    kept = trials.shortlist(best(), [START.changed(equalization=1.0)], share)
    assert bool(kept) == bool(share)


@pytest.mark.parametrize(("strengths", "tried"), [((1.0, 0.0), False), ((0.0, 1.0), True)])
def test_shortlist_refines_another_network_only_if_it_is_nearer_without(tmp_path, strengths, tried) -> None:
    """Equalization brings this network nearer to fp32, so undoing it is not worth a refinement."""
    trials = trials_of(unlike_channels(), tmp_path)
    kept, other = (
        START.changed(equalization=strength, refined=True, correction=WeightCorrection.ROUNDING)
        for strength in strengths
    )
    trials.shortlist(best(kept.changed(correction=WeightCorrection.BIAS)), [kept, other], 1.0)
    seen = {one.recipe.changed(refined=False): one for one in trials.screened}
    assert other.changed(refined=False) in seen
    assert any(recipe.equalization == other.equalization for recipe in trials._subject.builder._refined) is tried


@pytest.mark.parametrize(("left", "kept"), [(0.97, False), (0.9, True)])
def test_shortlist_refined_ranges_must_gain_on_those_of_the_method(tmp_path, monkeypatch, left, kept) -> None:
    trials = trials_of(unlike_channels(), tmp_path)
    plain = START.changed(correction=WeightCorrection.ROUNDING)
    refined = plain.changed(refined=True)
    distances = {START: 2.0, plain: 1.0, refined: left}
    monkeypatch.setattr(trials, "_screen", lambda recipe: Screened(recipe, f"{distances[recipe]}", distances[recipe]))
    assert (refined in trials.shortlist(best(), [plain, refined], 1.0)) is kept


def test_shortlist_previews_are_cached(tmp_path) -> None:
    recipes = [START.changed(method=method) for method in (Mse(), Kl())]
    log = ProgressLog()
    first = trials_of(small_model(), tmp_path, log).shortlist(best(), recipes, 1.0)
    assert len(log.tasks) == 3
    assert trials_of(small_model(), tmp_path, log).shortlist(best(), recipes, 1.0) == first
    assert len(log.tasks) == 3
