"""Settings of evaluation, comparison and the search for a preprocessing, completed from ``quantkit.yaml``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.config.pipeline import Pipeline
from quantkit.config.project import PROJECT_FILE, Project
from quantkit.config.settings import RUN, Settings
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import ImagesLike
from quantkit.errors import UsageError
from quantkit.evaluation.images import evaluation_images
from quantkit.files import user_cache_folder
from quantkit.graph.fixed_inputs import parse_inputs
from quantkit.runs.cache import FOLDER as CACHE
from quantkit.runs.folder import RECORD, RunFolder
from quantkit.runs.location import set_of_run
from quantkit.workflows.project import choose_pipeline, find_run, load_project, run_of_model


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
        **_output_and_inputs(project, run, output, inputs),
    )


def _output_and_inputs(project: Project, run: Path | None, output: str | None, inputs: Sequence[str]) -> dict[str, Any]:
    """Return the options completed by the project file; a run has its own output and inputs."""
    return {
        "output": output or (project.output if run is None else None),
        "inputs": parse_inputs(inputs) or (dict(project.inputs) if run is None else {}),
    }


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
        **_output_and_inputs(project, run, output, inputs),
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


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """The arguments of `quantkit.workflows.plan.plan_job` that a run, a calibration set or a project file can give.

    Attributes:
        models: ONNX files.
        run: run folder, None if nothing is taken from one.
        images: images of the job.
        place: where they are, as the user would give it.
        count: number of images, None for those of ``images``.
        pipeline: preprocessing.
    """

    models: tuple[Path, ...]
    run: Path | None
    images: ImagesLike
    place: str
    count: int | None
    pipeline: Pipeline | None


def plan_settings(
    *,
    folder: Path,
    calibrates: bool,
    models: Sequence[str],
    run: Path | None,
    set_: Path | None,
    images: str | None,
    preset: str | None,
    exif: bool | None = None,
) -> PlanSettings:
    """Return the settings of a plan: the options first, then the run, then ``quantkit.yaml``.

    Raises:
        UsageError: no model or no images are named, or a name without a run.
        ConfigError: the project file or the preset is not valid.
        CalibrationSetError: the calibration set cannot be read.
    """
    project = load_project(folder)
    if not models and project.model is None:
        raise UsageError("no model was given", fix=f"name the ONNX file, or one in {PROJECT_FILE}")
    models = models or [str(project.model)]
    if run is None and not all(model.endswith(".onnx") for model in models):
        run = find_run(None, project, folder)
    record = None if run is None else RunFolder(run).read()
    if run is None or record is None:
        paths = [Path(model) for model in models]
    else:
        runs = RunFolder(run)
        paths = [Path(model) if model.endswith(".onnx") else runs.model(model, record) for model in models]
    pipeline = choose_pipeline(preset, project, exif) if preset is not None or record is None else record.pipeline
    _check_exif(exif, None if preset is None and record is not None else pipeline)
    if images is not None and set_ is not None:
        raise UsageError("images were given twice", where="--set", fix="give --set or --images")
    own_set = project.set if calibrates and images is None and record is None else None
    if (manifest := set_ or own_set) is not None:
        chosen = CalibrationSet.load(manifest)
        found, place = ImageSource(chosen.root, chosen.items), str(manifest)
    elif images is not None or (record is None and project.images is not None):
        place = images or str(project.images)
        return PlanSettings(models=tuple(paths), run=run, images=place, place=place, count=None, pipeline=pipeline)
    elif record is None:
        raise UsageError("no images were given", fix=f"give --images, --set, --run, or images in {PROJECT_FILE}")
    elif calibrates:
        chosen = set_of_run(record)
        found, place = ImageSource(chosen.root, chosen.items, array_shape=chosen.array_shape), record.set.path
    else:
        found, _ = evaluation_images(project.images, None, None, None, record)
        place = str(found.root)
    return PlanSettings(models=tuple(paths), run=run, images=found, place=place, count=len(found), pipeline=pipeline)


def _cache_folder(run: Path | None, model: Path, project: Project, folder: Path) -> Path:
    if run is None:
        is_project = project.model is not None and project.model.resolve() == model.resolve()
        run = (project.run if is_project else None) or run_of_model(model, folder)
        if not (run / RECORD).is_file():
            return user_cache_folder()
    return run / CACHE


def _check_exif(exif: bool | None, pipeline: Pipeline | None) -> None:
    if exif is not None and pipeline is None:
        raise UsageError("the run sets the preprocessing", where="--exif", fix="give --preset too, or drop it")
