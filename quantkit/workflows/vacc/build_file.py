"""The build file of a run for the card's compiler: its model, method, preprocessing and images."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from quantkit.config.method import Method, Percentile
from quantkit.config.pipeline import Pipeline
from quantkit.errors import ConfigError, VendorFileError
from quantkit.graph.qdq.plan import Plan, PlanOptions, plan
from quantkit.runs.editable_files import remove_editable, write_editable
from quantkit.runs.folder import INT8, RunFolder, RunRecord
from quantkit.runs.inputs import fp32_of_run
from quantkit.targets import VACC, Target
from quantkit.vendors.vacc.calibration_folder import CalibrationFolder
from quantkit.vendors.vacc.vdsp import vdsp_from_pipeline
from quantkit.vendors.vacc.write import (
    Build,
    BuildFile,
    Int8,
    VamcOptions,
    file_shape,
    write_build_file,
)
from quantkit.workflows.quantize_task import QuantizeOptions

BUILD_FILE = "vamc.yaml"
CARD_MODEL = f"{INT8}-{VACC.name}"
MATERIALIZED = "calibration"
# The images of a model that keeps outliers in a run that has some.
MATERIALIZED_WHOLE = "calibration-all"
VDSP = "vdsp_params.json"
# The set to materialize there, if it is not the run's own.
CARD_SET = "calibration.csv"
# The file of `quantkit vamc advise`.
ADVISED = "vamc-advised.yaml"


@dataclass(frozen=True, kw_only=True)
class CompilerOptions:
    """Quantization options that the card's compiler supports.

    Attributes:
        method: calibration method.
        per_channel: weights have one scale per output channel.
        power_of_two: weight thresholds are rounded up to powers of two.
        left_out: layers left in float.
        keep_outliers: the compiler gets all images, including outliers.
        corrected_fp32: file name in the run of the fp32 model with corrected biases, or None.
    """

    method: Method = field(default_factory=Percentile)
    per_channel: bool = True
    power_of_two: bool = False
    left_out: PlanOptions = field(default_factory=PlanOptions)
    keep_outliers: bool = False
    corrected_fp32: str | None = None

    def checkpoint(self, folder: RunFolder) -> Path | None:
        """Return the fp32 model with corrected biases, None if the compiler gets the original."""
        return None if self.corrected_fp32 is None else folder.path / self.corrected_fp32

    @property
    def target(self) -> Target:
        """The target that models the card, with these options."""
        return VACC.with_options(per_channel=self.per_channel, power_of_two=self.power_of_two)


def build_file_name(model: str) -> str:
    """Return the name of the build file of a run's model: ``vamc.yaml`` for ``int8-vacc``, or ``int8`` in its place.

    ``vamc-KL.yaml`` belongs to ``int8-vacc-KL``, and ``NAME-vamc.yaml`` to a model of another name.
    """
    if model in (INT8, CARD_MODEL):
        return BUILD_FILE
    variant = model.removeprefix(f"{CARD_MODEL}-")
    named = f"vamc-{variant}.yaml"
    # `vamc advise` writes one of these names, and others end as the long form of another model's.
    return f"{model}-{BUILD_FILE}" if variant == model or named == ADVISED or variant.endswith("vamc") else named


def main_model(record: RunRecord) -> str:
    """Return the name of the model that ``vamc.yaml`` belongs to: ``int8-vacc`` if the run has it, else ``int8``."""
    return CARD_MODEL if CARD_MODEL in record.quantized else INT8


def choices_of_run(record: RunRecord, model: str | None = None) -> CompilerOptions:
    """Return the options of a run's model for the compiler, by default of the one that ``vamc.yaml`` belongs to.

    Options that the compiler does not support (7-bit weights, affine activations, corrected biases) are dropped.
    """
    made = record.quantized.get(model or main_model(record))
    if made is None:
        return CompilerOptions()
    options = QuantizeOptions(skip=tuple(made.options.get("skip", ())))
    return CompilerOptions(
        method=made.solved_by,
        per_channel=made.options.get("per_channel", VACC.weights.per_channel),
        power_of_two=made.options.get("power_of_two", VACC.weights.power_of_two),
        left_out=options.plan_options(),
        keep_outliers=made.keeps_outliers,
        corrected_fp32=made.fp32,
    )


def vamc_of_run(
    run: Path,
    *,
    method: Method | None = None,
    per_channel: bool | None = None,
    skip_convs: Sequence[int] | None = None,
    bias_correction: bool = True,
    options: VamcOptions | None = None,
) -> tuple[BuildFile, Pipeline]:
    """Return the build file of a run, and the run's preprocessing; nothing is written.

    It is the file of the run's model for the card that has these options, with its fp32 model. Biases are corrected for
    one set of options, so the file of others names the original model.

    Args:
        run: run folder.
        method: calibration method of the compiler; by default that of the run.
        per_channel: one weight scale per output channel; by default as in the run.
        skip_convs: indices of convolutions to leave in float; by default the layers that the run left.
        bias_correction: name the fp32 model with corrected biases, if the run has one for these options.
        options: further options.

    Raises:
        UsageError: this is not a run folder, or there is no such convolution.
        ModelError: the model is missing or cannot be read.
        ProvenanceError: the model has changed since the calibration.
        ConfigError: nothing fixes the size of the model's input, or an fp16 build is given options of the calibration.
    """
    folder, options = RunFolder(run), options or VamcOptions()
    record = folder.read()
    if options.precision == "fp16":
        shape = (1, record.pipeline.channels, *_size(record))
        return fp16_build(record.model.path, record.model.input, shape, options), record.pipeline
    choices = choices_of_run(record)
    choices = replace(
        choices,
        method=method or choices.method,
        per_channel=choices.per_channel if per_channel is None else per_channel,
        left_out=choices.left_out if skip_convs is None else PlanOptions(skip_convs=tuple(skip_convs)),
    )
    made = plan(fp32_of_run(folder, record).prepared().model, choices.target, choices.left_out)
    model = _model_with(record, choices, options) if bias_correction else None
    checkpoint = None if model is None else choices_of_run(record, model).checkpoint(folder)
    build = build_of_plan(folder, record, model or main_model(record), choices.method, made, options, checkpoint)
    if bias_correction and model is None and choices.corrected_fp32 is not None:
        note = f"the biases of {choices.corrected_fp32} are corrected for other options: this file names the original"
        build = replace(build, notes=(*build.notes, f"{note}; quantkit quantize --target vacc corrects them"))
    return build, record.pipeline


def models_for_card(record: RunRecord) -> list[str]:
    """Return the models for the card, and the one that ``vamc.yaml`` stands for; that of a search has its own plan."""
    for_card = [name for name, made in record.quantized.items() if made.target == VACC.name and not made.is_tuned]
    return list(dict.fromkeys((main_model(record), *for_card)))


def _model_with(record: RunRecord, wanted: CompilerOptions, options: VamcOptions) -> str | None:
    """Return the run's model for the card with these options, None if it has none."""
    if options.weight_scale not in (None, "power2" if wanted.power_of_two else "max"):
        return None
    for model in models_for_card(record):
        made = choices_of_run(record, model)
        if replace(made, corrected_fp32=None) == replace(wanted, corrected_fp32=None):
            return model
    return None


