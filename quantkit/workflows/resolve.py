"""Combines command-line options and the project file into the arguments of a workflow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quantkit.config.method import AUTO, Auto, Method, parse_method
from quantkit.config.pipeline import Pipeline
from quantkit.config.project import PROJECT_FILE, Project
from quantkit.config.settings import RUN, Settings
from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.sources.open import ImagesLike
from quantkit.errors import UsageError
from quantkit.files import user_cache_folder
from quantkit.graph.fixed_inputs import parse_inputs
from quantkit.progress import Progress
from quantkit.runs.cache import FOLDER as CACHE
from quantkit.runs.folder import RECORD, RunFolder
from quantkit.targets import Target, parse_target
from quantkit.workflows.backends import Backend, backends_from
from quantkit.workflows.project import choose_pipeline, find_run, load_project, run_of_model
from quantkit.workflows.quantize import QuantizeOptions, method_of_run

DRAWN_SET = "set.csv"
DRAWN_IMAGES = 1000


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """The arguments of `quantkit.workflows.calibrate.calibrate`, or those to draw a calibration set first.

    Attributes:
        model: fp32 ONNX file.
        set: manifest, None if a set is drawn.
        images: images to draw from.
        skip_damaged: skip damaged parts of the images.
        labels: label file of the images.
        names: class names of the images.
        count: number of images to draw.
        seed: random seed of the draw.
        pipeline: preprocessing.
        run: run folder.
        method: calibration method.
        target: runtime or compiler of the model.
        options: quantization options.
        backends: configured backends by name.
        output: name of the output with the class scores, None to detect it.
        inputs: values of the other inputs, by name.
    """

    model: Path
    set: Path | None
    images: ImagesLike | None
    labels: Path | None
    names: Path | None
    count: int
    skip_damaged: bool = False
    seed: int
    pipeline: Pipeline
    run: Path
    method: Method | Auto
    target: Target
    options: QuantizeOptions
    backends: dict[str, Backend]
    output: str | None
    inputs: dict[str, Any]

    def calibration_set(self, progress: Progress | None = None) -> Path:
        """Return the manifest; draws the set into the run folder if only images were given."""
        if self.set is not None:
            return self.set
        assert self.images is not None
        drawn = build_calibration_set(
            self.images,
            self.labels,
            names=self.names,
            count=self.count,
            seed=self.seed,
            skip_damaged=self.skip_damaged,
            progress=progress,
        )
        folder = RunFolder(self.run)
        folder.create()
        path = folder.path / DRAWN_SET
        if not (path.is_file() and CalibrationSet.load(path).digest == drawn.digest):
            drawn.save(path)
        return path


def calibration_settings(
    *,
    folder: Path,
    model: Path | None,
    set_: Path | None,
    images: ImagesLike | None,
    labels: Path | None,
    count: int | None,
    skip_damaged: bool = False,
    seed: int | None,
    preset: str | None,
    exif: bool | None = None,
    method: str | None,
    fraction: float | None,
    target: str | None,
    per_channel: bool | None,
    skip: tuple[str, ...],
    run: Path | None,
    dialect: Literal["build", "compile"] | None,
    calibration_folder: Path | None,
    output: str | None = None,
    inputs: Sequence[str] = (),
) -> CalibrationSettings:
    """Return the settings of a calibration from the options, else from the folder's ``quantkit.yaml``.

    Raises:
        UsageError: model, images or preprocessing are missing, or options contradict each other.
        ConfigError: the project file or the preset is not valid.
    """
    project = load_project(folder)
    model = model or project.model
    if model is None:
        raise UsageError("no model was given", fix=f"give --model, or name one in {PROJECT_FILE}")
    if set_ is not None and images is not None:
        raise UsageError("both a set and images to draw one from were given", fix="give --set or --images, not both")
    if images is None:
        set_ = set_ or project.set
    if set_ is None and images is None:
        raise UsageError("no calibration images were given", fix=f"give --set or --images, or a set in {PROJECT_FILE}")
    if images is None:
        _refuse_draw(set_, count=count, seed=seed, labels=labels)
    pipeline = choose_pipeline(preset, project, exif)
    if pipeline is None:
        raise UsageError("no preprocessing was given", fix=f"give --preset, or one in {PROJECT_FILE}")
    return CalibrationSettings(
        model=model,
        set=set_,
        images=images,
        labels=labels,
        names=project.names,
        count=DRAWN_IMAGES if count is None else count,
        skip_damaged=skip_damaged,
        seed=seed or 0,
        pipeline=pipeline,
        run=run or project.run or run_of_model(model, folder),
        method=method_of(method, fraction, project),
        target=parse_target(target or project.target or "ort"),
        options=QuantizeOptions(
            per_channel=project.per_channel if per_channel is None else per_channel, skip=skip or project.skip
        ),
        backends=backends_from(
            dialect=dialect or project.dialect, calibration_folder=calibration_folder or project.calibration_folder
        ),
        output=output or project.output,
        inputs={**project.inputs, **parse_inputs(inputs)},
    )


def _refuse_draw(set_: Path | None, **options: object) -> None:
    """Reject options of a draw if a set is given, by an option or the project file: they would have no effect.

    Raises:
        UsageError: naming the option and the set.
    """
    for name, value in options.items():
        if value is not None:
            raise UsageError(
                f"the calibration set is {set_}, and nothing is drawn",
                where=f"--{name}",
                fix=f"give --images to draw a set, or leave out --{name}",
            )


def method_of(method: str | None, fraction: float | None, project: Project) -> Method | Auto:
    """Return the method of the options, else that of the project, else auto; a fraction alone is that of percentile."""
    name = method or project.method or (AUTO if fraction is None and project.fraction is None else "percentile")
    if fraction is None and name == "percentile":
        fraction = project.fraction
    return parse_method(name, fraction=fraction)


def method_for_run(method: str | None, fraction: float | None, project: Project, run: Path, target: Target) -> Method:
    """Return the method of the options, else the project's; where that is auto, that of the run's int8 model.

    Raises:
        UsageError: there is no such run.
    """
    chosen = method_of(method, fraction, project)
    return method_of_run(RunFolder(run).read(), target) if isinstance(chosen, Auto) else chosen


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """The arguments of `quantkit.workflows.compare.compare` that a project file can set.

    Attributes:
        run: run folder, None if only files are compared.
        images: evaluation images.
        labels: label file of the images.
        names: class names.
        pipeline: preprocessing, None for that of the run.
        output: name of the output with the class scores, None for that of the run, or to detect it.
        inputs: values of the other inputs, by name.
    """

    run: Path | None
    images: ImagesLike | None
    labels: Path | None
    names: Path | None
    pipeline: Pipeline | None
    output: str | None
    inputs: dict[str, Any]


def comparison_settings(
    *,
    folder: Path,
    models: Sequence[str],
    run: Path | None,
    images: ImagesLike | None,
    labels: Path | None,
    names: Path | None,
    preset: str | None,
    exif: bool | None = None,
    output: str | None = None,
    inputs: Sequence[str] = (),
) -> ComparisonSettings:
    """Return the settings of a comparison from the options, else from the folder's ``quantkit.yaml``.

    Raises:
        UsageError: a model is given by name, and no run can be found.
        ConfigError: the project file or the preset is not valid.
    """
    project = load_project(folder)
    pipeline = choose_pipeline(preset, project, exif) if preset is not None else None
    only_files = all(model.endswith(".onnx") or "=" in model for model in models)
    if run is None and only_files:
        pipeline = pipeline or choose_pipeline(None, project, exif)
    if run is None and not (only_files and pipeline is not None):
        run = _run_for(only_files, project, folder)
    _check_exif(exif, pipeline)
    return _completed(project, run, images, labels, names, pipeline, output, inputs)


def _completed(
    project: Project,
    run: Path | None,
    images: ImagesLike | None,
    labels: Path | None,
    names: Path | None,
    pipeline: Pipeline | None,
    output: str | None,
    inputs: Sequence[str],
) -> ComparisonSettings:
    """Return the options completed by the project file: its labels for its own images, its output without a run."""
    own_images = images is None
    return ComparisonSettings(
        run=run,
        images=project.images if own_images else images,
        labels=project.labels if own_images and labels is None else labels,
        names=names or project.names,
        pipeline=pipeline,
        output=output or (project.output if run is None else None),
        inputs=parse_inputs(inputs) or (dict(project.inputs) if run is None else {}),
    )


def _run_for(only_files: bool, project: Project, folder: Path) -> Path:
    """Return the run of a comparison; models given as files need it only for its preprocessing."""
    try:
        return find_run(None, project, folder)
    except UsageError:
        if not only_files:
            raise
    raise UsageError("no preprocessing was given", fix="give --preset, or --run of a calibrated run")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(ComparisonSettings):
    """The arguments of `quantkit.workflows.evaluate.evaluate` that a project file can set.

    Attributes:
        cache: folder for cached results.
    """

    cache: Path


def evaluation_settings(
    *,
    folder: Path,
    model: str,
    run: Path | None,
    images: ImagesLike | None,
    labels: Path | None,
    names: Path | None,
    preset: str | None,
    exif: bool | None = None,
    output: str | None = None,
    inputs: Sequence[str] = (),
) -> EvaluationSettings:
    """Return the settings of an evaluation from the options, else from the folder's ``quantkit.yaml``.

    Scores are cached in a run, so that `quantkit.compare` finds them: the given run, the project's if the model is the
    project's, or the model's own. Without a run they are cached in the user's cache folder.

    Raises:
        UsageError: no run was found for a name, or a file is given without preprocessing.
        ConfigError: the project file or the preset is not valid.
    """
    project = load_project(folder)
    is_file = model.endswith(".onnx")
    pipeline = choose_pipeline(preset, project, exif) if preset is not None or (run is None and is_file) else None
    if run is None and not is_file:
        run = find_run(None, project, folder)
    if run is None and pipeline is None:
        raise UsageError("no preprocessing was given", fix=f"give --preset, --run, or a preset in {PROJECT_FILE}")
    _check_exif(exif, pipeline)
    shared = _completed(project, run, images, labels, names, pipeline, output, inputs)
    return EvaluationSettings(**vars(shared), cache=_cache_folder(run, Path(model), project, folder))


@dataclass(frozen=True, kw_only=True)
class GuessSettings:
    """The arguments of `quantkit.workflows.guess_preprocessing.guess_preprocessing` that a project file can give.

    Attributes:
        model: fp32 ONNX file.
        images: images to try, None for those of the run.
        labels: their label file.
        names: class names.
        pipeline: preprocessing to start from, None for the run's, or for what is usual.
        output: name of the output that holds the class scores, None where it is to be found.
        inputs: values of the inputs beside the image, by name.
    """

    model: Path
    images: ImagesLike | None
    labels: Path | None
    names: Path | None
    pipeline: Pipeline | None
    output: str | None
    inputs: dict[str, Any]


def guess_settings(
    *,
    folder: Path,
    model: Path | None,
    run: Path | None,
    images: ImagesLike | None,
    labels: Path | None,
    names: Path | None,
    preset: str | None,
    exif: bool | None = None,
    output: str | None = None,
    inputs: Sequence[str] = (),
) -> GuessSettings:
    """Return the settings of a search for the preprocessing: the options first, then ``quantkit.yaml``, then the run.

    Raises:
        UsageError: no model or no images are named.
        ConfigError: the project file or the preset is not valid.
    """
    project = load_project(folder)
    model = model or project.model
    if model is None:
        raise UsageError("no model was given", fix=f"name the ONNX file, or one in {PROJECT_FILE}")
    pipeline = choose_pipeline(preset, project, exif) if preset is not None or run is None else None
    _check_exif(exif, pipeline)
    if images is None and run is None:
        images, labels = project.images, labels or project.labels
    if images is None and run is None:
        raise UsageError("no images were given", fix=f"give --images, --run, or images in {PROJECT_FILE}")
    return GuessSettings(
        model=model,
        images=images,
        labels=labels,
        names=names or project.names,
        pipeline=pipeline,
        output=output or (project.output if run is None else None),
        inputs=parse_inputs(inputs) or (dict(project.inputs) if run is None else {}),
    )


def settings_of_guess(
    settings: GuessSettings,
    *,
    model: Path | None,
    run: Path | None,
    images: ImagesLike | None,
    labels: Path | None,
    preset: str | None,
) -> Settings:
    """Return the settings of a search for the preprocessing, each with its source.

    Args:
        settings: merged.
        model: as the command line gave it, and so on.
        run: run folder.
        images: images to try.
        labels: their label file.
        preset: preprocessing to start from.
    """
    merged = Settings(load_project(Path()))
    merged.add("model", settings.model, given=model, key="model")
    merged.add("run", run, given=run)
    merged.add("images", None if settings.images is None else str(settings.images), given=images, key="images")
    merged.add("labels", settings.labels, given=labels, key="labels")
    record = None if run is None else RunFolder(run).read()
    merged.add_preprocessing(settings.pipeline, preset, None if record is None else record.pipeline)
    return merged


def settings_of_evaluation(
    settings: ComparisonSettings,
    *,
    run: Path | None,
    images: ImagesLike | None,
    labels: Path | None,
    preset: str | None,
) -> Settings:
    """Return the settings of an evaluation or a comparison, each with its source.

    Args:
        settings: merged.
        run: as the command line gave it, and so on.
        images: evaluation images.
        labels: their label file.
        preset: preprocessing.
    """
    merged = Settings(load_project(Path()))
    record = None if settings.run is None else RunFolder(settings.run).read()
    merged.add("run", settings.run, given=run, key="run")
    of_set = None if record is None or not record.set.path else f"where those of {record.set.path} are, without them"
    if settings.images is None:
        merged.add("images", of_set, otherwise=RUN)
    else:
        merged.add("images", str(settings.images), given=images, key="images")
    merged.add("labels", settings.labels, given=labels, key="labels")
    merged.add_preprocessing(settings.pipeline, preset, None if record is None else record.pipeline)
    merged.add("output", settings.output, key="output")
    merged.add("inputs", settings.inputs, key="inputs")
    return merged


def _check_exif(exif: bool | None, pipeline: Pipeline | None) -> None:
    if exif is not None and pipeline is None:
        raise UsageError("the run sets the preprocessing", where="--exif", fix="give --preset too, or drop it")


def _cache_folder(run: Path | None, model: Path, project: Project, folder: Path) -> Path:
    if run is None:
        is_project = project.model is not None and project.model.resolve() == model.resolve()
        run = (project.run if is_project else None) or run_of_model(model, folder)
        if not (run / RECORD).is_file():
            return user_cache_folder()
    return run / CACHE
