"""``quantkit preset``: show presets, and create preset files from the configs of public hubs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.app import sub_app
from quantkit.cli.show import print_files, print_next, print_notes

if TYPE_CHECKING:
    from quantkit.config.pipeline import Pipeline

preset = sub_app("preset", "Show preprocessing presets, and create preset files from hub configs.")

OutOption = Annotated[Path | None, typer.Option(help="Preset file to write.", show_default="standard output")]


@preset.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a preset, or a file that --preset takes.")],
    out: OutOption = None,
) -> None:
    """Print a preset as YAML."""
    from quantkit.workflows.presets import load_preset, preset_notes

    _put(load_preset(name), name, out)
    print_notes(preset_notes(name), to_errors=True)


@preset.command("from-hf")
def from_hf(
    config: Annotated[Path, typer.Argument(metavar="preprocessor_config.json", help="Config of a Hugging Face model.")],
    out: OutOption = None,
) -> None:
    """Create a preset from the preprocessor config of a Hugging Face model."""
    from quantkit.workflows.hub_presets import preset_from_hugging_face

    found = preset_from_hugging_face(config)
    _put(found.pipeline, str(config), out)
    print_notes(found.notes, to_errors=True)


@preset.command("from-timm")
def from_timm(
    config: Annotated[Path, typer.Argument(metavar="config.json", help="Config of a timm model.")],
    out: OutOption = None,
) -> None:
    """Create a preset from the config of a timm model."""
    from quantkit.workflows.hub_presets import preset_from_timm

    found = preset_from_timm(config)
    _put(found.pipeline, str(config), out)
    print_notes(found.notes, to_errors=True)


@preset.command("from-torchvision")
def from_torchvision(
    network: Annotated[str, typer.Argument(help="A torchvision classifier, such as resnet50.")],
    weights: Annotated[str, typer.Option(help="Member of its weights enum, or DEFAULT.")] = "DEFAULT",
    out: OutOption = None,
) -> None:
    """Create a preset from published torchvision weights; needs the extra ``torch``."""
    from quantkit.workflows.hub_presets import preset_from_torchvision

    _put(preset_from_torchvision(network, weights), f"torchvision {network}, weights {weights}", out)


def _put(pipeline: "Pipeline", source: str, out: Path | None) -> None:
    from quantkit.files import write_text
    from quantkit.workflows.hub_presets import preset_text

    text = preset_text(pipeline, source)
    if out is None:
        sys.stdout.write(text)
        return
    write_text(out, text)
    print_files([out])
    print_next("calibrate", "--model", "MODEL.onnx", "--images", "FOLDER", "--preset", out)