def fp16_build(model: str, input_name: str, shape: Sequence[int], options: VamcOptions) -> BuildFile:
    """Return the fp16 build file of a model."""
    # The int8 model has the model's own name in the same workspace.
    name = options.name or f"{Path(model).stem}_fp16"
    build = Build(name=name, checkpoint=model, input_name=input_name, input_shape=shape, options=options)
    return write_build_file(build, None)


def build_of_run(
    folder: RunFolder, record: RunRecord, model: str, prepared: ir.Model, options: VamcOptions
) -> BuildFile:
    """Return the build file that matches a model of a run; nothing is written.

    Args:
        folder: the run folder.
        record: its record.
        model: name of the model in the run.
        prepared: the prepared fp32 model of the run.
        options: further options.

    Raises:
        ConfigError: the input size is not determined.
    """
    choices = choices_of_run(record, model)
    made = plan(prepared, choices.target, choices.left_out)
    return build_of_plan(folder, record, model, choices.method, made, options, choices.checkpoint(folder))


def write_vdsp(folder: RunFolder, pipeline: Pipeline) -> tuple[Path | None, list[str]]:
    """Write ``vdsp_params.json``, the card's fused preprocessing, into a run folder; return its path, and notes.

    If the card cannot run the pipeline, nothing is written, and a file of an earlier pipeline is removed.
    """
    path = folder.path / VDSP
    try:
        params = vdsp_from_pipeline(pipeline).params
    except VendorFileError:
        return None, remove_editable(folder, path)
    return path, write_editable(folder, path, params.text())


