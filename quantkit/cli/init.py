"""``quantkit init``."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.show import print_files, print_lines, print_next
from quantkit.errors import UsageError


@app.command()
def init(
    name: Annotated[
        str | None, typer.Argument(help="Ready-made config; without it, they are listed.", show_default=False)
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Write a config for this ONNX model instead.", show_default="none")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Preprocessing of --model: a preset or a file.", show_default="imagenet, or ops that fit the input"
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Evaluation images of --model, one folder per class.", show_default="none")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of quantkit.yaml.")] = False,
) -> None:
    """Write a commented quantkit.yaml into this folder, for a well-known network or for your own model."""
    if schema:
        _print_schema()
        return
    if model is not None:
        _write_for_model(name, model, preset, images)
        return
    if preset is not None or images is not None:
        raise UsageError("needs --model", where="--preset" if preset is not None else "--images")
    from quantkit.config.ready import first_command, ready_configs, title, write_ready_config
    from quantkit.workflows.project import load_project

    if name is None:
        for known, text in ready_configs().items():
            print_lines(f"{known:20} {title(text)}")
        return
    path = write_ready_config(name, Path())
    print_lines("its comments describe the next steps")
    print_files([path])
    words = shlex.split(first_command(ready_configs()[name]))[1:]
    if words[0] == "export" and (found := load_project()).model is not None and found.model.is_file():
        words = ["calib-set", "build", "--images", "FOLDER", "--out", str(found.set or "calib.csv")]
    print_next(*words)


def _write_for_model(name: str | None, model: Path, preset: str | None, images: Path | None) -> None:
    from quantkit.workflows.new_project import new_project

    if name is not None:
        raise UsageError("a ready-made config has its own model", where="--model", fix=f"leave out {name}, or --model")
    path = new_project(model, preset=preset, images=images)
    print_files([path])
    print_next("calib-set", "build", "--images", images or "FOLDER", "--out", "calibration.csv")


def _print_schema() -> None:
    from quantkit.config.schema import project_schema

    json.dump(project_schema(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
