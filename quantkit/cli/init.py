"""``quantkit init``."""

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.terminal import console


@app.command()
def init(
    name: Annotated[str | None, typer.Argument(help="Ready-made config; without it, they are listed.")] = None,
) -> None:
    """Write a complete, commented quantkit.yaml for a well-known network into this folder."""
    from quantkit.config.ready import ready_configs, title, write_ready_config

    if name is None:
        for known, text in ready_configs().items():
            console.print(f"{known:20} {title(text)}", soft_wrap=True, markup=False)
        return
    path = write_ready_config(name, Path())
    console.print(f"wrote {path}: its comments say what to do next", soft_wrap=True, markup=False)
