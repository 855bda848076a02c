"""Options that several commands share, one by one and in groups: a command takes a group as one parameter."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import typer

from quantkit.config.choices import TargetName
from quantkit.config.method import MethodOrAuto
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from quantkit.config.method import Auto, Method
    from quantkit.config.pipeline import Pipeline
    from quantkit.config.project import Project
    from quantkit.config.settings import Settings
    from quantkit.targets import Target
    from quantkit.workflows.quantize_task import QuantizeOptions

DialectName = Literal["build", "compile"]


_PLACES = "a folder, tar, zip, parquet, shards (data-{000..009}.tar, *.parquet) or a URL"
ImagesOption = Annotated[str | None, typer.Option(metavar="PLACE", help=f"Images: {_PLACES}.")]
SomeImagesOption = Annotated[str, typer.Option(metavar="PLACE", help=f"Images: {_PLACES}.")]
SkipDamagedOption = Annotated[
    bool,
    typer.Option("--skip-damaged", help="Use the rest of damaged or missing shards; what is left out is listed."),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(help="Label file of --images, or the ImageNet devkit (.tar.gz, or its ground truth)."),
]
RunOption = Annotated[Path | None, typer.Option(help="Run folder of quantkit calibrate.")]
SubjectArgument = Annotated[
    Path | None, typer.Argument(metavar="[RUN or MODEL]", help="Run folder of quantkit calibrate, or its model.")
]
JsonOption = Annotated[Path | None, typer.Option(help="Write all figures as JSON.")]

FractionOption = Annotated[float | None, typer.Option(help="Fraction of values that a percentile range keeps.")]
TargetOption = Annotated[TargetName | None, typer.Option(help="Runtime or compiler of the int8 model.")]
PerChannelOption = Annotated[
    bool | None, typer.Option("--per-channel/--per-tensor", help="Weight scales, one per channel or per tensor.")
]
RequireCoverageOption = Annotated[
    str | None,
    typer.Option(help="Minimum share of the multiply-adds in int8, e.g. 95%; exit code 21 if it is not reached."),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Number of worker threads.")]
OutputOption = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the output with the class scores.")]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="NAME=VALUE", help="Fix an input other than the image: number, true, false or .npy file."
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="Preprocessing: imagenet, vacc (that of the card), cifar10, digits, or a file: YAML with ops, a vamc "
        "build file, or vdsp_params.json."
    ),
]

CheckPreprocessingOption = Annotated[
    bool,
    typer.Option(
        "--check-preprocessing/--no-check-preprocessing",
        help="Try other scalings and channel orders on some labelled images; warn where one is better beyond chance.",
    ),
]


def given_once(argument: Path | None, option: Path | None, name: str) -> Path | None:
    """Return what was given by position or by an option of the same meaning; None if neither was.

    Args:
        argument: given by position.
        option: given by the option.
        name: name of the option, without dashes.

    Raises:
        UsageError: both were given.
    """
    if argument is not None and option is not None:
        raise UsageError(f"a {name} was given twice", where=f"--{name}", fix="give it once")
    return option if argument is None else argument


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images with their labels."""

    images: ImagesOption = None
    skip_damaged: SkipDamagedOption = False
    labels: LabelsOption = None
    names: Annotated[Path | None, typer.Option(help="Class names, one per line.")] = None

    def completed(self, project: "Project", *, own_images: bool = True) -> Self:
        """Return the options with the images of the project file, and its labels for them, where none are given.

        Args:
            project: the project file.
            own_images: whether its images are used.
        """
        completed = replace(self, names=self.names or project.names)
        if self.images is not None or not own_images:
            return completed
        return replace(completed, images=project.images, labels=self.labels or project.labels)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a workflow; images are opened where damaged ones are to be skipped."""
        values = {**vars(self), "images": images_given(self.images, self.skip_damaged)}
        del values["skip_damaged"]
        return values


@dataclass(frozen=True, kw_only=True)
class EvaluatedImages(LabelledImages):
    """Images to evaluate, less those of a calibration set."""

    exclude: Annotated[Path | None, typer.Option(help="Calibration set whose images are left out.")] = None


@dataclass(frozen=True, kw_only=True)
class LimitedImages(EvaluatedImages):
    """Images to evaluate, at most so many."""

    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of evaluation images.")] = None

    def show_limits(self, settings: "Settings") -> None:
        """Add what the images are limited by to the settings of a command."""
        settings.add("exclude", self.exclude, given=self.exclude)
        settings.add("limit", self.limit, given=self.limit)


@dataclass(frozen=True, kw_only=True)
class PreprocessingOptions:
    """How images become inputs of the model."""

    preset: PresetOption = None
    exif: Annotated[
        bool | None,
        typer.Option(
            "--exif/--no-exif",
            help="Apply the EXIF orientation of images, as OpenCV and the vendor's image2npz do, or ignore it, as "
            "torchvision does; the shipped presets ignore it.",
        ),
    ] = None

    def pipeline(self, project: "Project") -> "Pipeline | None":
        """Return the preprocessing of the options, else of the project file; None where neither has one."""
        from quantkit.workflows.project import choose_pipeline

        return choose_pipeline(self.preset, project, self.exif)

    def check_exif(self, pipeline: "Pipeline | None", run: Path | None) -> None:
        """Check that ``--exif`` has an effect.

        Args:
            pipeline: of the options or the project file, None where neither sets it.
            run: run folder that sets it then, if there is one.

        Raises:
            UsageError: it has none.
        """
        if self.exif is not None and pipeline is None:
            fault = "no preprocessing was given" if run is None else "the run sets the preprocessing"
            raise UsageError(fault, where="--exif", fix="give --preset too, or drop it")


@dataclass(frozen=True, kw_only=True)
class InputOptions(PreprocessingOptions):
    """How images become inputs of the model, its other inputs, and the output that is used."""

    output: OutputOption = None
    input_: InputOption = None

    def inputs(self) -> dict[str, Any]:
        """Return the values of the other inputs, by name."""
        from quantkit.graph.fixed_inputs import parse_inputs

        return parse_inputs(self.input_ or ())


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """The calibration method, and what runs the model."""

    method: Annotated[
        MethodOrAuto | None,
        typer.Option(help="Calibration method; auto compares the methods on calibration images and takes the best."),
    ] = None
    fraction: FractionOption = None
    target: TargetOption = None

    def method_and_target(self, project: "Project") -> "tuple[Method | Auto, Target]":
        """Return method and target of the options, else of the project file, else auto and onnxruntime."""
        from quantkit.workflows.project import method_of, target_of

        return method_of(self.method, self.fraction, project), target_of(self.target, project)

    def show_method(self, settings: "Settings", method: "Method | Auto", target: "Target") -> None:
        """Add method and target to the settings of a command."""
        settings.add("method", method, given=self.method or self.fraction, key="method")
        settings.add("target", target.name, given=self.target, key="target")


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """How layers are quantized, and which."""

    per_channel: PerChannelOption = None
    skip: Annotated[list[str] | None, typer.Option(help="Leave in float: node name, glob, re:..., conv:INDEX.")] = None
    keep_outliers: Annotated[
        bool,
        typer.Option("--keep-outliers", help="Include outlier images when ranges are set."),
    ] = False

    def quantize_options(self, project: "Project", **others: Any) -> "QuantizeOptions":
        """Return the options completed by the project file."""
        from quantkit.workflows.quantize_task import QuantizeOptions

        return QuantizeOptions(
            per_channel=project.per_channel if self.per_channel is None else self.per_channel,
            skip=tuple(self.skip or project.skip),
            keep_outliers=self.keep_outliers,
            **others,
        )

    def show_options(self, settings: "Settings", options: "QuantizeOptions", *, bias: bool | None = None) -> None:
        """Add the options to the settings of a command; the correction of biases where the command has that option."""
        settings.add("per channel", options.per_channel, given=self.per_channel, key="per_channel")
        settings.add("activations", options.activation_type, given=options.activation_type)
        settings.add("weight bits", options.weight_bits, given=options.weight_bits)
        settings.add("power of two", options.power_of_two, given=options.power_of_two)
        settings.add("skip", options.skip, given=self.skip, key="skip")
        settings.add("bias correction", bias, given=None if bias else False)
        settings.add("keep outliers", self.keep_outliers or None, given=self.keep_outliers)


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(InputOptions, MethodOptions, LayerOptions):
    """A model, its calibration set or the images to draw one from, and how it is quantized."""

    model: Annotated[Path | None, typer.Option(help="fp32 ONNX classifier.")] = None
    set_: Annotated[Path | None, typer.Option("--set", help="Calibration set, from quantkit calib-set build.")] = None
    images: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="In place of --set: draw a balanced set from a folder, tar, zip, parquet, shards or a URL.",
            show_default="none",
        ),
    ] = None
    skip_damaged: SkipDamagedOption = False
    labels: LabelsOption = None
    count: Annotated[int | None, typer.Option(help="Number of images to draw from --images.")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of the draw from --images.")] = None
    bias_correction: Annotated[
        bool, typer.Option("--bias-correction/--no-bias-correction", help="Correct biases where it reduces the error.")
    ] = True
    run: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/ and the model's name")] = None
    dialect: Annotated[DialectName | None, typer.Option(help="Dialect of vamc.yaml.")] = None
    calibration_folder: Annotated[
        Path | None, typer.Option(help="Folder in which the card's compiler finds the calibration images.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class QuantizationOptions(LayerOptions):
    """How layers are quantized, and which, with the types of integers."""

    activations: Annotated[
        Literal["uint8", "int8"] | None, typer.Option(help="Type of activations: uint8 is affine, int8 symmetric.")
    ] = None
    weight_bits: Annotated[int | None, typer.Option(help="8, or 7 for processors without VNNI.")] = None
    power_of_two: Annotated[bool | None, typer.Option(help="Round weight thresholds up to powers of two.")] = None

    def quantize_options(self, project: "Project", **others: Any) -> "QuantizeOptions":
        """Return the options completed by the project file."""
        return super().quantize_options(
            project,
            activation_type=self.activations,
            weight_bits=self.weight_bits,
            power_of_two=self.power_of_two,
            **others,
        )


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where models run, in this process."""

    device: Annotated[
        str,
        typer.Option(
            metavar="KIND[:N]",
            help="Where models run: cpu, cuda, tensorrt or openvino, with a number where there are several (cuda:1), "
            "or auto: CUDA, OpenVINO or the CPU, the first that starts. Layers that a device leaves to the CPU are an "
            "error, unless with auto.",
        ),
    ] = "cpu"
    batch: Annotated[
        int, typer.Option(min=1, help="Images per batch; a batch size fixed by the model takes precedence.")
    ] = 1
    provider_option: Annotated[
        list[str] | None,
        typer.Option(
            "--provider-option", metavar="KEY=VALUE", help="Option of the execution provider, as onnxruntime names it."
        ),
    ] = None
    threads: ThreadsOption = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a workflow.

        Raises:
            UsageError: an option is malformed.
        """
        from quantkit.engine.device import Device

        device = Device.parse(self.device, batch=self.batch, options=self.provider_option or ())
        return {"device": device, "threads": self.threads}

    def show(self, settings: "Settings") -> None:
        """Add the device to the settings of a command, where it is not the CPU."""
        if self.device != "cpu":
            settings.add("device", self.arguments()["device"].describe(), given=self.device)


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions(DeviceOptions):
    """Where models run: in this process, or on the workers of a cluster."""

    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Spread the images over the workers of a Ray cluster: auto (the one that this machine belongs to), "
            "ray://HOST:PORT, or local:N, which starts N workers on this machine. The results are the same.",
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a workflow.

        Raises:
            UsageError: an option is malformed.
        """
        return {**super().arguments(), "cluster": self.cluster}


def images_given(images: str | None, skip_damaged: bool) -> Any:
    """Return the images of ``--images`` as the workflows take them."""
    if images is None or not skip_damaged:
        return images
    from quantkit.data.usable import usable_images

    return usable_images(images)
