"""The commands by name. A module is imported when its command is used; ``--help`` needs none of them."""

import importlib
from functools import cache, cached_property
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from quantkit.cli.app import app


class _Entry(NamedTuple):
    """Where a command or a group of commands is, and its line in ``quantkit --help``.

    The line repeats the first line of the command's docstring, or the text of the group; a test compares them.
    """

    modules: tuple[str, ...]
    summary: str


# In the order of --help.
_COMMANDS: dict[str, _Entry] = {
    "demo": _Entry(
        ("quantkit.cli.demo",),
        "Run the complete workflow on the digits and the small network that ship with quantkit.",
    ),
    "inspect": _Entry(
        ("quantkit.cli.inspect",),
        "Describe a model: inputs, outputs, cost, what becomes int8, problems and their fixes.",
    ),
    "init": _Entry(
        ("quantkit.cli.init",),
        "Write a commented quantkit.yaml into this folder, for a well-known network or for your own model.",
    ),
    "calibrate": _Entry(
        ("quantkit.cli.calibrate",),
        "Run the model once over a calibration set; write statistics, ranges and the int8 model.",
    ),
    "quantize": _Entry(
        ("quantkit.cli.quantize",),
        "Compute the ranges by another method from the statistics of a run, and write the int8 model.",
    ),
    "sensitivity": _Entry(
        ("quantkit.cli.sensitivity",),
        "Measure the cost of each layer, isolated and left out; resumable.",
    ),
    "tune": _Entry(
        ("quantkit.cli.tune",),
        "Find the cheapest int8 model within an accuracy budget. Resumable.",
    ),
    "eval": _Entry(
        ("quantkit.cli.evaluate",),
        "Print a model's top-1 and top-5 accuracy. Resumable; scores are cached.",
    ),
    "compare": _Entry(
        ("quantkit.cli.compare",),
        "Compare models on the same images: accuracy, its difference with a 95 % interval, agreement, drift.",
    ),
    "report": _Entry(
        ("quantkit.cli.report",),
        "Write an HTML report of a run: its models compared with fp32, drift, sensitivity, tuning, coverage.",
    ),
    "relink": _Entry(
        ("quantkit.cli.relink",),
        "Record where model, calibration set and images of a moved run are; update the paths in its build files.",
    ),
    "export": _Entry(
        ("quantkit.cli.export",),
        "Write a torch classifier as ONNX, checked against torch; needs the extra ``torch``.",
    ),
    "preset": _Entry(
        ("quantkit.cli.preset",),
        "Show preprocessing presets, and create preset files from hub configs.",
    ),
    "preprocess": _Entry(
        ("quantkit.cli.preprocess",),
        "Find out the preprocessing of a model; quantkit preset shows and makes presets.",
    ),
    "plan": _Entry(
        ("quantkit.cli.plan",),
        "Estimate time and memory of a job from the rates of a few images.",
    ),
    "calib-set": _Entry(
        ("quantkit.cli.calib_set",),
        "Build a class-balanced, checked, reproducible calibration set.",
    ),
    "vamc": _Entry(
        ("quantkit.cli.vamc", "quantkit.cli.advise"),
        "Write, check and convert build files of the VACC compiler.",
    ),
    "vamp": _Entry(
        ("quantkit.cli.vamp",),
        "Inputs for the VACC card's runner, and accuracy from its results.",
    ),
    "stats": _Entry(
        ("quantkit.cli.stats",),
        "Show, merge and compare statistics files.",
    ),
    "imagenet": _Entry(
        ("quantkit.cli.imagenet",),
        "Check a copy of ImageNet and sort its validation set into class folders.",
    ),
}

# Each adds its commands to the app when it is imported.
COMMAND_MODULES: tuple[str, ...] = tuple(module for entry in _COMMANDS.values() for module in entry.modules)


class _Deferred(TyperCommand):
    """Placeholder of a command or group in the list of commands; imports the real one when it is called."""

    def __init__(self, name: str, entry: _Entry) -> None:
        super().__init__(name, help=entry.summary)
        self._modules = entry.modules

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the command and return its context; typer runs the command of the context."""
        return self._command.make_context(info_name, args, parent, **extra)

    @cached_property
    def _command(self) -> Any:
        for module in self._modules:
            importlib.import_module(module)
        group = typer.main.get_command(app)
        assert isinstance(group, TyperGroup)
        return group.commands[self.name or ""]


@cache
def command_line() -> TyperGroup:
    """Return ``quantkit`` with all its commands; they are built once in a process."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    group.commands = {name: _Deferred(name, entry) for name, entry in _COMMANDS.items()}
    return group
