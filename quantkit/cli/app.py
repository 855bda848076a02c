"""The typer applications that the command modules hang their commands on."""

import typer

app = typer.Typer(
    name="quantkit",
    help="Take a trained fp32 image classifier to int8, and know what that costs.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def sub_app(name: str, help_text: str) -> typer.Typer:
    """Add and return a group of commands, ``quantkit NAME ...``."""
    group = typer.Typer(name=name, help=help_text, no_args_is_help=True, rich_markup_mode="rich")
    app.add_typer(group, name=name)
    return group
