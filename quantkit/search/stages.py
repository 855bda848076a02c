"""The search for the cheapest recipe that meets a goal: from stages without run-time cost to those that cost speed.

The stages are, in this order: methods, shifted and rescaled channels, refined ranges, rounded weights, input folding,
layers in float. The recipes of a stage are compared on the selection split, first by a preview that takes a fraction of
the time, then the nearest of these in full. The best one is kept if it is nearer to fp32 than the previous best, and is
evaluated on held-out images. The result is deterministic, unless the time limit ends the search.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from quantkit.config.choices import Stage
from quantkit.config.method import Kl, Method, MinMax, Mse, Percentile
from quantkit.errors import UsageError
from quantkit.evaluation.paired import CONFIDENCE, Interval
from quantkit.evaluation.selection import Closeness
from quantkit.search.deadline import OutOfTimeError
from quantkit.search.recipe import Recipe, WeightCorrection

# Strengths of the equalization that are tried.
STRENGTHS = (0.5, 1.0)
# Repeated evaluation on the same images raises the rate of false positives; the intervals allow for this number.
LOOKS = 12
# Joint one-sided confidence of all verdicts, equal to the two-sided one of a single evaluation (Bonferroni).
LOOK_CONFIDENCE = 1.0 - 2.0 * (1.0 - CONFIDENCE) / LOOKS


# The share of the distance that a stage may leave: stages with run-time cost must gain more. `auto` chose the method of
# the run, and on a hundred images the distances of equally good methods differ by some percent. Refined ranges are
# fitted to the scores of a few dozen images: less than 2 % on others is chance. Rounding is tried with both.
EARNED = {Stage.METHOD: 0.95, Stage.RANGES: 0.98, Stage.INPUT_FOLDING: 0.95}
# The stages that change weights or biases, except bias correction.
REWRITING = frozenset({Stage.CHANNEL_SHIFT, Stage.EQUALIZATION, Stage.ROUNDING, Stage.INPUT_FOLDING})


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The accuracy goal of a search.

    Attributes:
        max_drop: largest accepted loss of top-1 in points, 0.5 for half a percent of the images.
        min_agreement: minimum agreement with fp32 in percent of the images, 0 to 100; None for any.

    Raises:
        UsageError: a value is out of range.

    Example:
        >>> import quantkit
        >>> quantkit.Goal(max_drop=0.5, min_agreement=99.0).max_drop
        0.5
    """

    max_drop: float
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("max_drop", self.max_drop), ("min_agreement", self.min_agreement)):
            if value is not None and not 0.0 <= value <= 100.0:
                raise UsageError(
                    f"{value} is not between 0 and 100 percent", where=name, fix="write half a point as 0.5"
                )


@dataclass(frozen=True, kw_only=True)
class HoldoutResult:
    """The accuracy of a model on held-out evaluation images; all shares of 1.

    Attributes:
        images: number of images.
        top1: accuracy of the model.
        delta: its accuracy minus that of fp32.
        ci95: 95 % interval of the difference for a single evaluation.
        interval: interval of the difference that allows for all evaluations of a search.
        agreement: share of the images with the top class of fp32.
        agreement_interval: interval of the agreement that allows for all evaluations.
    """

    images: int
    top1: float
    delta: float
    ci95: Interval
    interval: Interval
    agreement: float
    agreement_interval: Interval

    def proves(self, goal: Goal) -> bool:
        """Return whether the goal is met at the unfavourable end of the intervals."""
        agrees = goal.min_agreement is None or 100.0 * self.agreement_interval.lo >= goal.min_agreement
        return 100.0 * self.interval.lo >= -goal.max_drop and agrees

    def suggests(self, goal: Goal) -> bool:
        """Return whether the estimates meet the goal, regardless of the intervals."""
        agrees = goal.min_agreement is None or 100.0 * self.agreement >= goal.min_agreement
        return 100.0 * self.delta >= -goal.max_drop and agrees


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A measured recipe.

    Attributes:
        stage: stage of the search.
        recipe: the recipe.
        closeness: closeness to fp32 on the selection split.
        float_macs: share of the multiply-adds in float.
        seconds: time to build and measure the model.
        holdout: result on the evaluation images; None unless it was the best of its stage.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> options = quantkit.TuneOptions(goal=quantkit.Goal(max_drop=20.0), disable=frozenset(quantkit.Stage))
        >>> trial = quantkit.tune("run", options, images="images/test", limit=200).trials[0]
        >>> trial.stage, trial.holdout.images
        ('default', 200)
    """

    stage: str
    recipe: Recipe
    closeness: Closeness
    float_macs: float
    seconds: float
    holdout: HoldoutResult | None = None


class Verdict(StrEnum):
    """How a search ended.

    Example:
        >>> import quantkit
        >>> [verdict.value for verdict in quantkit.Verdict]
        ['met', 'likely', 'missed']
    """

    MET = "met"
    LIKELY = "likely"
    MISSED = "missed"


class TrialRunner(Protocol):
    """Builds and measures recipes; results are cached."""

    def shortlist(self, best: Trial, recipes: Sequence[Recipe], share: float) -> Sequence[Recipe]:
        """Return the recipes worth a trial: those that differ from the best, and are nearest to fp32 by their previews.

        Args:
            best: the trial to improve on.
            recipes: of a stage.
            share: of the distance of ``best`` that a recipe must fall below.
        """

    def attempt(self, stage: str, recipe: Recipe) -> Trial:
        """Build the model of a recipe and measure it on the selection split; may raise `OutOfTimeError`."""

    def evaluate(self, trial: Trial) -> Trial:
        """Evaluate a trial's model on the evaluation images; may raise `OutOfTimeError`, but for the first one."""


