"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantkit.config.choices import MethodOrAuto, TargetName
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from quantkit.data.sources.open import ImagesLike

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

MethodOrAutoOption = Annotated[
    MethodOrAuto | None,
    typer.Option(help="Calibration method; auto compares the methods on calibration images and takes the best."),
]
FractionOption = Annotated[float | None, typer.Option(help="Fraction of values that a percentile range keeps.")]
TargetOption = Annotated[TargetName | None, typer.Option(help="Runtime or compiler of the int8 model.")]
PerChannelOption = Annotated[
    bool | None, typer.Option("--per-channel/--per-tensor", help="Weight scales, one per channel or per tensor.")
]
ActivationsOption = Annotated[
    Literal["uint8", "int8"] | None, typer.Option(help="Type of activations: uint8 is affine, int8 symmetric.")
]
WeightBitsOption = Annotated[int | None, typer.Option(help="8, or 7 for processors without VNNI.")]
PowerOfTwoOption = Annotated[bool | None, typer.Option(help="Round weight thresholds up to powers of two.")]
KeepOutliersOption = Annotated[
    bool,
    typer.Option("--keep-outliers", help="Include outlier images when ranges are set."),
]
RequireCoverageOption = Annotated[
    str | None,
    typer.Option(help="Minimum share of the multiply-adds in int8, e.g. 95%; exit code 21 if it is not reached."),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="KIND[:N]",
        help="Where models run: cpu, cuda, tensorrt or openvino, with a number where there are several (cuda:1), or "
        "auto: CUDA, OpenVINO or the CPU, the first that starts. Layers that a device leaves to the CPU are an error, "
        "unless with auto.",
    ),
]
BatchOption = Annotated[
    int, typer.Option(min=1, help="Images per batch; a batch size fixed by the model takes precedence.")
]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--provider-option", metavar="KEY=VALUE", help="Option of the execution provider, as onnxruntime names it."
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Spread the images over the workers of a Ray cluster: auto (the one that this machine belongs to), "
        "ray://HOST:PORT, or local:N, which starts N workers on this machine. The results are the same.",
    ),
]
OutputOption = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the output with the class scores.")]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="NAME=VALUE", help="Fix an input other than the image: number, true, false or .npy file."
    ),
]
SkipOption = Annotated[list[str] | None, typer.Option(help="Leave in float: node name, glob, re:..., conv:INDEX.")]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="Preprocessing: imagenet, vacc (that of the card), cifar10, digits, or a file: YAML with ops, a vamc "
        "build file, or vdsp_params.json."
    ),
]
ExifOption = Annotated[
    bool | None,
    typer.Option(
        "--exif/--no-exif",
        help="Apply the EXIF orientation of images, as OpenCV and the vendor's image2npz do, or ignore it, as "
        "torchvision does; the shipped presets ignore it.",
    ),
]

CheckPreprocessingOption = Annotated[
    bool,
    typer.Option(
        "--check-preprocessing/--no-check-preprocessing",
        help="Try other scalings and channel orders on some labelled images; warn where one is better beyond chance.",
    ),
]


RunArgument = Annotated[
    Path | None, typer.Argument(metavar="[RUN or MODEL]", help="Run folder of quantkit calibrate, or its model.")
]
RunOption = Annotated[Path | None, typer.Option(help="Run folder of quantkit calibrate.")]


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


def images_given(images: "ImagesLike | None", skip_damaged: bool) -> "ImagesLike | None":
    """Return the images of ``--images`` as the workflows take them."""
    if images is None or not skip_damaged:
        return images
    from quantkit.data.usable import usable_images

    return usable_images(images)
