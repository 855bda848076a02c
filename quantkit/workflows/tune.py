"""``quantkit tune``: the cheapest change to a quantization that brings the accuracy back, found, judged and written.

Recipes are made and compared on the images of the run's calibration set, two thirds of which are worked on and one
third of which chooses; the best of each rung is judged on evaluation images that had no part in either.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.config.arguments import AnyPath, as_path, optional_path, require
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.given_set import given_set
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import ImagesLike
from quantkit.engine.session import default_threads, open_session
from quantkit.evaluation.images import evaluation_images, limited
from quantkit.files import sha256_json, write_json
from quantkit.graph.coverage import Coverage, coverage
from quantkit.graph.qdq.plan import Plan, plan
from quantkit.graph.qdq.write import notes_of
from quantkit.progress import Count
from quantkit.ptq.shift_groups import movable
from quantkit.runs.folder import FP32, RunFolder
from quantkit.runs.inputs import open_input_shape
from quantkit.search.mixed_precision import FloatBudget
from quantkit.search.stages import REWRITING, Goal, Outcome, Stage, Trial, search
from quantkit.search.trial_cache import TrialCache, trial_json
from quantkit.search.trials import Trials, TuningTask, Watch
from quantkit.targets import ORT, Target, as_target
from quantkit.workflows.backends import BackendFiles, TunedModel, backend_of
from quantkit.workflows.quantize import QuantizeOptions, int8_name, output_path, record_model
from quantkit.workflows.tuning_task import holdout_evaluation, tuning_task

JSON_SCHEMA = 1
TUNED = "tuned"


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What a search may do.

    Attributes:
        goal: what is to be met.
        budget: what may be left in float.
        disable: stages of the search to skip.
        rewrite: weights and biases may be changed; for a target whose compiler calibrates, an fp32 model is written for
            it.
        seconds: try nothing more after so many, and give up what is being tried; None for no limit, and the same result
            each time.
        write_fp32: where the rewritten fp32 model goes; in the run folder when absent.
        require_coverage: least share of the multiply-adds that must be int8 in the model that is kept, 0.95 for 95 %.
    """

    goal: Goal
    budget: FloatBudget
    disable: frozenset[Stage] = frozenset()
    rewrite: bool = True
    seconds: float | None = None
    write_fp32: Path | None = None
    require_coverage: float | None = None


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What `tune` found and wrote.

    Attributes:
        outcome: the recipe that is kept, and how the search ended.
        trials: everything tried, in order.
        name: of the tuned model in the run.
        path: its file.
        fp32: the rewritten fp32 model for the compiler, None where there is none.
        fp32_change: largest difference of its scores to those of the original, as a share of their span; biases that
            were moved and weights that were rounded otherwise show in it.
        rescaling_change: likewise of the model whose channels were moved or rescaled and nothing else; None where none
            were.
        files: the models, and the files of the target's vendor.
        log: the file that holds all this.
        coverage: how many layers and multiply-adds are int8, and which layers are not and why.
        notes: what the user may want to know; `quantkit.notes.grouped` makes one line of many of a kind.
    """

    outcome: Outcome
    trials: tuple[Trial, ...]
    name: str
    path: Path
    fp32: Path | None
    fp32_change: float | None
    rescaling_change: float | None
    files: tuple[Path, ...]
    log: Path
    coverage: Coverage
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "schema": JSON_SCHEMA,
            "verdict": self.outcome.verdict.value,
            "out_of_time": self.outcome.out_of_time,
            "best": trial_json(self.outcome.best),
            "trials": [trial_json(trial) for trial in self.trials],
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
    calibration_set: ImagesLike = None,
    images: ImagesLike = None,
    labels: AnyPath | None = None,
    names: AnyPath | None = None,
    exclude: AnyPath | CalibrationSet | None = None,
    limit: int | None = None,
    out: AnyPath | None = None,
    fresh: bool = False,
    threads: int | None = None,
    watch: Watch | None = None,
) -> Tuning:
    """Find the cheapest recipe that meets a goal, and write the int8 model it makes and all that was found out.

    An interrupted search goes on where it was: what was tried is in a journal. Without a limit of time the result
    depends on nothing but model, images and options.

    Args:
        run: run folder of `calibrate`.
        tuning: the goal, and what may be done for it.
        target: what will run the model, a value or a name.
        options: choices that the search keeps to.
        calibration_set: the images of `calibrate` again, where they were arrays; else they are found by the run.
        images: evaluation images that judge; absent, the folder of the calibration set without the set.
        labels: their label file.
        names: class names, one a line.
        exclude: calibration set whose images are left out.
        limit: judge on at most so many images.
        out: where to write the model; in the run folder when absent.
        fresh: try again what was tried before.
        threads: workers; as many as there are processors when absent.
        watch: called with what is being done; gives what is told of its progress.

    Raises:
        UsageError: this is no run folder, or an option cannot be honoured.
        ProvenanceError: model or statistics are not those of the run.
        CalibrationSetError: the calibration images are gone or too few, or no image is left to judge.
        ModelError: the model cannot be quantized or run.
        LabelError: labels are missing, malformed, or no classes of the model.
        ImageError: an image cannot be decoded.
        CoverageError: less of the model is int8 than required: of any recipe, so that nothing was tried, or of the one
            that is kept, which is written.
        OutputError: a file cannot be written.
    """
    target, tuning = as_target(target), require(TuneOptions, tuning, "tuning")
    options, out = require(QuantizeOptions, options or QuantizeOptions(), "options"), optional_path(out, "out")
    folder, watch = RunFolder(as_path(run, "run")), watch or _silent
    record = folder.read()
    holdout_images, warnings = evaluation_images(images, labels, names, exclude, record)
    holdout_images = limited(holdout_images, limit)
    with folder.locked():
        threads = threads or default_threads()
        backend = backend_of(target, folder)
        budget = tuning.budget if backend is None else backend.tune_limits(tuning.budget)
        given = None if calibration_set is None else given_set(calibration_set)
        subject = tuning_task(folder, record, target, options, tuning.rewrite, threads, given)
        _coverage(subject, plan(subject.prepared, subject.builder.target, subject.builder.options)).require(
            tuning.require_coverage
        )
        depends_on = {
            **subject.depends_on(),
            "evaluated_on": _evaluated_on(holdout_images),
            "budget": asdict(budget),
        }
        cache = TrialCache(folder.cache, depends_on, fresh=fresh)
        evaluate = holdout_evaluation(subject, holdout_images, threads)
        trials = Trials(subject, evaluate, cache, budget, tuning.seconds, watch)
        outcome = search(
            subject.start,
            trials,
            tuning.goal,
            stages=_stages(subject, tuning, options),
            widening=trials.widening,
        )
        done = _write(subject, trials, outcome, tuning, out, tuple(warnings))
    done.coverage.require(tuning.require_coverage)
    return done


def _evaluated_on(images: ImageSource) -> str:
    """Return a digest of the evaluation images' names, sizes and labels, the same wherever they are."""
    labels = None if images.labels is None else [int(label) for label in images.labels]
    return sha256_json([[(item.id, item.portable()) for item in images.items], labels])


