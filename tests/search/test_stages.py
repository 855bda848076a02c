"""The search: cheap before costly, chosen on one set of images, judged on another, ended by the budget or the clock."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from quantkit.config.choices import Stage
from quantkit.config.method import Kl, MinMax, Mse, Percentile
from quantkit.evaluation.paired import Interval, PairedOutcomes, score_interval
from quantkit.evaluation.selection import Closeness
from quantkit.search.deadline import OutOfTimeError
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.search.stages import (
    LOOK_CONFIDENCE,
    LOOKS,
    Goal,
    HoldoutResult,
    Trial,
    Verdict,
    search,
)

START = Recipe(method=Percentile())
# What onnxruntime leaves open for a model with nothing to move.
OPEN = frozenset(Stage) - {Stage.WEIGHT_SCALE, Stage.CHANNEL_SHIFT}


def holdout(delta: float, width: float = 0.002, agreement: float = 0.99) -> HoldoutResult:
    return HoldoutResult(
        images=1000,
        top1=0.7 + delta,
        delta=delta,
        ci95=Interval(delta - width, delta + width),
        interval=Interval(delta - 1.5 * width, delta + 1.5 * width),
        agreement=agreement,
        agreement_interval=Interval(agreement - width, agreement + width),
    )


class Fake:
    """Trials whose figures follow from the recipe: what each part of it takes away from a divergence of 1."""

    def __init__(self, deltas=lambda kl: -kl, attempts: int = 1000) -> None:
        self.attempted: list[Trial] = []
        self.evaluated: list[Recipe] = []
        self._deltas, self._left = deltas, attempts

    def kl(self, recipe: Recipe) -> float:
        kl = 1.0 - {Mse: 0.1, Kl: 0.02, MinMax: -0.5, Percentile: 0.0}[type(recipe.method)]
        kl -= 0.2 * recipe.equalization - 0.15 * (recipe.equalization == 0.5)
        kl -= {WeightCorrection.NONE: -0.1, WeightCorrection.BIAS: 0.0, WeightCorrection.ROUNDING: 0.3}[
            recipe.correction
        ]
        return kl - 0.05 * len(recipe.skip) + 0.3 * (not recipe.per_channel)

    def shortlist(self, best: Trial, recipes, share: float):
        return [recipe for recipe in dict.fromkeys(recipes) if recipe != best.recipe]

    def attempt(self, stage: str, recipe: Recipe) -> Trial:
        if self._left == 0:
            raise OutOfTimeError
        self._left -= 1
        kl = self.kl(recipe)
        closeness = Closeness(kl=kl, expected_kl=kl, sqnr_db=20.0, agreement=0.9)
        trial = Trial(stage=stage, recipe=recipe, closeness=closeness, float_macs=0.01 * len(recipe.skip), seconds=1.0)
        self.attempted.append(trial)
        return trial

    def evaluate(self, trial: Trial) -> Trial:
        self.evaluated.append(trial.recipe)
        return replace(trial, holdout=holdout(self._deltas(trial.closeness.kl)))


def widening(recipe: Recipe) -> Iterator[Recipe]:
    for count in range(1, 4):
        yield recipe.changed(skip=tuple(f"conv{index}" for index in range(count)))


def run(trials: Fake, goal: Goal, **options):
    chosen: dict[str, Any] = {"stages": OPEN, "widening": widening} | options
    return search(START, trials, goal, **chosen)


def test_search_default_within_budget_ends_at_once() -> None:
    trials = Fake(deltas=lambda kl: 0.0)
    outcome = run(trials, Goal(max_drop=0.5))
    assert [one.recipe for one in trials.attempted] == [START]
    assert outcome.best.recipe == START
    assert outcome.verdict is Verdict.MET


def test_search_stages_start_from_best_and_layers_come_last() -> None:
    trials = Fake(deltas=lambda kl: -kl)
    outcome = run(trials, Goal(max_drop=30))
    stages = list(dict.fromkeys(one.stage for one in trials.attempted))
    assert stages == ["default", "method", "equalization", "ranges", "rounding", "input-folding", "precision"]
    best = outcome.best.recipe
    assert best == Recipe(
        method=Mse(), equalization=1.0, correction=WeightCorrection.ROUNDING, skip=("conv0", "conv1")
    ), "two layers bring 0.4 down to 0.3, and no third is spent"
    assert outcome.verdict is Verdict.LIKELY
    assert trials.evaluated[0] == START
    assert len(trials.evaluated) == 6, "the best of each rung alone is judged"


def test_search_ends_at_first_stage_that_proves_budget() -> None:
    trials = Fake(deltas=lambda kl: 0.0 if kl < 0.75 else -0.1)
    outcome = run(trials, Goal(max_drop=0.5))
    assert outcome.verdict is Verdict.MET
    assert outcome.best.recipe == Recipe(method=Mse(), equalization=1.0)
    assert {one.stage for one in trials.attempted} == {"default", "method", "equalization"}


def test_search_budget_met_but_not_proved_spends_no_layer() -> None:
    trials = Fake(deltas=lambda kl: -0.0045)
    outcome = run(trials, Goal(max_drop=0.5))
    assert outcome.verdict is Verdict.LIKELY
    assert outcome.best.recipe.skip == ()


def test_search_refined_ranges_hidden_by_noise_are_tried_again() -> None:
    class Hidden(Fake):
        def kl(self, recipe: Recipe) -> float:
            gain = 0.1 if recipe.correction is WeightCorrection.ROUNDING else -0.1
            return super().kl(recipe) - gain * recipe.refined

    outcome = run(Hidden(), Goal(max_drop=0))
    assert outcome.best.recipe.refined
    assert not run(Hidden(), Goal(max_drop=0), stages=OPEN - {Stage.RANGES}).best.recipe.refined


@pytest.mark.parametrize(("gain", "kept"), [(0.01, False), (0.05, True)])
def test_search_refined_ranges_of_small_gain_are_not_kept(gain: float, kept: bool) -> None:
    class Slight(Fake):
        def kl(self, recipe: Recipe) -> float:
            return super().kl(recipe) * (1.0 - gain * recipe.refined)

    outcome = run(Slight(), Goal(max_drop=0), stages={Stage.RANGES})
    assert outcome.best.recipe.refined is kept


def test_search_stage_without_gain_is_not_evaluated() -> None:
    class Worse(Fake):
        def kl(self, recipe: Recipe) -> float:
            return 1.0 + super().kl(recipe) if recipe.equalization else super().kl(recipe)

    trials = Worse()
    outcome = run(trials, Goal(max_drop=0))
    assert outcome.best.recipe.equalization == 0.0
    assert all(recipe.equalization == 0.0 for recipe in trials.evaluated)
    assert outcome.verdict is Verdict.MISSED


def test_search_without_rewriting_has_methods_and_layers_only() -> None:
    trials = Fake()
    start = START.changed(correction=WeightCorrection.NONE)
    outcome = search(
        start,
        trials,
        Goal(max_drop=0),
        stages=frozenset({Stage.METHOD, Stage.WEIGHT_SCALE, Stage.PRECISION}),
        widening=widening,
    )
    assert {one.stage for one in trials.attempted} == {"default", "method", "precision"}
    assert all(
        one.recipe.correction is WeightCorrection.NONE and not one.recipe.equalization for one in trials.attempted
    )
    forms = {(one.recipe.per_channel, one.recipe.power_of_two) for one in trials.attempted if one.stage == "method"}
    assert len(forms) == 4
    assert outcome.best.recipe.skip == ("conv0", "conv1", "conv2")


def test_search_weight_scale_is_a_stage_where_target_allows() -> None:
    trials = Fake()
    search(START, trials, Goal(max_drop=0), stages=frozenset(Stage), widening=widening)
    stages = list(dict.fromkeys(one.stage for one in trials.attempted))
    assert stages == ["default", *Stage]
    assert {one.recipe.power_of_two for one in trials.attempted if one.stage == "weight-scale"} == {True}
    assert all(one.recipe.per_channel for one in trials.attempted)


def test_search_shifted_channels_are_tried_with_rescaled_ones() -> None:
    class OnlyTogether(Fake):
        def kl(self, recipe: Recipe) -> float:
            return super().kl(recipe) - (0.1 if recipe.channel_shift and recipe.equalization else 0.0)

    trials = OnlyTogether()
    outcome = run(trials, Goal(max_drop=0), stages=frozenset(Stage) - {Stage.WEIGHT_SCALE})
    assert outcome.best.recipe.channel_shift
    assert START.changed(method=Mse(), channel_shift=True) not in trials.evaluated
    tried = [one.recipe for one in trials.attempted if one.stage == "equalization"]
    assert {recipe.channel_shift for recipe in tried} == {True, False}


@pytest.mark.parametrize(("gain", "kept"), [(0.01, False), (0.1, True)])
def test_search_input_folding_must_earn_its_cost(gain, kept) -> None:
    class Levels(Fake):
        def kl(self, recipe: Recipe) -> float:
            return super().kl(recipe) * (1.0 - gain * recipe.input_folding)

    outcome = run(Levels(), Goal(max_drop=0), stages=frozenset({Stage.INPUT_FOLDING}))
    assert outcome.best.recipe.input_folding == kept


@pytest.mark.parametrize("left_out", list(Stage))
def test_search_disabled_stage_is_not_tried(left_out) -> None:
    trials = Fake()
    run(trials, Goal(max_drop=0), stages=frozenset(Stage) - {left_out})
    taken = {one.stage for one in trials.attempted}
    assert taken == {"default", *Stage} - {left_out}


@pytest.mark.parametrize("attempts", [1, 3, 5, 9])
def test_search_out_of_time_ends_with_best_so_far(attempts) -> None:
    trials = Fake(attempts=attempts)
    outcome = run(trials, Goal(max_drop=0))
    assert outcome.out_of_time
    assert outcome.best.recipe in trials.evaluated
    whole = run(Fake(), Goal(max_drop=0))
    assert not whole.out_of_time
    assert whole.best.closeness.kl <= outcome.best.closeness.kl


def test_search_goal_of_agreement_is_met() -> None:
    assert holdout(0.0, agreement=0.99).proves(Goal(max_drop=1, min_agreement=98.5))
    assert not holdout(0.0, agreement=0.99).proves(Goal(max_drop=1, min_agreement=99))
    assert holdout(0.0, agreement=0.99).suggests(Goal(max_drop=1, min_agreement=99))
    assert not holdout(0.0, agreement=0.98).suggests(Goal(max_drop=1, min_agreement=99))
    assert not holdout(-0.02).suggests(Goal(max_drop=1))


def test_search_repeated_looks_widen_interval() -> None:
    """Bonferroni: one-sided errors of all looks together stay below 5 percent."""
    assert pytest.approx(0.05) == LOOKS * (1.0 - LOOK_CONFIDENCE) / 2.0
    outcomes = PairedOutcomes(2000, 40, 30)
    assert score_interval(outcomes, LOOK_CONFIDENCE).lo < score_interval(outcomes).lo
