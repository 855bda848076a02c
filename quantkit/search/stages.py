"""The search for the cheapest recipe that meets a goal: from what costs nothing at run time to what costs speed.

One rung after the other: methods, moved and rescaled channels, refined ranges, rounded weights, an input that is not
rounded, layers in float. A rung's recipes are compared on the images that choose, the best one goes on if it is nearer
to fp32 than what there was, and is judged on other images. Nothing depends on chance or on time, unless time runs out.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from quantkit.config.method import Kl, Method, MinMax, Mse, Percentile
from quantkit.evaluation.paired import CONFIDENCE, Interval
from quantkit.evaluation.selection import Closeness
from quantkit.search.recipe import Recipe, WeightCorrection

# Strengths of the equalization that are tried.
STRENGTHS = (0.5, 1.0)
# Repeated evaluation on the same images makes a lucky verdict likelier; the intervals allow for this many looks.
LOOKS = 12
# One-sided confidence of all verdicts together, as that of both sides of one look: Bonferroni's inequality.
LOOK_CONFIDENCE = 1.0 - 2.0 * (1.0 - CONFIDENCE) / LOOKS


class Stage(StrEnum):
    """A step of the search."""

    METHOD = "method"
    WEIGHT_SCALE = "weight-scale"
    CHANNEL_SHIFT = "channel-shift"
    EQUALIZATION = "equalization"
    RANGES = "ranges"
    ROUNDING = "rounding"
    INPUT_FOLDING = "input-folding"
    PRECISION = "precision"


# What a rung has to bring the distance down to: what costs time on every image must earn it.
EARNED = {Stage.INPUT_FOLDING: 0.95}
# The rungs that change weights or biases, beside the correction of biases.
REWRITING = frozenset({Stage.CHANNEL_SHIFT, Stage.EQUALIZATION, Stage.ROUNDING, Stage.INPUT_FOLDING})


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is to be met.

    Attributes:
        max_drop: points of top-1 that int8 may lose, as a share.
        min_agreement: share of the images that must be answered as fp32 does; None for any.
    """

    max_drop: float
    min_agreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class HoldoutResult:
    """What images that had no part in the choice say of a model; all shares of 1.

    Attributes:
        images: how many there are.
        top1: accuracy of the model.
        delta: that less the accuracy of fp32.
        ci95: interval of the difference by itself.
        interval: interval of the difference that allows for all looks of a search.
        agreement: share answered as fp32 does.
        agreement_interval: likewise for all looks.
    """

    images: int
    top1: float
    delta: float
    ci95: Interval
    interval: Interval
    agreement: float
    agreement_interval: Interval

    def proves(self, goal: Goal) -> bool:
        """Tell whether the goal is met even at the far end of the intervals."""
        agrees = goal.min_agreement is None or self.agreement_interval.lo >= goal.min_agreement
        return self.interval.lo >= -goal.max_drop and agrees

    def suggests(self, goal: Goal) -> bool:
        """Tell whether the goal is met as far as the images show, chance left aside."""
        agrees = goal.min_agreement is None or self.agreement >= goal.min_agreement
        return self.delta >= -goal.max_drop and agrees


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One recipe that was tried.

    Attributes:
        stage: step of the search.
        recipe: what was tried.
        closeness: on the images that choose.
        float_macs: share of the multiply-adds in float.
        seconds: it took to make and measure.
        holdout: on the images that judge; None where it was not the best of its rung.
    """

    stage: str
    recipe: Recipe
    closeness: Closeness
    float_macs: float
    seconds: float
    holdout: HoldoutResult | None = None


class Verdict(StrEnum):
    """How a search ended."""

    MET = "met"
    LIKELY = "likely"
    MISSED = "missed"


class OutOfTimeError(Exception):
    """The time that a search was given is over."""


class Trials(Protocol):
    """Makes and measures; what was measured before is not measured again."""

    def attempt(self, stage: str, recipe: Recipe) -> Trial:
        """Make the model of a recipe and measure it on the images that choose; may raise `OutOfTimeError`."""

    def evaluate(self, trial: Trial) -> Trial:
        """Measure a trial's model on the images that judge."""