def _stages(subject: TuningTask, tuning: TuneOptions, options: QuantizeOptions) -> frozenset[Stage]:
    """Return the steps that can be taken for this model and target, and that the user wants."""
    closed = set(tuning.disable)
    if not tuning.rewrite:
        closed |= REWRITING
    if not subject.builder.target.compiler_calibrates or options.per_channel is not None:
        closed.add(Stage.WEIGHT_SCALE)
    if subject.builder.target.compiler_calibrates:
        closed.add(Stage.RANGES)
    if not movable(subject.prepared).free.any():
        closed.add(Stage.CHANNEL_SHIFT)
    if subject.builder.levels is None:
        closed.add(Stage.INPUT_FOLDING)
    return frozenset(Stage) - closed


def _write(
    subject: TuningTask,
    trials: Trials,
    outcome: Outcome,
    tuning: TuneOptions,
    out: Path | None,
    warnings: tuple[str, ...],
) -> Tuning:
    """Write the model that is kept, what its target needs beside it, and the log."""
    folder, recipe = subject.folder, outcome.best.recipe
    product, target, selection = trials.product(recipe), subject.builder.target, subject.selection
    name, path = output_path(folder, f"{int8_name(target)}-{TUNED}", out)
    subject.classifier.save(product.int8, path)
    open_session(path)  # a model that onnxruntime cannot load is not a result
    record_model(folder, name, path, recipe.method, target.name, {"recipe": recipe.to_json()})
    fp32, change, beside = None, None, BackendFiles()
    notes: list[str] = [*warnings, *notes_of(product.int8)]
    if target.compiler_calibrates and product.corrected_fp32 is not None:
        fp32 = tuning.write_fp32 or folder.path / f"{FP32}-{target.name}-{TUNED}.onnx"
        subject.classifier.save(product.corrected_fp32, fp32)
        change = selection.largest_change(product.corrected_fp32)
    if (backend := backend_of(target, folder)) is not None:
        beside = backend.after_tune(folder, TunedModel(fp32=fp32, method=recipe.method, plan=product.plan))
        notes.extend(beside.notes)
    rescaled = recipe.channel_shift or recipe.equalization or recipe.input_folding
    done = Tuning(
        outcome=outcome,
        trials=trials.made,
        name=name,
        path=path,
        fp32=fp32,
        fp32_change=change,
        rescaling_change=selection.largest_change(subject.builder.ranged(recipe)[0]) if rescaled else None,
        files=(path, *([fp32] if fp32 is not None else []), *beside.files),
        log=folder.path / f"tune-{target.name}.json",
        coverage=_coverage(subject, product.plan),
        notes=tuple(notes),
    )
    write_json(done.log, done.to_json())
    return done


def _coverage(subject: TuningTask, made: Plan) -> Coverage:
    """Return the coverage of a plan for the network of the run, or for what a recipe made of it."""
    return coverage(made, open_input_shape(subject.record))


def _silent(_: str) -> Count:
    return lambda done, total: None
