"""``quantkit report``."""

from pathlib import Path
from typing import Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.options import BatchOption, DeviceOption, ProviderOption, RunArgument, RunOption, given_once
from quantkit.cli.progress import show_progress
from quantkit.cli.show import print_files, print_next


@app.command()
def report(
    subject: RunArgument = None,
    run: RunOption = None,
    html: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Name of a model in the run; repeatable. Default: every model of the run."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of evaluation images.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Label file of --images.")] = None,
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
    from quantkit.workflows.project import load_project, run_of_subject
    from quantkit.workflows.report import report_run

    project = load_project(Path())
    own_images = images is None
    folder = run_of_subject(given_once(subject, run, "run"), project, Path())
    with show_progress() as progress:
        report_run(
            folder,
            html,
            models=tuple(models or ()),
            images=project.images if own_images else images,
            labels=project.labels if own_images and labels is None else labels,
            names=names or project.names,
            exclude=exclude,
            limit=limit,
            latency=latency,
            device=Device.parse(device, batch=batch, options=provider_option or ()),
            threads=threads,
            progress=progress,
        )
    print_files([html])
    print_next("tune", folder)