# Yields recipes with an increasing number of layers in float, starting with a recipe.
Widening = Callable[[Recipe], Iterator[Recipe]]


@dataclass(frozen=True)
class Outcome:
    """The result of a search.

    Attributes:
        best: the trial to keep, evaluated on the evaluation images.
        verdict: whether it meets the goal.
        out_of_time: whether the time limit ended the search.
    """

    best: Trial
    verdict: Verdict
    out_of_time: bool


def search(start: Recipe, trials: TrialRunner, goal: Goal, *, stages: Set[Stage], widening: Widening) -> Outcome:
    """Return the first recipe that meets a goal, or the nearest to fp32.

    Args:
        start: the recipe of calibrate.
        trials: builds and measures recipes.
        goal: the accuracy to reach.
        stages: the stages to run.
        widening: yields recipes with more layers in float.
    """
    best = trials.evaluate(trials.attempt("default", start))
    try:
        for stage, recipes in _stages(start, stages):
            if holdout_of(best).proves(goal):
                break
            best = _climb(best, stage, recipes(best.recipe), trials)
        else:
            if Stage.PRECISION in stages:
                best = _widen(best, trials, goal, widening, rounding=Stage.ROUNDING in stages)
    except _StoppedError as stopped:
        return Outcome(stopped.best, _verdict(stopped.best, goal), out_of_time=True)
    return Outcome(best, _verdict(best, goal), out_of_time=False)


class _StoppedError(Exception):
    """The time limit has passed; ``best`` is the best trial so far."""

    def __init__(self, best: Trial) -> None:
        super().__init__()
        self.best = best


_Recipes = Callable[[Recipe], Sequence[Recipe]]


def _stages(start: Recipe, stages: Set[Stage]) -> Iterator[tuple[Stage, _Recipes]]:
    """Yield the stages with little or no run-time cost, each with a function from the best recipe to those to try."""
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
    """Return recipes with rescaled channels, by all methods, because their distributions differ.

    A shift gains most together with rescaling, so both are tried together if the shift alone gained nothing.
    """
    methods: dict[Method, None] = dict.fromkeys([best.method, Mse()])
    return [
        best.changed(equalization=strength, method=method, channel_shift=shifted)
        for shifted in dict.fromkeys([channel_shift, best.channel_shift])
        for method in methods
        for strength in STRENGTHS
    ]


def _rounded(best: Recipe, refining: bool) -> list[Recipe]:
    """Return recipes with rounded weights; full equalization is tried again, because rounding removes weight noise."""
    strengths = dict.fromkeys([best.equalization, STRENGTHS[-1]])
    first, *others = [
        best.changed(correction=WeightCorrection.ROUNDING, equalization=strength) for strength in strengths
    ]
    return [*_refined_too(first, refining), *others]


def _refined_too(recipe: Recipe, refining: bool) -> list[Recipe]:
    """Return a recipe with and without refined ranges, which gain more with less other noise."""
    return list(dict.fromkeys([recipe, recipe.changed(refined=recipe.refined or refining)]))


def _climb(best: Trial, stage: Stage, recipes: Sequence[Recipe], trials: TrialRunner) -> Trial:
    """Return the evaluated best trial of a stage if it is sufficiently nearer to fp32, else the previous best."""
    share = EARNED.get(stage, 1.0)
    try:
        tried = [trials.attempt(stage, recipe) for recipe in trials.shortlist(best, recipes, share)]
        nearest = min(tried, key=lambda one: one.closeness.distance, default=best)
        nearer = nearest.closeness.distance < share * best.closeness.distance
        return trials.evaluate(nearest) if nearer else best
    except OutOfTimeError:
        raise _StoppedError(best) from None


def _widen(best: Trial, trials: TrialRunner, goal: Goal, widening: Widening, *, rounding: bool) -> Trial:
    """Leave layers in float, one more at a time, until the estimates meet the goal.

    Each number of layers is also tried with rounded weights, which gain more with less activation noise.
    """
    if holdout_of(best).suggests(goal):
        return best
    try:
        for recipe in widening(best.recipe):
            forms = [recipe, recipe.changed(correction=WeightCorrection.ROUNDING)] if rounding else [recipe]
            tried = [trials.attempt(Stage.PRECISION, form) for form in dict.fromkeys(forms)]
            trial = min(tried, key=lambda one: one.closeness.distance)
            if trial.closeness.distance < best.closeness.distance:
                best = trials.evaluate(trial)
                if holdout_of(best).suggests(goal):
                    break
    except OutOfTimeError:
        raise _StoppedError(best) from None
    return best


def holdout_of(trial: Trial) -> HoldoutResult:
    """Return the result of an evaluated trial."""
    assert trial.holdout is not None
    return trial.holdout


def _verdict(best: Trial, goal: Goal) -> Verdict:
    if holdout_of(best).proves(goal):
        return Verdict.MET
    return Verdict.LIKELY if holdout_of(best).suggests(goal) else Verdict.MISSED
