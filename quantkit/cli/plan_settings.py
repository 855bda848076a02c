"""Settings of a plan, completed from a run, a calibration set or ``quantkit.yaml``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.cli.options import PreprocessingOptions
from quantkit.config.pipeline import Pipeline
from quantkit.config.project import PROJECT_FILE, Project
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import ImagesLike
from quantkit.errors import UsageError
from quantkit.evaluation.images import evaluation_images
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.runs.location import set_of_run
from quantkit.workflows.project import find_run


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """The arguments of `quantkit.workflows.plan.plan_job` that a run, a calibration set or a project file can give.

    Attributes:
        models: ONNX files.
        run: run folder, None if nothing is taken from one.
        images: images of the job.
        place: where they are, as the user would give it.
        pipeline: preprocessing.
    """

    models: tuple[Path, ...]
    run: Path | None
    images: ImagesLike
    place: str
    pipeline: Pipeline | None

    @property
    def count(self) -> int | None:
        """Number of images, None if their place has to be looked through for it."""
        return len(self.images) if isinstance(self.images, ImageSource) else None


def plan_settings(
    models: Sequence[str],
    run: Path | None,
    images: str | Path | None,
    read: PreprocessingOptions,
    project: Project,
    *,
    calibrates: bool,
) -> PlanSettings:
    """Return the settings of a plan: the options first, then the run, then the project file.

    Args:
        models: ONNX files, or names in the run; none for that of the project file.
        run: run folder.
        images: a place, or the path of a calibration set.
        read: preprocessing.
        project: the project file.
        calibrates: the job is a calibration, over the images of a set.

    Raises:
        UsageError: no model or no images are named, a name without a run, or ``--exif`` has no effect.
        ConfigError: the preset is not valid.
        CalibrationSetError: the calibration set cannot be read.
    """
    if not models and project.model is None:
        raise UsageError("no model was given", fix=f"name the ONNX file, or one in {PROJECT_FILE}")
    models = models or [str(project.model)]
    if run is None and not all(model.endswith(".onnx") for model in models):
        run = find_run(None, project)
    record = None if run is None else RunFolder(run).read()
    pipeline = read.pipeline(project) if read.preset is not None or record is None else None
    read.check_exif(pipeline, run)
    found, place = _images(images, record, project, calibrates=calibrates)
    return PlanSettings(
        models=tuple(Path(model) if model.endswith(".onnx") else _model(run, model) for model in models),
        run=run,
        images=found,
        place=place,
        pipeline=record.pipeline if pipeline is None and record is not None else pipeline,
    )


def _model(run: Path | None, name: str) -> Path:
    assert run is not None
    folder = RunFolder(run)
    return folder.model(name, folder.read())


def _images(
    images: str | Path | None, record: RunRecord | None, project: Project, *, calibrates: bool
) -> tuple[ImagesLike, str]:
    """Return the images of the job, and where they are."""
    if images is None and record is None:
        images = project.set if calibrates and project.set is not None else project.images
    if isinstance(images, Path):
        chosen = CalibrationSet.load(images)
        return ImageSource(chosen.root, chosen.items), str(images)
    if images is not None:
        return images, images
    if record is None:
        raise UsageError("no images were given", fix=f"give --images, --set, --run, or images in {PROJECT_FILE}")
    if calibrates:
        chosen = set_of_run(record)
        return ImageSource(chosen.root, chosen.items, array_shape=chosen.array_shape), record.set.path
    found, _ = evaluation_images(project.images, None, None, None, record)
    return found, str(found.root)
