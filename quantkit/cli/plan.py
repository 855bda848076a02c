"""``quantkit plan``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantkit.cli.app import app
from quantkit.cli.options import DeviceOptions, PreprocessingOptions, SkipDamagedOption, SomeImagesOption, images_given
from quantkit.cli.progress import show_progress
from quantkit.cli.show import print_files, print_lines, print_next, print_notes
from quantkit.cli.terminal import console
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantkit.workflows.plan import JobPlan


@app.command()
def plan(
    job: Annotated[
        Literal["eval", "compare", "calibrate"], typer.Argument(help="The command to plan; of calibrate, its pass.")
    ],
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="ONNX files.")],
    images: SomeImagesOption,
    read: PreprocessingOptions,
    execution: DeviceOptions,
    skip_damaged: SkipDamagedOption = False,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Images of the job.", show_default="those of --images; 1000 at most for calibrate"),
    ] = None,
    nodes: Annotated[
        str | None,
        typer.Option(metavar="N[,N...]", help="Plan for clusters of so many nodes.", show_default="none"),
    ] = None,
    node_threads: Annotated[
        int | None, typer.Option(min=1, help="Processors of a node.", show_default="those of this machine")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Plan for so many workers on this machine (--cluster local:N).",
            show_default="none",
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the plan as JSON.")] = None,
) -> None:
    """Estimate time and memory of a job from the rates of a few images."""
    from quantkit.config.settings import Settings
    from quantkit.files import write_json
    from quantkit.workflows.plan import plan_job
    from quantkit.workflows.project import load_project

    counts = [_numbers(text, option) for text, option in ((workers, "--workers"), (nodes, "--nodes"))]
    where, project = execution.arguments(), load_project()
    pipeline = read.pipeline(project)
    merged = Settings(project)
    merged.add("job", job, given=job)
    merged.add("models", ", ".join(map(str, models)), given=models)
    merged.add("images", images, given=images)
    merged.add_preprocessing(pipeline, read.preset)
    with show_progress(merged.by_name) as progress:
        made = plan_job(
            job,
            models,
            images=images_given(images, skip_damaged),
            pipeline=pipeline,
            count=count,
            workers=counts[0],
            nodes=counts[1],
            node_threads=node_threads,
            **where,
            progress=progress,
        )
    if json is not None:
        write_json(json, made.to_json())
    _print(made)
    print_files([json] if json is not None else [])
    print_next(*_command(job, models, images, read.preset))


def _command(job: str, models: "Sequence[Path]", images: str | None, preset: str | None) -> list[str | Path]:
    """Return the command of the job, in words."""
    named = ["--model", *models] if job == "calibrate" else models
    return [job, *named, "--images", images or "IMAGES", *([] if preset is None else ["--preset", preset])]


def _numbers(text: str | None, option: str) -> list[int]:
    """Return the numbers of ``1,2,4``.

    Raises:
        UsageError: the text is of another form.
    """
    parts = [] if text is None else text.split(",")
    if not all(part.isdecimal() and 0 < int(part) < 100_000 for part in parts):
        raise UsageError(f"{text!r} is not a list of numbers", where=option, fix="write it as 1,2,4")
    return [int(part) for part in parts]


def _print(made: "JobPlan") -> None:
    from quantkit.report.tables import plain_table

    per_thread = "on one thread" if made.device == "cpu" else f"on {made.device}"
    console.print(f"measured on {made.measured_images} images: decode {1000 * made.decode_s:.1f} ms on one thread")
    for name, seconds in made.run_s.items():
        console.print(f"  {name} {1000 * seconds:.1f} ms an image {per_thread}", markup=False)
    table = plain_table(f"{made.job}, {made.images:,} images")
    for column in ("where", "threads", "time", "images/s", "processes", "memory of each"):
        table.add_column(column, justify="left" if column == "where" else "right")
    for one in made.estimates:
        memory = f"{one.process_mb / 1024:.1f} GB" if one.process_mb else "unknown"
        row = (str(one.threads), duration(one.seconds), f"{one.images_per_s:.4g}", str(one.processes), memory)
        table.add_row(one.where, *row)
    console.print(table)
    if len(made.estimates) > 1:
        print_lines("workers and nodes are taken to have this machine's processors and to be idle")
    print_notes(made.notes)


def duration(seconds: float) -> str:
    """Return a time as people say it: ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
