"""Options that several commands take alike."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from quantkit.data.sources.open import ImagesLike

_PLACES = "a folder, tar, zip, parquet, shards (data-{000..009}.tar, *.parquet) or a URL"
ImagesOption = Annotated[
    str | None, typer.Option(metavar="PLACE", help=f"Images: {_PLACES}; those of the run or project by default.")
]
SomeImagesOption = Annotated[str, typer.Option(metavar="PLACE", help=f"Images: {_PLACES}.")]
SkipDamagedOption = Annotated[
    bool,
    typer.Option("--skip-damaged", help="Use the rest of damaged or missing shards; what is left out is listed."),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(help="Label file of --images, or the ImageNet devkit (.tar.gz, or its ground truth)."),
]

MethodOption = Annotated[str | None, typer.Option(help="minmax, percentile, kl or mse.")]
FractionOption = Annotated[float | None, typer.Option(help="Share of the values a percentile range keeps.")]
TargetOption = Annotated[str | None, typer.Option(help="ort, tensorrt or vacc.")]
PerChannelOption = Annotated[
    bool | None, typer.Option("--per-channel/--per-tensor", help="Weight scales, one per channel or per tensor.")
]
ActivationsOption = Annotated[str | None, typer.Option(help="uint8 (affine) or int8 (symmetric).")]
WeightBitsOption = Annotated[int | None, typer.Option(help="8, or 7 for processors without VNNI.")]
PowerOfTwoOption = Annotated[bool | None, typer.Option(help="Weight thresholds as powers of two.")]
KeepOutliersOption = Annotated[
    bool,
    typer.Option("--keep-outliers", help="Set ranges for all images, also for the few that go far beyond all others."),
]
RequireCoverageOption = Annotated[
    str | None,
    typer.Option(
        help="Least share of the multiply-adds that must be int8, e.g. 95%; exit code 21 if less is. None by default."
    ),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="List every note; by default, one line a kind.")]
OutputOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Output that holds the class scores; found by default.")
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="NAME=VALUE", help="Fix an input beside the image: a number, true, false, or a .npy file."
    ),
]
SkipOption = Annotated[list[str] | None, typer.Option(help="Leave in float: node name, glob, re:..., conv:INDEX.")]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="Preprocessing: imagenet, vacc (what the card computes), cifar10, digits, or a file: YAML with ops, a "
        "vamc build file, or vdsp_params.json. In eval and compare the run's by default."
    ),
]
ExifOption = Annotated[
    bool | None,
    typer.Option(
        "--exif/--no-exif",
        help="Apply the EXIF orientation of images, as OpenCV and the vendor's image2npz do, or ignore it, as "
        "torchvision does; by default as the preset says; the shipped ones ignore it.",
    ),
]


def images_given(images: str | None, skip_damaged: bool) -> "ImagesLike":
    """Return the images of ``--images`` as the workflows take them."""
    if images is None or not skip_damaged:
        return images
    from quantkit.data.usable import usable_images

    return usable_images(images)
