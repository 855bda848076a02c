"""Writes build files for a model, its preprocessing and its calibration images."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quantkit.config.method import Kl, Method, MinMax, Mse, Percentile, method_name
from quantkit.config.pipeline import Pipeline
from quantkit.engine.classifier import check_image
from quantkit.errors import ConfigError
from quantkit.graph.fixed_inputs import fixed_values
from quantkit.graph.image_input import Layout, find_image
from quantkit.graph.model import read_model
from quantkit.vendors.vacc.calibration_folder import CalibrationFolder
from quantkit.vendors.vacc.convert import framework_of, render
from quantkit.vendors.vacc.dialects import BuildSpec, Dialect, place
from quantkit.vendors.vacc.ops import ops_from_pipeline
from quantkit.vendors.vacc.yaml_nodes import KeyPath
from quantkit.vendors.vacc.yaml_text import dump

WeightScale = Literal["max", "power2"]
TENSORS = "npz"
_COMMENT_WIDTH = 100
# The names that the compiler has for methods.
COMPILER_METHODS: dict[type[Method], str] = {
    MinMax: "max",
    Percentile: "percentile",
    Kl: "kl_divergence",
    Mse: "mse",
}


@dataclass(frozen=True, kw_only=True)
class VamcOptions:
    """Options of the build file.

    The last five are further options of the vendor's compiler, None for its default. They are defined by the vendor and
    not documented; known values are from the public model zoo.

    Attributes:
        dialect: of ``vamc build`` or of ``vamc compile``.
        calibration_folder: folder of the calibration images for the compiler; by default ``calibration`` in the run
            folder.
        suffix: suffix of the calibration files; by default that of the run's images.
        count: number of calibration files; by default the size of the run's set.
        weight_scale: rule for weight scales; by default power2 if the run's are powers of two, else the compiler's
            default.
        softmax: append a softmax to the graph.
        name: name of the compiled model; by default the model's file name, with ``_fp16`` appended for fp16.
        workspace: folder of the compiled model.
        precision: int8, or fp16 without calibration.
        cluster_mode: 0 in all files of the zoo except one, which has 1.
        data_transport_mode: 1 or 3 in the zoo.
        skip_matmul_layers: indices of matrix products left in float; int8 only.
        calibrate_chunk_by: layers observed per pass over the calibration data, -1 for all; int8 only.
        overflow_adaptive: write ``overflow_adaptive: 1``, as files of language models do; int8 only.

    Example:
        >>> import quantkit
        >>> quantkit.VamcOptions(dialect="build").precision
        'int8'
    """

    dialect: Dialect = "compile"
    calibration_folder: Path | None = None
    suffix: str | None = None
    count: int | None = None
    weight_scale: WeightScale | None = None
    softmax: bool = False
    name: str | None = None
    workspace: str = "./deploy_weights/"
    precision: Literal["int8", "fp16"] = "int8"
    cluster_mode: int | None = None
    data_transport_mode: int | None = None
    skip_matmul_layers: tuple[int, ...] = ()
    calibrate_chunk_by: int | None = None
    overflow_adaptive: bool = False

    def compile_step(self) -> dict[str, Any]:
        """Return the options of the compile step as in the file."""
        return _given(cluster_mode=self.cluster_mode, data_transport_mode=self.data_transport_mode)

    def calibration(self) -> dict[str, Any]:
        """Return the options of the calibration as in the file."""
        return _given(
            skip_matmul_layers=sorted(set(self.skip_matmul_layers)) or None,
            calibrate_chunk_by=self.calibrate_chunk_by,
            overflow_adaptive=1 if self.overflow_adaptive else None,
        )


@dataclass(frozen=True)
class BuildFile:
    """The text of a build file.

    Attributes:
        text: the YAML.
        spec: its content.
        notes: deviations from the request; the text contains them as comments.
    """

    text: str
    spec: BuildSpec
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Build:
    """A build of an image model.

    Attributes:
        name: name of the compiled model.
        checkpoint: path of the source model, as written to the file.
        input_name: name of the image input.
        input_shape: ``[1, C, H, W]``.
        options: of the file and the compiler.
    """

    name: str
    checkpoint: str
    input_name: str
    input_shape: Sequence[int]
    options: VamcOptions = VamcOptions()


@dataclass(frozen=True, kw_only=True)
class Int8:
    """The calibration of an int8 build.

    Attributes:
        pipeline: the preprocessing; not written if the calibration data are preprocessed tensors.
        method: calibration method.
        data: calibration files.
        per_channel: weights have one scale per output channel.
        weight_scale: rule for weight scales; None keeps the compiler's default.
        skip_conv_layers: indices in graph order of convolutions to leave in float.
        data_comment: comment after the path of the calibration data, such as the command that creates them.
    """

    pipeline: Pipeline
    method: Method
    data: CalibrationFolder
    per_channel: bool = True
    weight_scale: WeightScale | None = None
    skip_conv_layers: Sequence[int] = ()
    data_comment: str | None = None


def write_build_file(build: Build, int8: Int8 | None) -> BuildFile:
    """Return the build file of an image model, fp16 without calibration images and preprocessing if ``int8`` is None.

    Raises:
        ConfigError: an fp16 build has options of the calibration.
    """
    options, notes = build.options, tuple[str, ...]()
    backend = _given(type="tvm_vacc", dtype="fp16", compile=options.compile_step() or None)
    spec: dict[str, Any] = {
        "name": build.name,
        "frontend": _given(
            checkpoint=build.checkpoint,
            type=framework_of(build.checkpoint),
            dtype="fp32" if options.dialect == "compile" else None,  # the build dialect has no key for it
            shape={build.input_name: list(build.input_shape)},
        ),
        "graph": {"extra_ops": {"type": "softmax"}} if options.softmax else {},
        "backend": backend,
        "workspace": {"path": options.workspace},
    }
    if int8 is None:
        if unused := list(options.calibration()):
            what = f"an fp16 build has no calibration for {', '.join(unused)}"
            raise ConfigError(what, fix="remove it, or build int8")
        return _rendered(spec, options.dialect, notes)
    data = int8.data
    spec["dataset"] = {"path": data.path, "sampler": {"suffix": data.suffix, "get_data_num": data.count}, "type": "tvm"}
    if data.suffix.lower() != TENSORS:
        written = ops_from_pipeline(int8.pipeline)
        spec["dataset"]["process_ops"], notes = list(written.ops), written.notes
    backend["dtype"] = "int8"
    backend["quantize"] = options.calibration() | _given(
        calibrate_mode=vendor_method(int8.method),
        calibrate_range=int8.method.fraction if isinstance(int8.method, Percentile) else None,
        quantize_per_channel=int8.per_channel,
        weight_scale=int8.weight_scale,
        skip_conv_layers=sorted(set(int8.skip_conv_layers)) or None,
    )
    if options.dialect == "build" and isinstance(int8.method, Mse):
        notes += ("quant_mode: mse is known only in the compile dialect",)
    return _rendered(spec, options.dialect, notes, int8.data_comment)


def _given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None."""
    return {key: value for key, value in values.items() if value is not None}


