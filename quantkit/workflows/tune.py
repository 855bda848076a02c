"""``quantkit tune``: the cheapest change to a quantization that brings the accuracy back, found, judged and written.

Recipes are made and compared on the images of the run's calibration set, two thirds of which are worked on and one
third of which chooses; the best of each rung is judged on evaluation images that had no part in either.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.config.arguments import AnyPath, as_path, optional_path, require
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.folder import ImageFolder
from quantkit.engine.session import default_threads, open_session
from quantkit.evaluation.images import evaluation_images, limited
from quantkit.files import sha256_json, write_json, write_text
from quantkit.graph.model import save_model
from quantkit.graph.qdq.write import notes_of
from quantkit.progress import Count
from quantkit.ptq.shift_groups import movable
from quantkit.runs.folder import FP32, RunFolder
from quantkit.search.mixed_precision import FloatBudget
from quantkit.search.stages import REWRITING, Goal, Outcome, Stage, Trial, search
from quantkit.search.trial_cache import TrialCache, trial_json
from quantkit.search.trials import Subject, Trials, Watch
from quantkit.targets import ORT, Target, as_target
from quantkit.workflows.quantize import QuantizeOptions, int8_name, output_path, record_model
from quantkit.workflows.vacc.build_file import VamcOptions, build_rewritten

BUILD_FILE = "vamc-tuned.yaml"
JSON_SCHEMA = 1
TUNED = "tuned"


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What a search may do.

    Attributes:
        goal: what is to be met.
        budget: what may be left in float.
        without: steps of the search that are left out.
        rewrite: weights and biases may be changed; for VACC, an fp32 model is written for its compiler.
        seconds: try nothing more after so many, and give up what is being tried; None for no limit, and the same result
            each time.
        write_fp32: where the rewritten fp32 model goes; in the run folder when absent.
        vamc: choices of the build file.
    """

    goal: Goal
    budget: FloatBudget
    without: frozenset[Stage] = frozenset()
    rewrite: bool = True
    seconds: float | None = None
    write_fp32: Path | None = None
    vamc: VamcOptions | None = None


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
        build_file: for the card's compiler, None for other targets.
        log: the file that holds all this.
        notes: what the user may want to know.
    """

    outcome: Outcome
    trials: tuple[Trial, ...]
    name: str
    path: Path
    fp32: Path | None
    fp32_change: float | None
    rescaling_change: float | None
    build_file: Path | None
    log: Path
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "schema": JSON_SCHEMA,
            "verdict": self.outcome.verdict.value,
            "out_of_time": self.outcome.out_of_time,
            "best": trial_json(self.outcome.best),
            "trials": [trial_json(trial) for trial in self.trials],
            "files": [str(path) for path in (self.path, self.fp32, self.build_file) if path is not None],
            "fp32_change": self.fp32_change,
            "rescaling_change": self.rescaling_change,
            "notes": list(self.notes),
        }


def tune(
    run: AnyPath,
    tuning: TuneOptions,
    *,
    target: Target | str = ORT,
    options: QuantizeOptions | None = None,
    images: AnyPath | ImageFolder | None = None,
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
        OutputError: a file cannot be written.
    """
    target, tuning = as_target(target), require(TuneOptions, tuning, "tuning")
    options, out = require(QuantizeOptions, options or QuantizeOptions(), "options"), optional_path(out, "out")
    folder, watch = RunFolder(as_path(run, "run")), watch or _silent
    record = folder.read()
    holdout_images, warnings = evaluation_images(images, labels, names, exclude, record)
    holdout_images = limited(holdout_images, limit)
    with folder.locked():
        subject = Subject.of_run(folder, record, target, options, tuning.rewrite, threads or default_threads())
        key = sha256_json([subject.key(), *_evaluated_on(holdout_images), asdict(tuning.budget)])
        cache = TrialCache(folder.path / f"tune-{target.name}.journal.json", key, fresh=fresh)
        trials = Trials(subject, holdout_images, cache, tuning.budget, tuning.seconds, watch)
        outcome = search(
            subject.start,
            trials,
            tuning.goal,
            stages=_stages(subject, tuning, options),
            widening=trials.widening,
        )
        return _write(subject, trials, outcome, tuning, out, tuple(warnings))


def _evaluated_on(holdout_images: ImageFolder) -> tuple[str, list[str], list[int] | None]:
    """Return what judgements depend on, of the images that judge."""
    labels = None if holdout_images.labels is None else [int(label) for label in holdout_images.labels]
    return str(holdout_images.root), list(holdout_images.names), labels


def _stages(subject: Subject, tuning: TuneOptions, options: QuantizeOptions) -> frozenset[Stage]:
    """Return the steps that can be taken for this model and target, and that the user wants."""
    closed = set(tuning.without)
    if not tuning.rewrite:
        closed |= REWRITING
    if not subject.builder.target.compiler_calibrates or options.per_channel is not None:
        closed.add(Stage.WEIGHT_SCALE)
    if subject.builder.target.compiler_calibrates:
        closed.add(Stage.RANGES)
    if not movable(subject.prepared).free.any():
        closed.add(Stage.CENTERING)
    if subject.builder.levels is None:
        closed.add(Stage.EXACT_INPUT)
    return frozenset(Stage) - closed


def _write(
    subject: Subject, trials: Trials, outcome: Outcome, tuning: TuneOptions, out: Path | None, warnings: tuple[str, ...]
) -> Tuning:
    """Write the model that is kept, what its target needs beside it, and the log."""
    folder, recipe = subject.folder, outcome.best.recipe
    product, target, selection = trials.product(recipe), subject.builder.target, subject.selection
    name, path = output_path(folder, f"{int8_name(target)}-{TUNED}", out)
    save_model(product.int8, path)
    open_session(path)  # a model that onnxruntime cannot load is not a result
    record_model(folder, name, path, recipe.method, target.name, {"recipe": recipe.to_json()})
    fp32, change, build_file = None, None, None
    notes = [*warnings, *notes_of(product.int8)]
    if subject.builder.target.compiler_calibrates:
        if product.corrected_fp32 is not None:
            fp32 = tuning.write_fp32 or folder.path / f"{FP32}-{target.name}-{TUNED}.onnx"
            save_model(product.corrected_fp32, fp32)
            change = selection.largest_change(product.corrected_fp32)
        checkpoint = fp32 or Path(subject.record.model.path)
        build = build_rewritten(
            folder, subject.record, checkpoint, recipe.method, product.plan, tuning.vamc or VamcOptions()
        )
        build_file = folder.path / BUILD_FILE
        write_text(build_file, build.text)
        notes.extend(build.notes)
    rescaled = recipe.channel_shift or recipe.equalization or recipe.input_folding
    done = Tuning(
        outcome=outcome,
        trials=trials.made,
        name=name,
        path=path,
        fp32=fp32,
        fp32_change=change,
        rescaling_change=selection.largest_change(subject.builder.ranged(recipe)[0]) if rescaled else None,
        build_file=build_file,
        log=folder.path / f"tune-{target.name}.json",
        notes=tuple(notes),
    )
    write_json(done.log, done.to_json())
    return done


def _silent(_: str) -> Count:
    return lambda done, total: None
