"""The project file, ``quantkit.yaml``: defaults for the commands in its folder."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from quantkit.config.arguments import AnyPath, path_or
from quantkit.config.choices import TargetName
from quantkit.config.method import MethodOrAuto
from quantkit.config.pipeline import ORDER, PRESETS, Pipeline
from quantkit.config.text import lines_of_keys, parse_yaml, read_text, validation_error
from quantkit.errors import ConfigError

PROJECT_FILE = "quantkit.yaml"


class Project(BaseModel):
    """All keys of ``quantkit.yaml``; paths are relative to its folder.

    Attributes:
        version: version of the format.
        model: fp32 ONNX file.
        preset: name of a preset, or a file: YAML with ``ops``, a vamc build file or a vdsp_params.json.
        ops: operations of the preprocessing, instead of a preset.
        exif: whether to apply the EXIF orientation of images; by default as set by the preset.
        set: calibration set manifest.
        images: evaluation images: a folder, an archive, parquet, shards, or a URL; by default the other images of the
            source that the set was drawn from.
        labels: label file of the evaluation images.
        names: class names, one per line.
        method: auto, minmax, percentile, kl or mse.
        fraction: fraction of the percentile method.
        target: ort, tensorrt or vacc.
        per_channel: one weight scale per output channel.
        skip: layers left in float: names, globs, ``re:`` patterns, or ``conv:`` indices.
        run: the run folder.
        dialect: dialect of the vamc YAML.
        calibration_folder: folder of the calibration images for the vendor's compiler.
        output: name of the output with the class scores.
        inputs: values of the other inputs, by name: numbers, or paths of ``.npy`` files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    model: Path | None = None
    preset: str | None = None
    ops: tuple[dict[str, Any], ...] | None = None
    exif: bool | None = None
    set: Path | None = None
    images: str | None = None
    labels: Path | None = None
    names: Path | None = None
    method: MethodOrAuto | None = None
    fraction: Annotated[float, Field(gt=0.5, le=1.0)] | None = None
    target: TargetName | None = None
    per_channel: bool | None = None
    skip: tuple[str, ...] = ()
    run: Path | None = None
    dialect: Literal["build", "compile"] | None = None
    calibration_folder: Path | None = None
    output: str | None = None
    inputs: dict[str, bool | int | float | str] = Field(default_factory=dict)

    _lines: dict[str, int] = PrivateAttr(default_factory=dict)

    def line_of(self, key: str) -> int | None:
        """Return the line of a key in the file, None where the file does not have it."""
        return self._lines.get(key)

    @model_validator(mode="after")
    def _one_preprocessing(self) -> Self:
        if self.preset is not None and self.ops is not None:
            raise ValueError("give preset or ops, not both")
        return self

    @model_validator(mode="after")
    def _usable_paths(self) -> Self:
        for name, value in self:
            if isinstance(value, str | Path) and "\0" in str(value):
                raise ValueError(f"{name} contains a zero byte, which file names cannot have")
        return self

    def under(self, folder: Path) -> "Project":
        """Return the project with its paths resolved relative to a folder."""
        fields = ("model", "set", "labels", "names", "run", "calibration_folder")
        moved = {name: folder / path for name in fields if (path := getattr(self, name)) is not None}
        if self.images is not None and "://" not in self.images:
            moved["images"] = str(folder / self.images)
        files = {name: str(folder / value) if isinstance(value, str) else value for name, value in self.inputs.items()}
        return self.model_copy(update={**moved, "inputs": files})


def parse_project(text: str, where: object) -> Project:
    """Return the project of a YAML text.

    Raises:
        ConfigError: not YAML, an unknown key (the message names the nearest known one), or a value of the wrong type.
    """
    values = parse_yaml(text, where)
    try:
        project = Project.model_validate(values)
        project._lines.update(lines_of_keys(text))
        return project
    except ValidationError as error:
        raise validation_error(error, list(Project.model_fields), where) from error


def parse_pipeline(text: str, where: object) -> Pipeline:
    """Return the pipeline of a YAML text with the key ``ops``.

    Raises:
        ConfigError: not YAML, or not a valid list of operations.
    """
    values = parse_yaml(text, where)
    if set(values) != {"ops"}:
        raise ConfigError("a preprocessing file has the single key ops", where=where)
    return pipeline_of_ops(values["ops"], where)


def pipeline_of_ops(ops: Any, where: object) -> Pipeline:
    """Return the pipeline of a list of operations given as plain data.

    Raises:
        ConfigError: an unknown operation, an invalid value, or a wrong order.
    """
    try:
        pipeline = Pipeline(ops=ops)
    except ValidationError as error:
        raise validation_error(error, ["op", "size", "mean", "std", "mode", "interpolation"], where) from error
    if not pipeline.ops:
        raise ConfigError(ORDER, where=where)
    return pipeline


def as_pipeline(pipeline: Pipeline | AnyPath) -> Pipeline:
    """Return preprocessing given as a value, as the name of a preset, or as a YAML file with ``ops``.

    Raises:
        ConfigError: no such preset, or not a valid pipeline.
        UsageError: the argument has another type.
    """
    if isinstance(pipeline, Pipeline):
        return pipeline
    name = str(path_or(Pipeline, pipeline, "pipeline"))
    if name.endswith((".yaml", ".yml")):
        return parse_pipeline(read_text(Path(name)), name)
    return preset_pipeline(name)


def preset_pipeline(name: str) -> Pipeline:
    """Return a preset by name.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"there is no preset {name!r}", where="--preset", fix=f"choose one of {', '.join(PRESETS)}, or a YAML file"
        )
    return PRESETS[name]
