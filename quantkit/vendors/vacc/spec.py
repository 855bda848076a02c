"""The content of a build file, independent of the dialect."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

# One text, or several by position or name.
Texts = str | list[str] | dict[str, str] | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """The model to build.

    Attributes:
        checkpoint: path of the model.
        framework: onnx, pytorch, keras, tensorflow, darknet, huggingface.
        dtype: type of the inputs, by its name in the file.
        inputs: shape of each input; a list of two shapes gives the minimum and the maximum.
        options: other keys of the section.
    """

    checkpoint: Texts = None
    framework: str | None = None
    dtype: Any = None
    inputs: dict[str, list[Any]] | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class CalibrationSpec(_Part):
    """Calibration options.

    Attributes:
        method: percentile, kl_divergence, max or mse.
        fraction: fraction of values that the percentile method keeps.
        per_channel: weights have one scale per output channel.
        weight_scale: max or power2.
        skip_conv_layers: indices in graph order of convolutions left in float.
        options: other keys of the section, including other lists of operators left in float.
    """

    method: str | None = None
    fraction: float | None = None
    per_channel: bool | None = None
    weight_scale: str | None = None
    skip_conv_layers: list[int] | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class Head(_Part):
    """Operators appended to the graph.

    Attributes:
        type: softmax, the name of a non-maximum suppression, or None.
        params: its parameters.
        options: other keys of the section.
    """

    type: str | None = None
    params: Any = None
    options: dict[str, Any] = Field(default_factory=dict)


class CalibrationData(_Part):
    """The calibration files.

    Attributes:
        path: folder of the files.
        suffix: suffix of the files, without a dot; npz for preprocessed tensors.
        count: number of files to use.
        ops: preprocessing operations as in the file; None without a list.
        sampler_options: other keys of the sampler.
        options: other keys of the section.
    """

    path: Texts = None
    suffix: Texts = None
    count: int | None = None
    ops: list[dict[str, Any]] | None = None
    sampler_options: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)


class Workspace(_Part):
    """Output of the build.

    Attributes:
        path: output folder.
        enable_ir: also write the intermediate representation.
        save_log: write the log.
        options: other keys of the section.
    """

    path: str | None = None
    enable_ir: bool | None = None
    save_log: bool | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class BuildSpec(_Part):
    """A build, independent of the dialect. Values missing in the file are None.

    Attributes:
        name: name of the compiled model.
        source: the model to build.
        backend: target of the build; the card is ``vacc`` here and in the build dialect, ``tvm_vacc`` in the other.
        precision: int8, or a floating-point type.
        calibration: calibration options.
        compile_options: options of the compiler, defined by the vendor.
        head: operators appended to the graph.
        data: the calibration files.
        workspace: output of the build.
        backend_options: other keys of ``backend`` or ``engine``.
        options: other top-level keys of the file.
    """

    name: str | None = None
    source: Source | None = None
    backend: str | None = None
    precision: str | None = None
    calibration: CalibrationSpec | None = None
    compile_options: dict[str, Any] = Field(default_factory=dict)
    head: Head | None = None
    data: CalibrationData | None = None
    workspace: Workspace | None = None
    backend_options: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
