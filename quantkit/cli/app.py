"""The typer applications that the command modules hang their commands on."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand


class SingleValueCommand(TyperCommand):
    """A command that refuses an option given twice where only the last value would count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line.

        Raises:
            UsageError: of typer; an option that takes one value was given several times.
        """
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
            for option, times in Counter(given).items():
                if times > 1 and _keeps_last(option):
                    ctx.fail(f"{option.opts[0]} is given {times} times and takes one value.")
        return super().parse_args(ctx, args)


def _keeps_last(option: Any) -> bool:
    """Return whether a repeated option silently replaces its earlier value; a flag without an opposite does not."""
    if option.param_type_name != "option" or option.multiple or option.count:
        return False
    return not option.is_flag or bool(option.secondary_opts)


class QuantkitTyper(typer.Typer):
    """A typer application whose commands are `SingleValueCommand`."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Register a command, as `typer.Typer.command` does."""
        return super().command(name, **{"cls": SingleValueCommand, **options})


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
