"""The inputs of ``quantkit tune``, read from a run, and the evaluation of a candidate on held-out images."""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from quantkit.data.decoded import DecodedImages
from quantkit.data.source import ImageSource
from quantkit.engine.predict import Classifier
from quantkit.errors import CalibrationSetError
from quantkit.evaluation.images import check_labels
from quantkit.evaluation.paired import PairedOutcomes, score_interval, wilson_interval
from quantkit.evaluation.predictions import Collector, Predictions
from quantkit.evaluation.selection import SelectionMetric
from quantkit.graph.model import model_digest
from quantkit.progress import Progress, resumed_task
from quantkit.runs.inputs import CalibratedRun, read_scored
from quantkit.runs.score_cache import cached_scores, images_to_run, predict_cached, scores_key
from quantkit.search.candidate_builder import CandidateBuilder
from quantkit.search.deadline import Deadline
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.search.stages import LOOK_CONFIDENCE, HoldoutResult
from quantkit.search.trials import TuningTask
from quantkit.search.tuning_data import tuning_data
from quantkit.workflows.execution import Execution
from quantkit.workflows.quantize_task import QuantizeTask
from quantkit.workflows.quantized_files import method_of_run


def tuning_task(
    task: QuantizeTask, load: DecodedImages, execution: Execution, deadline: Deadline, *, rewrite: bool
) -> TuningTask:
    """Read the calibration images of a run; see `quantkit.workflows.tune.tune` for the errors."""
    run, options, threads, device = task.run, task.options, execution.threads, execution.device
    if task.images is None:
        raise CalibrationSetError(
            "the images of the calibration set are missing or have changed since the calibration",
            where=run.record.set.path or None,
            fix="restore them, or run quantkit calibrate again",
        )
    model, outliers = run.prepared.model, run.statistics.outlier_images
    data = tuning_data(model, task.images.chosen, outliers, run.record.pipeline, threads, load, device).within(deadline)
    start_s = time.monotonic()
    selection = SelectionMetric(model, data.selection, threads=threads, device=device)
    scoring_s = time.monotonic() - start_s
    builder = CandidateBuilder(
        prepared=model,
        observed=run.statistics,
        target=replace(options, per_channel=None, power_of_two=None).target(task.requested),
        options=task.left_out,
        images=data.work,
        ranging=data.ranging,
        observe=data.observe,
        change=selection.largest_change,
        keep_outliers=options.keep_outliers,
        threads=threads,
    )
    start = Recipe(
        method=method_of_run(run.record, task.requested),
        correction=WeightCorrection.BIAS if rewrite else WeightCorrection.NONE,
        per_channel=task.target.weights.per_channel,
        power_of_two=task.target.weights.power_of_two,
    )
    return TuningTask(run, data, builder, selection, start, device, scoring_s)


@dataclass
class Holdout:
    """The evaluation images of a search: models are compared with fp32 on them, and their scores are cached.

    Attributes:
        run: the run.
        images: the labelled evaluation images.
        load: reads one of them.
        execution: where the models run.
    """

    run: CalibratedRun
    images: ImageSource
    load: DecodedImages
    execution: Execution

    def evaluate(self, path: Path, progress: Progress) -> HoldoutResult:
        """Return the accuracy of the model in a file.

        Raises:
            ModelError: the model cannot be run.
            ImageError: an image cannot be decoded.
            LabelError: there are no labels, or they are no classes of the model.
            NumericError: a score is NaN or infinite.
        """
        reference, candidate = self._predictions(path, progress)
        agreeing = int((reference.top1 == candidate.top1).sum())
        outcomes = PairedOutcomes.of(reference.correct(), candidate.correct())
        return HoldoutResult(
            images=outcomes.images,
            top1=float(candidate.correct().mean()),
            delta=outcomes.delta,
            ci95=score_interval(outcomes),
            interval=score_interval(outcomes, LOOK_CONFIDENCE),
            agreement=agreeing / outcomes.images,
            agreement_interval=wilson_interval(agreeing, outcomes.images, LOOK_CONFIDENCE),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Where fp32 runs, if not on the CPU."""
        return () if self.execution.device.is_cpu else (f"fp32 runs on {self._fp32.placement.describe()}",)

    @cached_property
    def _fp32(self) -> Classifier:
        return self._open(self.run.folder.fp32(self.run.record))

    def _open(self, path: Path) -> Classifier:
        classifier = Classifier(read_scored(path, self.run.record, None, None), self.execution.device)
        classifier.file.check(self.run.record.pipeline)
        check_labels(self.images, classifier.file.signature.scores.classes, path)
        return classifier

    def _predictions(self, path: Path, progress: Progress) -> tuple[Predictions, Predictions]:
        """Return the predictions of fp32 and of another model; only images whose scores are not cached are run."""
        models, pipeline, images = [self._fp32, self._open(path)], self.run.record.pipeline, self.images
        assert images.labels is not None
        keys = [scores_key(model_digest(one.path), pipeline, one.file.signature, one.device) for one in models]
        collector = Collector(len(models))
        threads, answer = self.execution.threads, self.execution.answer([one.file for one in models], images, pipeline)
        with cached_scores(self.run.folder.cache, keys, images) as caches:
            new, cache = images_to_run(caches, len(images.names)), self.run.folder.cache.folder
            done = new.count(False)
            count = resumed_task(progress, "evaluating", "images", done=done, total=len(new), source=cache)
            found = predict_cached(
                models, caches, images.items, pipeline, threads=threads, load=self.load, answer=answer
            )
            for one in found:
                collector.update(one.scores, [images.names[one.index]], [images.labels[one.index]])
                done += new[one.index]
                count(done, len(new))
        return collector.predictions(0), collector.predictions(1)
