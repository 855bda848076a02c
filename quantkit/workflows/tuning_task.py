"""What ``quantkit tune`` reads of a run before it searches, and how it evaluates a candidate on held-out images."""

from dataclasses import replace

import onnx_ir as ir

from quantkit.config.method import parse_method
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.source import ImageSource
from quantkit.errors import CalibrationSetError
from quantkit.evaluation.paired import PairedOutcomes, score_interval, wilson_interval
from quantkit.evaluation.selection import SelectionMetric
from quantkit.graph.model import model_files
from quantkit.progress import Count
from quantkit.ptq.run_correction import images_of
from quantkit.runs.folder import FP32, INT8, RunFolder, RunRecord
from quantkit.runs.inputs import calibrated
from quantkit.search.candidate_builder import CandidateBuilder
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.search.stages import LOOK_CONFIDENCE, HoldoutResult
from quantkit.search.trials import Evaluate, TuningTask
from quantkit.search.tuning_data import tuning_data
from quantkit.targets import Target
from quantkit.workflows.compare import evaluate_models
from quantkit.workflows.quantize import QuantizeOptions

# The file of a candidate while it is evaluated.
CANDIDATE = "tune-candidate.onnx"


def tuning_task(
    folder: RunFolder,
    record: RunRecord,
    target: Target,
    options: QuantizeOptions,
    rewrite: bool,
    threads: int,
    calibration_set: CalibrationSet | None = None,
) -> TuningTask:
    """Read a run and its calibration images; see `quantkit.workflows.tune.tune` for the errors."""
    whole, statistics = calibrated(folder, record)
    chosen = images_of(record, calibration_set)
    if chosen is None:
        raise CalibrationSetError(
            "the images of the calibration set are missing, or not those of the run",
            where=record.set.path or None,
            fix="put them back, or run quantkit calibrate again",
        )
    data = tuning_data(whole.model, chosen.chosen, statistics.outlier_images, record.pipeline, threads)
    selection = SelectionMetric(whole.model, data.selection, threads=threads)
    builder = CandidateBuilder(
        prepared=whole.model,
        observed=statistics,
        target=replace(options, per_channel=None, power_of_two=None).target(target),
        options=options.plan_options(),
        images=data.work,
        ranging=data.ranging,
        observe=data.observe,
        change=selection.largest_change,
        keep_outliers=options.keep_outliers,
        threads=threads,
    )
    start = _start(record, options, target, WeightCorrection.BIAS if rewrite else WeightCorrection.NONE)
    return TuningTask(folder, record, whole, data, builder, selection, start)


def holdout_evaluation(task: TuningTask, images: ImageSource, threads: int) -> Evaluate:
    """Return a function that evaluates an int8 model against the run's fp32 model on held-out images."""

    def evaluate(int8: ir.Model, progress: Count) -> HoldoutResult:
        run = task.folder.path
        path = run / CANDIDATE
        task.classifier.save(int8, path)
        try:
            evaluation = evaluate_models(
                [FP32, path], run=run, images=images, drift_images=0, threads=threads, progress=progress
            )
        finally:
            for file in model_files(path):
                file.unlink(missing_ok=True)
        reference, candidate = (answer.predictions for answer in evaluation.answers)
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

    return evaluate


def _start(record: RunRecord, options: QuantizeOptions, target: Target, correction: WeightCorrection) -> Recipe:
    """Return the recipe of an ordinary calibration of the run: its method, biases corrected where allowed."""
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
