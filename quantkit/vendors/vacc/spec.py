"""What a build file says, free of the dialect it says it in."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

# One text, or several by place or by name.
Texts = str | list[str] | dict[str, str] | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """The model to build.

    Attributes:
        checkpoint: path of the model.
        framework: onnx, pytorch, keras, tensorflow, darknet, huggingface.
        dtype: type of the inputs, as the file names it.
        inputs: shape of each input; a list of two shapes gives the least and the greatest.
        options: other keys of the section.
    """

    checkpoint: Texts = None
    framework: str | None = None
    dtype: Any = None
    inputs: dict[str, list[Any]] | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class CalibrationSpec(_Part):
    """How int8 ranges are found.

    Attributes:
        method: percentile, kl_divergence, max or mse.
        fraction: share of the values that the percentile method keeps.
        per_channel: weights have one scale per output channel.
        weight_scale: max or power2.
        skip_conv_layers: convolutions left in floating point, by index in graph order.
        options: other keys of the section, among them other lists of what stays in floating point.
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
        type: softmax, the name of a box suppression, or None for none.
        params: its parameters.
        options: other keys of the section.
    """

    type: str | None = None
    params: Any = None
    options: dict[str, Any] = Field(default_factory=dict)


class CalibrationData(_Part):
    """The files ranges are found on.

    Attributes:
        path: folder of them.
        suffix: of their names, without a dot; npz for ready tensors.
        count: how many are taken.
        ops: preprocessing operations as they stand in the file; None where there is no list.
        sampler_options: other keys beside suffix and count.
        options: other keys of the section.
    """

    path: Texts = None
    suffix: Texts = None
    count: int | None = None
    ops: list[dict[str, Any]] | None = None
    sampler_options: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)


class Workspace(_Part):
    """Where the build goes.

    Attributes:
        path: folder.
        enable_ir: write the intermediate form too.
        save_log: keep the log.
        options: other keys of the section.
    """

    path: str | None = None
    enable_ir: bool | None = None
    save_log: bool | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class BuildSpec(_Part):
    """A build, whichever dialect it is written in. What a file does not say is None.

    Attributes:
        name: of the compiled model.
        source: the model to build.
        backend: what it is built for; the card is ``vacc`` here and in the build dialect, ``tvm_vacc`` in the other.
        precision: int8, or a floating type.
        calibration: how int8 ranges are found.
        compile_options: options of the compiler, whose meaning is the vendor's.
        head: operators appended to the graph.
        data: the files ranges are found on.
        workspace: where the build goes.
        backend_options: other keys of ``backend`` or ``engine``.
        options: other keys of the whole file.
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
