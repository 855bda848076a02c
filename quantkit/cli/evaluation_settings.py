"""Settings of evaluation, comparison and the search for a preprocessing, completed from ``quantkit.yaml``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from quantkit.cli.options import EvaluatedImages, InputOptions, LabelledImages
from quantkit.config.pipeline import Pipeline
from quantkit.config.project import PROJECT_FILE, Project
from quantkit.config.settings import RUN, Settings
from quantkit.errors import UsageError
from quantkit.files import user_cache_folder
from quantkit.runs.cache import FOLDER as CACHE
from quantkit.runs.folder import RECORD, RunFolder
from quantkit.workflows.project import find_run, run_of_model


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is evaluated: the arguments that the workflows over images share.

    Attributes:
        run: run folder, None if only files are evaluated.
        images: evaluation images, with labels and class names.
        pipeline: preprocessing, None for that of the run.
        output: name of the output with the class scores, None for that of the run, or to detect it.
        inputs: values of the other inputs, by name.
    """

    run: Path | None
    images: LabelledImages
    pipeline: Pipeline | None
    output: str | None
    inputs: dict[str, Any]

    @classmethod
    def completed(
        cls,
        run: Path | None,
        on: LabelledImages,
        read: InputOptions,
        pipeline: Pipeline | None,
        project: Project,
        *,
        own_images: bool = True,
    ) -> Self:
        """Return the options completed by the project file; a run has its own output and inputs.

        Raises:
            UsageError: ``--exif`` has no effect.
        """
        read.check_exif(pipeline, run)
        own = project if run is None else Project()
        return cls(
            run=run,
            images=on.completed(project, own_images=own_images),
            pipeline=pipeline,
            output=read.output or own.output,
            inputs=read.inputs() or dict(own.inputs),
        )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a workflow; images are opened where damaged ones are to be skipped."""
        return {**vars(self), **self.images.arguments()}

    def shown(self, project: Project, run: Path | None, on: EvaluatedImages, read: InputOptions) -> Settings:
        """Return the settings, each with its source.

        Args:
            project: the project file.
            run: as the command line gave it.
            on: images, as the command line gave them.
            read: preprocessing, as the command line gave it.
        """
        shown = Settings(project)
        record = None if self.run is None else RunFolder(self.run).read()
        shown.add("run", self.run, given=run, key="run")
        if self.images.images is not None:
            shown.add("images", self.images.images, given=on.images, key="images")
        elif record is not None and record.set.path:
            shown.add("images", f"where those of {record.set.path} are, without them", otherwise=RUN)
        shown.add("labels", self.images.labels, given=on.labels, key="labels")
        shown.add_preprocessing(self.pipeline, read.preset, None if record is None else record.pipeline)
        shown.add("output", self.output, key="output")
        shown.add("inputs", self.inputs, key="inputs")
        return shown


def comparison_settings(
    models: Sequence[str], run: Path | None, on: EvaluatedImages, read: InputOptions, project: Project
) -> EvaluationSettings:
    """Return the settings of a comparison from the options, else from the project file.

    Raises:
        UsageError: a model is given by name, and no run can be found.
        ConfigError: the preset is not valid.
    """
    only_files = all(model.endswith(".onnx") or "=" in model for model in models)
    has_own = read.preset is not None or (run is None and only_files)
    pipeline = read.pipeline(project) if has_own else None
    if run is None and not (only_files and pipeline is not None):
        run = _run_for(only_files, project)
    return EvaluationSettings.completed(run, on, read, pipeline, project)


def _run_for(only_files: bool, project: Project) -> Path:
    """Return the run of a comparison; models given as files need it only for its preprocessing."""
    try:
        return find_run(None, project)
    except UsageError:
        if not only_files:
            raise
    raise UsageError("no preprocessing was given", fix="give --preset, or --run of a calibrated run")


def evaluation_settings(
    model: str, run: Path | None, on: EvaluatedImages, read: InputOptions, project: Project
) -> EvaluationSettings:
    """Return the settings of an evaluation from the options, else from the project file.

    Raises:
        UsageError: no run was found for a name, or a file is given without preprocessing.
        ConfigError: the preset is not valid.
    """
    is_file = model.endswith(".onnx")
    pipeline = read.pipeline(project) if read.preset is not None or (run is None and is_file) else None
    if run is None and not is_file:
        run = find_run(None, project)
    if run is None and pipeline is None:
        raise UsageError("no preprocessing was given", fix=f"give --preset, --run, or a preset in {PROJECT_FILE}")
    return EvaluationSettings.completed(run, on, read, pipeline, project)


def cache_folder(run: Path | None, model: Path, project: Project) -> Path:
    """Return where the scores of a model are cached: in a run, so that `quantkit.compare` finds them.

    That is the given run, the project's if the model is the project's, or the model's own. Without a run, or in one
    that cannot be written, they are cached in the user's cache folder.
    """
    if run is None:
        is_project = project.model is not None and project.model.resolve() == model.resolve()
        run = (project.run if is_project else None) or run_of_model(model)
        if not (run / RECORD).is_file():
            return user_cache_folder()
    return run / CACHE if os.access(run, os.W_OK) else user_cache_folder()