# The recipes with ever more layers in float, from a recipe on.
Widening = Callable[[Recipe], Iterator[Recipe]]


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Attributes:
        best: the trial to keep, judged.
        verdict: on it.
        out_of_time: the search was ended by the clock.
    """

    best: Trial
    verdict: Verdict
    out_of_time: bool


def search(start: Recipe, trials: Trials, goal: Goal, *, stages: Set[Stage], widening: Widening) -> Outcome:
    """Return the first recipe that meets a goal, or the nearest to fp32 that was found.

    Args:
        start: what an ordinary calibration does.
        trials: makes and measures.
        goal: what is to be met.
        stages: the steps that may be taken.
        widening: gives recipes with more layers in float.
    """
    best = trials.evaluate(trials.attempt("default", start))
    try:
        for stage, recipes in _stages(start, stages):
            if _holdout(best).proves(goal):
                break
            best = _climb(best, stage, recipes(best.recipe), trials)
        else:
            if Stage.PRECISION in stages:
                best = _widen(best, trials, goal, widening, rounding=Stage.ROUNDING in stages)
    except _StoppedError as stopped:
        return Outcome(stopped.best, _verdict(stopped.best, goal), out_of_time=True)
    return Outcome(best, _verdict(best, goal), out_of_time=False)


class _StoppedError(Exception):
    """Time ran out; ``best`` is what there was."""

    def __init__(self, best: Trial) -> None:
        super().__init__()
        self.best = best


_Recipes = Callable[[Recipe], Sequence[Recipe]]


def _stages(start: Recipe, stages: Set[Stage]) -> Iterator[tuple[Stage, _Recipes]]:
    """Yield the rungs that cost next to nothing at run time, each as the recipes to try from the best so far."""
    forms, rewriting = Stage.WEIGHT_SCALE in stages, bool(stages & REWRITING)
    recipes: dict[Stage, _Recipes] = {
        Stage.METHOD: lambda best: _methods(start, best, forms and not rewriting),
        Stage.CHANNEL_SHIFT: lambda best: [best.changed(channel_shift=True)],
        Stage.EQUALIZATION: lambda best: _equalized(best, Stage.CHANNEL_SHIFT in stages),
        Stage.RANGES: lambda best: [best.changed(refined=True)],
        Stage.ROUNDING: lambda best: _rounded(best, Stage.RANGES in stages),
        Stage.INPUT_FOLDING: lambda best: _refined_too(best.changed(input_folding=True), Stage.RANGES in stages),
    }
    if forms and rewriting:
        recipes[Stage.WEIGHT_SCALE] = lambda best: [best.changed(power_of_two=not best.power_of_two)]
    yield from ((stage, recipes[stage]) for stage in Stage if stage in stages and stage in recipes)


def _methods(start: Recipe, best: Recipe, weight_forms: bool) -> list[Recipe]:
    percentile = start.method if isinstance(start.method, Percentile) else Percentile()
    methods: list[Method] = [percentile, Mse(), Kl(), MinMax()]
    forms = [(best.per_channel, best.power_of_two)]
    if weight_forms:
        forms = [(channel, power) for channel in (True, False) for power in (False, True)]
    return [
        best.changed(method=method, per_channel=channel, power_of_two=power)
        for method in methods
        for channel, power in forms
    ]


def _equalized(best: Recipe, channel_shift: bool) -> list[Recipe]:
    """Rescaled channels have other distributions, for which another method may be the best.

    What moving channels buys shows most where they are rescaled too, so it is tried again where it bought nothing.
    """
    methods: dict[Method, None] = dict.fromkeys([best.method, Mse()])
    return [
        best.changed(equalization=strength, method=method, channel_shift=shifted)
        for shifted in dict.fromkeys([channel_shift, best.channel_shift])
        for method in methods
        for strength in STRENGTHS
    ]


def _rounded(best: Recipe, refining: bool) -> list[Recipe]:
    """Rounding takes away noise that equalization had to weigh, so its full strength is tried once more."""
    strengths = dict.fromkeys([best.equalization, STRENGTHS[-1]])
    first, *others = [
        best.changed(correction=WeightCorrection.ROUNDING, equalization=strength) for strength in strengths
    ]
    return [*_refined_too(first, refining), *others]


def _refined_too(recipe: Recipe, refining: bool) -> list[Recipe]:
    """Return a recipe, and with refined ranges where it has none: they show better the less other noise there is."""
    return list(dict.fromkeys([recipe, recipe.changed(refined=recipe.refined or refining)]))


def _climb(best: Trial, stage: Stage, recipes: Sequence[Recipe], trials: Trials) -> Trial:
    """Return the best of a rung, judged, where it is nearer to fp32 than what there was, and by enough."""
    try:
        tried = [trials.attempt(stage, recipe) for recipe in recipes if recipe != best.recipe]
        nearest = min(tried, key=lambda one: one.closeness.distance, default=best)
        nearer = nearest.closeness.distance < EARNED.get(stage, 1.0) * best.closeness.distance
        return trials.evaluate(nearest) if nearer else best
    except OutOfTimeError:
        raise _StoppedError(best) from None


def _widen(best: Trial, trials: Trials, goal: Goal, widening: Widening, *, rounding: bool) -> Trial:
    """Leave layers in float, one more at a time, until the images no longer say that the goal is missed.

    The less noise the activations make, the more there is to gain from rounding.
    """
    if _holdout(best).suggests(goal):
        return best
    try:
        for recipe in widening(best.recipe):
            forms = [recipe, recipe.changed(correction=WeightCorrection.ROUNDING)] if rounding else [recipe]
            tried = [trials.attempt(Stage.PRECISION, form) for form in dict.fromkeys(forms)]
            trial = min(tried, key=lambda one: one.closeness.distance)
            if trial.closeness.distance < best.closeness.distance:
                best = trials.evaluate(trial)
                if _holdout(best).suggests(goal):
                    break
    except OutOfTimeError:
        raise _StoppedError(best) from None
    return best


def _holdout(trial: Trial) -> HoldoutResult:
    assert trial.holdout is not None
    return trial.holdout


def _verdict(best: Trial, goal: Goal) -> Verdict:
    if _holdout(best).proves(goal):
        return Verdict.MET
    return Verdict.LIKELY if _holdout(best).suggests(goal) else Verdict.MISSED
