"""Settings of a calibration: its options, completed by ``quantkit.yaml``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.cli.options import CalibrateOptions, DeviceOptions
from quantkit.config.method import Auto, Method
from quantkit.config.pipeline import Pipeline
from quantkit.config.project import PROJECT_FILE, Project
from quantkit.config.settings import Settings
from quantkit.data.build_set import build_calibration_set
from quantkit.engine.classifier import read_classifier
from quantkit.errors import UsageError
from quantkit.progress import Progress
from quantkit.runs.folder import RunFolder, set_digest
from quantkit.targets import Target
from quantkit.workflows.backends import Backend, backends_from
from quantkit.workflows.project import run_of_model
from quantkit.workflows.quantize_task import QuantizeOptions

DRAWN_SET = "set.csv"


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A calibration set that is drawn from images: the arguments of `build_calibration_set`."""

    images: str
    labels: Path | None
    names: Path | None
    count: int | None
    seed: int
    skip_damaged: bool

    def __str__(self) -> str:
        return f"{self.count or 'at most 1000'} of {self.images}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """The arguments of `quantkit.workflows.calibrate.calibrate` that a project file can set.

    Attributes:
        model: fp32 ONNX file.
        set: manifest, or how to draw a set.
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
    set: Path | Draw
    pipeline: Pipeline
    run: Path
    method: Method | Auto
    target: Target
    options: QuantizeOptions
    backends: dict[str, Backend]
    output: str | None
    inputs: dict[str, Any]

    def calibration_set(self, progress: Progress) -> Path:
        """Return the manifest; a set to be drawn is saved in the run folder.

        It never replaces another one there: the run may be of that one, and is not yet known to be replaced.

        Raises:
            ModelError: the model of a set to be drawn cannot be read, or is no image classifier.
            ConfigError: the preprocessing does not fit it.
            CalibrationSetError: there are fewer usable images than requested.
            LabelError: labels are missing or malformed.
            OutputError: the set cannot be saved.
        """
        if isinstance(self.set, Path):
            return self.set
        # Before images are decoded, and a run folder is made.
        read_classifier(self.model, output=self.output, inputs=self.inputs).check(self.pipeline)
        drawn = build_calibration_set(**vars(self.set), progress=progress)
        folder = RunFolder(self.run)
        own = DRAWN_SET.replace(".csv", f"-{drawn.digest.removeprefix('sha256:')[:8]}.csv")
        with folder.locked():
            for path in (folder.path / DRAWN_SET, folder.path / own):
                if not path.exists():
                    drawn.save(path)
                    return path
                if set_digest(path) == drawn.digest:
                    return path
            drawn.save(path)
        return path

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the workflow but for model and set."""
        return {name: value for name, value in vars(self).items() if name not in ("model", "set")}


def calibration_settings(given: CalibrateOptions, project: Project) -> CalibrationSettings:
    """Return the settings of a calibration from the options, else from the project file.

    Raises:
        UsageError: model, images or preprocessing are missing, or options contradict each other.
        ConfigError: the preset is not valid.
    """
    model = given.model or project.model
    if model is None:
        raise UsageError("no model was given", fix=f"give --model, or name one in {PROJECT_FILE}")
    set_ = _set(given, project)
    pipeline = given.pipeline(project)
    if pipeline is None:
        raise UsageError("no preprocessing was given", fix=f"give --preset, or one in {PROJECT_FILE}")
    method, target = given.method_and_target(project)
    return CalibrationSettings(
        model=model,
        set=set_,
        pipeline=pipeline,
        run=given.run or project.run or run_of_model(model),
        method=method,
        target=target,
        options=given.quantize_options(project, bias_correction=given.bias_correction),
        backends=backends_from(
            dialect=given.dialect or project.dialect,
            calibration_folder=given.calibration_folder or project.calibration_folder,
        ),
        output=given.output or project.output,
        inputs={**project.inputs, **given.inputs()},
    )


def merged_settings(
    given: CalibrateOptions,
    settings: CalibrationSettings,
    execution: DeviceOptions,
    project: Project,
    *,
    until_stable: str | None = None,
) -> Settings:
    """Return the settings of a calibration as they are shown and recorded, each with its source.

    Args:
        given: the options.
        settings: the options completed by the project file.
        execution: where the model runs.
        project: the project file.
        until_stable: of the option of that name.
    """
    merged = Settings(project)
    merged.add("model", settings.model, given=given.model, key="model")
    merged.add("images", settings.set, given=given.set_ or given.images, key="set")
    merged.add_preprocessing(settings.pipeline, given.preset)
    given.show_method(merged, settings.method, settings.target)
    given.show_options(merged, settings.options, bias=given.bias_correction)
    merged.add("output", settings.output, given=given.output, key="output")
    merged.add("inputs", settings.inputs, given=given.input_, key="inputs")
    merged.add("until stable", until_stable, given=until_stable)
    merged.add("dialect", given.dialect or project.dialect, given=given.dialect, key="dialect")
    execution.show(merged)
    merged.add("batch", execution.batch if execution.batch != 1 else None, given=execution.batch)
    merged.add("run", settings.run, given=given.run, key="run")
    return merged


def _set(given: CalibrateOptions, project: Project) -> Path | Draw:
    """Return the set, or how it is drawn.

    Raises:
        UsageError: there is neither, or both; or options of a draw are given with a set: they would have no effect.
    """
    if given.images is not None:
        if given.set_ is not None:
            fix = "give --set or --images, not both"
            raise UsageError("both a set and images to draw one from were given", fix=fix)
        return Draw(
            images=given.images,
            labels=given.labels,
            names=project.names,
            count=given.count,
            seed=given.seed or 0,
            skip_damaged=given.skip_damaged,
        )
    chosen = given.set_ or project.set
    if chosen is None:
        raise UsageError("no calibration images were given", fix=f"give --set or --images, or a set in {PROJECT_FILE}")
    for name in ("count", "seed", "labels"):
        if getattr(given, name) is not None:
            raise UsageError(
                f"the calibration set is {chosen}, and nothing is drawn",
                where=f"--{name}",
                fix=f"give --images to draw a set, or leave out --{name}",
            )
    return chosen
