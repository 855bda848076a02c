"""``quantkit report``."""

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.options import (
    BatchOption,
    DeviceOption,
    ImagesOption,
    LabelsOption,
    ProviderOption,
    RunArgument,
    RunOption,
    given_once,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import print_files, print_next, print_notes
from quantkit.cli.terminal import console, session


@app.command()
def report(
    subject: RunArgument = None,
    run: RunOption = None,
    html: Annotated[
        Path | None, typer.Option(help="HTML file to write.", show_default="report.html in the run folder")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Name of a model in the run; repeatable. Default: every model of the run."),
    ] = None,
    images: ImagesOption = None,
    labels: LabelsOption = None,
    names: Annotated[Path | None, typer.Option(help="Class names, one per line.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="Calibration set whose images are left out.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of evaluation images.")] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure latency too, on one thread.")] = False,
    device: DeviceOption = "cpu",
    batch: BatchOption = 1,
    provider_option: ProviderOption = None,
    threads: Annotated[int | None, typer.Option(help="Number of worker threads.")] = None,
) -> None:
    """Write an HTML report of a run: its models compared with fp32, drift, sensitivity, tuning, coverage."""
    from quantkit.engine.device import Device
    from quantkit.report.tables import accuracy_table, notes
    from quantkit.runs.folder import FP32
    from quantkit.workflows.project import load_project, run_of_subject
    from quantkit.workflows.report import report_run
    from quantkit.workflows.resolve_evaluation import comparison_settings, settings_of_evaluation

    given = given_once(subject, run, "run")
    folder = run_of_subject(given, load_project(Path()), Path())
    settings = comparison_settings(
        folder=Path(), models=[FP32], run=folder, images=images, labels=labels, names=names, preset=None
    )
    merged = settings_of_evaluation(settings, run=given, images=images, labels=labels, preset=None)
    merged.add("models", tuple(models or ()), given=models)
    merged.add("exclude", exclude, given=exclude)
    merged.add("limit", limit, given=limit)
    path = html or folder / "report.html"
    with show_progress(merged.by_name) as progress:
        done = report_run(
            folder,
            path,
            models=tuple(models or ()),
            images=settings.images,
            labels=settings.labels,
            names=settings.names,
            exclude=exclude,
            limit=limit,
            latency=latency,
            device=Device.parse(device, batch=batch, options=provider_option or ()),
            threads=threads,
            progress=progress,
        )
    session.event("result", result=done.comparison.to_json())
    console.print(accuracy_table(done.comparison))
    print_notes(done.notes)
    for note in dict.fromkeys(notes(done.comparison)):
        console.print(note, soft_wrap=True, markup=False)
    print_files([path])
    print_next("tune", folder)
