"""Write a build file for a model, its preprocessing and its calibration images."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

from quantkit.config.method import Kl, Method, MinMax, Mse, Percentile
from quantkit.config.pipeline import Pipeline
from quantkit.engine.classifier import check_image
from quantkit.errors import ConfigError
from quantkit.graph.fixed_inputs import fixed_values
from quantkit.graph.image_input import Layout, find_image
from quantkit.graph.model import read_model
from quantkit.vendors.vacc.calibration_folder import CalibrationFolder
from quantkit.vendors.vacc.convert import framework_of, render
from quantkit.vendors.vacc.dialects import Dialect
from quantkit.vendors.vacc.ops import ops_from_pipeline
from quantkit.vendors.vacc.spec import BuildSpec, Calibration, CalibrationData, Head, Source, Workspace
from quantkit.vendors.vacc.yaml_nodes import KeyPath
from quantkit.vendors.vacc.yaml_text import dump

WeightScale = Literal["max", "power2"]
TENSORS = "npz"
_COMMENT_WIDTH = 100

_METHOD_KEY: dict[Dialect, KeyPath] = {
    "build": ("engine", "calibration", "quant_mode"),
    "compile": ("backend", "quantize", "calibrate_mode"),
}


@dataclass(frozen=True)
class BuildFile:
    """A written build file.

    Attributes:
        text: the YAML.
        spec: what it says.
        notes: where it says less, or something else, than was asked for; they stand in the text as comments too.
    """

    text: str
    spec: BuildSpec
    notes: tuple[str, ...]


def write_build_file(
    *,
    name: str,
    checkpoint: str,
    input_name: str,
    input_shape: Sequence[int],
    pipeline: Pipeline,
    method: Method,
    data: CalibrationFolder,
    dialect: Dialect,
    per_channel: bool = True,
    weight_scale: WeightScale | None = None,
    skip_conv_layers: Sequence[int] = (),
    softmax: bool = False,
    workspace: str = "./deploy_weights/",
) -> BuildFile:
    """Return the build file of an int8 image model.

    Args:
        name: of the compiled model.
        checkpoint: path of the source model, as it is to stand in the file.
        input_name: the model's image input.
        input_shape: ``[1, C, H, W]``.
        pipeline: the preprocessing; not written where the calibration data are ready tensors.
        method: how ranges are found.
        data: what they are found on.
        dialect: of which of the vendor's tools.
        per_channel: weights have one scale per output channel.
        weight_scale: how weight scales are chosen; None leaves it to the compiler.
        skip_conv_layers: convolutions to leave in floating point, by index in graph order.
        softmax: append a softmax to the graph.
        workspace: where the compiled model goes.
    """
    notes: tuple[str, ...] = ()
    ops: list[dict[str, Any]] | None = None
    if data.suffix.lower() != TENSORS:
        written = ops_from_pipeline(pipeline)
        ops, notes = list(written.ops), written.notes
    spec = BuildSpec(
        name=name,
        source=Source(
            checkpoint=checkpoint,
            framework=framework_of(checkpoint),
            dtype="fp32",
            inputs={input_name: list(input_shape)},
        ),
        backend="vacc",
        precision="int8",
        calibration=Calibration(
            method=vendor_method(method),
            fraction=method.fraction if isinstance(method, Percentile) else None,
            per_channel=per_channel,
            weight_scale=weight_scale,
            skip_conv_layers=sorted(set(skip_conv_layers)) or None,
        ),
        head=Head(type="softmax") if softmax else None,
        data=CalibrationData(path=data.path, suffix=data.suffix, count=data.count, ops=ops),
        workspace=Workspace(path=workspace),
    )
    rendering = render(spec, dialect)
    notes += rendering.notes
    if dialect == "build" and isinstance(method, Mse):
        notes += ("quant_mode: mse is known of the compile dialect only",)
    remarks = (f"For `vamc {dialect}`, written by quantkit.", *notes)
    header = [f"# {row}" for remark in remarks for row in textwrap.wrap(remark, _COMMENT_WIDTH)]
    text = "\n".join([*header, "", dump(rendering.data, _comments(spec, dialect))])
    return BuildFile(text, spec, notes)


def read_image_input(model: Path, pipeline: Pipeline) -> tuple[str, tuple[int, int, int, int]]:
    """Return the name and the shape of a model's image input in its own layout, as a build file gives them.

    Sides that the model leaves free are those of the pipeline's result.

    Raises:
        ModelError: the model cannot be read or has no image input.
        ConfigError: the pipeline does not give what the model reads, or neither fixes the size.
    """
    graph = read_model(model)
    image = find_image(graph, fixed_values(graph, {}))
    check_image(image, pipeline)
    height, width = pipeline.output_size or (None, None)
    height, width = image.height or height, image.width or width
    if height is None or width is None:
        raise ConfigError(
            "neither the model nor the pipeline fixes the size of the input",
            where=model,
            fix="add a center_crop to the pipeline",
        )
    return image.name, file_shape(image.layout, image.channels, height, width)


def file_shape(layout: Layout, channels: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the shape of one image in the layout of a model's file."""
    return (1, channels, height, width) if layout == "NCHW" else (1, height, width, channels)


def vendor_method(method: Method) -> str:
    """Return the vendor's name of a calibration method."""
    match method:
        case MinMax():
            return "max"
        case Percentile():
            return "percentile"
        case Kl():
            return "kl_divergence"
        case Mse():
            return "mse"
        case _:
            assert_never(method)


def _comments(spec: BuildSpec, dialect: Dialect) -> dict[KeyPath, str]:
    """Return what is to stand behind some of the values."""
    calibration = _METHOD_KEY[dialect][:-1]
    comments: dict[KeyPath, str] = {_METHOD_KEY[dialect]: "how ranges of activations are found"}
    if spec.calibration is not None and spec.calibration.fraction is not None:
        comments[*calibration, "calibrate_range"] = "share of the values kept"
    if spec.calibration is not None and spec.calibration.skip_conv_layers:
        comments[*calibration, "skip_conv_layers"] = "left in floating point, counted from 0 in graph order"
    if spec.data is not None and spec.data.ops is None:
        comments["dataset", "sampler", "suffix"] = "tensors, preprocessed already"
    return comments
