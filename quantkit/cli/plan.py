"""``quantkit plan``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantkit.cli.app import app
from quantkit.cli.options import DeviceOptions, ImagesOption, PreprocessingOptions, SkipDamagedOption, images_given
from quantkit.cli.progress import show_progress
from quantkit.cli.show import give_result, print_files, print_lines, print_next, print_notes
from quantkit.cli.terminal import console
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from quantkit.workflows.plan import JobPlan


@app.command()
def plan(
    job: Annotated[
        Literal["eval", "compare", "calibrate"], typer.Argument(help="The command to plan; of calibrate, its pass.")
    ],
    read: PreprocessingOptions,
    execution: DeviceOptions,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL...]", help="ONNX files, or names in the run.", show_default="that of quantkit.yaml"
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder that gives models, images and preprocessing.", show_default="none")
    ] = None,
    images: ImagesOption = None,
    set_: Annotated[
        Path | None, typer.Option("--set", help="Calibration set: plan for its images.", show_default="none")
    ] = None,
    skip_damaged: SkipDamagedOption = False,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "--limit",
            min=1,
            help="Images of the job.",
            show_default="all; at most 1000 of --images for calibrate",
        ),
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
    from quantkit.cli.plan_settings import plan_settings
    from quantkit.config.settings import Settings
    from quantkit.workflows.plan import plan_job
    from quantkit.workflows.project import load_project

    counts = [_numbers(text, option) for text, option in ((workers, "--workers"), (nodes, "--nodes"))]
    where, project = execution.arguments(), load_project()
    if images is not None and set_ is not None:
        raise UsageError("images were given twice", where="--set", fix="give --set or --images")
    calibrates = job == "calibrate"
    settings = plan_settings(models or (), run, images or set_, read, project, calibrates=calibrates)
    merged = Settings(project)
    merged.add("job", job, given=job)
    merged.add("models", ", ".join(map(str, settings.models)), given=models, key="model")
    merged.add("run", settings.run, given=run, key="run")
    merged.add("images", settings.place, given=images or set_, key="set" if calibrates else "images")
    merged.add_preprocessing(settings.pipeline, read.preset)
    with show_progress(merged.by_name) as progress:
        made = plan_job(
            job,
            settings.models,
            images=settings.images if images is None else images_given(images, skip_damaged),
            pipeline=settings.pipeline,
            count=count or settings.count,
            workers=counts[0],
            nodes=counts[1],
            node_threads=node_threads,
            **where,
            progress=progress,
        )
    give_result(made.to_json(), json)
    _print(made)
    print_files([json] if json is not None else [])
    given = {"--run": run, "--images": images, "--set": set_, "--preset": read.preset}
    options = [(name, value) for name, value in given.items() if value is not None]
    print_next(job, *(models or ()), *(word for option in options for word in option))


def _numbers(text: str | None, option: str) -> list[int]:
    """Return the numbers of ``1,2,4``.

    Raises:
        UsageError: the text is of another form.
    """
    parts = [] if text is None else text.split(",")
    if not all(part.isdecimal() and 0 < int(part) < 100_000 for part in parts):
        raise UsageError(f"{text!r} is not a list of numbers from 1 up", where=option, fix="write it as 1,2,4")
    return [int(part) for part in parts]


def _print(made: "JobPlan") -> None:
    from quantkit.report.tables import duration, plain_table

    per_thread = "on one thread" if made.device == "cpu" else f"on {made.device}"
    console.print(f"measured on {made.measured_images} images: decode {1000 * made.decode_s:.1f} ms on one thread")
    for name, seconds in made.run_s.items():
        console.print(f"  {name} {1000 * seconds:.1f} ms an image {per_thread}", markup=False)
    headings = ("threads", "time", "images/s", "processes", "memory of each")
    table = plain_table(f"{made.job}, {made.images:,} images", ["where"], headings)
    for one in made.estimates:
        memory = f"{one.process_mb / 1024:.1f} GB" if one.process_mb else "unknown"
        row = (str(one.threads), duration(one.seconds), f"{one.images_per_s:.4g}", str(one.processes), memory)
        table.add_row(one.where, *row)
    console.print(table)
    if len(made.estimates) > 1:
        print_lines("workers and nodes are taken to have this machine's processors and to be idle")
    print_notes(made.notes)
