"""What the command line says of an option that a command does not have: the one that does the same there."""

import re
from pathlib import Path
from typing import Any

from quantkit.config.nearest import nearest

# Words for the same thing. Of each group a command is looked through in this order.
_SAME = (
    ("limit", "count", "number", "num", "n", "samples", "num-images", "max-images"),
    ("images", "set", "data", "dataset", "folder", "calibration-set", "calib-set"),
    ("model", "models", "onnx", "network"),
    ("run", "run-folder", "run-dir"),
    ("preset", "preprocess", "preprocessing", "transform", "transforms", "pipeline"),
    ("method", "mode", "calibrate-mode", "calibration-method", "algorithm"),
    ("fraction", "percentile"),
    ("fail-if", "gate", "threshold"),
    ("html", "report"),
    ("out", "output-file", "outfile", "output-path", "o", "html"),
    ("weight-bits", "bits"),
    ("skip", "exclude-layer", "exclude-layers", "exclude-nodes", "nodes-to-exclude", "float"),
    ("device", "gpu", "cuda", "provider", "ep"),
    ("threads", "workers", "jobs", "num-workers", "j"),
    ("batch", "batch-size", "b"),
    ("target", "backend", "runtime"),
    ("labels", "label-file", "ground-truth", "val-labels"),
    ("names", "classes", "class-names"),
)
# Names of arguments by position that stand for a word of a group.
_ARGUMENTS = {"model": ("model", "models", "network", "subject"), "run": ("run", "subject")}


def unknown_option(option: str, command: Any) -> str:
    """Return the message about an option that a command does not have.

    Args:
        option: as it was typed, with dashes.
        command: the command of the command line.
    """
    word = option.lstrip("-").replace("_", "-").lower()
    said = f"{option}: there is no such option"
    known = {name.removeprefix("--"): one for one in _options(command) for name in one.opts if name.startswith("--")}
    same = next((group for group in _SAME if word in group), ())
    found = next((name for name in same if name in known), None)
    if found is not None:
        return f"{said}; here it is --{found}: {_sentence(known[found].help)}"
    for kind, names in _ARGUMENTS.items():
        if kind in same and (place := next((one for one in _arguments(command) if one.name in names), None)):
            return f"{said}; it is given by position: {_sentence(place.help)}"
    guess = nearest(word, known)
    return f"{said}." if guess is None else f"{said}; did you mean --{guess}?"


def extra_arguments(message: str, command: Any) -> str:
    """Return the message about arguments that a command does not take, with the option for the first of them.

    Args:
        message: ends with the arguments in parentheses.
        command: the command of the command line.
    """
    value = message.rpartition("(")[2].removesuffix(")").split(" ")[0]
    path, known = Path(value), {one.opts[0] for one in _options(command)}
    kinds = {
        "--run": (path / "run.json").is_file(),
        "--model": value.endswith(".onnx"),
        "--set": value.endswith(".csv"),
        "--images": path.is_dir() or value.endswith((".tar", ".zip", ".parquet")),
    }
    option = next((name for name, fits in kinds.items() if fits and name in known), None)
    return message if option is None else f"{message}; did you mean {option} {value}?"


def _options(command: Any) -> list[Any]:
    return [one for one in command.params if one.param_type_name == "option"]


def _arguments(command: Any) -> list[Any]:
    return [one for one in command.params if one.param_type_name == "argument"]


def _sentence(text: str) -> str:
    """Return a help text up to its first full stop."""
    return re.split(r"(?<!e\.g)\. ", text)[0].rstrip(".") + "."
