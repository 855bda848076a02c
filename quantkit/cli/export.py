"""``quantkit export``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quantkit.cli.app import app
from quantkit.cli.show import print_files, print_lines, print_next
from quantkit.config.choices import TargetName
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from quantkit.export.result import Exported


@app.command()
def export(
    network: Annotated[
        str,
        typer.Argument(
            help="An iResNet (iresnet50; iresnet50-paper for the paper's form), a torchvision classifier (resnet50), "
            "or module:factory."
        ),
    ],
    checkpoint: Annotated[Path | None, typer.Option(help=".pth or .safetensors file with a state dict.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Published torchvision weights: DEFAULT, or a member of the weights enum.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Use random weights, to test structure and speed, not accuracy.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of --random-weights.")] = 0,
    out: Annotated[Path | None, typer.Option(help="ONNX file to write.", show_default="NETWORK.onnx")] = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Classes of the network's output.")] = None,
    arg: Annotated[
        list[str] | None, typer.Option(help="Argument of the network's factory, KEY=VALUE; VALUE is JSON or text.")
    ] = None,
    input_size: Annotated[str | None, typer.Option(help="224, HxW or CxHxW.")] = None,
    input_name: Annotated[str, typer.Option(help="Name of the model's input.")] = "input",
    output_name: Annotated[str, typer.Option(help="Name of the model's output.")] = "logits",
    target: Annotated[TargetName, typer.Option(help="Target of the model; sets the default of --opset.")] = "ort",
    opset: Annotated[
        int | None,
        typer.Option(
            help="Version of the ONNX operator set. Default: 18; with --target vacc 11, as in the vendor's script "
            "for torchvision and timm (its other scripts for classifiers: 10 to 12)."
        ),
    ] = None,
    exporter: Annotated[
        Literal["auto", "dynamo", "torchscript"],
        typer.Option(help="Exporter; auto uses the first that succeeds."),
    ] = "auto",
    images: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="Also compare the logits on these images: a folder, archive, ..."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images of --images.")] = 16,
    preset: Annotated[
        str | None,
        typer.Option(help="Preprocessing of --images: a preset's name, or a file, as quantkit calibrate takes it."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest accepted error, relative to the largest logit if that is above 1.")
    ] = 1e-4,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Another implementation (module:factory, or any NETWORK) to compare the written model with. It gets "
            "the same weights; a difference above --tolerance is an error, and nothing is written."
        ),
    ] = None,
    reference_arg: Annotated[
        list[str] | None, typer.Option(help="Argument of the reference's factory, KEY=VALUE, as --arg.")
    ] = None,
) -> None:
    """Write a torch classifier as ONNX, checked against torch; needs the extra ``torch``."""
    from quantkit.config.project import Project
    from quantkit.data.folder import find_images
    from quantkit.workflows.project import choose_pipeline

    if reference_arg and reference is None:
        raise UsageError("needs --reference", where="--reference-arg")
    arguments = dict(_parse_argument(text, "--arg") for text in arg or ())
    reference_arguments = dict(_parse_argument(text, "--reference-arg") for text in reference_arg or ())
    size = None if input_size is None else _parse_size(input_size)
    items = () if images is None else find_images(images).items[:count]
    pipeline = None if preset is None else choose_pipeline(preset, Project())
    from quantkit.workflows.export import export as step

    if ":" in network or ":" in (reference or ""):
        # The user's module is imported from the current folder, as Python does for a script.
        sys.path.insert(0, str(Path.cwd()))
    done = step(
        network,
        out,
        checkpoint=checkpoint,
        weights=weights,
        random_seed=seed if random_weights else None,
        num_classes=num_classes,
        arguments=arguments,
        input_size=size,
        input_name=input_name,
        output_name=output_name,
        opset=opset,
        target=target,
        exporter=exporter,
        images=items,
        pipeline=pipeline,
        tolerance=tolerance,
        reference=reference,
        reference_arguments=reference_arguments,
    )
    _print(network, done, input_name, output_name)


def _parse_argument(text: str, option: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise UsageError(f"{text!r} is not KEY=VALUE", where=option)
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _parse_size(text: str) -> tuple[int, int, int]:
    sides = text.lower().split("x")
    if len(sides) > 3 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise UsageError(f"invalid input size {text!r}", where="--input-size", fix="write 224, 224x224 or 3x224x224")
    height, width = int(sides[-2 if len(sides) > 1 else -1]), int(sides[-1])
    return (int(sides[0]) if len(sides) == 3 else 3), height, width


def _print(network: str, done: "Exported", input_name: str, output_name: str) -> None:
    from quantkit.config.pipeline import PRESETS
    from quantkit.graph.model import model_files

    shape = ", ".join(str(side) for side in done.input_size)
    ends = f"{input_name} [N, {shape}], {output_name} [N, {done.classes}]"
    lines = [f"{network}: {done.parameters:,} parameters, {ends}, opset {done.opset}, {done.exporter} exporter"]
    lines[0] += f", {done.size_bytes / 1e6:.3g} MB"
    if done.failed_exporter is not None:
        lines.append(
            f"note: the {done.failed_exporter} exporter failed, so {done.exporter} was used ({done.fallback_reason})"
        )
    for parity in (done.parity, done.reference_parity):
        if parity is None:
            continue
        on_images = "" if parity.image_error is None else f", {parity.image_error:.2g} on {parity.images} images"
        lines.append(
            f"max abs error against {parity.against}: {parity.random_error:.2g} on random input{on_images} "
            f"(logits up to {parity.largest_logit:.3g})"
        )
    if done.pipeline is not None and done.pipeline != PRESETS["imagenet"]:
        ops = [{"op": op.op, **op.model_dump(mode="json", exclude_defaults=True)} for op in done.pipeline.ops]
        lines.append("these weights need other preprocessing than the preset imagenet; for quantkit.yaml:")
        lines.append(f"ops: {json.dumps(ops)}")
    print_lines(*lines)
    print_files(model_files(done.path))
    print_next("inspect", done.path)