def signature_notes(record: RunRecord) -> list[str]:
    """Return notes on properties of the model's inputs that a build file cannot express."""
    model, notes = record.model, []
    if model.dtype != "float32" or model.layout != "NCHW":
        notes.append(f"the image input is {model.dtype} {model.layout}; whether the compiler supports it is not known")
    if model.inputs:
        notes.append(f"the inputs {', '.join(model.inputs)} are not in this file; make them constants of the model")
    return notes


def build_of_plan(
    folder: RunFolder,
    record: RunRecord,
    model: str,
    method: Method,
    plan: Plan,
    options: VamcOptions,
    checkpoint: Path | None = None,
) -> BuildFile:
    """Return the build file of a run's model; nothing is written.

    Args:
        folder: the run folder.
        record: its record.
        model: name of the model in the run.
        method: calibration method of the compiler.
        plan: plan of the int8 model; convolutions left in float are skipped on the card too.
        options: further options.
        checkpoint: the rewritten fp32 model; by default that of the run.

    Raises:
        ConfigError: the input size is not determined.
    """
    left_out = 0 if choices_of_run(record, model).keep_outliers else len(record.set.outliers)
    materialized = MATERIALIZED if left_out == len(record.set.outliers) else MATERIALIZED_WHOLE
    images = options.calibration_folder or (folder.path / materialized).resolve()
    integer = {layer.node for layer in plan.layers}
    count = options.count or record.set.images - left_out
    made_by = None if options.calibration_folder is not None else materialize_command(folder, record, images, left_out)
    calibration = Int8(
        pipeline=record.pipeline,
        method=method,
        data=CalibrationFolder(path=str(images), suffix=_suffix(record, options), count=count),
        per_channel=plan.target.weights.per_channel,
        weight_scale=options.weight_scale or ("power2" if plan.target.weights.power_of_two else None),
        skip_conv_layers=[index for node, index in plan.conv_index.items() if node not in integer],
        data_comment=None if made_by is None else f"made by: {made_by}",
    )
    compiled = Build(
        name=(options.name or Path(record.model.path).stem) + _name_suffix(record, model),
        checkpoint=record.model.path if checkpoint is None else str(checkpoint.resolve()),
        input_name=record.model.input,
        input_shape=file_shape(record.model.layout, record.pipeline.channels, *_size(record)),
        options=options,
    )
    build = write_build_file(compiled, calibration)
    if made_by is None or images.is_dir() or not plan.target.compiler_calibrates:
        return build
    return replace(build, notes=(*build.notes, f"the calibration folder {images.name} is not there yet: {made_by}"))


def _name_suffix(record: RunRecord, model: str) -> str:
    """Return what a variant adds to the name of the compiled model: the compiler files builds by name."""
    if model in (INT8, CARD_MODEL):
        return ""
    variant = model.removeprefix(f"{CARD_MODEL}-")
    return f"_{model}" if variant in record.quantized else f"_{variant}"


def materialize_command(folder: RunFolder, record: RunRecord, images: Path, left_out: int) -> str | None:
    """Return the command that writes the images of a run for the compiler; None if its set is not a file."""
    manifest = folder.path / CARD_SET if left_out else Path(record.set.path)
    if not record.set.path:
        return None
    return shlex.join(["quantkit", "calib-set", "materialize", str(manifest), str(images)])


def _suffix(record: RunRecord, options: VamcOptions) -> str:
    suffix = options.suffix or record.set.suffix
    if not suffix:
        raise ConfigError("the names of the calibration images have no suffix", fix="give --suffix")
    return suffix


def _size(record: RunRecord) -> tuple[int, int]:
    _, _, height, width = record.model.shape
    if height is not None and width is not None:
        return height, width
    if record.image_size is None:
        raise ConfigError(
            "neither model nor pipeline determines the input size", fix="add a center_crop to the pipeline"
        )
    return record.image_size
