"""The typer applications that the command modules add commands to, and the global options."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperOption

from quantkit.cli.groups import arrange
from quantkit.cli.output_files import check_output_files
from quantkit.cli.terminal import session

GLOBAL_PANEL = "Global options"


def _quiet(given: bool) -> None:
    session.quiet = session.quiet or given


def _verbose(given: bool) -> None:
    session.verbose = session.verbose or given


def _log_file(given: Path | None) -> None:
    if given is not None:
        session.open_log(given)


def _json_events(given: Path | None) -> None:
    if given is not None:
        session.open_events(given)


QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print results, warnings and errors only.",
        callback=_quiet,
        expose_value=False,
        rich_help_panel=GLOBAL_PANEL,
    ),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Print every note, not one line per kind, and progress messages.",
        callback=_verbose,
        expose_value=False,
        rich_help_panel=GLOBAL_PANEL,
    ),
]
LogFileOption = Annotated[
    Path | None,
    typer.Option(
        "--log-file",
        metavar="FILE",
        help="Append all output to a file, with timestamps.",
        callback=_log_file,
        expose_value=False,
        show_default="no log",
        rich_help_panel=GLOBAL_PANEL,
    ),
]
JsonEventsOption = Annotated[
    Path | None,
    typer.Option(
        "--json-events",
        metavar="FILE",
        help="Append progress and outcome to a file, one JSON object per line; - is standard error.",
        callback=_json_events,
        expose_value=False,
        show_default="no events",
        rich_help_panel=GLOBAL_PANEL,
    ),
]


@cache
def _global_options() -> tuple[TyperOption, ...]:
    """Return the global options; their callbacks configure the session."""
    probe = typer.Typer(add_completion=False)

    @probe.command()
    def _command(
        quiet: QuietOption = False,
        verbose: VerboseOption = False,
        log_file: LogFileOption = None,
        json_events: JsonEventsOption = None,
    ) -> None:
        raise NotImplementedError

    options = typer.main.get_command(probe).params
    return tuple(one for one in options if isinstance(one, TyperOption) and one.name != "help")


class SingleValueCommand(TyperCommand):
    """A command with the global options that rejects a repeated single-value option."""

    def __init__(self, name: str | None, **options: Any) -> None:
        super().__init__(name, **options)
        self.params = [*arrange(self.params), *_global_options()]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line.

        Raises:
            click.UsageError: an option that takes one value was given several times.
            UsageError: an output file is also an input, or another output.
        """
        if not ctx.resilient_parsing:
            values, _, given = self.make_parser(ctx).parse_args(args=list(args))
            for option, times in Counter(given).items():
                if times > 1 and _keeps_last(option):
                    ctx.fail(f"{option.opts[0]} takes one value and was given {times} times.")
            check_output_files(values)
        return super().parse_args(ctx, args)


def _keeps_last(option: Any) -> bool:
    """Return whether a repeated option silently replaces its earlier value; a flag without an opposite does not."""
    if option.param_type_name != "option" or option.multiple or option.count:
        return False
    return not option.is_flag or bool(option.secondary_opts)


def _with_groups(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command whose groups of options, parameters with a dataclass as type, are options of its own."""
    signature = inspect.signature(function, eval_str=True)
    groups: dict[str, Any] = {
        name: one.annotation for name, one in signature.parameters.items() if is_dataclass(one.annotation)
    }

    @wraps(function)
    def command(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{one.name: values.pop(one.name) for one in fields(group)})
        return function(**values)

    single = [one for name, one in signature.parameters.items() if name not in groups]
    grouped = [one for group in groups.values() for one in _parameters(group)]
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*single, *grouped)]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def _parameters(group: Any) -> Iterator[inspect.Parameter]:
    types = get_type_hints(group, include_extras=True)
    for one in fields(group):
        default = inspect.Parameter.empty if one.default is MISSING else one.default
        yield inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[one.name])


class QuantkitTyper(typer.Typer):
    """A typer application with commands of class `SingleValueCommand`; groups of options are dataclasses."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Register a command, as `typer.Typer.command` does."""
        register = super().command(name, **{"cls": SingleValueCommand, **options})
        return lambda function: register(_with_groups(function))


app = QuantkitTyper(
    name="quantkit",
    help="Post-training int8 quantization for ONNX image classifiers, with measured accuracy loss.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def sub_app(name: str, help_text: str) -> QuantkitTyper:
    """Add and return a group of commands, ``quantkit NAME ...``."""
    group = QuantkitTyper(name=name, help=help_text, no_args_is_help=True, rich_markup_mode="rich")
    app.add_typer(group, name=name)
    return group
