"""Recipes made, measured on the images that choose and on those that judge, and kept in a journal."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx_ir as ir

from quantkit.engine.classifier import PreparedClassifier
from quantkit.evaluation.selection import SelectionMetric
from quantkit.progress import NamedProgress, Progress, ProgressCallback
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.search.candidate_builder import CandidateBuilder, Product
from quantkit.search.mixed_precision import FloatBudget, MixedPrecision, float_share
from quantkit.search.recipe import Recipe
from quantkit.search.stages import HoldoutResult, OutOfTimeError, Trial
from quantkit.search.trial_cache import TrialCache
from quantkit.search.tuning_data import TuningData

# Evaluates an int8 model on held-out images.
Evaluate = Callable[[ir.Model, Progress], HoldoutResult]


@dataclass(frozen=True)
class TuningTask:
    """What is tuned.

    Attributes:
        folder: of the run.
        record: of the run.
        classifier: its fp32 model, which knows the file it was read from.
        tuning_data: its calibration images.
        builder: makes recipes.
        selection: compares them.
        start: what an ordinary calibration does.
    """

    folder: RunFolder
    record: RunRecord
    classifier: PreparedClassifier
    tuning_data: TuningData
    builder: CandidateBuilder
    selection: SelectionMetric
    start: Recipe

    @property
    def prepared(self) -> ir.Model:
        """The prepared fp32 model."""
        return self.classifier.model

    def depends_on(self) -> dict[str, Any]:
        """Return what the trials depend on besides their recipes and the evaluation images."""
        return {
            "model": self.record.model.key,
            "output": self.record.model.output,
            "set": self.record.set.digest,
            "pipeline": self.record.pipeline.model_dump(mode="json"),
            "target": asdict(self.builder.target),
            "left_out": asdict(self.builder.options),
            "keep_outliers": self.builder.keep_outliers,
        }


class Trials:
    """Makes and measures recipes; what the journal knows is not measured again.

    Args:
        subject: what is tuned.
        evaluate: evaluates an int8 model on images that had no part in making it.
        cache: of what is known.
        budget: what may be left in float.
        seconds: make nothing more after so many; None for no limit.
        progress: receives the progress.
    """

    def __init__(
        self,
        subject: TuningTask,
        evaluate: Evaluate,
        cache: TrialCache,
        budget: FloatBudget,
        seconds: float | None,
        progress: Progress,
    ) -> None:
        self._subject, self._evaluate, self._cache = subject, evaluate, cache
        self._budget, self._progress = budget, progress
        self._deadline_s = None if seconds is None else time.monotonic() + seconds
        self._kept: dict[Recipe, Product] = {}
        self._evaluated: Trial | None = None
        self._order: list[Trial] = []

    @property
    def made(self) -> tuple[Trial, ...]:
        """The trials of this search, in order, each as it is known last."""
        return tuple(self._order)

    def attempt(self, stage: str, recipe: Recipe) -> Trial:
        """Make the model of a recipe and measure it on the images that choose.

        Raises:
            OutOfTimeError: the time is over.
        """
        known = self._cache.find(stage, recipe)
        if known is None:
            if self._order:  # something is always made, so that there is a result
                self._check_time()
            start_s = time.monotonic()
            product = self.product(recipe, in_time=bool(self._order))
            closeness = self._subject.selection.closeness(product.int8)
            share = float_share(self._subject.prepared, product.plan, self._subject.tuning_data.work[0].shape)
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
        """Evaluate a trial's model on the held-out images."""
        if trial.holdout is None:
            product = self.product(trial.recipe)
            words = f"evaluating {trial.recipe.describe()}"
            trial = replace(trial, holdout=self._evaluate(product.int8, NamedProgress(self._progress, words)))
            self._cache.keep(trial)
        self._evaluated = trial
        self._order = [trial if one.recipe == trial.recipe else one for one in self._order]
        return trial

    def product(self, recipe: Recipe, *, in_time: bool = False) -> Product:
        """Return what a recipe makes.

        The last one is kept, the nearest to fp32, which is likely to be judged, and the last judged, which a search
        goes on from and ends with.

        Args:
            recipe: to make.
            in_time: give up halfway where the time is over.

        Raises:
            OutOfTimeError: it was given up.
        """
        if recipe not in self._kept:
            count = self._progress.task(recipe.describe(), "steps")
            made = self._subject.builder.make(recipe, self._in_time(count) if in_time else count)
            nearest = min(self._order, key=lambda one: one.closeness.distance, default=None)
            wanted = [trial.recipe for trial in (nearest, self._evaluated) if trial is not None]
            self._kept = {one: product for one, product in self._kept.items() if one in wanted} | {recipe: made}
        return self._kept[recipe]

    def widening(self, recipe: Recipe) -> Iterator[Recipe]:
        """Yield recipes with ever more layers in float, within the budget."""
        if self._budget.layers == 0 or not self._budget.macs:
            return
        self._check_time()
        progress = self._in_time(self._progress.task("measuring layers", "layers"))
        walk = MixedPrecision(self._subject.builder, recipe, self._subject.selection, self._budget, progress)
        while (wider := walk.next()) is not None:
            yield wider
            self._check_time()

    def _in_time(self, count: ProgressCallback) -> ProgressCallback:
        """Return a count that ends what it counts where the time is over."""

        def counted(done: int, total: int) -> None:
            count(done, total)
            if done < total:
                self._check_time()

        return counted

    def _check_time(self) -> None:
        if self._deadline_s is not None and time.monotonic() > self._deadline_s:
            raise OutOfTimeError
