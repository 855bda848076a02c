"""Combines command-line options and the project file into the arguments of a workflow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quantkit.config.method import AUTO, Auto, Method, parse_method
from quantkit.config.pipeline import Pipeline
from quantkit.config.project import PROJECT_FILE, Project
from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.sources.open import ImagesLike
from quantkit.errors import UsageError
from quantkit.graph.fixed_inputs import parse_inputs
from quantkit.progress import Progress
from quantkit.runs.folder import RunFolder
from quantkit.targets import Target, parse_target
from quantkit.workflows.backends import Backend, backends_from
from quantkit.workflows.project import choose_pipeline, load_project, run_of_model
from quantkit.workflows.quantize import QuantizeOptions
from quantkit.workflows.quantized_files import method_of_run

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
