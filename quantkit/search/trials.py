"""Trials: builds recipes, measures them on the selection split and the evaluation images, and caches the results."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx_ir as ir

from quantkit.engine.device import CPU, Device
from quantkit.evaluation.selection import SelectionMetric
from quantkit.progress import NamedProgress, Notice, Progress, ProgressCallback
from quantkit.runs.inputs import CalibratedRun
from quantkit.search.budget import FloatBudget
from quantkit.search.candidate_builder import CandidateBuilder, Product
from quantkit.search.deadline import Deadline
from quantkit.search.mixed_precision import MixedPrecision, float_share
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.search.stages import HoldoutResult, Trial
from quantkit.search.trial_cache import Screened, TrialCache
from quantkit.search.tuning_data import TuningData

# Evaluates a recipe's model on held-out images, and then writes it, as the best so far.
Evaluate = Callable[[Recipe, Product, Progress], HoldoutResult]

# A preview leaves out corrections, so recipes with distances within this factor of the nearest are built, and at most
# this number per stage.
CLOSE, FINALISTS = 1.05, 2
# The largest share of the distance of a preview that refined ranges may leave, as for each move of a range.
REFINED = 0.95
# Comparisons of fp32 models on the selection split at the end of a search.
FINAL_COMPARISONS = 2


@dataclass(frozen=True)
class TuningTask:
    """The subject of a search.

    Attributes:
        run: the run.
        tuning_data: its calibration images.
        builder: builds recipes.
        selection: compares recipes.
        start: the recipe of calibrate.
        device: where models are observed, compared and evaluated; corrections are fitted on the CPU.
        scoring_s: seconds that the scores of fp32 on the selection split took.
    """

    run: CalibratedRun
    tuning_data: TuningData
    builder: CandidateBuilder
    selection: SelectionMetric
    start: Recipe
    device: Device = CPU
    scoring_s: float = 0.0

    @property
    def prepared(self) -> ir.Model:
        """The prepared fp32 model."""
        return self.run.prepared.model

    def depends_on(self) -> dict[str, Any]:
        """Return everything that the trials depend on, except their recipes and the evaluation images."""
        device = {} if self.device.is_cpu else self.device.identity()
        return device | {
            **self.run.identity,
            "target": asdict(self.builder.target),
            "left_out": asdict(self.builder.options),
            "keep_outliers": self.builder.keep_outliers,
        }


class Trials:
    """Builds and measures recipes; cached results are reused.

    Args:
        subject: the subject of the search.
        evaluate: evaluates a model on held-out images.
        cache: cache of earlier trials.
        budget: limits on layers in float.
        deadline: time limit; it is enforced once the first trial is evaluated.
        progress: receives the progress.
        is_written: returns whether the files of a recipe are complete, so that finishing with it builds nothing.
        timed: called once with the seconds of the first trial and of its evaluation, unless it is in the cache.
    """

    def __init__(
        self,
        subject: TuningTask,
        evaluate: Evaluate,
        cache: TrialCache,
        budget: FloatBudget,
        deadline: Deadline,
        progress: Progress,
        timed: Callable[[float, float], None] = lambda trial_s, evaluation_s: None,
        is_written: Callable[[Recipe], bool] = lambda recipe: False,
    ) -> None:
        self._timed, self._is_written, self._deadline = timed, is_written, deadline
        self._subject, self._evaluate, self._cache = subject, evaluate, cache
        self._budget, self._progress = budget, progress
        self._kept: dict[Recipe, Product] = {}
        self._evaluated: Trial | None = None
        self._order: list[Trial] = []
        self._screened: dict[Recipe, Screened] = {}
        self._built = False

    @property
    def made(self) -> tuple[Trial, ...]:
        """The trials of this search in order, each with its latest figures."""
        return tuple(self._order)

    @property
    def any_built(self) -> bool:
        """Whether a trial was built, and not all were in the cache."""
        return self._built

    @property
    def screened(self) -> tuple[Screened, ...]:
        """The recipes that were measured by their previews, in order."""
        return tuple(self._screened.values())

    def shortlist(self, best: Trial, recipes: Sequence[Recipe], share: float) -> Sequence[Recipe]:
        """Return the recipes worth a trial: those that differ from the best, the nearest to fp32 by their previews.

        Recipes with the same model as the best or an earlier one are left out, and so are recipes with a preview that
        is further from fp32 than the stage allows.

        Args:
            best: the trial to improve on.
            recipes: of a stage.
            share: of the distance of ``best`` that a recipe must fall below.

        Raises:
            OutOfTimeError: the time limit has passed.
        """
        start = self._screen(best.recipe)
        seen: set[object] = {best.recipe, (start.digest, best.recipe.correction)}
        found: dict[Recipe, float] = {}
        for recipe in recipes:
            if self._is_refined_in_vain(recipe, best.recipe):
                continue
            one = self._screen(recipe)
            if not seen.isdisjoint(same := {one.recipe, (one.digest, recipe.correction)}):
                continue
            seen |= same
            # Previews with rounded weights leave the weights in float. They cannot be compared with others, and their
            # relative gain is at least that of the final model.
            comparable = recipe.correction is best.recipe.correction
            slack = 1.0 if recipe.correction is WeightCorrection.ROUNDING else CLOSE
            if not comparable or one.distance <= slack * share * start.distance:
                found[one.recipe] = one.distance
        found = {recipe: distance for recipe, distance in found.items() if not _gains_little(recipe, found)}
        nearest = min(found.values(), default=0.0)
        ranked = sorted(found, key=lambda recipe: found[recipe])
        return [recipe for recipe in ranked if found[recipe] <= CLOSE * nearest][:FINALISTS]

    def attempt(self, stage: str, recipe: Recipe) -> Trial:
        """Build the model of a recipe and measure it on the selection split.

        Raises:
            OutOfTimeError: the time limit has passed.
        """
        known = self._cache.find(stage, recipe)
        if known is None:
            self._deadline.check()
            if self._order and not self._built:
                self._progress.message(Notice(f"resumed: {len(self._order)} trials from {self._cache.folder}"))
            self._built = True
            start_s = time.monotonic()
            product = self.product(recipe)
            closeness = self._subject.selection.closeness(product.int8)
            share = float_share(self._subject.prepared, product.plan, self._subject.tuning_data.input_shape)
            known = Trial(
                stage=stage,
                recipe=recipe,
                closeness=closeness,
                float_macs=share,
                seconds=time.monotonic() - start_s,
            )
            self._cache.keep(known)
        self._order.append(known)
        return known

    def evaluate(self, trial: Trial) -> Trial:
        """Evaluate a trial's model on the held-out images; it is the best so far.

        Raises:
            OutOfTimeError: the time limit has passed, and this is not the first evaluation.
        """
        if trial.holdout is None:
            product = self.product(trial.recipe)
            words, start_s = f"evaluating {trial.recipe.describe()}", time.monotonic()
            progress = _InTime(NamedProgress(self._progress, words), self._deadline)
            trial = replace(trial, holdout=self._evaluate(trial.recipe, product, progress))
            self._cache.keep(trial)
            if self._evaluated is None:
                self._timed(trial.seconds, time.monotonic() - start_s)
        self._evaluated = trial
        self._deadline.reserve_s = self._time_to_finish(trial)
        self._deadline.begin()
        self._order = [trial if one.recipe == trial.recipe else one for one in self._order]
        return trial

    def product(self, recipe: Recipe) -> Product:
        """Return the models of a recipe.

        Three models are kept in memory: the last one, the nearest to fp32, which is likely to be evaluated next, and
        the last evaluated one, from which the search continues.

        Args:
            recipe: the recipe.

        Raises:
            OutOfTimeError: the time limit has passed.
        """
        if recipe not in self._kept:
            count = self._deadline.counting(self._progress.task(recipe.describe(), "steps"))
            made = self._subject.builder.make(recipe, count)
            nearest = min(self._order, key=lambda one: one.closeness.distance, default=None)
            wanted = [trial.recipe for trial in (nearest, self._evaluated) if trial is not None]
            self._kept = {one: product for one, product in self._kept.items() if one in wanted} | {recipe: made}
        return self._kept[recipe]

    def widening(self, recipe: Recipe) -> Iterator[Recipe]:
        """Yield recipes with an increasing number of layers in float, within the budget.

        Raises:
            OutOfTimeError: the time limit has passed.
        """
        if self._budget.layers == 0 or not self._budget.macs:
            return
        progress = self._deadline.counting(self._progress.task("measuring layers", "layers"))
        walk = MixedPrecision(
            self._subject.builder,
            recipe,
            self._subject.selection,
            self._budget,
            self._subject.tuning_data.input_shape,
            self._cache,
            progress,
        )
        while (wider := walk.next()) is not None:
            yield wider

    def _screen(self, recipe: Recipe) -> Screened:
        """Return the figures of a recipe's preview.

        Raises:
            OutOfTimeError: the time limit has passed.
        """
        known = self._screened.get(recipe) or self._cache.find_screened(recipe)
        if known is None:
            self._deadline.check()
            progress = self._deadline.counting(self._progress.task(f"preview of {recipe.describe()}", "steps"))
            effective = self._subject.builder.effective(recipe, progress)
            preview = self._subject.builder.preview(effective, progress)
            if recipe.correction is WeightCorrection.NONE:
                distance = self._subject.selection.closeness(preview.model).distance
            else:
                distance = self._subject.selection.distance_if_corrected(preview.model)
            known = Screened(effective, preview.digest, distance)
            self._cache.keep_screened(recipe, known)
        self._screened[recipe] = known
        return known

    def _is_refined_in_vain(self, recipe: Recipe, best: Recipe) -> bool:
        """Return whether refining the ranges of another network than the best one's is not worth its time.

        Refinement takes longer than all else in a preview, and gains about the same on both: so the network must be
        nearer to fp32 without it.
        """
        kept = best.changed(channel_shift=recipe.channel_shift, equalization=recipe.equalization)
        if not recipe.refined or kept == best:
            return False
        plain = recipe.changed(refined=False)
        incumbent = plain.changed(channel_shift=best.channel_shift, equalization=best.equalization)
        return self._screen(plain).distance >= self._screen(incumbent).distance

    def _time_to_finish(self, trial: Trial) -> float:
        """Return the seconds that finishing with a trial takes: comparing fp32 models, and building it if need be."""
        built = trial.recipe in self._kept or self._is_written(trial.recipe)
        return FINAL_COMPARISONS * self._subject.scoring_s + (0.0 if built else trial.seconds)


class _InTime:
    """Progress of a workflow that stops at a time limit."""

    def __init__(self, progress: Progress, deadline: Deadline) -> None:
        self._progress, self._deadline = progress, deadline

    def task(self, name: str, unit: str) -> ProgressCallback:
        """Begin a task."""
        return self._deadline.counting(self._progress.task(name, unit))

    def message(self, text: str) -> None:
        """Forward the message."""
        self._progress.message(text)


def _gains_little(recipe: Recipe, distances: Mapping[Recipe, float]) -> bool:
    """Return whether refined ranges hardly bring a preview nearer to fp32 than those of its method."""
    plain = distances.get(recipe.changed(refined=False), math.inf)
    return recipe.refined and distances[recipe] > REFINED * plain
