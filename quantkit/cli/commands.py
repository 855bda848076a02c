"""The commands by name. A module is imported when its command is used; ``--help`` needs none of them."""

import importlib
from functools import cache, cached_property
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from quantkit.cli.app import app

# The commands and groups of commands, each with its line in ``quantkit --help``, in the order of ``--help``. The line
# repeats the first line of the command's docstring, or the text of the group; a test compares them.
_COMMANDS = {
    "demo": "Run the complete workflow on the digits and the small network that ship with quantkit.",
    "inspect": "Describe a model: inputs, outputs, cost, what becomes int8, problems and their fixes.",
    "init": "Write a commented quantkit.yaml into this folder, for a well-known network or for your own model.",
    "calibrate": "Run the model once over a calibration set; write statistics, ranges and the int8 model.",
    "quantize": "Compute the ranges by another method from the statistics of a run, and write the int8 model.",
    "sensitivity": "Measure the cost of each layer, isolated and left out; resumable.",
    "tune": "Find the cheapest int8 model within an accuracy budget. Resumable.",
    "eval": "Print a model's top-1 and top-5 accuracy. Resumable; scores are cached.",
    "compare": "Compare models on the same images: accuracy, its difference with a 95 % interval, agreement, drift.",
    "report": "Write an HTML report of a run: its models compared with fp32, drift, sensitivity, tuning, coverage.",
    "relink": "Record where model, calibration set and images of a moved run are; update the paths in its build files.",
    "export": "Write a torch classifier as ONNX, checked against torch; needs the extra ``torch``.",
    "preset": "Show preprocessing presets, and create preset files from hub configs.",
    "preprocess": "Find out the preprocessing of a model; quantkit preset shows and makes presets.",
    "plan": "Estimate time and memory of a job from the rates of a few images.",
    "calib-set": "Build a class-balanced, checked, reproducible calibration set.",
    "vamc": "Write, check and convert build files of the VACC compiler.",
    "vamp": "Inputs for the VACC card's runner, and accuracy from its results.",
    "stats": "Show, merge and compare statistics files.",
    "imagenet": "Check a copy of ImageNet and sort its validation set into class folders.",
}
# Modules that have another name than their command.
_MODULES = {"eval": ("evaluate",), "calib-set": ("calib_set",), "vamc": ("vamc", "advise")}


def _modules(name: str) -> list[str]:
    return [f"quantkit.cli.{module}" for module in _MODULES.get(name, (name,))]


# Each adds its commands to the app when it is imported.
COMMAND_MODULES: tuple[str, ...] = tuple(module for name in _COMMANDS for module in _modules(name))


class _Deferred(TyperCommand):
    """Placeholder of a command or group in the list of commands; imports the real one when it is called."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the command and return its context; typer runs the command of the context."""
        return self._command.make_context(info_name, args, parent, **extra)

    @cached_property
    def _command(self) -> Any:
        name = self.name or ""
        for module in _modules(name):
            importlib.import_module(module)
        return _group().commands[name]


@cache
def command_line() -> TyperGroup:
    """Return ``quantkit`` with all its commands; they are built once in a process."""
    group = _group()
    group.commands = {name: _Deferred(name, help=summary) for name, summary in _COMMANDS.items()}
    return group


def _group() -> TyperGroup:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group
