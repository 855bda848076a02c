"""``quantkit report``."""

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.options import DeviceOptions, EvaluatedImages, LimitOption, SubjectArgument
from quantkit.cli.progress import show_progress
from quantkit.cli.show import print_files, print_next


@app.command()
def report(
    on: EvaluatedImages,
    execution: DeviceOptions,
    subject: SubjectArgument = None,
    html: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Name of a model in the run; repeatable. Default: every model of the run."),
    ] = None,
    limit: LimitOption = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure latency too, on one thread.")] = False,
) -> None:
    """Write an HTML report of a run: its models compared with fp32, drift, sensitivity, tuning, coverage."""
    from quantkit.workflows.project import load_project, run_of_subject
    from quantkit.workflows.report import report_run

    project = load_project()
    run = run_of_subject(subject, project)
    with show_progress() as progress:
        report_run(
            run,
            html,
            models=tuple(models or ()),
            **on.completed(project).arguments(),
            limit=limit,
            latency=latency,
            **execution.arguments(),
            progress=progress,
        )
    print_files([html])
    print_next("tune", run)
