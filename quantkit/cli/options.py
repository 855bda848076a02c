"""Options that several commands take alike."""

from typing import Annotated

import typer

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
    int, typer.Option(min=1, help="Images that run together; a batch size fixed by the model takes precedence.")
]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--provider-option", metavar="KEY=VALUE", help="Option of the execution provider, as onnxruntime names it."
    ),
]
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
