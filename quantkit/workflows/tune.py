"""``quantkit tune``: find the cheapest recipe with an int8 model that meets an accuracy goal, and write the model.

Recipes are fitted on two thirds of the run's calibration set and compared on the other third, the selection split. The
best of each stage is evaluated on held-out images. The best model so far is in the run folder from the first stage on.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from quantkit.config.arguments import AnyPath, as_path, optional_path, require
from quantkit.config.choices import Stage
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.decoded import DecodedImages
from quantkit.data.given_set import SetLike, given_set
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import ImagesLike
from quantkit.engine.device import CPU, Device
from quantkit.evaluation.images import evaluation_images
from quantkit.files import sha256_json, write_json
from quantkit.graph.coverage import Coverage, coverage
from quantkit.graph.qdq.plan import Plan, plan
from quantkit.graph.qdq.write import notes_of
from quantkit.progress import Notice, Progress, as_progress
from quantkit.ptq.input_folding import LEVELS
from quantkit.ptq.run_correction import images_of
from quantkit.ptq.shift_groups import find_shift_groups
from quantkit.records import Records
from quantkit.runs.configuration import record_call
from quantkit.runs.folder import RunFolder
from quantkit.runs.inputs import calibrated, open_input_shape
from quantkit.search.budget import FloatBudget
from quantkit.search.candidate_builder import Product
from quantkit.search.conclusion import conclusion
from quantkit.search.deadline import Deadline
from quantkit.search.estimate import estimated_seconds, estimated_time
from quantkit.search.recipe import Recipe
from quantkit.search.stages import REWRITING, Goal, HoldoutResult, Outcome, Trial, search
from quantkit.search.trial_cache import Screened, TrialCache, trial_json
from quantkit.search.trials import Trials, TuningTask
from quantkit.targets import ORT, Target, as_target
from quantkit.workflows.backends import backend_of
from quantkit.workflows.execution import choose_execution
from quantkit.workflows.image_evaluation import ImageEvaluation
from quantkit.workflows.quantize_task import QuantizeOptions, QuantizeTask
from quantkit.workflows.tuned_files import FinishedModel, TunedFiles
from quantkit.workflows.tuning_task import Holdout, tuning_task

JSON_SCHEMA = 1
# Why the layer of input folding, which the model did not have, is in float.
_FOLDING = "added by input folding; it turns the image into its 8-bit levels"


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Goal and limits of a search.

    Attributes:
        goal: the accuracy to reach.
        budget: what may be left in float.
        disable: stages of the search to skip.
        rewrite: weights and biases may be changed; for a target whose compiler calibrates, an fp32 model is written for
            it.
        seconds: time limit, the final model included; the search stops early enough for it, in the middle of a trial if
            need be. The default recipe is made and evaluated in any case. None for no limit, and the same result each
            time.
        write_fp32: path of the rewritten fp32 model; in the run folder by default.
        require_coverage: least percent of the multiply-adds that must be int8 in the model that is kept.

    Example:
        >>> import quantkit
        >>> stages = frozenset({quantkit.Stage.PRECISION})
        >>> options = quantkit.TuneOptions(goal=quantkit.Goal(max_drop=0.5), disable=stages)
        >>> options.budget.macs
        10.0
    """

    goal: Goal
    budget: FloatBudget = field(default_factory=FloatBudget)
    disable: frozenset[Stage] = frozenset()
    rewrite: bool = True
    seconds: float | None = None
    write_fp32: Path | None = None
    require_coverage: float | None = None


