"""The build file of a model without a run."""

from collections.abc import Sequence
from pathlib import Path

from quantkit.config.method import Method
from quantkit.config.pipeline import Pipeline
from quantkit.vendors.vacc.calibration_folder import CalibrationFolder, calibration_folder
from quantkit.vendors.vacc.write import Build, BuildFile, Int8, VamcOptions, read_image_input, write_build_file
from quantkit.workflows.vacc.build_file import fp16_build


def vamc_of_model(
    model: Path,
    images: Path,
    pipeline: Pipeline,
    *,
    method: Method,
    per_channel: bool,
    skip_convs: Sequence[int],
    options: VamcOptions,
) -> BuildFile:
    """Return the build file of a model without a run; nothing is written.

    Args:
        model: fp32 ONNX model.
        images: folder of calibration files; read unless the options give both suffix and count.
        pipeline: preprocessing.
        method: calibration method of the compiler.
        per_channel: one weight scale per output channel.
        skip_convs: indices of convolutions to leave in float.
        options: further options.

    Raises:
        ModelError: the model cannot be read or has no image input.
        ConfigError: the pipeline does not fit the model, or neither determines the input size.
        CalibrationSetError: the folder is missing, or does not contain suitable files.
    """
    input_name, shape = read_image_input(model, pipeline)
    if options.suffix is not None and options.count is not None:
        data = CalibrationFolder(path=str(images), suffix=options.suffix, count=options.count)
    else:
        data = calibration_folder(images, suffix=options.suffix, count=options.count)
    calibration = Int8(
        pipeline=pipeline,
        method=method,
        data=data,
        per_channel=per_channel,
        weight_scale=options.weight_scale,
        skip_conv_layers=skip_convs,
    )
    name = options.name or model.stem
    build = Build(name=name, checkpoint=str(model), input_name=input_name, input_shape=shape, options=options)
    return write_build_file(build, calibration)


def vamc_fp16(model: Path, pipeline: Pipeline | None, options: VamcOptions) -> BuildFile:
    """Return the fp16 build file of a model without a run; nothing is written.

    Args:
        model: fp32 ONNX model.
        pipeline: preprocessing, for free dimensions of the model; None if there are none.
        options: further options.

    Raises:
        ModelError: the model cannot be read or has no image input.
        ConfigError: the input size is not determined, the pipeline does not fit the model, or calibration options are
            given.
    """
    input_name, shape = read_image_input(model, pipeline)
    return fp16_build(str(model), input_name, shape, options)
