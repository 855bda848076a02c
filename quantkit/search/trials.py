"""Recipes made, measured on the images that choose and on those that judge, and kept in a journal."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime

from quantkit import __version__
from quantkit.config.method import parse_method
from quantkit.data.folder import ImageFolder
from quantkit.engine.classifier import PreparedClassifier
from quantkit.errors import CalibrationSetError
from quantkit.evaluation.paired import PairedOutcomes, score_interval, wilson_interval
from quantkit.evaluation.selection import SelectionMetric
from quantkit.graph.model import model_files
from quantkit.progress import Count
from quantkit.ptq.run_correction import images_of
from quantkit.runs.folder import FP32, INT8, RunFolder, RunRecord
from quantkit.runs.inputs import calibrated
from quantkit.search.candidate_builder import CandidateBuilder, Product
from quantkit.search.mixed_precision import FloatBudget, MixedPrecision, float_share
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.search.stages import LOOK_CONFIDENCE, HoldoutResult, OutOfTimeError, Trial
from quantkit.search.trial_cache import TrialCache
from quantkit.search.tuning_data import TuningData, tuning_data
from quantkit.targets import Target
from quantkit.workflows.compare import evaluate_models
from quantkit.workflows.quantize import QuantizeOptions

# The model of a trial, while it is judged.
CANDIDATE = "tune-candidate.onnx"
# Called with what is being done; gives what is told of its progress.
Watch = Callable[[str], Count]


@dataclass(frozen=True)
class Subject:
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

    @classmethod
    def of_run(
        cls,
        folder: RunFolder,
        record: RunRecord,
        target: Target,
        options: QuantizeOptions,
        rewrite: bool,
        threads: int,
    ) -> "Subject":
        """Read a run and its calibration images; see `quantkit.workflows.tune.tune` for the errors."""
        classifier, statistics = calibrated(folder, record)
        prepared = classifier.model
        chosen = images_of(record)
        if chosen is None:
            raise CalibrationSetError(
                "the images of the calibration set are gone, or not those of the run",
                where=record.set.path or None,
                fix="put them back, or run quantkit calibrate again",
            )
        chosen_target = replace(options, per_channel=None, power_of_two=None).target(target)
        held = tuning_data(prepared, chosen.chosen, statistics.outlier_images, record.pipeline, threads)
        selection = SelectionMetric(prepared, held.selection, threads=threads)
        builder = CandidateBuilder(
            prepared=prepared,
            observed=statistics,
            target=chosen_target,
            options=options.plan_options(),
            images=held.work,
            ranging=held.ranging,
            observe=held.observe,
            change=selection.largest_change,
            keep_outliers=options.keep_outliers,
            threads=threads,
        )
        start = _start(record, options, target, WeightCorrection.BIAS if rewrite else WeightCorrection.NONE)
        return cls(folder, record, classifier, held, builder, selection, start)

    @property
    def prepared(self) -> ir.Model:
        """The prepared fp32 model."""
        return self.classifier.model

    def save(self, model: ir.Model, path: Path) -> None:
        """Write a model made from it, with the inputs and outputs of the file; see `PreparedClassifier.save`."""
        self.classifier.save(model, path)

    def key(self) -> dict[str, Any]:
        """Return what the trials depend on besides their recipes and the judging images."""
        return {
            "model": self.record.model.key,
            "output": self.record.model.output,
            "set": self.record.set.digest,
            "pipeline": self.record.pipeline.model_dump(mode="json"),
            "target": asdict(self.builder.target),
            "left_out": asdict(self.builder.options),
            "keep_outliers": self.builder.keep_outliers,
            "versions": [__version__, onnxruntime.__version__],
        }


def _start(record: RunRecord, options: QuantizeOptions, target: Target, correction: WeightCorrection) -> Recipe:
    """Return what an ordinary calibration of the run does: its method, and corrected biases where they can be."""
    made = record.quantized.get(INT8)
    method = parse_method("percentile")
    if made is not None:
        method = parse_method(made.method, fraction=made.options.get("fraction"))
    return Recipe(
        method=method,
        correction=correction,
        per_channel=target.weights.per_channel if options.per_channel is None else options.per_channel,
        power_of_two=target.weights.power_of_two if options.power_of_two is None else options.power_of_two,
    )


class Trials:
    """Makes and measures recipes; what the journal knows is not measured again.

    Args:
        subject: what is tuned.
        holdout_images: the images that judge.
        cache: of what is known.
        budget: what may be left in float.
        seconds: make nothing more after so many; None for no limit.
        watch: told what is done.
    """

    def __init__(
        self,
        subject: Subject,
        holdout_images: ImageFolder,
        cache: TrialCache,
        budget: FloatBudget,
        seconds: float | None,
        watch: Watch,
    ) -> None:
        self._subject, self._holdout_images, self._cache = subject, holdout_images, cache
        self._budget, self._watch = budget, watch
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
        """Measure a trial's model on the images that judge."""
        if trial.holdout is None:
            path = self._subject.folder.path / CANDIDATE
            self._subject.save(self.product(trial.recipe).int8, path)
            try:
                evaluation = evaluate_models(
                    [FP32, path],
                    run=self._subject.folder.path,
                    images=self._holdout_images,
                    drift_images=0,
                    threads=self._subject.builder.threads,
                    progress=self._watch(f"judging {trial.recipe.describe()}"),
                )
            finally:
                for file in model_files(path):
                    file.unlink(missing_ok=True)
            reference, candidate = (answer.predictions for answer in evaluation.answers)
            agreeing = int((reference.top1 == candidate.top1).sum())
            outcomes = PairedOutcomes.of(reference.correct(), candidate.correct())
            holdout = HoldoutResult(
                images=outcomes.images,
                top1=float(candidate.correct().mean()),
                delta=outcomes.delta,
                ci95=score_interval(outcomes),
                interval=score_interval(outcomes, LOOK_CONFIDENCE),
                agreement=agreeing / outcomes.images,
                agreement_interval=wilson_interval(agreeing, outcomes.images, LOOK_CONFIDENCE),
            )
            trial = replace(trial, holdout=holdout)
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
            count = self._watch(recipe.describe())
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
        progress = self._in_time(self._watch("what each layer costs"))
        walk = MixedPrecision(self._subject.builder, recipe, self._subject.selection, self._budget, progress)
        while (wider := walk.next()) is not None:
            yield wider
            self._check_time()

    def _in_time(self, count: Count) -> Count:
        """Return a count that ends what it counts where the time is over."""

        def counted(done: int, total: int) -> None:
            count(done, total)
            if done < total:
                self._check_time()

        return counted

    def _check_time(self) -> None:
        if self._deadline_s is not None and time.monotonic() > self._deadline_s:
            raise OutOfTimeError
