"""``quantkit relink``."""

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.next_step import print_next_comparison
from quantkit.cli.show import print_files, print_lines


@app.command()
def relink(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    model: Annotated[Path | None, typer.Option(help="The fp32 model of the run.", show_default="as recorded")] = None,
    set_: Annotated[
        Path | None, typer.Option("--set", help="The calibration set of the run.", show_default="as recorded")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Calibration images: a folder, an archive, shards or a URL.",
            show_default="as recorded",
        ),
    ] = None,
) -> None:
    """Record where model, calibration set and images of a moved run are; update the paths in its build files."""
    from quantkit.workflows.relink import relink_run

    record, files = relink_run(run, model=model, set_=set_, images=images)
    print_lines(f"model: {record.model.path}")
    print_lines(f"set: {record.set.path or 'not saved'}")
    print_files(files, in_folder=run)
    print_next_comparison(run)
