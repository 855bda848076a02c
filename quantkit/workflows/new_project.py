"""``quantkit init --model``: write a project file for your own model."""

import os
import shlex
from pathlib import Path

from quantkit.config.arguments import AnyPath, as_path
from quantkit.config.project import PROJECT_FILE, parse_project
from quantkit.config.text import quoted
from quantkit.errors import ModelError, UsageError
from quantkit.files import write_text
from quantkit.workflows.inspect import USUAL_SIZE, inspect
from quantkit.workflows.model_summary import ModelSummary
from quantkit.workflows.presets import load_preset

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_IMAGENET_SIZES = ((224, 224), (None, None))


def new_project(
    model: AnyPath, folder: AnyPath = ".", *, preset: str | None = None, images: AnyPath | None = None
) -> Path:
    """Write a commented ``quantkit.yaml`` for a model, and return its path.

    Args:
        model: fp32 ONNX classifier.
        folder: folder of the file; paths in the file are relative to it.
        preset: name or file of the preprocessing; by default ``imagenet`` for three channels of 224 x 224, else
            operations that fit the model's input.
        images: folder of evaluation images, written to the file.

    Raises:
        UsageError: the folder has a ``quantkit.yaml``, which is not overwritten.
        ModelError: the model cannot be read or is not supported.
        ConfigError: no such preset.
        OutputError: the file cannot be written.
    """
    model, folder = as_path(model, "model"), as_path(folder, "folder")
    path = folder / PROJECT_FILE
    if os.path.lexists(path):
        raise UsageError("the file exists and is not overwritten", where=path, fix="move it away first")
    summary = inspect(model)
    if summary.errors:
        raise ModelError(str(summary.errors[0]), where=model, fix=f"see quantkit inspect {shlex.quote(str(model))}")
    if preset is not None:
        load_preset(preset)
    text = _text(summary, _relative(model, folder), preset, None if images is None else as_path(images, "images"))
    parse_project(text, path)
    write_text(path, text)
    return path


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()


def _text(summary: ModelSummary, model: str, preset: str | None, images: Path | None) -> str:
    evaluation = "# images: FOLDER" if images is None else f"images: {quoted(images.as_posix())}"
    return "\n".join(
        (
            f"# {Path(model).name}: defaults of quantkit commands in this folder. Paths are relative to it.",
            f"model: {quoted(model)}",
            "",
            "# The preprocessing the network was trained with: a preset, a file, or the operations themselves.",
            *_preprocessing(summary, preset),
            "",
            "# The calibration set; write it with: quantkit calib-set build --images FOLDER --out calibration.csv",
            "# set: calibration.csv",
            "# Evaluation images in one folder per class; by default the images that are not in the set.",
            evaluation,
            "",
            "# Defaults.",
            "# method: auto          # auto, minmax, percentile, kl or mse",
            "# target: ort           # ort, tensorrt or vacc",
            "",
        )
    )


def _preprocessing(summary: ModelSummary, preset: str | None) -> list[str]:
    image = summary.image
    if preset is not None:
        return [f"preset: {quoted(preset)}"]
    if image is None or (image.channels == 3 and (image.height, image.width) in _IMAGENET_SIZES):
        return ["preset: imagenet"]
    height, width = image.height or USUAL_SIZE[0], image.width or USUAL_SIZE[1]
    half = ", ".join(["0.5"] * image.channels)
    return [
        "# Check mean and std: these are a guess.",
        "ops:",
        f"- {{op: decode, mode: {_MODES.get(image.channels, 'RGB')}}}",
        f"- {{op: resize, size: [{height}, {width}]}}",
        "- {op: to_tensor}",
        f"- {{op: normalize, mean: [{half}], std: [{half}]}}",
    ]