def _rendered(
    content: dict[str, Any], dialect: Dialect, notes: tuple[str, ...], data_comment: str | None = None
) -> BuildFile:
    spec = BuildSpec.model_validate(content)
    rendering = render(spec, dialect)
    notes += rendering.notes
    remarks = (f"For `vamc {dialect}`, written by quantkit.", *notes)
    header = [f"# {row}" for remark in remarks for row in textwrap.wrap(remark, _COMMENT_WIDTH)]
    text = "\n".join([*header, "", dump(rendering.data, _comments(spec, dialect, data_comment))])
    return BuildFile(text, spec, notes)


def read_image_input(model: Path, pipeline: Pipeline | None) -> tuple[str, tuple[int, int, int, int]]:
    """Return name and shape of a model's image input in its layout, as in a build file.

    Free dimensions are determined by the pipeline's result; without a pipeline there must be none.

    Raises:
        ModelError: the model cannot be read or has no image input.
        ConfigError: the pipeline does not fit the model, or neither determines the size.
    """
    graph = read_model(model)
    image = find_image(graph, fixed_values(graph, {}))
    if pipeline is not None:
        check_image(image, pipeline)
    height, width = (pipeline.output_size if pipeline is not None else None) or (None, None)
    height, width = image.height or height, image.width or width
    if height is None or width is None:
        raise ConfigError(
            "neither model nor pipeline determines the input size",
            where=model,
            fix="give a pipeline that ends in a center_crop",
        )
    return image.name, file_shape(image.layout, image.channels, height, width)


def file_shape(layout: Layout, channels: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the shape of one image in the layout of a model's file."""
    return (1, channels, height, width) if layout == "NCHW" else (1, height, width, channels)


def vendor_method(method: Method) -> str:
    """Return the vendor's name of a calibration method.

    Raises:
        ConfigError: the compiler has no such method.
    """
    if type(method) not in COMPILER_METHODS:
        known = ", ".join(COMPILER_METHODS.values())
        raise ConfigError(f"the compiler has no method {method_name(method)}", fix=f"it has {known}")
    return COMPILER_METHODS[type(method)]


def _comments(spec: BuildSpec, dialect: Dialect, data_comment: str | None) -> dict[KeyPath, str]:
    """Return comments on values."""
    comments: dict[str, str] = {}
    if data_comment is not None:
        comments["dataset.path"] = data_comment
    if (quantize := spec.backend.quantize) is not None:
        comments["backend.quantize.calibrate_mode"] = "calibration method of activations"
        if quantize.calibrate_range is not None:
            comments["backend.quantize.calibrate_range"] = "fraction of values kept"
        if quantize.skip_conv_layers:
            comments["backend.quantize.skip_conv_layers"] = "left in float, counted from 0 in graph order"
        if quantize.skip_matmul_layers is not None:
            comments["backend.quantize.skip_matmul_layers"] = "left in float, counted by the vendor's order"
    if spec.dataset is not None and spec.dataset.process_ops is None:
        comments["dataset.sampler.suffix"] = "preprocessed tensors"
    return {place(key, dialect): comment for key, comment in comments.items()}
