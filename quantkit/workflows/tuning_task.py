"""The inputs of ``quantkit tune``, read from a run, and the evaluation of a candidate on held-out images."""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from quantkit.data.decoded import DecodedImages
from quantkit.engine.predict import Classifier
from quantkit.errors import CalibrationSetError
from quantkit.evaluation.paired import PairedOutcomes, score_interval, wilson_interval
from quantkit.evaluation.predictions import Collector
from quantkit.evaluation.selection import SelectionMetric
from quantkit.progress import Progress
from quantkit.runs.inputs import CalibratedRun, read_scored
from quantkit.search.candidate_builder import CandidateBuilder
from quantkit.search.deadline import Deadline
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.search.stages import LOOK_CONFIDENCE, HoldoutResult
from quantkit.search.trials import TuningTask
from quantkit.search.tuning_data import tuning_data
from quantkit.workflows.execution import Execution
from quantkit.workflows.image_evaluation import ImageEvaluation
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
        evaluation: its evaluation images, and where the models run.
    """

    run: CalibratedRun
    evaluation: ImageEvaluation

    def evaluate(self, path: Path, progress: Progress) -> HoldoutResult:
        """Return the accuracy of the model in a file.

        Raises:
            ModelError: the model cannot be run.
            ImageError: an image cannot be decoded.
            LabelError: there are no labels, or they are no classes of the model.
            NumericError: a score is NaN or infinite.
        """
        collector = Collector(2)
        self.evaluation.collect([self._fp32, self._open(path)], collector, "evaluating", progress=progress)
        reference, candidate = collector.predictions(0), collector.predictions(1)
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
        on_cpu = self.evaluation.execution.device.is_cpu
        return () if on_cpu else (f"fp32 runs on {self._fp32.placement.describe()}",)

    @cached_property
    def _fp32(self) -> Classifier:
        return self._open(self.run.folder.fp32(self.run.record))

    def _open(self, path: Path) -> Classifier:
        classifier = Classifier(read_scored(path, self.run.record, None, None), self.evaluation.execution.device)
        self.evaluation.check(classifier.file)
        return classifier