@dataclass(frozen=True, kw_only=True)
class Tuning(Records):
    """The result of `tune`.

    Attributes:
        goal: the accuracy to reach.
        outcome: the recipe that is kept, and how the search ended.
        trials: the recipes that were made, in order.
        screened: the recipes that were compared by a preview, in order.
        name: of the tuned model in the run.
        path: its file.
        fp32: the rewritten fp32 model for the compiler, None where there is none.
        fp32_change: largest difference of its scores from those of the original, as a share of their span, with
            corrected biases and rounded weights.
        rescaling_change: the same for the model whose channels were shifted or rescaled and nothing else; None where
            none were.
        files: the models, and the files of the target's vendor.
        log: JSON file with these results.
        coverage: layers and multiply-adds in int8, and the layers left in float with the reasons.
        notes: remarks for the user; `quantkit.notes.grouped` summarizes them by kind.
        device: device that models were observed, compared and evaluated on, with the provider's options.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> options = quantkit.TuneOptions(goal=quantkit.Goal(max_drop=20.0), disable=frozenset(quantkit.Stage))
        >>> done = quantkit.tune("run", options, images="images/test", limit=200)
        >>> done.name, len(done.rows())
        ('int8-tuned', 1)
    """

    goal: Goal
    outcome: Outcome
    trials: tuple[Trial, ...]
    screened: tuple[Screened, ...]
    name: str
    path: Path
    fp32: Path | None
    fp32_change: float | None
    rescaling_change: float | None
    files: tuple[Path, ...]
    log: Path
    coverage: Coverage
    notes: tuple[str, ...]
    device: str = "cpu"

    @property
    def conclusion(self) -> tuple[str, ...]:
        """Goal, measured figures, whether they decide, and what to do next, one sentence each."""
        return conclusion(self.outcome, self.goal, self.trials)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per trial, in order: distance (kept: 1), nats, dB, points, percent and seconds."""
        return [_row(trial, self.relative_distance(trial)) for trial in self.trials]

    def relative_distance(self, trial: Trial) -> float | None:
        """Return the distance from fp32, the figure that recipes are ranked by, relative to that of the kept trial.

        None where the kept model is equal to fp32.
        """
        kept = self.outcome.best.closeness.distance
        return trial.closeness.distance / kept if kept > 0.0 else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "schema": JSON_SCHEMA,
            "goal": asdict(self.goal),
            "verdict": self.outcome.verdict.value,
            "conclusion": list(self.conclusion),
            "device": self.device,
            "out_of_time": self.outcome.out_of_time,
            "best": trial_json(self.outcome.best),
            "trials": [trial_json(trial) for trial in self.trials],
            "previews": [{"words": one.recipe.describe(), "distance": one.distance} for one in self.screened],
            "files": [str(path) for path in self.files],
            "fp32_change": self.fp32_change,
            "rescaling_change": self.rescaling_change,
            "coverage": self.coverage.to_json(),
            "notes": list(self.notes),
        }


def tune(
    run: AnyPath,
    tuning: TuneOptions,
    *,
    target: Target | str = ORT,
    options: QuantizeOptions | None = None,
    calibration_set: SetLike | None = None,
    images: ImagesLike | None = None,
    labels: AnyPath | None = None,
    names: AnyPath | None = None,
    exclude: AnyPath | CalibrationSet | None = None,
    limit: int | None = None,
    out: AnyPath | None = None,
    fresh: bool = False,
    device: Device | str = CPU,
    cluster: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """Find the cheapest recipe that meets a goal, and write its int8 model and a log of the search.

    Resumable: trials are cached in the run. Without a time limit the result depends only on model, images and options.
    Each model that is the best so far is written once it is evaluated, so an interrupted search leaves one.

    Args:
        run: run folder of `calibrate`.
        tuning: goal and limits.
        target: runtime or compiler of the model, a value or a name.
        options: quantization options that all recipes have.
        calibration_set: the images of `calibrate`, if they were arrays; other images are located by the run.
        images: evaluation images; by default the folder of the calibration set without the set.
        labels: their label file.
        names: class names, one per line.
        exclude: calibration set whose images are left out.
        limit: maximum number of evaluation images.
        out: path of the model; in the run folder by default.
        fresh: ignore cached trials.
        device: device that models are observed, compared and evaluated on, fp32 included: a `quantkit.Device`, or a
            name such as ``cuda:1``. Ranges are refined, and biases and weights corrected, on the CPU.
        cluster: evaluate candidates on the workers of a Ray cluster: ``auto``, ``ray://HOST:PORT`` or ``local:N``; the
            result is the same. They must find the images under the same path or URL. Candidates are made and compared
            on calibration images here.
        threads: number of worker threads; one per processor by default. On a cluster, the threads of each worker.
        progress: receives the progress, and an estimate of the time once the first trial is made.

    Raises:
        UsageError: this is not a run folder, or an option cannot be honoured.
        ProvenanceError: model or statistics are not those of the run.
        CalibrationSetError: the calibration images are missing or too few, or no evaluation image is left.
        ModelError: the model cannot be quantized or run.
        DeviceError: the device is missing, or does not run a model.
        LabelError: labels are missing, malformed or out of range for the model.
        ImageError: an image cannot be decoded.
        ClusterError: the cluster is not there, or its workers cannot do the work.
        CoverageError: less of the model is int8 than required, in every recipe (then nothing is tried) or in the one
            that is kept (then it is written).
        OutputError: a file cannot be written.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> goal = quantkit.Goal(max_drop=20.0)
        >>> options = quantkit.TuneOptions(goal=goal, disable=frozenset(quantkit.Stage))
        >>> done = quantkit.tune("run", options, images="images/test", limit=200)
        >>> done.outcome.verdict.value, done.rows()[0]["stage"]
        ('met', 'default')
    """
    target, tuning = as_target(target), require(TuneOptions, tuning, "tuning")
    deadline = Deadline(tuning.seconds)
    options, out = require(QuantizeOptions, options or QuantizeOptions(), "options"), optional_path(out, "out")
    folder, progress = RunFolder(as_path(run, "run")), as_progress(progress)
    record = folder.read()
    holdout_images, warnings = evaluation_images(images, labels, names, exclude, record, limit)
    execution = choose_execution(cluster, device, threads, progress, workers_on_cpu=True)
    with folder.locked(), execution:
        backend = backend_of(target, folder)
        budget = tuning.budget if backend is None else backend.tune_limits(tuning.budget)
        load = DecodedImages(record.pipeline)
        given = None if calibration_set is None else given_set(calibration_set)
        calibrated_run = calibrated(folder, record)
        task = QuantizeTask(run=calibrated_run, requested=target, options=options, images=images_of(record, given))
        subject = tuning_task(task, load, execution, deadline, rewrite=tuning.rewrite)
        _coverage(subject, plan(subject.prepared, subject.builder.target, subject.builder.options)).require(
            tuning.require_coverage
        )
        depends_on = {
            **subject.depends_on(),
            "evaluated_on": _evaluated_on(holdout_images),
            "budget": asdict(budget),
        }
        cache = TrialCache(folder.cache, depends_on, fresh=fresh)
        files = TunedFiles(subject, out, tuning.write_fp32)
        holdout = Holdout(
            calibrated_run, ImageEvaluation(holdout_images, record.pipeline, execution, folder.cache, load)
        )

        def evaluate(recipe: Recipe, product: Product, progress: Progress) -> HoldoutResult:
            with files.candidate(product) as path:
                found = holdout.evaluate(path, progress)
            files.write(recipe, product)
            return found

        def is_written(recipe: Recipe) -> bool:
            return files.finished(recipe) is not None

        stages = _stages(subject, tuning, options)

        def timed(trial_s: float, evaluation_s: float) -> None:
            progress.message(Notice(estimated_time(estimated_seconds(stages, trial_s, evaluation_s))))

        trials = Trials(subject, evaluate, cache, budget, deadline, progress, timed, is_written)
        outcome = search(
            subject.start,
            trials,
            tuning.goal,
            stages=stages,
            widening=trials.widening,
        )
        deadline.lift()
        if not trials.any_built:
            made = "nothing" if is_written(outcome.best.recipe) else "only the model"
            progress.message(Notice(f"all {len(trials.made)} trials are from {cache.folder}: {made} is built again"))
        done = _finish(subject, trials, outcome, tuning.goal, files, (*warnings, *holdout.notes))
    goal, limits = tuning.goal, tuning.budget
    record_call(
        folder.path,
        f"tune {done.name}",
        {
            "target": target.name,
            "max drop": f"{goal.max_drop:g} points",
            "min agreement": None if goal.min_agreement is None else f"{goal.min_agreement:g} %",
            "max float": f"{limits.macs:g} % of the multiply-adds",
            "max skips": limits.layers,
            "disabled stages": tuning.disable,
            "rewrite": tuning.rewrite,
            **options.settings(),
            "images": images,
            "labels": labels,
            "exclude": exclude,
            "limit": limit,
            "time": None if tuning.seconds is None else f"{tuning.seconds:g} s",
        },
    )
    done.coverage.require(tuning.require_coverage)
    return done


def _evaluated_on(images: ImageSource) -> str:
    """Return a digest of names, sizes and labels of the evaluation images, independent of their location."""
    labels = None if images.labels is None else [int(label) for label in images.labels]
    return sha256_json([[(item.id, item.portable()) for item in images.items], labels])


def _stages(subject: TuningTask, tuning: TuneOptions, options: QuantizeOptions) -> frozenset[Stage]:
    """Return the stages that can change this model for this target, less those that the user disables."""
    closed = set(tuning.disable)
    if not tuning.rewrite:
        closed |= REWRITING
    if not subject.builder.target.compiler_calibrates or options.per_channel is not None:
        closed.add(Stage.WEIGHT_SCALE)
    if subject.builder.target.compiler_calibrates:
        closed.add(Stage.RANGES)
    if not find_shift_groups(subject.prepared).free.any():
        closed.add(Stage.CHANNEL_SHIFT)
    if subject.builder.levels is None:
        closed.add(Stage.INPUT_FOLDING)
    return frozenset(Stage) - closed


def _finish(
    subject: TuningTask, trials: Trials, outcome: Outcome, goal: Goal, files: TunedFiles, warnings: tuple[str, ...]
) -> Tuning:
    """Write the missing files of the selected recipe, and the log."""
    recipe = outcome.best.recipe
    model = files.finished(recipe)
    if model is None:
        product = trials.product(recipe)
        files.write(recipe, product)
        model = _finished_model(subject, recipe, product, files)
        files.finish(recipe, model)
    done = Tuning(
        goal=goal,
        outcome=outcome,
        trials=trials.made,
        screened=trials.screened,
        name=files.name,
        path=files.path,
        fp32=model.fp32,
        fp32_change=model.fp32_change,
        rescaling_change=model.rescaling_change,
        files=model.files,
        log=subject.run.folder.path / f"tune-{subject.builder.target.name}.json",
        coverage=model.coverage,
        notes=(*warnings, *model.notes),
        device=subject.device.describe(),
    )
    write_json(done.log, done.to_json())
    return done


def _finished_model(subject: TuningTask, recipe: Recipe, product: Product, files: TunedFiles) -> FinishedModel:
    """Compare the rewritten fp32 models with the original, and return what is known of the written files."""
    rescaled = recipe.channel_shift or recipe.equalization or recipe.input_folding
    largest_change = subject.selection.largest_change
    return FinishedModel(
        fp32=files.fp32,
        files=(files.path, *([files.fp32] if files.fp32 is not None else []), *files.vendor_files.files),
        coverage=_coverage(subject, product.plan),
        notes=(*notes_of(product.int8), *files.vendor_files.notes),
        fp32_change=None if product.corrected_fp32 is None else largest_change(product.corrected_fp32),
        rescaling_change=largest_change(subject.builder.rewritten(recipe)) if rescaled else None,
    )


def _row(trial: Trial, distance: float | None) -> dict[str, Any]:
    holdout = trial.holdout
    return {
        "stage": str(trial.stage),
        "recipe": trial.recipe.describe(),
        "distance": distance,
        "kl": trial.closeness.kl,
        "sqnr_db": trial.closeness.sqnr_db,
        "delta_top1": None if holdout is None else 100.0 * holdout.delta,
        "agreement": None if holdout is None else 100.0 * holdout.agreement,
        "float_macs": 100.0 * trial.float_macs,
        "seconds": trial.seconds,
    }


def _coverage(subject: TuningTask, made: Plan) -> Coverage:
    """Return the coverage of a plan for the network of the run, or for the network rewritten by a recipe."""
    found = coverage(made, open_input_shape(subject.run.record))
    layers = (replace(one, why=_FOLDING) if one.name == LEVELS else one for one in found.float_layers)
    return replace(found, float_layers=tuple(layers))
