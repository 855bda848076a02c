"""``quantkit report``."""

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.next_step import print_next_step
from quantkit.cli.options import (
    DeviceOptions,
    InputOptions,
    LimitedImages,
    RunOption,
    SubjectArgument,
    given_once,
)
from quantkit.cli.progress import show_progress
from quantkit.cli.show import print_files, print_lines, print_notes
from quantkit.cli.terminal import console, session


@app.command()
def report(
    on: LimitedImages,
    execution: DeviceOptions,
    subject: SubjectArgument = None,
    run: RunOption = None,
    html: Annotated[
        Path | None, typer.Option(help="HTML file to write.", show_default="report.html in the run folder")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Name of a model in the run; repeatable. Default: every model of the run."),
    ] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure latency too, on one thread.")] = False,
) -> None:
    """Write an HTML report of a run: its models compared with fp32, drift, sensitivity, tuning, coverage."""
    from quantkit.cli.evaluation_settings import comparison_settings
    from quantkit.report.tables import accuracy_table, notes
    from quantkit.runs.folder import FP32
    from quantkit.workflows.project import load_project, run_of_subject
    from quantkit.workflows.report import report_run

    project, place, read = load_project(), given_once(subject, run, "run"), InputOptions()
    folder = run_of_subject(place, project)
    settings = comparison_settings([FP32], folder, on, read, project)
    merged = settings.shown(project, place, on, read)
    merged.add("models", tuple(models or ()), given=models)
    on.show_limits(merged)
    execution.show(merged)
    path = html or folder / "report.html"
    with show_progress(merged.by_name) as progress:
        done = report_run(
            folder,
            path,
            models=tuple(models or ()),
            **settings.images.arguments(),
            latency=latency,
            **execution.arguments(),
            progress=progress,
        )
    session.event("result", result=done.to_json())
    console.print(accuracy_table(done))
    print_notes(done.notes)
    print_lines(*dict.fromkeys(notes(done)))
    print_files([path])
    print_next_step(folder, "report")
