"""``quantkit compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.cli.app import app
from quantkit.cli.options import ImagesOption, LabelsOption, SkipDamagedOption, images_given
from quantkit.cli.show import console, progress_bar
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from quantkit.workflows.vacc.error_breakdown import ErrorBreakdown


@app.command()
def compare(
    models: Annotated[list[str], typer.Argument(help="fp32 first: names in the run, ONNX files, or card=DIR.")],
    run: Annotated[Path | None, typer.Option(help="Run folder of quantkit calibrate.")] = None,
    images: ImagesOption = None,
    skip_damaged: SkipDamagedOption = False,
    labels: LabelsOption = None,
    names: Annotated[Path | None, typer.Option(help="Class names, one a line.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="Calibration set whose images are left out.")] = None,
    preset: Annotated[str | None, typer.Option(help="Preprocessing; the run's by default.")] = None,
    limit: Annotated[int | None, typer.Option(help="Evaluate at most so many images.")] = None,
    drift_images: Annotated[int, typer.Option(help="Images that drift is measured on; 0 for none.")] = 32,
    attribute: Annotated[
        bool, typer.Option("--attribute", help="Separate the card's preprocessing, fp16 and int8 (needs a run).")
    ] = False,
    latency: Annotated[bool, typer.Option("--latency", help="Time the models too, in turn, one thread.")] = False,
    datalist: Annotated[Path | None, typer.Option(help="List that the results of a card (NAME=DIR) belong to.")] = None,
    threads: Annotated[int | None, typer.Option(help="Workers; all processors by default.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the comparison as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report: one HTML file that needs no network.")] = None,
    fail_if: Annotated[str | None, typer.Option(help='End with code 20 if this holds, e.g. "top1_drop > 0.5".')] = None,
    confident: Annotated[
        bool, typer.Option("--confident", help="Judge --fail-if by the bound of the 95 % interval.")
    ] = False,
) -> None:
    """Compare models on the same images: accuracy, its difference with a 95 % interval, agreement, drift."""
    from quantkit.evaluation.gate import parse_gate
    from quantkit.files import write_json, write_text
    from quantkit.report.tables import accuracy_table, csv_text, drift_table, notes
    from quantkit.report.tables import markdown as markdown_text
    from quantkit.workflows.compare import evaluate_models
    from quantkit.workflows.report import report
    from quantkit.workflows.resolve import comparison_settings
    from quantkit.workflows.vacc.error_breakdown import attribute as attribute_points

    gate = None if fail_if is None else parse_gate(fail_if, confident=confident)
    settings = comparison_settings(
        folder=Path(), models=models, run=run, images=images, labels=labels, names=names, preset=preset
    )
    if attribute and settings.run is None:
        raise UsageError("only a run tells what int8 would be", where="--attribute", fix="give --run")
    with progress_bar("comparing") as bar:
        evaluation = evaluate_models(
            models,
            run=settings.run,
            images=images_given(settings.images, skip_damaged),
            labels=settings.labels,
            names=settings.names,
            exclude=exclude,
            pipeline=settings.pipeline,
            limit=limit,
            drift_images=drift_images,
            latency=latency,
            datalist=datalist,
            threads=threads,
            progress=bar,
        )
    result = evaluation.comparison
    breakdown = None
    if attribute and settings.run is not None:
        with progress_bar("attributing") as bar:
            breakdown = attribute_points(
                settings.run,
                images=evaluation.images,
                pipeline=settings.pipeline,
                threads=threads,
                progress=bar,
            )
    # Files first: a reader of the screen that goes away, as head does, must not cost them.
    if json is not None:
        found = {} if breakdown is None else {"breakdown": breakdown.to_json()}
        write_json(json, result.to_json() | found)
    if csv is not None:
        write_text(csv, csv_text(result))
    if markdown is not None:
        write_text(markdown, markdown_text(result))
    if html is not None:
        report(evaluation, html)
    console.print(accuracy_table(result))
    for candidate in result.candidates:
        if candidate.tensors:
            console.print(drift_table(candidate))
    if breakdown is not None:
        console.print(_breakdown_table(breakdown))
    for note in dict.fromkeys((*notes(result), *(breakdown.notes if breakdown is not None else ()))):
        console.print(note, soft_wrap=True, markup=False)
    if gate is not None:
        gate.check(result)


def _breakdown_table(breakdown: "ErrorBreakdown") -> "Table":
    from quantkit.report.tables import ABSENT, plain_table, points

    table = plain_table(f"Where the points went, from fp32 to the card: {breakdown.images:,} images")
    table.add_column("change", no_wrap=True)
    for heading in ("top-1", "agree", "Δ of this step", "Δ in all"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("fp32", f"{breakdown.top1:.2f}", ABSENT, ABSENT, ABSENT)
    for step in breakdown.steps:
        deltas = (points(one.value, one.ci95) for one in (step.of_step, step.in_all))
        table.add_row(f"then {step.name}", f"{step.top1:.2f}", f"{step.agreement:.2f}", *deltas)
    table.add_section()
    for step in breakdown.steps:
        alone = points(step.alone.value, step.alone.ci95)
        table.add_row(f"only {step.name}", ABSENT, ABSENT, ABSENT, alone)
    return table
