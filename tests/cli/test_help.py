"""What ``--help`` shows of every command, and what the command line says of a wrong choice."""

import importlib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from quantkit.cli.app import GLOBAL_PANEL, app
from quantkit.cli.commands import COMMAND_MODULES
from quantkit.cli.groups import INPUT, METHOD, OUTPUT, RESOURCES, TARGET
from quantkit.config.choices import Stage, TargetName
from quantkit.config.method import AUTO, METHODS, MethodName, MethodOrAuto
from quantkit.targets import TARGETS

Command = Callable[..., tuple[str, str]]

for _module in COMMAND_MODULES:
    importlib.import_module(_module)


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from _commands(inner, (*path, name))


COMMANDS = dict(_commands(typer.main.get_command(app)))


def _options(path: tuple[str, ...]) -> list[Any]:
    return [one for one in COMMANDS[path].params if one.param_type_name == "option" and one.name != "help"]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_every_option_is_in_a_group(path: tuple[str, ...]) -> None:
    groups = {option.opts[0]: option.rich_help_panel for option in _options(path)}
    assert set(groups.values()) <= {INPUT, METHOD, TARGET, OUTPUT, RESOURCES, GLOBAL_PANEL}, groups


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_every_option_shows_its_default(path: tuple[str, ...]) -> None:
    without = [
        option.opts[0]
        for option in _options(path)
        if option.default is None and not option.required and not isinstance(option.show_default, str)
    ]
    assert without == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_every_option_has_a_sentence(path: tuple[str, ...]) -> None:
    assert [option.opts[0] for option in _options(path) if not (option.help or "").endswith(".")] == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_every_command_has_global_options(path: tuple[str, ...]) -> None:
    names = {option.opts[0] for option in _options(path) if option.rich_help_panel == GLOBAL_PANEL}
    assert names == {"--quiet", "--verbose", "--log-file", "--json-events"}


def test_help_choices_are_the_methods_and_targets() -> None:
    assert typing.get_args(MethodName) == tuple(METHODS)
    assert typing.get_args(MethodOrAuto) == (AUTO, *METHODS)
    assert typing.get_args(TargetName) == tuple(TARGETS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("calibrate --method klt", "--method: 'klt' is not one of auto, minmax, percentile, kl, mse. Did you mean kl?"),
        ("quantize --target tensort", "--target: 'tensort' is not one of ort, tensorrt, vacc. Did you mean tensorrt?"),
        ("quantize --activations int4", "'int4' is not one of uint8, int8. Did you mean int8?"),
        ("sensitivity --by leaveoneout", "Did you mean leave-one-out?"),
        ("tune --disable roundin", "Did you mean rounding?"),
        ("compare a b --runtime cuda", "--runtime: 'cuda' is not one of vamp, vsx."),
        ("vamc convert a.yaml --to buid", "--to: 'buid' is not one of build, compile. Did you mean build?"),
        ("export x --exporter jit", "--exporter: 'jit' is not one of auto, dynamo, torchscript."),
    ],
)
def test_option_wrong_choice_names_choices_and_nearest(command: Command, arguments: str, expected: str) -> None:
    _, err = command(*arguments.split(), code=2)
    assert expected in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "expected"), [("0", "should be greater than or equal to 1."), ("many", "should be a valid integer")]
)
def test_option_wrong_number_names_option_and_what_it_takes(command: Command, value: str, expected: str) -> None:
    _, err = command("compare", "a", "b", "--limit", value, code=2)
    assert err.startswith(f"error: --limit: the value {expected}")
    assert err.rstrip().endswith(". See quantkit compare --help.")


@pytest.mark.parametrize(
    ("path", "option", "choices"),
    [
        (("calibrate",), "method", ["auto", "minmax", "percentile", "kl", "mse"]),
        (("tune",), "disable", [stage.value for stage in Stage]),
        (("sensitivity",), "by", ["isolated", "leave-one-out", "accuracy"]),
    ],
)
def test_option_choices_are_completed_by_shell(path: tuple[str, ...], option: str, choices: list[str]) -> None:
    [found] = [one for one in _options(path) if one.name == option]
    context = typer.Context(COMMANDS[path])
    assert [item.value for item in found.shell_complete(context, "")] == choices


def test_help_shows_groups_and_defaults(command: Command, tmp_path: Path) -> None:
    out, _ = command("calibrate", "--help")
    for group in (INPUT, METHOD, TARGET, RESOURCES, GLOBAL_PANEL):
        assert f"─ {group} ─" in out
    assert "minmax|" in out
    assert "[default: (all processors)]" in " ".join(out.replace("│", " ").split())
