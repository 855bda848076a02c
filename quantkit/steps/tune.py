"""``quantkit tune``: the cheapest change to a quantization that brings the accuracy back, found, judged and written.

Recipes are made and compared on the images of the run's calibration set, two thirds of which are worked on and one
third of which chooses; the best of each rung is judged on evaluation images that had no part in either.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.folder import ImageFolder
from quantkit.files import sha256_json, write_json, write_text
from quantkit.graph.model import save_model
from quantkit.graph.qdq import notes_of
from quantkit.run.folder import FP32, RunFolder
from quantkit.run.session import default_threads, open_session
from quantkit.steps.evaluation_images import evaluation_images, limited
from quantkit.steps.progress import Count
from quantkit.steps.quantize import QuantizeOptions, enter_quantized, int8_name, place_of
from quantkit.steps.tune_journal import Journal, trial_json
from quantkit.steps.tune_trials import Subject, Trials, Watch
from quantkit.steps.vamc import VamcOptions, build_rewritten
from quantkit.targets import ORT, Target
from quantkit.tuning.mixed import FloatBudget
from quantkit.tuning.moves import movable
from quantkit.tuning.search import REWRITING, Goal, Outcome, Rung, Trial, search

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
    without: frozenset[Rung] = frozenset()
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
    run: Path,
    tuning: TuneOptions,
    *,
    target: Target = ORT,
    options: QuantizeOptions | None = None,
    images: Path | ImageFolder | None = None,
    labels: Path | None = None,
    names: Path | None = None,
    exclude: Path | CalibrationSet | None = None,
    limit: int | None = None,
    out: Path | None = None,
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
        target: what will run the model.
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
    folder, options, watch = RunFolder(run), options or QuantizeOptions(), watch or _silent
    record = folder.read()
    judging, warnings = evaluation_images(images, labels, names, exclude, record)
    judging = limited(judging, limit)
    with folder.locked():
        subject = Subject.of_run(folder, record, target, options, tuning.rewrite, threads or default_threads())
        key = sha256_json([subject.key(), *_judged_on(judging), asdict(tuning.budget)])
        journal = Journal(folder.path / f"tune-{target.name}.journal.json", key, fresh=fresh)
        trials = Trials(subject, judging, journal, tuning.budget, tuning.seconds, watch)
        outcome = search(
            subject.start,
            trials,
            tuning.goal,
            rungs=_rungs(subject, tuning, options),
            widening=trials.widening,
        )
        return _write(subject, trials, outcome, tuning, out, tuple(warnings))


def _judged_on(judging: ImageFolder) -> tuple[str, list[str], list[int] | None]:
    """Return what judgements depend on, of the images that judge."""
    labels = None if judging.labels is None else [int(label) for label in judging.labels]
    return str(judging.root), list(judging.names), labels


def _rungs(subject: Subject, tuning: TuneOptions, options: QuantizeOptions) -> frozenset[Rung]:
    """Return the steps that can be taken for this model and target, and that the user wants."""
    closed = set(tuning.without)
    if not tuning.rewrite:
        closed |= REWRITING
    if not subject.bench.target.compiler_calibrates or options.per_channel is not None:
        closed.add(Rung.WEIGHT_SCALE)
    if subject.bench.target.compiler_calibrates:
        closed.add(Rung.RANGES)
    if not movable(subject.prepared).free.any():
        closed.add(Rung.CENTERING)
    if subject.bench.levels is None:
        closed.add(Rung.EXACT_INPUT)
    return frozenset(Rung) - closed


def _write(
    subject: Subject, trials: Trials, outcome: Outcome, tuning: TuneOptions, out: Path | None, warnings: tuple[str, ...]
) -> Tuning:
    """Write the model that is kept, what its target needs beside it, and the log."""
    folder, recipe = subject.folder, outcome.best.recipe
    product, target, choosing = trials.product(recipe), subject.bench.target, subject.choosing
    name, path = place_of(folder, f"{int8_name(target)}-{TUNED}", out)
    save_model(product.int8, path)
    open_session(path)  # a model that onnxruntime cannot load is not a result
    enter_quantized(folder, name, path, recipe.method, target.name, {"recipe": recipe.to_json()})
    fp32, change, build_file = None, None, None
    notes = [*warnings, *notes_of(product.int8)]
    if subject.bench.target.compiler_calibrates:
        if product.handed is not None:
            fp32 = tuning.write_fp32 or folder.path / f"{FP32}-{target.name}-{TUNED}.onnx"
            save_model(product.handed, fp32)
            change = choosing.largest_change(product.handed)
        checkpoint = fp32 or Path(subject.record.model.path)
        build = build_rewritten(
            folder, subject.record, checkpoint, recipe.method, product.plan, tuning.vamc or VamcOptions()
        )
        build_file = folder.path / BUILD_FILE
        write_text(build_file, build.text)
        notes.extend(build.notes)
    rescaled = recipe.centering or recipe.equalization or recipe.exact_input
    done = Tuning(
        outcome=outcome,
        trials=trials.made,
        name=name,
        path=path,
        fp32=fp32,
        fp32_change=change,
        rescaling_change=choosing.largest_change(subject.bench.ranged(recipe)[0]) if rescaled else None,
        build_file=build_file,
        log=folder.path / f"tune-{target.name}.json",
        notes=tuple(notes),
    )
    write_json(done.log, done.to_json())
    return done


def _silent(_: str) -> Count:
    return lambda done, total: None
